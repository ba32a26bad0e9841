//! Linear maps on the host: products of the rows of a tensor with a weight.

use rayon::prelude::*;

use super::Cpu;
use super::gemm::{Finish, Order, Panels, Product, Rows, TALL, bias, packed, spread};
use super::parallel::simd;
use crate::error::Result;
use crate::op::{Description, WEIGHT_ROWS};
use crate::tensor::{Shape, Tensor};

/// `y = x w^T + b + add`.
pub fn linear(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    let (shape, out) = (x.shape(), d.output);
    let (panels, right) = packed(cpu, shape.c, out.c, |panels, right| {
        panels.pack_sum(right, 0, shape.c, cpu.elements(w), Order::Columns(shape.c), &[0]);
    })?;
    let bias = bias(cpu, b);
    cpu.make(d, |y| {
        product(cpu.view(x), shape, panels, right.elements(), bias, cpu.view_of(add), y);
    })
}

/// `dx = dy w`.
pub fn linear_vjp(cpu: &Cpu, d: Description<'_>, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (shape, out) = (dy.shape(), d.output);
    let (panels, right) = packed(cpu, shape.c, out.c, |panels, right| {
        panels.pack_sum(right, 0, shape.c, cpu.elements(w), Order::Rows(out.c), &[0]);
    })?;
    cpu.make(d, |dx| product(cpu.view(dy), shape, panels, right.elements(), None, None, dx))
}

/// `dw = dy^T x`: parts of so many rows each, summed row after row, and then the parts in order.
pub fn linear_weight_vjp(cpu: &Cpu, d: Description<'_>, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (out, width, size) = (dy.shape().c, x.shape().c, d.output.len());
    let mut parts = cpu.alloc(Shape::vector(d.scratch))?;
    let sums = parts.elements_mut();
    sums.fill(0.0);
    if size > 0 {
        let rows =
            cpu.view(dy).par_chunks(WEIGHT_ROWS * out).zip(cpu.view(x).par_chunks(WEIGHT_ROWS * width));
        sums.par_chunks_exact_mut(size).zip(rows).for_each(|(sum, (dy, x))| {
            simd(
                #[inline(always)]
                || {
                    for (dy, x) in dy.chunks_exact(out).zip(x.chunks_exact(width)) {
                        for (sum, &dy) in sum.chunks_exact_mut(width).zip(dy) {
                            sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum += dy * x);
                        }
                    }
                },
            );
        });
    }
    cpu.make(d, |dw| {
        dw.fill(0.0);
        for part in sums.chunks_exact(size.max(1)) {
            dw.iter_mut().zip(part).for_each(|(dw, part)| *dw += part);
        }
    })
}

