//! Attention on the host by tiles, so that no score matrix is ever whole (FlashAttention, Dao et al. 2022): a
//! task takes a block of queries of one sample through all heads and walks over tiles of keys, keeping each
//! row's running maximum and sum. The transpose recomputes scores from the saved log-sum-exp; a block's task
//! computes its rows of dq as queries and its rows of dk and dv as keys, so nothing is added by two tasks.

use std::ops::Range;

use rayon::prelude::*;

use super::Cpu;
use super::gemm::{Finish, Order, Panels, Product, Rows};
use super::math;
use super::parallel::simd;
use crate::error::Result;
use crate::op::{Attention, Description, Saved};
use crate::tensor::{Shape, Tensor};

/// Rows of a task, and of a tile's other side. A tile of scores is 128 KB and shares the second-level cache
/// with its packed keys and values.
const BLOCK: usize = 128;
const TILE: usize = 256;
/// Rows of scores are padded to whole vectors.
const LANES: usize = 16;

pub fn self_attention(
    cpu: &Cpu,
    d: Description<'_>,
    qkv: &Tensor,
    attention: Attention,
) -> Result<(Tensor, Saved)> {
    let out = d.output;
    let heads = Heads::new(attention, out.c);
    cpu.make_saving(d, |y, lse| {
        heads.forward(|n, head| heads.head_rows(cpu.view(qkv), qkv.shape(), n, head), out, y, lse);
    })
}

pub fn self_attention_vjp(
    cpu: &Cpu,
    d: Description<'_>,
    qkv: &Tensor,
    y: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    attention: Attention,
) -> Result<Tensor> {
    let (x, shape) = (cpu.view(qkv), d.output);
    let out = shape.with_c(shape.c / 3);
    let heads = Heads::new(attention, out.c);
    cpu.make(d, |dx| {
        let backward = heads.backward(cpu.view(dy), out, cpu.view(y), cpu.view(saved));
        blocks(dx, shape).into_par_iter().for_each(|(n, rows, dx)| {
            for head in 0..heads.count {
                let [q, k, v] = heads.head_rows(x, shape, n, head);
                let queries = backward.queries(q, n, head);
                let at = head * heads.width;
                heads.dq(queries, k, v, rows.clone(), &mut dx[at..], shape.c);
                heads.dk_dv(queries, k, v, rows.clone(), &mut dx[at..], shape.c);
            }
        });
    })
}

pub fn cross_attention(
    cpu: &Cpu,
    d: Description<'_>,
    q: &Tensor,
    kv: &Tensor,
    kv_of: &[u32],
    attention: Attention,
) -> Result<Tensor> {
    let heads = Heads::new(attention, d.output.c);
    cpu.make(d, |y| {
        let mut lse = vec![0.0; heads.saved(q.shape()).len()];
        heads.forward(|n, head| heads.cross(cpu, q, kv, kv_of, n, head), q.shape(), y, &mut lse);
    })
}

/// Nothing was saved: each block runs its forward once more for results and log-sum-exp.
pub fn cross_attention_vjp(
    cpu: &Cpu,
    d: Description<'_>,
    q: &Tensor,
    kv: &Tensor,
    kv_of: &[u32],
    dy: &Tensor,
    attention: Attention,
) -> Result<Tensor> {
    let shape = d.output;
    let heads = Heads::new(attention, shape.c);
    cpu.make(d, |dx| {
        blocks(dx, shape).into_par_iter().for_each(|(n, rows, dx)| {
            for head in 0..heads.count {
                let [q, k, v] = heads.cross(cpu, q, kv, kv_of, n, head);
                let [dy] = heads.head_rows(cpu.view(dy), shape, n, head);
                let (q, dy, d) = (q.part(rows.clone()), dy.part(rows.clone()), heads.width);
                let mut y = vec![0.0; q.rows * d];
                let lse = heads.block(q, 0, k, v, &mut y, d);
                let dot: Vec<f32> = simd(
                    #[inline(always)]
                    || {
                        let rows = dy.x.chunks(dy.stride).zip(y.chunks_exact(d));
                        rows.map(|(dy, y)| dot(&dy[..d], y)).collect()
                    },
                );
                let queries = Queries { q, dy, lse: &lse, dot: &dot };
                heads.dq(queries, k, v, 0..q.rows, &mut dx[head * d..], shape.c);
            }
        });
    })
}

