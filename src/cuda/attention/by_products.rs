//! Attention through matrix products, some scores at a time: launchers of kernels/attention.cu.

use super::params::{AttentionParams, Operands, ScoresParams};
use crate::cuda::ctx::{Cuda, Kernels};
use crate::cuda::device::{Act, Buffer, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels};
use crate::error::Result;
use crate::tensor::PACKET;

kernels! {
    /// The kernels of attention.cu.
    pub struct Table from "attention" {
        fn attention_scores(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, s: Out<f32>, p: AttentionParams, part: ScoresParams,
        );
        fn attention_softmax(
            s: In<f32>, weights: Out<Act>, lse: Out<f32>, p: AttentionParams, part: ScoresParams, n: i64,
        );
        fn attention_scores_vjp(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>,
            weights: Out<Act>, ds: Out<Act>, p: AttentionParams, part: ScoresParams,
        );
        fn attention_mix(
            a: In<Act>, kv: In<Act>, kv_of: In<u32>, out: Out<Act>, p: AttentionParams, part: ScoresParams,
            to_q: i32,
        );
        fn attention_gather(
            a: In<Act>, x: In<Act>, sum: Out<f32>, out: Out<Act>, p: AttentionParams, part: ScoresParams,
            to_k: i32, first_part: i32, last_part: i32,
        );
        fn attention_dot(y: In<Act>, dy: In<Act>, dot: Out<f32>, p: AttentionParams);
    }
}

/// Threads per block of attention.cu.
const BLOCK: u32 = 256;

/// Memory for one number per query and head.
pub fn per_query(cuda: &Cuda, x: &Operands<'_>) -> Result<Buffer> {
    cuda.device.alloc(Elem::F32, x.samples * x.p.heads as usize * x.p.queries as usize)
}

/// `<dy, y>` of each query and head.
pub fn dot(cuda: &Cuda, kernels: &Kernels, x: &Operands<'_>, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let mut dot = per_query(cuda, x)?;
    // Eight lanes per query.
    let blocks = (x.p.queries as usize).div_ceil(BLOCK as usize / 8);
    let launch = Launch::grid(blocks, x.p.heads as usize, x.samples, BLOCK);
    let (y, dy) = (kernels.read(y), kernels.read(dy));
    kernels.attention.attention_dot(&cuda.device, launch, y, dy, dot.f32_mut(), x.p)?;
    Ok(dot)
}

/// How many scores are in memory at a time: enough rows for two blocks of `attention_mix` per multiprocessor,
/// from 64 MB to 256.
fn most_scores(cuda: &Cuda, x: &Operands<'_>) -> usize {
    cuda.scores.unwrap_or_else(|| {
        let rows = 128 * (2 * cuda.device.multiprocessors()).div_ceil((x.p.d as usize).div_ceil(64));
        (rows * (x.p.keys as usize).next_multiple_of(PACKET)).clamp(1 << 24, 1 << 26)
    })
}

/// The parts of all score matrices, each of at most about `most` scores: some heads, or where one is larger,
/// some queries of one head.
fn parts(x: &Operands<'_>, most: usize) -> Vec<(ScoresParams, usize)> {
    let (queries, heads) = (x.p.queries as usize, x.samples * x.p.heads as usize);
    let stride = (x.p.keys as usize).next_multiple_of(PACKET);
    let (rows, count) = match most / (queries * stride).max(1) {
        // Whole tiles of the products' 128 rows where there is room for several.
        0 => ((most / stride).max(1), 1),
        // The third dimension of a grid.
        heads => (queries, heads.min(65535)),
    };
    let rows = if rows < queries && rows >= 128 { rows / 128 * 128 } else { rows };
    let mut all = Vec::new();
    for first in (0..heads).step_by(count) {
        for query in (0..queries).step_by(rows.max(1)) {
            let rows = rows.min(queries - query) as i32;
            let part = ScoresParams { first: first as i64, query: query as i32, rows, stride: stride as i32 };
            all.push((part, count.min(heads - first)));
        }
    }
    all
}

