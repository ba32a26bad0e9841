//! Convolutions on the host and their transposes, all as one thing: a product whose left rows are gathered in
//! place. Each output pixel belongs to a class by the parity of its coordinates; a class has a list of taps,
//! and a tap is an offset into the input with the sum of some kernel positions as its weight.
//!
//! - forward: one class, a tap per kernel position;
//! - forward on the twice enlarged image: four classes, kernel positions that fall on the same pixel are
//!   summed before anything is multiplied (4/9 of the work of a 3x3);
//! - transpose with stride `s`: `s x s` classes, each kernel position belongs to one of them;
//! - transpose on the enlarged image: one class, a 3x3 becomes 4x4 taps at every other pixel of the
//!   cotangent.

use super::Cpu;
use super::buffer::Buffer;
use super::gemm::{self, Finish, Left, Order, Panels, Product};
use crate::error::Result;
use crate::op::{Conv, Description};
use crate::tensor::{Shape, Tensor};

/// `x` convolved with `w` `(out, kh, kw, in)`.
pub fn conv(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    add: Option<&Tensor>,
    conv: Conv,
) -> Result<Tensor> {
    let (input, kernel) = (x.shape(), w.shape());
    let out = d.output;
    let axis = |k: usize, pad: usize, parity: usize| forward_axis(k, pad, parity, conv.upsample);
    let step = if conv.upsample { [2, 1] } else { [1, conv.stride] };
    let order = Order::Columns(kernel.sample());
    let classes = classes(cpu, w, conv, step, axis, out.c, kernel.c, order)?;
    let bias = gemm::bias(cpu, b);
    cpu.make(d, |y| gather(cpu.view(x), input, &classes, bias, cpu.view_of(add), out, y))
}

/// The cotangent of the input of shape `x`.
pub fn conv_vjp(
    cpu: &Cpu,
    d: Description<'_>,
    dy: &Tensor,
    w: &Tensor,
    x: Shape,
    conv: Conv,
) -> Result<Tensor> {
    let kernel = w.shape();
    let axis = |k: usize, pad: usize, parity: usize| {
        if conv.upsample {
            enlarged_transpose_axis(k, pad)
        } else {
            transpose_axis(k, pad, parity, conv.stride)
        }
    };
    let step = if conv.upsample { [1, 2] } else { [conv.stride, 1] };
    let order = Order::Rows(kernel.sample());
    let classes = classes(cpu, w, conv, step, axis, kernel.c, kernel.n, order)?;
    cpu.make(d, |dx| gather(cpu.view(dy), dy.shape(), &classes, None, None, x, dx))
}

/// Offsets into the input along one axis, and the kernel positions that meet there.
type Axis = Vec<(isize, Vec<usize>)>;

fn grouped(offsets: impl Iterator<Item = (isize, usize)>) -> Axis {
    let mut axis = Axis::new();
    for (offset, k) in offsets {
        match axis.iter_mut().find(|(o, _)| *o == offset) {
            Some((_, ks)) => ks.push(k),
            None => axis.push((offset, vec![k])),
        }
    }
    axis
}

/// Output pixel `2g + parity` of the enlarged image reads pixel `g + floor((parity + k - pad) / 2)`.
fn forward_axis(kernel: usize, pad: usize, parity: usize, upsample: bool) -> Axis {
    let offset = |k: usize| (parity + k) as isize - pad as isize;
    grouped((0..kernel).map(|k| (if upsample { offset(k).div_euclid(2) } else { offset(k) }, k)))
}

/// Input pixel `s g + parity` was read by output `g + (parity + pad - k) / s` where that is whole.
fn transpose_axis(kernel: usize, pad: usize, parity: usize, stride: usize) -> Axis {
    let offset = |k: usize| (parity + pad) as isize - k as isize;
    let stride = stride as isize;
    grouped((0..kernel).filter(|&k| offset(k) % stride == 0).map(|k| (offset(k) / stride, k)))
}