/// Blocks of rows of each sample: `(sample, rows, their elements)`.
fn blocks(x: &mut [f32], shape: Shape) -> Vec<(usize, Range<usize>, &mut [f32])> {
    let block = move |(n, x)| {
        let parts = <[f32]>::chunks_mut(x, BLOCK * shape.c).enumerate();
        parts.map(move |(i, x)| (n, i * BLOCK..i * BLOCK + x.len() / shape.c, x))
    };
    x.chunks_mut(shape.sample().max(1)).enumerate().flat_map(block).collect()
}

/// The heads of an attention, each `width` channels.
#[derive(Clone, Copy)]
struct Heads {
    count: usize,
    width: usize,
    scale: f32,
    causal: bool,
}

/// One head's queries and what its transpose needs of each.
#[derive(Clone, Copy)]
struct Queries<'a> {
    q: Rows<'a>,
    dy: Rows<'a>,
    lse: &'a [f32],
    /// `<dy, y>`, which is `sum_j p_j <dy, v_j>`.
    dot: &'a [f32],
}

/// Cotangents of all heads' results; `lse` and `dot` are `(n, heads, tokens)`.
struct Backward<'a> {
    heads: Heads,
    dy: &'a [f32],
    shape: Shape,
    lse: &'a [f32],
    dot: Vec<f32>,
}

impl<'a> Backward<'a> {
    fn queries(&'a self, q: Rows<'a>, n: usize, head: usize) -> Queries<'a> {
        let [dy] = self.heads.head_rows(self.dy, self.shape, n, head);
        let at = (n * self.heads.count + head) * self.shape.tokens();
        Queries { q, dy, lse: &self.lse[at..][..q.rows], dot: &self.dot[at..][..q.rows] }
    }
}

/// Tiles of `0..len`.
fn tiles(len: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(tile).map(move |at| at..(at + tile).min(len))
}

/// `left` times `right` transposed, into rows of `stride`.
fn times_transposed(left: Rows<'_>, right: Rows<'_>, out: &mut [f32], stride: usize) {
    let shape = Panels::new(left.width, right.rows);
    let right = shape.pack(right.x, Order::Columns(right.stride));
    let (panels, finish) = (0..shape.count(), Finish::plain(false));
    Product { left: &left, shape, right: &right, panels, finish, out, stride }.run();
}

/// `left` times `right`, into or added to rows of `stride`.
fn times(left: Rows<'_>, right: Rows<'_>, accumulate: bool, out: &mut [f32], stride: usize) {
    let shape = Panels::new(right.rows, right.width);
    let right = shape.pack(right.x, Order::Rows(right.stride));
    let (panels, finish) = (0..shape.count(), Finish::plain(accumulate));
    Product { left: &left, shape, right: &right, panels, finish, out, stride }.run();
}

impl Heads {
    fn new(attention: Attention, c: usize) -> Heads {
        let Attention { heads, scale, causal } = attention;
        Heads { count: heads, width: c / heads, scale, causal }
    }
    fn c(self) -> usize {
        self.count * self.width
    }
    /// Shape of the log-sum-exp.
    fn saved(self, y: Shape) -> Shape {
        Shape::new(y.n, 1, self.count, y.tokens())
    }

    /// The rows of one head in each of the `N` parts that the channels of sample `n` hold side by side.
    fn head_rows<const N: usize>(self, x: &[f32], shape: Shape, n: usize, head: usize) -> [Rows<'_>; N] {
        assert_eq!(shape.c, N * self.c());
        let sample = &x[n * shape.sample()..][..shape.sample()];
        std::array::from_fn(|part| {
            let at = part * self.c() + head * self.width;
            Rows::new(&sample[at.min(sample.len())..], shape.tokens(), self.width, shape.c)
        })
    }