/// Blocks for a product of `rows` by `columns` of `heads` heads.
#[track_caller]
fn tiles(kernels: &Kernels, rows: i32, columns: i32, heads: usize) -> Launch {
    // As `Product` of attention_product.cuh.
    let (tile, across) = if kernels.elem == Elem::F32 { (64, 64) } else { (128, 64) };
    Launch::grid((columns as usize).div_ceil(across), (rows as usize).div_ceil(tile), heads, BLOCK)
}

pub fn forward(
    cuda: &Cuda,
    kernels: &Kernels,
    x: &Operands<'_>,
    y: &mut Buffer,
    lse: &mut Buffer,
) -> Result<()> {
    let (d, t, p) = (&cuda.device, &kernels.attention, x.p);
    let (q, kv) = (kernels.read(x.q), kernels.read(x.kv));
    let parts = parts(x, most_scores(cuda, x));
    // The first part is the largest.
    let size = parts.first().map_or(0, |(part, heads)| heads * part.rows as usize * part.stride as usize);
    let (mut s, mut weights) = (d.alloc(Elem::F32, size)?, d.alloc(kernels.elem, size)?);
    for (part, heads) in parts {
        let launch = tiles(kernels, part.rows, part.stride, heads);
        t.attention_scores(d, launch, q, kv, x.kv_of(), s.f32_mut(), p, part)?;
        let n = heads * part.rows as usize;
        let launch = Launch::cover(32 * n, BLOCK);
        let w = kernels.write(&mut weights);
        t.attention_softmax(d, launch, s.f32(), w, lse.f32_mut(), p, part, n as i64)?;
        let launch = tiles(kernels, part.rows, p.d, heads);
        t.attention_mix(d, launch, kernels.read(&weights), kv, x.kv_of(), kernels.write(y), p, part, 0)?;
    }
    Ok(())
}

/// dq into `dx`, laid out as q is; for self-attention dk and dv too.
pub fn vjp(
    cuda: &Cuda,
    kernels: &Kernels,
    x: &Operands<'_>,
    dy: &Buffer,
    [lse, dot]: [&Buffer; 2],
    dx: &mut Buffer,
) -> Result<()> {
    let (d, t, p) = (&cuda.device, &kernels.attention, x.p);
    let (q, kv, dy) = (kernels.read(x.q), kernels.read(x.kv), kernels.read(dy));
    let parts = parts(x, most_scores(cuda, x));
    let size = parts.first().map_or(0, |(part, heads)| heads * part.rows as usize * part.stride as usize);
    let (mut weights, mut ds) = (d.alloc(kernels.elem, size)?, d.alloc(kernels.elem, size)?);
    // Sums for dv and dk where the queries of a head come in parts.
    let several = parts.first().is_some_and(|(part, _)| part.rows < p.queries);
    let size = if several { (p.keys * p.d) as usize } else { 0 };
    let mut sums = [d.alloc(Elem::F32, size)?, d.alloc(Elem::F32, size)?];
    for (part, heads) in parts {
        let (w, s) = (kernels.write(&mut weights), kernels.write(&mut ds));
        let launch = tiles(kernels, part.rows, part.stride, heads);
        t.attention_scores_vjp(d, launch, q, kv, x.kv_of(), dy, lse.f32(), dot.f32(), w, s, p, part)?;
        let (w, s) = (kernels.read(&weights), kernels.read(&ds));
        let launch = tiles(kernels, part.rows, p.d, heads);
        t.attention_mix(d, launch, s, kv, x.kv_of(), kernels.write(dx), p, part, 1)?;
        if x.kv_of.is_some() {
            continue;
        }
        let (begin, end) = (i32::from(part.query == 0), i32::from(part.query + part.rows == p.queries));
        let launch = tiles(kernels, p.keys, p.d, heads);
        for (to_k, (a, x)) in [(w, dy), (s, q)].into_iter().enumerate() {
            let (sum, dx) = (sums[to_k].f32_mut(), kernels.write(dx));
            t.attention_gather(d, launch, a, x, sum, dx, p, part, to_k as i32, begin, end)?;
        }
    }
    Ok(())
}
