//! Attention on the GPU. 16-bit heads of at most 160 channels go without a score matrix (flash.rs); wider
//! ones, f32 and heads that are not whole packets through matrix products, some scores at a time: launchers
//! of kernels/attention.cu.

use super::buffer::{Buffer, Elem};
use super::kernels::{Act, In, Launch, Out, kernels, params};
use super::{Cuda, Kernels, PACKET, flash};
use crate::backend::{Attention, Saved};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

params! {
    /// Where queries, keys and values are; see attention.cuh.
    pub struct AttentionParams {
        pub queries: i32,
        pub keys: i32,
        pub heads: i32,
        pub d: i32,
        pub q_row: i32,
        pub kv_row: i32,
        pub y_row: i32,
        pub k_at: i32,
        pub v_at: i32,
        pub causal: i32,
        pub scale: f32,
    }
    /// A part of all score matrices: `rows` queries from `query` on of the heads from `first` on.
    pub struct ScoresParams {
        pub first: i64,
        pub query: i32,
        pub rows: i32,
        pub stride: i32,
    }
}

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
            to_k: i32, begin: i32, end: i32,
        );
        fn attention_dot(y: In<Act>, dy: In<Act>, dot: Out<f32>, p: AttentionParams);
    }
}

/// Threads per block of attention.cu.
const BLOCK: u32 = 256;

/// What an attention reads. For self-attention `q` and `kv` are the same.
pub struct Operands<'a> {
    pub q: &'a Buffer,
    pub kv: &'a Buffer,
    /// The row of `kv` for each sample; its own number where there is none.
    pub kv_of: Option<&'a Buffer>,
    pub samples: usize,
    pub p: AttentionParams,
}

impl Operands<'_> {
    pub fn kv_of(&self) -> In<'_, u32> {
        self.kv_of.map_or_else(In::none, Buffer::u32)
    }
    /// The flash kernels' width for these heads.
    #[track_caller]
    pub fn width(&self) -> usize {
        flash::width(self.p.d as usize).expect("heads that flash attention takes")
    }
}

impl AttentionParams {
    /// q, k and v side by side in rows of `3c`.
    #[track_caller]
    fn own(qkv: Shape, attention: Attention) -> AttentionParams {
        assert!(qkv.c.is_multiple_of(3), "q, k and v are equally wide: {qkv}");
        let c = qkv.c / 3;
        AttentionParams { q_row: 3 * c as i32, ..AttentionParams::new(qkv, qkv, c, c, attention) }
    }

    /// k and v side by side in rows of `2c`.
    #[track_caller]
    fn cross(q: Shape, kv: Shape, attention: Attention) -> AttentionParams {
        assert!(!attention.causal, "cross attention has no order");
        assert_eq!(kv.c, 2 * q.c, "keys and values as wide as queries");
        AttentionParams::new(q, kv, q.c, 0, attention)
    }

    #[track_caller]
    fn new(q: Shape, kv: Shape, c: usize, k_at: usize, attention: Attention) -> AttentionParams {
        let Attention { heads, scale, causal } = attention;
        assert_eq!(c % heads, 0, "{c} channels in {heads} heads");
        assert!(scale > 0.0, "the largest score is found before scaling");
        assert!(kv.tokens() > 0 || q.is_empty(), "no keys to attend to");
        // Products of a tile's row and the stride stay far within 32 bits.
        assert!(kv.c < 1 << 20 && q.tokens().max(kv.tokens()) < 1 << 30, "{q}, {kv}");
        AttentionParams {
            queries: q.tokens() as i32,
            keys: kv.tokens() as i32,
            heads: heads as i32,
            d: (c / heads) as i32,
            q_row: c as i32,
            kv_row: kv.c as i32,
            y_row: c as i32,
            k_at: k_at as i32,
            v_at: (k_at + c) as i32,
            causal: causal.into(),
            scale,
        }
    }
}

/// The kernels for these tensors, and whether those without a score matrix.
fn choose<'a>(cuda: &'a Cuda, tensors: &[&Tensor], p: &AttentionParams) -> (&'a Kernels, bool) {
    // Heads that are not whole packets are f32 work, whatever the rows are.
    let elem = cuda.common(tensors, &[p.d as usize]);
    (cuda.kernels(elem), elem != Elem::F32 && flash::width(p.d as usize).is_some())
}

/// The result as narrow as `like`, which was perhaps widened to make it.
fn as_narrow(cuda: &Cuda, shape: Shape, y: Buffer, like: &Tensor) -> Result<Tensor> {
    cuda.cast(&cuda.wrap(shape, y), cuda.buffer(like).elem())
}

pub fn self_attention(cuda: &Cuda, qkv: &Tensor, attention: Attention) -> Result<(Tensor, Saved)> {
    let shape = qkv.shape();
    let p = AttentionParams::own(shape, attention);
    let out = shape.with_c(shape.c / 3);
    let saved = Shape::new(shape.n, 1, attention.heads, shape.tokens());
    let (kernels, flash) = choose(cuda, &[qkv], &p);
    let wide = cuda.cast(qkv, kernels.elem)?;
    let x = cuda.buffer(&wide);
    let x = Operands { q: x, kv: x, kv_of: None, samples: shape.n, p };
    let (mut y, mut lse) = (cuda.alloc(kernels.elem, out)?, cuda.alloc(Elem::F32, saved)?);
    if flash {
        flash::forward(cuda, kernels, &x, &mut y, Some(&mut lse))?;
    } else {
        forward(cuda, kernels, &x, &mut y, &mut lse)?;
    }
    Ok((as_narrow(cuda, out, y, qkv)?, cuda.wrap(saved, lse)))
}

