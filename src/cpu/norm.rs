//! Group, layer and length normalisation on the host, with their transposes. Sums are in f64, so that a mean
//! large against the spread costs nothing; everything else is f32. A saved statistic is three numbers: the
//! mean as an f32, what rounding it lost, and one over the standard deviation; `(x - mean) - lost` is then as
//! good as the data.

use rayon::prelude::*;

use super::Cpu;
use super::math;
use super::parallel::{parallel_rows, simd, sums};
use super::pointwise::silu_slope;
use crate::error::Result;
use crate::op::{Description, GroupNorm, Saved};
use crate::tensor::{Shape, Tensor};

/// Numbers saved per group or row: mean, the mean's rounding error, 1/std.
const SAVED: usize = 3;

/// Elements per piece of one sample. Pieces are summed in order, whatever the threads.
const PIECE: usize = 1 << 15;

/// The three saved numbers from the sums of `count` values and of their squares.
#[inline(always)]
fn statistics(sum: f64, squares: f64, count: usize, eps: f32) -> [f32; SAVED] {
    let mean = sum / count as f64;
    let variance = (squares / count as f64 - mean * mean).max(0.0);
    let high = mean as f32;
    [high, (mean - f64::from(high)) as f32, (1.0 / (variance + f64::from(eps)).sqrt()) as f32]
}

/// Two sums per channel.
type Sums = (Vec<f64>, Vec<f64>);

/// Pieces of whole rows of each sample: `(sample, first element, elements)`.
fn pieces(shape: Shape, out: &mut [f32]) -> Vec<(usize, usize, &mut [f32])> {
    let piece = (PIECE / shape.c).max(1) * shape.c;
    let samples = out.chunks_exact_mut(shape.sample()).enumerate();
    samples
        .flat_map(|(n, sample)| {
            let base = n * shape.sample();
            sample.chunks_mut(piece).enumerate().map(move |(i, out)| (n, base + i * piece, out))
        })
        .collect()
}

/// Adds up the pieces of each sample and the channels of each group: `(sum, sum)` per (sample, group).
fn per_group(shape: Shape, groups: usize, pieces: &[Sums]) -> Vec<(f64, f64)> {
    let mut out = vec![(0.0, 0.0); shape.n * groups];
    let width = shape.c / groups;
    let per_sample = pieces.len() / shape.n;
    for (i, (a, b)) in pieces.iter().enumerate() {
        let group = &mut out[i / per_sample * groups..][..groups];
        for (sums, (a, b)) in group.iter_mut().zip(a.chunks_exact(width).zip(b.chunks_exact(width))) {
            sums.0 += a.iter().sum::<f64>();
            sums.1 += b.iter().sum::<f64>();
        }
    }
    out
}

/// Adds rows of `c` and their squares to the sums, four rows at a time to spare memory traffic.
#[inline(always)]
fn add_moments(x: &[f32], sums: &mut [f64], squares: &mut [f64]) {
    let c = sums.len();
    let mut blocks = x.chunks_exact(4 * c);
    for block in &mut blocks {
        let (x0, rest) = block.split_at(c);
        let (x1, rest) = rest.split_at(c);
        let (x2, x3) = rest.split_at(c);
        for i in 0..c {
            let x = [x0[i], x1[i], x2[i], x3[i]].map(f64::from);
            sums[i] += (x[0] + x[1]) + (x[2] + x[3]);
            squares[i] += (x[0] * x[0] + x[1] * x[1]) + (x[2] * x[2] + x[3] * x[3]);
        }
    }
    for row in blocks.remainder().chunks_exact(c) {
        for i in 0..c {
            let x = f64::from(row[i]);
            sums[i] += x;
            squares[i] += x * x;
        }
    }
}

/// The statistics of one sample, spread from groups to channels.
struct Channels {
    mean: Vec<f32>,
    lost: Vec<f32>,
    rstd: Vec<f32>,
}

impl Channels {
    /// `saved` holds the groups of one sample, each `width` channels.
    fn new(saved: &[f32], width: usize) -> Channels {
        let spread = |k: usize| {
            saved.chunks_exact(SAVED).flat_map(|s| std::iter::repeat_n(s[k], width)).collect::<Vec<_>>()
        };
        Channels { mean: spread(0), lost: spread(1), rstd: spread(2) }
    }
}

