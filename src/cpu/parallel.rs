//! Splitting work over threads and vector registers. Pieces depend on sizes only, never on the number of
//! threads, so results are the same bits on any machine with the same instructions.

use rayon::prelude::*;

/// Elements of one piece of pointwise work: large against the cost of handing it to a thread, small against
/// the second-level cache.
const PIECE: usize = 1 << 15;

/// Runs `f` compiled for the widest vector instructions of this processor. That holds only for code inlined
/// into `f`: closures passed to it and to [`parallel_rows`] carry `#[inline(always)]`, or a fused
/// multiply-add becomes a call.
#[inline(always)]
pub fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Hands pieces of whole rows of `out` to `f(first row, rows)`, in parallel where there are several pieces.
pub fn parallel_rows(out: &mut [f32], row: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.is_empty() {
        return;
    }
    let rows = (PIECE / row).max(1);
    if out.len() <= PIECE {
        return simd(
            #[inline(always)]
            || f(0, out),
        );
    }
    out.par_chunks_mut(rows * row).enumerate().for_each(|(i, piece)| {
        simd(
            #[inline(always)]
            || f(i * rows, piece),
        )
    });
}

/// Independent f64 accumulators of a sum, so that it vectorises.
const LANES: usize = 16;

/// Sums over `0..len` of both results of `f`, in an order that depends on `len` only.
#[inline(always)]
pub fn sums(len: usize, f: impl Fn(usize) -> (f64, f64)) -> (f64, f64) {
    let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
    let whole = len / LANES * LANES;
    for from in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let (va, vb) = f(from + lane);
            a[lane] += va;
            b[lane] += vb;
        }
    }
    for i in whole..len {
        let (va, vb) = f(i);
        a[i - whole] += va;
        b[i - whole] += vb;
    }
    (a.iter().sum(), b.iter().sum())
}