/// Input pixel `g` stands at `2g` and `2g + 1` of the enlarged image, read by outputs `2g + p + pad - k`.
fn enlarged_transpose_axis(kernel: usize, pad: usize) -> Axis {
    grouped((0..2).flat_map(|p| (0..kernel).map(move |k| ((p + pad) as isize - k as isize, k))))
}

/// Output pixels `(step_out g + parity)` read input pixels `step_in g + tap`.
struct Class {
    parity: [usize; 2],
    step: [usize; 2],
    taps: Vec<[isize; 2]>,
    panels: Panels,
    right: Buffer,
}

/// All classes of a gathering, with their weights packed. `axis(kernel, pad, parity)` describes one axis.
#[allow(clippy::too_many_arguments)]
fn classes(
    cpu: &Cpu,
    w: &Tensor,
    conv: Conv,
    step: [usize; 2],
    axis: impl Fn(usize, usize, usize) -> Axis,
    columns: usize,
    width: usize,
    order: Order,
) -> Result<Vec<Class>> {
    let kernel = w.shape();
    let mut out = Vec::new();
    for parity in (0..step[0] * step[0]).map(|i| [i / step[0], i % step[0]]) {
        let vertical = axis(kernel.h, conv.pad[0], parity[0]);
        let horizontal = axis(kernel.w, conv.pad[2], parity[1]);
        let taps: Vec<_> = vertical.iter().flat_map(|v| horizontal.iter().map(move |h| (v, h))).collect();
        let (panels, right) = gemm::packed(cpu, taps.len() * width, columns, |panels, right| {
            for (tap, ((_, ys), (_, xs))) in taps.iter().enumerate() {
                let pairs = ys.iter().flat_map(|y| xs.iter().map(move |x| (y, x)));
                let from: Vec<usize> = pairs.map(|(y, x)| (y * kernel.w + x) * kernel.c).collect();
                panels.pack_sum(right, tap * width, width, cpu.elements(w), order, &from);
            }
        })?;
        let taps = taps.iter().map(|(v, h)| [v.0, h.0]).collect();
        out.push(Class { parity, step, taps, panels, right });
    }
    Ok(out)
}

/// One output pixel: where its result goes.
#[derive(Clone, Copy)]
struct Position {
    target: usize,
    sample: usize,
}

/// Stands for a tap that falls outside the image.
const OUTSIDE: usize = usize::MAX;

/// Rows of a virtual patch matrix.
struct Patches<'a> {
    x: &'a [f32],
    /// Channels of the input.
    width: usize,
    /// What lies outside the image.
    zeros: &'a [f32],
    taps: usize,
    /// For every position, where each of its taps begins in `x`. Found once for all panels of the weight.
    begins: &'a [usize],
    positions: &'a [Position],
}

impl Left for Patches<'_> {
    #[inline(always)]
    fn rows(&self) -> usize {
        self.positions.len()
    }
    #[inline(always)]
    fn taps(&self) -> usize {
        self.taps
    }
    #[inline(always)]
    fn width(&self) -> usize {
        self.width
    }
    #[inline(always)]
    fn at(&self, row: usize) -> usize {
        row * self.taps
    }
    #[inline(always)]
    fn piece(&self, at: usize, tap: usize) -> &[f32] {
        let begin = self.begins[at + tap];
        if begin == OUTSIDE { self.zeros } else { &self.x[begin..][..self.width] }
    }
    #[inline(always)]
    fn target(&self, row: usize) -> usize {
        self.positions[row].target
    }
    #[inline(always)]
    fn sample(&self, row: usize) -> usize {
        self.positions[row].sample
    }
}