/// Group norm with optional SiLU; saves the statistics of each group.
pub fn group_norm(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    norm: GroupNorm,
) -> Result<(Tensor, Saved)> {
    let shape = x.shape();
    let (x, gamma, beta) = (cpu.view(x), cpu.view(gamma), cpu.view(beta));
    cpu.make_saving(d, |y, saved| {
        if x.is_empty() {
            return;
        }
        let (c, width) = (shape.c, shape.c / norm.groups);
        let pieces = pieces(shape, y);
        let sums: Vec<Sums> = pieces
            .par_iter()
            .map(|(_, at, y)| {
                let (mut sums, mut squares) = (vec![0.0; c], vec![0.0; c]);
                simd(
                    #[inline(always)]
                    || add_moments(&x[*at..*at + y.len()], &mut sums, &mut squares),
                );
                (sums, squares)
            })
            .collect();
        let groups = per_group(shape, norm.groups, &sums);
        for (saved, (sum, squares)) in saved.chunks_exact_mut(SAVED).zip(groups) {
            saved.copy_from_slice(&statistics(sum, squares, shape.tokens() * width, norm.eps));
        }
        let saved = saved.chunks_exact(norm.groups * SAVED);
        let channels: Vec<Channels> = saved.map(|s| Channels::new(s, width)).collect();
        pieces.into_par_iter().for_each(|(n, at, y)| {
            let k = &channels[n];
            let slope: Vec<f32> = k.rstd.iter().zip(gamma).map(|(r, g)| r * g).collect();
            let x = &x[at..at + y.len()];
            if norm.silu {
                simd(
                    #[inline(always)]
                    || {
                        normalise(
                            x,
                            k,
                            &slope,
                            beta,
                            y,
                            #[inline(always)]
                            |v| v * math::sigmoid(v),
                        )
                    },
                );
            } else {
                simd(
                    #[inline(always)]
                    || {
                        normalise(
                            x,
                            k,
                            &slope,
                            beta,
                            y,
                            #[inline(always)]
                            |v| v,
                        )
                    },
                );
            }
        });
    })
}

/// `y = f((x - mean) slope + beta)` over rows.
#[inline(always)]
fn normalise(x: &[f32], k: &Channels, slope: &[f32], beta: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    let c = beta.len();
    let (mean, lost, slope) = (&k.mean[..c], &k.lost[..c], &slope[..c]);
    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
        for i in 0..c {
            y[i] = f(((x[i] - mean[i]) - lost[i]) * slope[i] + beta[i]);
        }
    }
}

/// `dx = rstd (g - mean(g) - xhat mean(g xhat))` with `g` the cotangent of `xhat`, means over each group. The
/// first pass leaves `g` in `dx`, the second finishes it.
#[allow(clippy::too_many_arguments)]
pub fn group_norm_vjp(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    norm: GroupNorm,
) -> Result<Tensor> {
    let shape = x.shape();
    let (x, gamma, beta) = (cpu.view(x), cpu.view(gamma), cpu.view(beta));
    let (saved, dy) = (cpu.view(saved), cpu.view(dy));
    cpu.make(d, |dx| {
        if x.is_empty() {
            return;
        }
        let (c, width) = (shape.c, shape.c / norm.groups);
        let channels: Vec<Channels> =
            saved.chunks_exact(norm.groups * SAVED).map(|s| Channels::new(s, width)).collect();
        let mut pieces = pieces(shape, dx);
        let sums: Vec<Sums> = pieces
            .par_iter_mut()
            .map(|(n, at, g)| {
                let (x, dy, k) = (&x[*at..*at + g.len()], &dy[*at..*at + g.len()], &channels[*n]);
                let mut sums = (vec![0.0; c], vec![0.0; c]);
                if norm.silu {
                    simd(
                        #[inline(always)]
                        || cotangents(x, dy, k, gamma, beta, g, &mut sums, silu_slope),
                    );
                } else {
                    simd(
                        #[inline(always)]
                        || {
                            cotangents(
                                x,
                                dy,
                                k,
                                gamma,
                                beta,
                                g,
                                &mut sums,
                                #[inline(always)]
                                |_| 1.0,
                            )
                        },
                    );
                }
                sums
            })
            .collect();
        let count = (shape.tokens() * width) as f64;
        let groups = per_group(shape, norm.groups, &sums);
        pieces.into_par_iter().for_each(|(n, at, dx)| {
            let k = &channels[n];
            let groups = &groups[n * norm.groups..][..norm.groups];
            let spread = |mean: &dyn Fn(&(f64, f64)) -> f64| -> Vec<f32> {
                groups.iter().flat_map(|s| std::iter::repeat_n((mean(s) / count) as f32, width)).collect()
            };
            let (of_g, of_gx) = (spread(&|s| s.0), spread(&|s| s.1));
            simd(
                #[inline(always)]
                || finish(&x[at..at + dx.len()], k, &of_g, &of_gx, dx),
            );
        });
    })
}

