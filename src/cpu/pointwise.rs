//! Pointwise maps and their transposes on the host. Each is one pass over memory.

use super::Cpu;
use super::math;
use super::parallel::parallel_rows;
use crate::error::Result;
use crate::op::{Activation, AffineClamp, Description};
use crate::tensor::Tensor;

/// `out[i] = f(x[i])`.
#[inline(always)]
fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    parallel_rows(
        out,
        1,
        #[inline(always)]
        |from, out| {
            for (o, &x) in out.iter_mut().zip(&x[from..]) {
                *o = f(x);
            }
        },
    );
}

/// `out[i] = f(x[i], y[i])`.
#[inline(always)]
fn map2(x: &[f32], y: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    parallel_rows(
        out,
        1,
        #[inline(always)]
        |from, out| {
            for ((o, &x), &y) in out.iter_mut().zip(&x[from..]).zip(&y[from..]) {
                *o = f(x, y);
            }
        },
    );
}

/// Slope inside the sigmoid of quick-GELU.
const QUICK: f32 = 1.702;

pub fn activate(cpu: &Cpu, d: Description<'_>, x: &Tensor, f: Activation) -> Result<Tensor> {
    let x = cpu.view(x);
    cpu.make(d, |y| match f {
        Activation::Silu => map(
            x,
            y,
            #[inline(always)]
            |x| x * math::sigmoid(x),
        ),
        Activation::Gelu => map(x, y, math::gelu),
        Activation::QuickGelu => map(
            x,
            y,
            #[inline(always)]
            |x| x * math::sigmoid(QUICK * x),
        ),
    })
}

pub fn activate_vjp(cpu: &Cpu, d: Description<'_>, x: &Tensor, dy: &Tensor, f: Activation) -> Result<Tensor> {
    let (x, dy) = (cpu.view(x), cpu.view(dy));
    cpu.make(d, |dx| match f {
        Activation::Silu => map2(
            x,
            dy,
            dx,
            #[inline(always)]
            |x, dy| dy * silu_slope(x),
        ),
        Activation::Gelu => map2(
            x,
            dy,
            dx,
            #[inline(always)]
            |x, dy| dy * math::gelu_slope(x),
        ),
        Activation::QuickGelu => map2(
            x,
            dy,
            dx,
            #[inline(always)]
            |x, dy| {
                let s = math::sigmoid(QUICK * x);
                dy * (s + QUICK * x * s * (1.0 - s))
            },
        ),
    })
}

/// Derivative of `x sigmoid(x)`.
#[inline(always)]
pub fn silu_slope(x: f32) -> f32 {
    let s = math::sigmoid(x);
    s + x * s * (1.0 - s)
}

/// Rows `[a, g]` of `2c`: `y = a gelu(g)`.
pub fn geglu(cpu: &Cpu, d: Description<'_>, x: &Tensor) -> Result<Tensor> {
    let (x, c) = (cpu.view(x), d.output.c);
    cpu.make(d, |y| {
        parallel_rows(
            y,
            c,
            #[inline(always)]
            |first, rows| {
                for (x, y) in x[2 * c * first..].chunks_exact(2 * c).zip(rows.chunks_exact_mut(c)) {
                    let (a, g) = x.split_at(c);
                    for ((y, &a), &g) in y.iter_mut().zip(a).zip(g) {
                        *y = a * math::gelu(g);
                    }
                }
            },
        );
    })
}

pub fn geglu_vjp(cpu: &Cpu, d: Description<'_>, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (x, dy, c) = (cpu.view(x), cpu.view(dy), d.output.c / 2);
    cpu.make(d, |dx| {
        parallel_rows(
            dx,
            2 * c,
            #[inline(always)]
            |first, rows| {
                let x = x[2 * c * first..].chunks_exact(2 * c);
                let dy = dy[c * first..].chunks_exact(c);
                for ((x, dy), dx) in x.zip(dy).zip(rows.chunks_exact_mut(2 * c)) {
                    let (a, g) = x.split_at(c);
                    let (da, dg) = dx.split_at_mut(c);
                    for i in 0..c {
                        let (gelu, slope) = math::gelu_and_slope(g[i]);
                        da[i] = dy[i] * gelu;
                        dg[i] = dy[i] * a[i] * slope;
                    }
                }
            },
        );
    })
}

pub fn axpby(cpu: &Cpu, d: Description<'_>, a: f32, x: &Tensor, b: f32, y: &Tensor) -> Result<Tensor> {
    let (x, y) = (cpu.view(x), cpu.view(y));
    cpu.make(d, |out| {
        map2(
            x,
            y,
            out,
            #[inline(always)]
            |x, y| a * x + b * y,
        );
    })
}