pub fn self_attention_vjp(
    cuda: &Cuda,
    qkv: &Tensor,
    y: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    attention: Attention,
) -> Result<Tensor> {
    let shape = qkv.shape();
    let p = AttentionParams::own(shape, attention);
    assert_eq!((y.shape(), dy.shape().len()), (shape.with_c(shape.c / 3), y.shape().len()));
    let (kernels, flash) = choose(cuda, &[qkv, y, dy], &p);
    let [qkv_, y, dy] = [qkv, y, dy].map(|x| cuda.cast(x, kernels.elem));
    let (qkv_, y, dy) = (qkv_?, y?, dy?);
    let (x, y, dy) = (cuda.buffer(&qkv_), cuda.buffer(&y), cuda.buffer(&dy));
    let x = Operands { q: x, kv: x, kv_of: None, samples: shape.n, p };
    let dot = dot(cuda, kernels, &x, y, dy)?;
    let numbers = [cuda.buffer(saved), &dot];
    let mut dx = cuda.alloc(kernels.elem, shape)?;
    if flash {
        flash::keys_vjp(cuda, kernels, &x, dy, numbers, &mut dx)?;
        flash::queries_vjp(cuda, kernels, &x, dy, Some(numbers), &mut dx)?;
    } else {
        vjp(cuda, kernels, &x, dy, numbers, &mut dx)?;
    }
    as_narrow(cuda, shape, dx, qkv)
}

pub fn cross_attention(
    cuda: &Cuda,
    q: &Tensor,
    kv: &Tensor,
    kv_of: &[u32],
    attention: Attention,
) -> Result<Tensor> {
    let shape = q.shape();
    let p = AttentionParams::cross(shape, kv.shape(), attention);
    let (kernels, flash) = choose(cuda, &[q, kv], &p);
    let (wide, kv) = (cuda.cast(q, kernels.elem)?, cuda.cast_weight(kv, kernels.elem)?);
    let of = rows(cuda, kv_of, shape, kv.shape())?;
    let x = Operands { q: cuda.buffer(&wide), kv: cuda.buffer(&kv), kv_of: Some(&of), samples: shape.n, p };
    let mut y = cuda.alloc(kernels.elem, shape)?;
    if flash {
        flash::forward(cuda, kernels, &x, &mut y, None)?;
    } else {
        forward(cuda, kernels, &x, &mut y, &mut per_query(cuda, &x)?)?;
    }
    as_narrow(cuda, shape, y, q)
}

pub fn cross_attention_vjp(
    cuda: &Cuda,
    q: &Tensor,
    kv: &Tensor,
    kv_of: &[u32],
    dy: &Tensor,
    attention: Attention,
) -> Result<Tensor> {
    let shape = q.shape();
    let p = AttentionParams::cross(shape, kv.shape(), attention);
    assert_eq!(shape.len(), dy.shape().len());
    let (kernels, flash) = choose(cuda, &[q, kv, dy], &p);
    let (wide, dy) = (cuda.cast(q, kernels.elem)?, cuda.cast(dy, kernels.elem)?);
    let kv = cuda.cast_weight(kv, kernels.elem)?;
    let (of, dy) = (rows(cuda, kv_of, shape, kv.shape())?, cuda.buffer(&dy));
    let x = Operands { q: cuda.buffer(&wide), kv: cuda.buffer(&kv), kv_of: Some(&of), samples: shape.n, p };
    let mut dq = cuda.alloc(kernels.elem, shape)?;
    if flash {
        flash::queries_vjp(cuda, kernels, &x, dy, None, &mut dq)?;
    } else {
        // Nothing was saved: the forward once more.
        let (mut y, mut lse) = (cuda.alloc(kernels.elem, shape)?, per_query(cuda, &x)?);
        forward(cuda, kernels, &x, &mut y, &mut lse)?;
        let dot = dot(cuda, kernels, &x, &y, dy)?;
        vjp(cuda, kernels, &x, dy, [&lse, &dot], &mut dq)?;
    }
    as_narrow(cuda, shape, dq, q)
}

/// The row of keys of each sample, on the device.
#[track_caller]
fn rows(cuda: &Cuda, kv_of: &[u32], q: Shape, kv: Shape) -> Result<Buffer> {
    assert_eq!(kv_of.len(), q.n, "one key row per sample");
    assert!(kv_of.iter().all(|&row| (row as usize) < kv.n), "key rows {kv_of:?} of {}", kv.n);
    cuda.indices(kv_of)
}

/// Memory for one number per query and head.
fn per_query(cuda: &Cuda, x: &Operands<'_>) -> Result<Buffer> {
    cuda.device.alloc(Elem::F32, x.samples * x.p.heads as usize * x.p.queries as usize)
}

/// `<dy, y>` of each query and head.
fn dot(cuda: &Cuda, kernels: &Kernels, x: &Operands<'_>, y: &Buffer, dy: &Buffer) -> Result<Buffer> {
    let mut dot = per_query(cuda, x)?;
    // Eight lanes per query.
    let blocks = (x.p.queries as usize).div_ceil(BLOCK as usize / 8);
    let launch = Launch::grid(blocks, x.p.heads as usize, x.samples, BLOCK);
    let (y, dy) = (kernels.read(y), kernels.read(dy));
    kernels.attention.attention_dot(&cuda.device, launch, y, dy, dot.f32_mut(), x.p)?;
    Ok(dot)
}

/// How many scores are in memory at a time: enough rows for two blocks of `attention_mix` per multiprocessor, from 64 MB to
/// 256.
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

fn forward(cuda: &Cuda, kernels: &Kernels, x: &Operands<'_>, y: &mut Buffer, lse: &mut Buffer) -> Result<()> {
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
fn vjp(
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