/// Writes `g = dy f'(xhat gamma + beta) gamma`; adds `g` and `g xhat` to the sums.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn cotangents(
    x: &[f32],
    dy: &[f32],
    k: &Channels,
    gamma: &[f32],
    beta: &[f32],
    g: &mut [f32],
    sums: &mut Sums,
    slope: impl Fn(f32) -> f32,
) {
    let c = gamma.len();
    let (mean, lost, rstd, beta) = (&k.mean[..c], &k.lost[..c], &k.rstd[..c], &beta[..c]);
    let (of_g, of_gx) = (&mut sums.0[..c], &mut sums.1[..c]);
    for ((x, dy), g) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(g.chunks_exact_mut(c)) {
        for i in 0..c {
            let xhat = ((x[i] - mean[i]) - lost[i]) * rstd[i];
            let value = dy[i] * slope(xhat * gamma[i] + beta[i]) * gamma[i];
            g[i] = value;
            of_g[i] += f64::from(value);
            of_gx[i] += f64::from(value * xhat);
        }
    }
}

/// From `g` in `dx` to the gradient.
#[inline(always)]
fn finish(x: &[f32], k: &Channels, of_g: &[f32], of_gx: &[f32], dx: &mut [f32]) {
    let c = of_g.len();
    let (mean, lost, rstd, of_gx) = (&k.mean[..c], &k.lost[..c], &k.rstd[..c], &of_gx[..c]);
    for (x, dx) in x.chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
        for i in 0..c {
            let xhat = ((x[i] - mean[i]) - lost[i]) * rstd[i];
            dx[i] = rstd[i] * ((dx[i] - of_g[i]) - xhat * of_gx[i]);
        }
    }
}

/// Layer norm over rows of `gamma.len()`; saves the statistics of each row.
pub fn layer_norm(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f32,
) -> Result<(Tensor, Saved)> {
    let (x, gamma, beta) = (cpu.view(x), cpu.view(gamma), cpu.view(beta));
    cpu.make_saving(d, |y, saved| {
        let c = gamma.len();
        // Two outputs walk together: cut rows of y and saved alike.
        let rows = (PIECE / c).max(1);
        let pieces =
            x.par_chunks(rows * c).zip(y.par_chunks_mut(rows * c)).zip(saved.par_chunks_mut(rows * SAVED));
        pieces.for_each(|((x, y), saved)| {
            simd(
                #[inline(always)]
                || {
                    let rows =
                        x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(saved.chunks_exact_mut(SAVED));
                    for ((x, y), saved) in rows {
                        let (sum, squares) = sums(
                            c,
                            #[inline(always)]
                            |i| (f64::from(x[i]), f64::from(x[i]) * f64::from(x[i])),
                        );
                        let [mean, lost, rstd] = statistics(sum, squares, c, eps);
                        saved.copy_from_slice(&[mean, lost, rstd]);
                        for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                            *y = ((x - mean) - lost) * rstd * gamma + beta;
                        }
                    }
                },
            );
        });
    })
}

/// `dx = rstd (g - mean(g) - xhat mean(g xhat))`, `g = dy gamma`, means over each row.
pub fn layer_norm_vjp(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    gamma: &Tensor,
    saved: &Saved,
    dy: &Tensor,
) -> Result<Tensor> {
    let (x, gamma) = (cpu.view(x), cpu.view(gamma));
    let (saved, dy) = (cpu.view(saved), cpu.view(dy));
    cpu.make(d, |dx| {
        let c = gamma.len();
        parallel_rows(
            dx,
            c,
            #[inline(always)]
            |first, rows| {
                for (row, dx) in rows.chunks_exact_mut(c).enumerate() {
                    let row = first + row;
                    let (x, dy) = (&x[row * c..][..c], &dy[row * c..][..c]);
                    let &[mean, lost, rstd] = &saved[row * SAVED..][..SAVED] else {
                        unreachable!("three numbers")
                    };
                    let xhat = |i: usize| ((x[i] - mean) - lost) * rstd;
                    let (of_g, of_gx) = sums(
                        c,
                        #[inline(always)]
                        |i| {
                            let g = dy[i] * gamma[i];
                            (f64::from(g), f64::from(g * xhat(i)))
                        },
                    );
                    let (of_g, of_gx) = ((of_g / c as f64) as f32, (of_gx / c as f64) as f32);
                    for (i, dx) in dx.iter_mut().enumerate() {
                        *dx = rstd * ((dy[i] * gamma[i] - of_g) - xhat(i) * of_gx);
                    }
                }
            },
        );
    })
}

