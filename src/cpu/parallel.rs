//! Splitting work over threads and vector registers. Pieces depend on sizes only, never on the number of
//! threads, so results are the same bits on any machine with the same instructions.

use rayon::prelude::*;

/// Elements of one piece of pointwise work: large against the cost of handing it to a thread, small against
/// the second-level cache.
const PIECE: usize = 1 << 15;

/// Runs `f` compiled for the widest vector instructions of this processor. That holds only for code inlined into
/// `f`: closures passed to it and to [`parallel_rows`] carry `#[inline(always)]`, or a fused multiply-add becomes
/// a call.
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