/// `k0 x + k1 y`.
pub fn blend(cpu: &Cpu, d: Description<'_>, k: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let k = cpu.view(k);
    axpby(cpu, d, k[0], x, k[1], y)
}

/// `k[which] dy`.
pub fn blend_vjp(cpu: &Cpu, d: Description<'_>, k: &Tensor, which: usize, dy: &Tensor) -> Result<Tensor> {
    scale(cpu, d, cpu.view(k)[which], dy)
}

pub fn scale(cpu: &Cpu, d: Description<'_>, a: f32, x: &Tensor) -> Result<Tensor> {
    let x = cpu.view(x);
    cpu.make(d, |out| {
        map(
            x,
            out,
            #[inline(always)]
            |x| a * x,
        );
    })
}

pub fn affine_clamp(cpu: &Cpu, d: Description<'_>, x: &Tensor, clamp: AffineClamp) -> Result<Tensor> {
    let x = cpu.view(x);
    cpu.make(d, |y| {
        let AffineClamp { a, b, lo, hi } = clamp;
        map(
            x,
            y,
            #[inline(always)]
            |x| {
                let y = a * x + b;
                // Unlike f32::clamp's relatives max and min, comparisons let NaN through.
                let y = if y < lo { lo } else { y };
                if y > hi { hi } else { y }
            },
        );
    })
}

pub fn affine_clamp_vjp(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    dy: &Tensor,
    clamp: AffineClamp,
) -> Result<Tensor> {
    let (x, dy) = (cpu.view(x), cpu.view(dy));
    cpu.make(d, |dx| {
        let AffineClamp { a, b, lo, hi } = clamp;
        map2(
            x,
            dy,
            dx,
            #[inline(always)]
            |x, dy| {
                let y = a * x + b;
                if y >= lo && y <= hi { a * dy } else { 0.0 }
            },
        );
    })
}

pub fn soft_clamp(cpu: &Cpu, d: Description<'_>, x: &Tensor, limit: f32) -> Result<Tensor> {
    let x = cpu.view(x);
    cpu.make(d, |y| {
        map(
            x,
            y,
            #[inline(always)]
            |x| limit * math::tanh(x / limit),
        );
    })
}

pub fn soft_clamp_vjp(cpu: &Cpu, d: Description<'_>, x: &Tensor, dy: &Tensor, limit: f32) -> Result<Tensor> {
    let (x, dy) = (cpu.view(x), cpu.view(dy));
    cpu.make(d, |dx| {
        map2(
            x,
            dy,
            dx,
            #[inline(always)]
            |x, dy| dy * math::tanh_slope(x / limit),
        );
    })
}

/// `x * gain + shift` per channel.
pub fn channel_affine(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    gain: &Tensor,
    shift: Option<&Tensor>,
) -> Result<Tensor> {
    let (x, gain, shift) = (cpu.view(x), cpu.view(gain), cpu.view_of(shift));
    cpu.make(d, |y| {
        let c = gain.len();
        parallel_rows(
            y,
            c,
            #[inline(always)]
            |first, rows| {
                for (x, y) in x[c * first..].chunks_exact(c).zip(rows.chunks_exact_mut(c)) {
                    match shift {
                        Some(shift) => {
                            for i in 0..c {
                                y[i] = x[i] * gain[i] + shift[i];
                            }
                        }
                        None => {
                            for i in 0..c {
                                y[i] = x[i] * gain[i];
                            }
                        }
                    }
                }
            },
        );
    })
}

/// `x` is `[u, c]`: `y = u + s (c - u)`.
pub fn cfg_combine(cpu: &Cpu, d: Description<'_>, x: &Tensor, s: f32) -> Result<Tensor> {
    let x = cpu.view(x);
    cpu.make(d, |y| {
        let (u, c) = x.split_at(x.len() / 2);
        map2(
            u,
            c,
            y,
            #[inline(always)]
            |u, c| u + s * (c - u),
        );
    })
}

/// `[(1 - s) dy, s dy]`.
pub fn cfg_combine_vjp(cpu: &Cpu, d: Description<'_>, dy: &Tensor, s: f32) -> Result<Tensor> {
    let dy = cpu.view(dy);
    cpu.make(d, |dx| {
        let (u, c) = dx.split_at_mut(dy.len());
        map(
            dy,
            u,
            #[inline(always)]
            |dy| (1.0 - s) * dy,
        );
        map(
            dy,
            c,
            #[inline(always)]
            |dy| s * dy,
        );
    })
}