/// The rows of `x` times packed panels.
fn product(
    x: &[f32],
    shape: Shape,
    panels: Panels,
    right: &[f32],
    bias: Option<(&[f32], usize)>,
    add: Option<&[f32]>,
    out: &mut [f32],
) {
    let width = panels.depth;
    spread(TALL, panels, add, out, |part| {
        let rows = part.rows.len();
        let left = Rows {
            x: &x[part.rows.start * width..][..rows * width],
            rows,
            width,
            stride: width,
            per_bias: shape.tokens(),
            first: part.rows.start,
        };
        let finish = Finish { bias, add: part.add, accumulate: false };
        let (out, stride) = (part.out, part.stride);
        Product { left: &left, shape: panels, right, panels: part.panels, finish, out, stride }.run();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::tensor::HostSlice;

    /// Numbers in [-1, 1].
    fn wave(len: usize, speed: f64) -> Vec<f32> {
        (0..len).map(|i| (i as f64 * speed).sin() as f32).collect()
    }

    /// `(samples, tokens, in, out)`: every tile height and width, both ways of splitting.
    const CASES: &[(usize, usize, usize, usize)] = &[
        (1, 1, 1, 1),
        (2, 3, 5, 7),
        (1, 25, 64, 33),
        (3, 4, 16, 16),
        (5, 13, 31, 48),
        (1, 64, 320, 640),
        (2, 300, 24, 65),
        (1, 2, 1280, 100),
        (0, 4, 8, 8),
    ];

    #[test]
    fn linear_and_its_transpose_are_their_definition() {
        let cpu = Cpu::new();
        let up = |shape, data: &[f32]| cpu.upload(shape, HostSlice::F32(data)).unwrap();
        for &(n, tokens, k, m) in CASES {
            let (xs, ys) = (Shape::new(n, 1, tokens, k), Shape::new(n, 1, tokens, m));
            let (x, w, add) = (wave(xs.len(), 0.37), wave(m * k, 0.61), wave(ys.len(), 0.83));
            let (wt, addt) = (up(Shape::rows(m, k), &w), up(ys, &add));
            for (rows, per_sample) in [(1, 0), (n, m)] {
                let b = wave(rows * m, 0.29);
                let y =
                    cpu.linear(&up(xs, &x), &wt, Some(&up(Shape::rows(rows, m), &b)), Some(&addt)).unwrap();
                assert_eq!(y.shape(), ys);
                for (i, y) in cpu.view(&y).iter().enumerate() {
                    let (row, j) = (i / m, i % m);
                    let dot: f64 =
                        (0..k).map(|k_| f64::from(x[row * k + k_]) * f64::from(w[j * k + k_])).sum();
                    let truth = dot + f64::from(b[row / tokens * per_sample + j]) + f64::from(add[i]);
                    // `k` roundings of sums that stay below `k`, in practice below `sqrt(k)`.
                    let bound = (k as f64 + 2.0) * f64::from(f32::EPSILON);
                    assert!(
                        (f64::from(*y) - truth).abs() <= bound,
                        "{n} {tokens} {k} {m} at {i}: {y} {truth}"
                    );
                }
            }
            let dx = cpu.linear_vjp(&addt, &wt).unwrap();
            assert_eq!(dx.shape(), xs);
            for (i, dx) in cpu.view(&dx).iter().enumerate() {
                let (row, j) = (i / k, i % k);
                let truth: f64 = (0..m).map(|o| f64::from(add[row * m + o]) * f64::from(w[o * k + j])).sum();
                let bound = (m as f64 + 2.0) * f64::from(f32::EPSILON);
                assert!((f64::from(*dx) - truth).abs() <= bound, "{n} {tokens} {k} {m} at {i}: {dx} {truth}");
            }
            let dw = cpu.linear_weight_vjp(&addt, &up(xs, &x)).unwrap();
            assert_eq!(dw.shape(), wt.shape());
            for (i, dw) in cpu.view(&dw).iter().enumerate() {
                let (o, j) = (i / k, i % k);
                let of = |row: usize| f64::from(add[row * m + o]) * f64::from(x[row * k + j]);
                let truth: f64 = (0..n * tokens).map(of).sum();
                // Roundings of partial sums walk as far as the root of their number.
                let root = ((n * tokens) as f64).sqrt();
                let bound = root * (truth.abs() + root) * f64::from(f32::EPSILON);
                assert!((f64::from(*dw) - truth).abs() <= bound, "{n} {tokens} {k} {m} at {i}: {dw} {truth}");
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let cpu = Cpu::new();
        let up = |shape, data: &[f32]| cpu.upload(shape, HostSlice::F32(data)).unwrap();
        for (rows, k, m) in [(64, 320, 320), (700, 64, 96)] {
            let (x, w) =
                (up(Shape::rows(rows, k), &wave(rows * k, 0.3)), up(Shape::rows(m, k), &wave(m * k, 0.7)));
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| cpu.download(&cpu.linear(&x, &w, None, None).unwrap()).unwrap())
            };
            assert_eq!(run(1), run(3));
        }
        // Three parts, the last of them not whole.
        let (rows, k, m) = (2 * WEIGHT_ROWS + 7, 5, 9);
        let (x, dy) =
            (up(Shape::rows(rows, k), &wave(rows * k, 0.3)), up(Shape::rows(rows, m), &wave(rows * m, 0.7)));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| cpu.download(&cpu.linear_weight_vjp(&dy, &x).unwrap()).unwrap())
        };
        assert_eq!(run(1), run(3));
    }
}