    /// q, k and v of one head of sample `n`.
    fn cross<'a>(
        self,
        cpu: &Cpu,
        q: &'a Tensor,
        kv: &'a Tensor,
        kv_of: &[u32],
        n: usize,
        head: usize,
    ) -> [Rows<'a>; 3] {
        let [q] = self.head_rows(cpu.view(q), q.shape(), n, head);
        let [k, v] = self.head_rows(cpu.view(kv), kv.shape(), kv_of[n] as usize, head);
        [q, k, v]
    }

    /// `y` and `lse` `(n, heads, tokens)`; `head_rows(sample, head)` gives q, k and v.
    fn forward<'a>(
        self,
        head_rows: impl Fn(usize, usize) -> [Rows<'a>; 3] + Sync,
        shape: Shape,
        y: &mut [f32],
        lse: &mut [f32],
    ) {
        let work = |(n, rows, y): (usize, Range<usize>, &mut [f32])| {
            let lse = (0..self.count).map(|head| {
                let [q, k, v] = head_rows(n, head);
                self.block(q.part(rows.clone()), rows.start, k, v, &mut y[head * self.width..], shape.c)
            });
            let lse: Vec<Vec<f32>> = lse.collect();
            (n, rows, lse)
        };
        let parts: Vec<_> = blocks(y, shape).into_par_iter().map(work).collect();
        for (n, rows, lse_of_heads) in parts {
            for (head, part) in lse_of_heads.iter().enumerate() {
                let at = (n * self.count + head) * shape.tokens() + rows.start;
                lse[at..][..part.len()].copy_from_slice(part);
            }
        }
    }

    /// One head of a block of queries that begins at `first`; returns the log-sum-exp of each.
    fn block(self, q: Rows, first: usize, k: Rows, v: Rows, y: &mut [f32], stride: usize) -> Vec<f32> {
        let (mut largest, mut sum) = (vec![f32::NEG_INFINITY; q.rows], vec![0.0; q.rows]);
        let mut scores = vec![0.0; q.rows * TILE.min(k.rows).next_multiple_of(LANES)];
        for keys in tiles(k.rows, TILE) {
            if self.causal && keys.start >= first + q.rows {
                break;
            }
            let padded = keys.len().next_multiple_of(LANES);
            times_transposed(q, k.part(keys.clone()), &mut scores, padded);
            simd(
                #[inline(always)]
                || {
                    for (i, s) in scores.chunks_exact_mut(padded).take(q.rows).enumerate() {
                        s[self.visible(first + i, &keys)..].fill(f32::NEG_INFINITY);
                        let new = scale_and_max(s, self.scale).max(largest[i]);
                        let correction = math::exp(largest[i] - new);
                        sum[i] = sum[i] * correction + exp_and_sum(s, new);
                        largest[i] = new;
                        if keys.start > 0 && correction != 1.0 {
                            y[i * stride..][..self.width].iter_mut().for_each(|y| *y *= correction);
                        }
                    }
                },
            );
            let p = Rows::new(&scores, q.rows, keys.len(), padded);
            times(p, v.part(keys.clone()), keys.start > 0, y, stride);
        }
        simd(
            #[inline(always)]
            || {
                for i in 0..q.rows {
                    let inverse = 1.0 / sum[i];
                    y[i * stride..][..self.width].iter_mut().for_each(|y| *y *= inverse);
                    largest[i] += sum[i].ln();
                }
            },
        );
        largest
    }

    /// How many of `keys` the query sees.
    #[inline(always)]
    fn visible(self, query: usize, keys: &Range<usize>) -> usize {
        if self.causal { (query + 1).saturating_sub(keys.start).min(keys.len()) } else { keys.len() }
    }

    fn backward<'a>(self, dy: &'a [f32], shape: Shape, y: &[f32], lse: &'a [f32]) -> Backward<'a> {
        let mut dots = vec![0.0; self.saved(shape).len()];
        if shape.is_empty() {
            return Backward { heads: self, dy, shape, lse, dot: dots };
        }
        let samples = dots.par_chunks_mut(self.count * shape.tokens()).enumerate();
        samples.for_each(|(n, rows_dot)| {
            simd(
                #[inline(always)]
                || {
                    let at = n * shape.sample();
                    let rows = dy[at..][..shape.sample()].chunks_exact(shape.c);
                    for (i, (dy, y)) in rows.zip(y[at..].chunks_exact(shape.c)).enumerate() {
                        let heads = dy.chunks_exact(self.width).zip(y.chunks_exact(self.width));
                        for (head, (dy, y)) in heads.enumerate() {
                            rows_dot[head * shape.tokens() + i] = dot(dy, y);
                        }
                    }
                },
            );
        });
        Backward { heads: self, dy, shape, lse, dot: dots }
    }

    /// Rows `rows` of one head's dq: `scale dS K`, `dS = P (dY V^T - dot)`.
    fn dq(self, of: Queries, k: Rows, v: Rows, rows: Range<usize>, out: &mut [f32], stride: usize) {
        let (q, dy) = (of.q.part(rows.clone()), of.dy.part(rows.clone()));
        let size = rows.len() * TILE.min(k.rows).next_multiple_of(LANES);
        let (mut s, mut dp) = (vec![0.0; size], vec![0.0; size]);
        for keys in tiles(k.rows, TILE) {
            if self.causal && keys.start >= rows.end {
                break;
            }
            let padded = keys.len().next_multiple_of(LANES);
            let (k, v) = (k.part(keys.clone()), v.part(keys.clone()));
            times_transposed(q, k, &mut s, padded);
            times_transposed(dy, v, &mut dp, padded);
            simd(
                #[inline(always)]
                || {
                    let tile = s.chunks_exact_mut(padded).zip(dp.chunks_exact(padded));
                    for ((s, dp), i) in tile.zip(rows.clone()) {
                        let (lse, dot) = (of.lse[i], of.dot[i]);
                        let seen = self.visible(i, &keys);
                        for (s, dp) in s[..seen].iter_mut().zip(dp) {
                            *s = math::exp(self.scale * *s - lse) * (dp - dot) * self.scale;
                        }
                        s[seen..].fill(0.0);
                    }
                },
            );
            times(Rows::new(&s, rows.len(), keys.len(), padded), k, keys.start > 0, out, stride);
        }
    }

    /// Rows `rows` of one head's dk (`dS^T Q`) and dv (`P^T dY`), which stand one and two thirds of a row
    /// after dq.
    fn dk_dv(self, of: Queries, k: Rows, v: Rows, rows: Range<usize>, out: &mut [f32], stride: usize) {
        let (k, v) = (k.part(rows.clone()), v.part(rows.clone()));
        let size = rows.len() * TILE.min(of.q.rows).next_multiple_of(LANES);
        let (mut p, mut ds) = (vec![0.0; size], vec![0.0; size]);
        let mut started = false;
        for queries in tiles(of.q.rows, TILE) {
            if self.causal && queries.end <= rows.start {
                continue;
            }
            let padded = queries.len().next_multiple_of(LANES);
            let (q, dy) = (of.q.part(queries.clone()), of.dy.part(queries.clone()));
            let (lse, dot) = (&of.lse[queries.clone()], &of.dot[queries.clone()]);
            times_transposed(k, q, &mut p, padded);
            times_transposed(v, dy, &mut ds, padded);
            simd(
                #[inline(always)]
                || {
                    let tile = p.chunks_exact_mut(padded).zip(ds.chunks_exact_mut(padded));
                    for ((p, ds), key) in tile.zip(rows.clone()) {
                        let hidden = if self.causal { key.saturating_sub(queries.start) } else { 0 };
                        let hidden = hidden.min(queries.len());
                        let (p, ds) = (&mut p[..queries.len()], &mut ds[..queries.len()]);
                        for i in 0..queries.len() {
                            p[i] = math::exp(self.scale * p[i] - lse[i]);
                            ds[i] = p[i] * (ds[i] - dot[i]) * self.scale;
                        }
                        p[..hidden].fill(0.0);
                        ds[..hidden].fill(0.0);
                    }
                },
            );
            let tile = |x| Rows::new(x, rows.len(), queries.len(), padded);
            times(tile(&ds), q, started, &mut out[self.c()..], stride);
            times(tile(&p), dy, started, &mut out[2 * self.c()..], stride);
            started = true;
        }
    }
}