/// The shortest length [`l2_norm`] divides by.
const SHORTEST: f64 = 1e-12;

/// One over the length, bounded; NaN of NaN.
#[inline(always)]
fn inverse_length(squares: f64) -> f64 {
    let length = squares.sqrt();
    1.0 / if length < SHORTEST { SHORTEST } else { length }
}

/// Each row of `c` divided by its length.
pub fn l2_norm(cpu: &Cpu, d: Description<'_>, x: &Tensor) -> Result<Tensor> {
    let (x, c) = (cpu.view(x), d.output.c);
    cpu.make(d, |y| {
        parallel_rows(
            y,
            c,
            #[inline(always)]
            |first, rows| {
                for (x, y) in x[first * c..].chunks_exact(c).zip(rows.chunks_exact_mut(c)) {
                    let (squares, _) = sums(
                        c,
                        #[inline(always)]
                        |i| (f64::from(x[i]) * f64::from(x[i]), 0.0),
                    );
                    let inverse = inverse_length(squares) as f32;
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = x * inverse;
                    }
                }
            },
        );
    })
}

/// `dx = (dy - y <y, dy>) / |x|`; rows shorter than the bound are divided by a constant.
pub fn l2_norm_vjp(cpu: &Cpu, d: Description<'_>, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (x, dy, c) = (cpu.view(x), cpu.view(dy), d.output.c);
    cpu.make(d, |dx| {
        parallel_rows(
            dx,
            c,
            #[inline(always)]
            |first, rows| {
                let inputs = x[first * c..].chunks_exact(c).zip(dy[first * c..].chunks_exact(c));
                for ((x, dy), dx) in inputs.zip(rows.chunks_exact_mut(c)) {
                    let (squares, product) = sums(
                        c,
                        #[inline(always)]
                        |i| {
                            let x = f64::from(x[i]);
                            (x * x, x * f64::from(dy[i]))
                        },
                    );
                    let inverse = inverse_length(squares) as f32;
                    let along = if squares > SHORTEST * SHORTEST { (product / squares) as f32 } else { 0.0 };
                    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                        *dx = (dy - x * along) * inverse;
                    }
                }
            },
        );
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::tensor::HostSlice;

    #[test]
    fn a_row_of_zeros_stays_zero_and_has_a_finite_gradient() {
        let (cpu, dy) = (Cpu::new(), [1.0, -2.0, 0.5]);
        let up = |x: &[f32]| cpu.upload(Shape::vector(3), HostSlice::F32(x)).unwrap();
        let x = up(&[0.0; 3]);
        let (y, dx) = (cpu.l2_norm(&x).unwrap(), cpu.l2_norm_vjp(&x, &up(&dy)).unwrap());
        assert_eq!(cpu.view(&y), [0.0; 3]);
        assert_eq!(cpu.view(&dx), dy.map(|d| d * 1e12));
    }

    /// Mean 1e4 and spread 1: in f32 sums the variance would be lost.
    #[test]
    fn a_large_mean_costs_no_digits() {
        let x: Vec<f32> = (0..64).map(|i| 1e4 + (i % 5) as f32 - 2.0).collect();
        let cpu = Cpu::new();
        let up = |x: &[f32]| cpu.upload(Shape::vector(64), HostSlice::F32(x)).unwrap();
        let (y, _) = cpu.layer_norm(&up(&x), &up(&[1.0; 64]), &up(&[0.0; 64]), 0.0).unwrap();
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / 64.0;
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / 64.0;
        for (&x, &y) in x.iter().zip(cpu.view(&y)) {
            let truth = (f64::from(x) - mean) / variance.sqrt();
            // Three roundings.
            assert!((f64::from(y) - truth).abs() <= 3.0 * 6e-8 * truth.abs().max(0.1), "{y} {truth}");
        }
    }
}
