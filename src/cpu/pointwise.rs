//! Pointwise maps and their transposes on the host. Each is one pass over memory.

use super::math;
use super::parallel::parallel_rows;
use crate::backend::{Activation, AffineClamp};

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

pub fn activate(x: &[f32], f: Activation, y: &mut [f32]) {
    match f {
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
    }
}

pub fn activate_vjp(x: &[f32], dy: &[f32], f: Activation, dx: &mut [f32]) {
    match f {
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
    }
}

/// Derivative of `x sigmoid(x)`.
#[inline(always)]
pub fn silu_slope(x: f32) -> f32 {
    let s = math::sigmoid(x);
    s + x * s * (1.0 - s)
}

/// Rows `[a, g]` of `2c`: `y = a gelu(g)`.
pub fn geglu(x: &[f32], c: usize, y: &mut [f32]) {
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
}

pub fn geglu_vjp(x: &[f32], dy: &[f32], c: usize, dx: &mut [f32]) {
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
}

pub fn axpby(a: f32, x: &[f32], b: f32, y: &[f32], out: &mut [f32]) {
    map2(
        x,
        y,
        out,
        #[inline(always)]
        |x, y| a * x + b * y,
    );
}

pub fn scale(a: f32, x: &[f32], out: &mut [f32]) {
    map(
        x,
        out,
        #[inline(always)]
        |x| a * x,
    );
}

pub fn affine_clamp(x: &[f32], clamp: AffineClamp, y: &mut [f32]) {
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
}

pub fn affine_clamp_vjp(x: &[f32], dy: &[f32], map: AffineClamp, dx: &mut [f32]) {
    let AffineClamp { a, b, lo, hi } = map;
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
}

/// `x * gain + shift` per channel.
pub fn channel_affine(x: &[f32], gain: &[f32], shift: Option<&[f32]>, y: &mut [f32]) {
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
}

/// `x` is `[u, c]`: `y = u + s (c - u)`.
pub fn cfg_combine(x: &[f32], s: f32, y: &mut [f32]) {
    let (u, c) = x.split_at(x.len() / 2);
    map2(
        u,
        c,
        y,
        #[inline(always)]
        |u, c| u + s * (c - u),
    );
}

/// `[(1 - s) dy, s dy]`.
pub fn cfg_combine_vjp(dy: &[f32], s: f32, dx: &mut [f32]) {
    let (u, c) = dx.split_at_mut(dy.len());
    scale(1.0 - s, dy, u);
    scale(s, dy, c);
}