/// Computes every output pixel by its class.
fn gather(
    x: &[f32],
    shape: Shape,
    classes: &[Class],
    bias: Option<(&[f32], usize)>,
    add: Option<&[f32]>,
    out: Shape,
    y: &mut [f32],
) {
    let zeros = vec![0.0; shape.c];
    // Whole lines of the image, so that every class has its share.
    let step = classes[0].step[0];
    let Some(deepest) = classes.iter().map(|c| c.panels).max_by_key(|p| p.depth) else { return };
    gemm::spread(out.w * step, deepest, add, y, |part| {
        for class in classes {
            let (positions, begins) = class.positions(part.rows.clone(), out, shape);
            let left = Patches {
                x,
                width: shape.c,
                zeros: &zeros,
                taps: class.taps.len(),
                begins: &begins,
                positions: &positions,
            };
            let finish = Finish { bias, add: part.add, accumulate: false };
            let product = Product {
                left: &left,
                shape: class.panels,
                right: class.right.elements(),
                panels: part.panels.clone(),
                finish,
                out: &mut *part.out,
                stride: part.stride,
            };
            product.run();
        }
    });
}

impl Class {
    /// This class's pixels among the `pixels` of the output, targets counted from the first of them, and
    /// where the taps of each begin in the input.
    fn positions(
        &self,
        pixels: std::ops::Range<usize>,
        out: Shape,
        input: Shape,
    ) -> (Vec<Position>, Vec<usize>) {
        let [step_out, step_in] = self.step;
        let rows = pixels.len() / (step_out * step_out) + out.w;
        let mut positions = Vec::with_capacity(rows);
        let mut begins = Vec::with_capacity(rows * self.taps.len());
        // Per tap, where its line begins and its column's offset.
        let mut lines = Vec::with_capacity(self.taps.len());
        for line in pixels.start / out.w..pixels.end.div_ceil(out.w) {
            let (sample, y) = (line / out.h, line % out.h);
            if y % step_out != self.parity[0] {
                continue;
            }
            lines.clear();
            lines.extend(self.taps.iter().map(|&[dy, dx]| {
                // Negative coordinates wrap to huge ones.
                let y = (y / step_out * step_in).wrapping_add_signed(dy);
                ((y < input.h).then(|| (sample * input.h + y) * input.w * input.c), dx)
            }));
            for (i, x) in (self.parity[1]..out.w).step_by(step_out).enumerate() {
                positions.push(Position { target: line * out.w + x - pixels.start, sample });
                begins.extend(lines.iter().map(|&(line, dx)| {
                    let x = (i * step_in).wrapping_add_signed(dx);
                    line.filter(|_| x < input.w).map_or(OUTSIDE, |line| line + x * input.c)
                }));
            }
        }
        (positions, begins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::tensor::HostSlice;

    /// Numbers in [-1, 1) that are never zero by symmetry.
    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// The definition, in f64.
    fn naive(x: &[f32], xs: Shape, w: &[f32], ws: Shape, conv: Conv) -> Vec<f64> {
        let out = conv.output(xs, ws);
        let up = if conv.upsample { 2 } else { 1 };
        let mut y = vec![0.0; out.len()];
        for (i, y) in y.iter_mut().enumerate() {
            let (o, rest) = (i % out.c, i / out.c);
            let (ox, rest) = (rest % out.w, rest / out.w);
            let (oy, n) = (rest % out.h, rest / out.h);
            for ky in 0..ws.h {
                for kx in 0..ws.w {
                    let iy = (oy * conv.stride + ky) as isize - conv.pad[0] as isize;
                    let ix = (ox * conv.stride + kx) as isize - conv.pad[2] as isize;
                    if iy < 0 || ix < 0 || iy >= (xs.h * up) as isize || ix >= (xs.w * up) as isize {
                        continue;
                    }
                    let at = ((n * xs.h + iy as usize / up) * xs.w + ix as usize / up) * xs.c;
                    for c in 0..xs.c {
                        let weight = w[((o * ws.h + ky) * ws.w + kx) * ws.c + c];
                        *y += f64::from(x[at + c]) * f64::from(weight);
                    }
                }
            }
        }
        y
    }

    const CASES: &[(Shape, Shape, Conv)] = &[
        (Shape::new(2, 5, 7, 3), Shape::new(5, 3, 3, 3), Conv::SAME3),
        (Shape::new(1, 8, 8, 16), Shape::new(16, 3, 3, 16), Conv::SAME3),
        (Shape::new(3, 8, 8, 40), Shape::new(72, 3, 3, 40), Conv::SAME3),
        (Shape::new(1, 8, 8, 128), Shape::new(320, 3, 3, 128), Conv::SAME3),
        (Shape::new(2, 5, 6, 4), Shape::new(3, 3, 3, 4), Conv::UP3),
        (Shape::new(2, 8, 8, 32), Shape::new(48, 3, 3, 32), Conv::UP3),
        (Shape::new(2, 7, 9, 5), Shape::new(6, 3, 3, 5), Conv::DOWN3),
        (Shape::new(1, 8, 8, 20), Shape::new(36, 3, 3, 20), Conv::DOWN3),
        (Shape::new(2, 8, 6, 5), Shape::new(6, 3, 3, 5), Conv::DOWN3_ASYM),
        (Shape::new(1, 7, 7, 2), Shape::new(3, 3, 3, 2), Conv::DOWN3_ASYM),
        (Shape::new(2, 11, 8, 3), Shape::new(7, 4, 4, 3), Conv::patches(4)),
        (Shape::new(1, 14, 14, 3), Shape::new(65, 7, 7, 3), Conv::patches(7)),
        (
            Shape::new(1, 6, 5, 2),
            Shape::new(3, 5, 2, 2),
            Conv { stride: 3, pad: [2, 1, 0, 1], upsample: false },
        ),
        (Shape::new(1, 4, 3, 2), Shape::new(3, 5, 5, 2), Conv { stride: 1, pad: [2; 4], upsample: true }),
    ];

    #[test]
    fn convolutions_are_their_definition() {
        let cpu = Cpu::new();
        for &(xs, ws, conv) in CASES {
            let out = conv.output(xs, ws);
            let (x, w) = (noise(xs.len(), 1), noise(ws.len(), 2));
            let (b, add) = (noise(out.n * out.c, 3), noise(out.len(), 4));
            let up = |shape, data: &[f32]| cpu.upload(shape, HostSlice::F32(data)).unwrap();
            let bias = up(Shape::rows(out.n, out.c), &b);
            let y = cpu.conv(&up(xs, &x), &up(ws, &w), Some(&bias), Some(&up(out, &add)), conv).unwrap();
            let truth = naive(&x, xs, &w, ws, conv);
            // Products of numbers below one: rounding of `depth` terms each below one.
            let bound = ws.sample() as f64 * f64::from(f32::EPSILON);
            for (i, (y, truth)) in cpu.view(&y).iter().zip(truth).enumerate() {
                let truth = truth + f64::from(b[i / out.sample() * out.c + i % out.c]) + f64::from(add[i]);
                assert!((f64::from(*y) - truth).abs() <= bound, "{xs} {ws} {conv:?} at {i}: {y} {truth}");
            }
        }
    }

    #[test]
    fn vjp_is_the_transpose() {
        let cpu = Cpu::new();
        for &(xs, ws, conv) in CASES {
            let out = conv.output(xs, ws);
            let (x, w, dy) = (noise(xs.len(), 1), noise(ws.len(), 2), noise(out.len(), 3));
            let y = naive(&x, xs, &w, ws, conv);
            let up = |shape, data: &[f32]| cpu.upload(shape, HostSlice::F32(data)).unwrap();
            let dx = cpu.conv_vjp(&up(out, &dy), &up(ws, &w), xs, conv).unwrap();
            assert_eq!(dx.shape(), xs);
            let left: f64 = y.iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum();
            let pairs = x.iter().zip(cpu.view(&dx));
            let right: f64 = pairs.map(|(x, dx)| f64::from(*x) * f64::from(*dx)).sum();
            let bound = (xs.len() * ws.n * ws.h * ws.w) as f64 * f64::from(f32::EPSILON);
            assert!((left - right).abs() <= bound.min(1e-3), "{xs} {ws} {conv:?}: {left} {right}");
        }
    }
}