/// `<a, b>` in as many partial sums as a vector has lanes.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (wide, rest) = (a.chunks_exact(LANES).zip(b.chunks_exact(LANES)), a.len() / LANES * LANES);
    for (a, b) in wide {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b).sum();
    sums.into_iter().sum::<f32>() + rest
}

/// Multiplies whole vectors of scores by `scale`; returns the largest.
#[inline(always)]
fn scale_and_max(s: &mut [f32], scale: f32) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    for s in s.chunks_exact_mut(LANES) {
        for i in 0..LANES {
            s[i] *= scale;
            largest[i] = if s[i] > largest[i] { s[i] } else { largest[i] };
        }
    }
    largest.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// `e^(s - shift)` over whole vectors; returns the sum.
#[inline(always)]
fn exp_and_sum(s: &mut [f32], shift: f32) -> f32 {
    let mut sum = [0.0; LANES];
    for s in s.chunks_exact_mut(LANES) {
        for i in 0..LANES {
            s[i] = math::exp(s[i] - shift);
            sum[i] += s[i];
        }
    }
    sum.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::tensor::HostSlice;

    /// Numbers in [-1, 1].
    fn wave(len: usize, speed: f64) -> Vec<f32> {
        (0..len).map(|i| (i as f64 * speed + 0.1 * (i % 7) as f64).sin() as f32).collect()
    }

    fn upload(cpu: &Cpu, shape: Shape, data: &[f32]) -> Tensor {
        cpu.upload(shape, HostSlice::F32(data)).unwrap()
    }

    /// One head by the definition in f64: `(y, dq, dk, dv)` rows of `d`.
    fn naive(
        q: &[f32],
        k: &[f32],
        v: &[f32],
        dy: &[f32],
        d: usize,
        scale: f32,
        causal: bool,
    ) -> [Vec<f64>; 4] {
        let (tq, tk) = (q.len() / d, k.len() / d);
        let at = |x: &[f32], i: usize, c: usize| f64::from(x[i * d + c]);
        let mut out = [tq, tq, tk, tk].map(|rows| vec![0.0; rows * d]);
        for i in 0..tq {
            let keys = if causal { i + 1 } else { tk };
            let s: Vec<f64> = (0..keys)
                .map(|j| f64::from(scale) * (0..d).map(|c| at(q, i, c) * at(k, j, c)).sum::<f64>())
                .collect();
            let top = s.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = s.iter().map(|s| (s - top).exp()).sum();
            let p: Vec<f64> = s.iter().map(|s| (s - top).exp() / sum).collect();
            let dp: Vec<f64> = (0..keys).map(|j| (0..d).map(|c| at(dy, i, c) * at(v, j, c)).sum()).collect();
            let dot: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for j in 0..keys {
                let ds = f64::from(scale) * p[j] * (dp[j] - dot);
                for c in 0..d {
                    out[0][i * d + c] += p[j] * at(v, j, c);
                    out[1][i * d + c] += ds * at(k, j, c);
                    out[2][j * d + c] += ds * at(q, i, c);
                    out[3][j * d + c] += p[j] * at(dy, i, c);
                }
            }
        }
        out
    }

    /// Channels `from .. from + d` of sample `n`.
    fn head(x: &[f32], shape: Shape, n: usize, from: usize, d: usize) -> Vec<f32> {
        let rows = x[n * shape.sample()..][..shape.sample()].chunks_exact(shape.c);
        rows.flat_map(|row| &row[from..from + d]).copied().collect()
    }

    #[track_caller]
    fn close(found: &[f32], truth: &[f64], bound: f64, what: &str) {
        assert_eq!(found.len(), truth.len());
        for (i, (f, t)) in found.iter().zip(truth).enumerate() {
            assert!((f64::from(*f) - t).abs() <= bound, "{what} at {i}: {f} {t}");
        }
    }

    /// Rounding of sums of `tokens` and `d` terms each below one, with a factor for scores of a few units.
    fn bound(tokens: usize, d: usize) -> f64 {
        8.0 * (tokens as f64).sqrt().max((d as f64).sqrt()) * f64::from(f32::EPSILON)
    }

    #[test]
    fn self_attention_and_its_transpose_are_their_definition() {
        let cpu = Cpu::new();
        // Tokens around the sizes of blocks and tiles; wide and narrow heads.
        let cases =
            [(2, 1, 1, 3, 4), (2, 3, 5, 2, 8), (3, 8, 8, 4, 16), (1, 10, 30, 1, 40), (1, 1, 257, 2, 12)];
        for (n, h, w, heads, d) in cases {
            for (causal, scale) in [(false, 1.0 / (d as f32).sqrt()), (true, 0.7)] {
                let c = heads * d;
                let (shape, out) = (Shape::new(n, h, w, 3 * c), Shape::new(n, h, w, c));
                let (x, dy) = (wave(shape.len(), 0.7), wave(out.len(), 1.3));
                let attention = Attention { heads, scale, causal };
                let qkv = upload(&cpu, shape, &x);
                let (y, saved) = cpu.self_attention(&qkv, attention).unwrap();
                assert_eq!((y.shape(), saved.shape()), (out, Shape::new(n, 1, heads, h * w)));
                let dyt = upload(&cpu, out, &dy);
                let dx = cpu.self_attention_vjp(&qkv, &y, &saved, &dyt, attention).unwrap();
                for (n, a) in (0..n).flat_map(|n| (0..heads).map(move |a| (n, a))) {
                    let [q, k, v] = [0, c, 2 * c].map(|from| head(&x, shape, n, from + a * d, d));
                    let truth = naive(&q, &k, &v, &head(&dy, out, n, a * d, d), d, scale, causal);
                    let bound = bound(h * w, d);
                    close(&head(cpu.view(&y), out, n, a * d, d), &truth[0], bound, "y");
                    for (part, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
                        let found = head(cpu.view(&dx), shape, n, part * c + a * d, d);
                        close(&found, &truth[part + 1], bound, name);
                    }
                }
            }
        }
    }

    #[test]
    fn cross_attention_and_its_transpose_are_their_definition() {
        let cpu = Cpu::new();
        for (tokens, keys, heads, d) in [(64, 77, 4, 16), (1, 1, 1, 3), (130, 300, 2, 20)] {
            let c = heads * d;
            let (qs, kvs) = (Shape::new(3, 1, tokens, c), Shape::new(2, 1, keys, 2 * c));
            let (q, kv, dy) = (wave(qs.len(), 0.7), wave(kvs.len(), 0.9), wave(qs.len(), 1.3));
            let attention = Attention { heads, scale: 0.3, causal: false };
            let (qt, kvt, dyt) = (upload(&cpu, qs, &q), upload(&cpu, kvs, &kv), upload(&cpu, qs, &dy));
            let kv_of = [1, 0, 1];
            let y = cpu.cross_attention(&qt, &kvt, &kv_of, attention).unwrap();
            let dq = cpu.cross_attention_vjp(&qt, &kvt, &kv_of, &dyt, attention).unwrap();
            for (n, a) in (0..3).flat_map(|n| (0..heads).map(move |a| (n, a))) {
                let [k, v] = [0, c].map(|from| head(&kv, kvs, kv_of[n] as usize, from + a * d, d));
                let (q, dy) = (head(&q, qs, n, a * d, d), head(&dy, qs, n, a * d, d));
                let truth = naive(&q, &k, &v, &dy, d, 0.3, false);
                close(&head(cpu.view(&y), qs, n, a * d, d), &truth[0], bound(keys, d), "y");
                close(&head(cpu.view(&dq), qs, n, a * d, d), &truth[1], bound(keys, d), "dq");
            }
        }
    }

    #[test]
    fn huge_scores_do_not_overflow() {
        let cpu = Cpu::new();
        let shape = Shape::new(1, 1, 300, 12);
        let x: Vec<f32> = wave(shape.len(), 0.7).iter().map(|v| v * 1e4).collect();
        let attention = Attention { heads: 1, scale: 1.0, causal: false };
        let (y, saved) = cpu.self_attention(&upload(&cpu, shape, &x), attention).unwrap();
        assert!(cpu.view(&y).iter().chain(cpu.view(&saved)).all(|v| v.is_finite()));
    }
}
