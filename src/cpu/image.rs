//! Moving data on the host: concatenation, slices, batches, tokens, and the antialiased resize with its exact
//! transpose. Everything is a copy of contiguous runs except the resize, which is two banded matrices, one
//! per axis, applied row by row without an intermediate image.

use super::Cpu;
use super::parallel::parallel_rows;
use crate::error::Result;
use crate::op::{Description, Filter};
use crate::resize::Banded;
use crate::tensor::{Shape, Tensor};

/// `[x, y]` along the channels: rows of `cx` and `cy` become rows of `cx + cy`.
pub fn concat(cpu: &Cpu, d: Description<'_>, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (cx, cy) = (x.shape().c, y.shape().c);
    let (x, y) = (cpu.view(x), cpu.view(y));
    cpu.make(d, |out| {
        parallel_rows(
            out,
            cx + cy,
            #[inline(always)]
            |from, rows| {
                for (i, row) in rows.chunks_exact_mut(cx + cy).enumerate() {
                    let i = from + i;
                    row[..cx].copy_from_slice(&x[i * cx..][..cx]);
                    row[cx..].copy_from_slice(&y[i * cy..][..cy]);
                }
            },
        );
    })
}

/// Channels `from..from + c` of rows of `total`.
pub fn slice(cpu: &Cpu, d: Description<'_>, x: &Tensor, from: usize, c: usize) -> Result<Tensor> {
    let (total, x) = (x.shape().c, cpu.view(x));
    cpu.make(d, |out| {
        parallel_rows(
            out,
            c,
            #[inline(always)]
            |first, rows| {
                for (i, row) in rows.chunks_exact_mut(c).enumerate() {
                    row.copy_from_slice(&x[(first + i) * total + from..][..c]);
                }
            },
        );
    })
}

/// Rows of `c` placed at channel `from` of zero rows of `total`.
pub fn slice_vjp(cpu: &Cpu, d: Description<'_>, dy: &Tensor, from: usize, total: usize) -> Result<Tensor> {
    let (c, dy) = (dy.shape().c, cpu.view(dy));
    cpu.make(d, |out| {
        parallel_rows(
            out,
            total,
            #[inline(always)]
            |first, rows| {
                for (i, row) in rows.chunks_exact_mut(total).enumerate() {
                    row.fill(0.0);
                    row[from..from + c].copy_from_slice(&dy[(first + i) * c..][..c]);
                }
            },
        );
    })
}

/// `out` is `x` again and again.
pub fn repeat(cpu: &Cpu, d: Description<'_>, x: &Tensor, _times: usize) -> Result<Tensor> {
    let x = cpu.view(x);
    cpu.make(d, |out| {
        for copy in out.chunks_exact_mut(x.len()) {
            copy.copy_from_slice(x);
        }
    })
}

/// Sum of the copies, in order.
pub fn repeat_vjp(cpu: &Cpu, d: Description<'_>, dy: &Tensor, _times: usize) -> Result<Tensor> {
    let dy = cpu.view(dy);
    cpu.make(d, |out| {
        let len = out.len();
        parallel_rows(
            out,
            1,
            #[inline(always)]
            |from, out| {
                out.copy_from_slice(&dy[from..from + out.len()]);
                for copy in dy.chunks_exact(len).skip(1) {
                    for (o, &d) in out.iter_mut().zip(&copy[from..]) {
                        *o += d;
                    }
                }
            },
        );
    })
}

/// Samples `rows` of `x`, each of `sample` elements.
pub fn gather(cpu: &Cpu, d: Description<'_>, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (sample, x) = (x.shape().sample(), cpu.elements(x));
    cpu.make(d, |out| {
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(sample)) {
            x.range(row as usize * sample, sample).write(out);
        }
    })
}

/// Batches one after another.
pub fn stack(cpu: &Cpu, d: Description<'_>, parts: &[&Tensor]) -> Result<Tensor> {
    let parts: Vec<&[f32]> = parts.iter().map(|part| cpu.view(part)).collect();
    cpu.make(d, |mut out| {
        for part in &parts {
            let (head, tail) = out.split_at_mut(part.len());
            head.copy_from_slice(part);
            out = tail;
        }
    })
}

/// The class token (if any), then the tokens, plus positions; `x` is the shape of the tokens' image.
pub fn embed(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    token: Option<&Tensor>,
    position: &Tensor,
) -> Result<Tensor> {
    let (shape, x) = (x.shape(), cpu.view(x));
    let (token, position) = (cpu.view_of(token), cpu.view(position));
    cpu.make(d, |out| {
        let head = token.map_or(0, <[f32]>::len);
        for (x, out) in x.chunks_exact(shape.sample()).zip(out.chunks_exact_mut(shape.sample() + head)) {
            let (first, rest) = out.split_at_mut(head);
            let (p_first, p_rest) = position.split_at(head);
            let add = |out: &mut [f32], a: &[f32], b: &[f32]| {
                for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *o = a + b;
                }
            };
            add(first, token.unwrap_or_default(), p_first);
            add(rest, x, p_rest);
        }
    })
}

/// Drops the class token's row, where there was one.
pub fn embed_vjp(cpu: &Cpu, d: Description<'_>, dy: &Tensor, x: Shape) -> Result<Tensor> {
    let dy = cpu.view(dy);
    cpu.make(d, |out| {
        let tokens = dy.len() / x.n.max(1);
        for (dy, out) in dy.chunks_exact(tokens).zip(out.chunks_exact_mut(x.sample())) {
            out.copy_from_slice(&dy[tokens - x.sample()..]);
        }
    })
}

/// Token `at[i]` of sample `i`.
pub fn take_token(cpu: &Cpu, d: Description<'_>, x: &Tensor, at: &[u32]) -> Result<Tensor> {
    let (shape, x) = (x.shape(), cpu.view(x));
    cpu.make(d, |out| {
        let c = shape.c;
        for ((x, &at), out) in x.chunks_exact(shape.sample()).zip(at).zip(out.chunks_exact_mut(c)) {
            out.copy_from_slice(&x[at as usize * c..][..c]);
        }
    })
}

/// `dy` at token `at[i]` of zeros.
pub fn take_token_vjp(cpu: &Cpu, d: Description<'_>, dy: &Tensor, at: &[u32], x: Shape) -> Result<Tensor> {
    let dy = cpu.view(dy);
    cpu.make(d, |out| {
        let c = x.c;
        for ((dy, &at), out) in dy.chunks_exact(c).zip(at).zip(out.chunks_exact_mut(x.sample())) {
            out.fill(0.0);
            out[at as usize * c..][..c].copy_from_slice(dy);
        }
    })
}

/// `out += sum_j w_j x[(from + j) * stride ..]`, runs as long as `out`.
#[inline(always)]
fn combine(band: &Banded, i: usize, x: &[f32], stride: usize, out: &mut [f32]) {
    let (from, weights) = band.row(i);
    for (j, &w) in (from..).zip(weights) {
        for (o, &x) in out.iter_mut().zip(&x[j * stride..]) {
            *o += w * x;
        }
    }
}

/// [`combine`] of one pixel of `C` channels, kept in registers.
#[inline(always)]
fn combine_pixel<const C: usize>(band: &Banded, i: usize, x: &[f32], out: &mut [f32]) {
    let (from, weights) = band.row(i);
    let mut sum = [0.0; C];
    for (&w, x) in weights.iter().zip(x[from * C..].chunks_exact(C)) {
        for k in 0..C {
            sum[k] += w * x[k];
        }
    }
    out.copy_from_slice(&sum);
}

/// Applies `rows` to the rows and `columns` to the columns of every image of `x`; `out` is `(n, h, w, c)`.
/// Each output row is the mixture of input rows, then resampled along its width.
fn banded(x: &[f32], x_shape: Shape, rows: &Banded, columns: &Banded, out: &mut [f32]) {
    let (line, c) = (x_shape.w * x_shape.c, x_shape.c);
    let (h, w) = (rows.rows(), columns.rows());
    parallel_rows(
        out,
        w * c,
        #[inline(always)]
        |first, lines| {
            let mut mixed = vec![0.0; line];
            for (i, out) in lines.chunks_exact_mut(w * c).enumerate() {
                let (n, y) = ((first + i) / h, (first + i) % h);
                mixed.fill(0.0);
                combine(rows, y, &x[n * x_shape.sample()..][..x_shape.sample()], line, &mut mixed);
                for (column, out) in out.chunks_exact_mut(c).enumerate() {
                    match c {
                        1 => combine_pixel::<1>(columns, column, &mixed, out),
                        3 => combine_pixel::<3>(columns, column, &mixed, out),
                        4 => combine_pixel::<4>(columns, column, &mixed, out),
                        _ => {
                            out.fill(0.0);
                            combine(columns, column, &mixed, c, out);
                        }
                    }
                }
            }
        },
    );
}

/// Antialiased resize.
pub fn resize(
    cpu: &Cpu,
    d: Description<'_>,
    x: &Tensor,
    h: usize,
    w: usize,
    filter: Filter,
) -> Result<Tensor> {
    let (shape, x) = (x.shape(), cpu.view(x));
    let rows = Banded::resample(shape.h, h, filter);
    let columns = Banded::resample(shape.w, w, filter);
    cpu.make(d, |y| banded(x, shape, &rows, &columns, y))
}

/// The same with the transposed bands.
pub fn resize_vjp(cpu: &Cpu, d: Description<'_>, dy: &Tensor, x: Shape, filter: Filter) -> Result<Tensor> {
    let (shape, dy) = (dy.shape(), cpu.view(dy));
    let rows = Banded::resample(x.h, shape.h, filter).transpose(x.h);
    let columns = Banded::resample(x.w, shape.w, filter).transpose(x.w);
    cpu.make(d, |dx| banded(dy, shape, &rows, &columns, dx))
}
