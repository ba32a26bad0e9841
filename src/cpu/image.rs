//! Moving data on the host: concatenation, slices, batches, tokens, and the antialiased resize with its exact
//! transpose. Everything is a copy of contiguous runs except the resize, which is two banded matrices, one per
//! axis, applied row by row without an intermediate image.

use super::parallel::parallel_rows;
use crate::resize::Banded;
use crate::tensor::Shape;

/// `[x, y]` along the channels: rows of `cx` and `cy` become rows of `cx + cy`.
pub fn concat(x: &[f32], cx: usize, y: &[f32], cy: usize, out: &mut [f32]) {
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
}

/// Channels `from..from + c` of rows of `total`.
pub fn slice(x: &[f32], total: usize, from: usize, c: usize, out: &mut [f32]) {
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
}

/// Rows of `c` placed at channel `from` of zero rows of `total`.
pub fn slice_vjp(dy: &[f32], c: usize, from: usize, total: usize, out: &mut [f32]) {
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
}

/// `out` is `x` again and again.
pub fn repeat(x: &[f32], out: &mut [f32]) {
    for copy in out.chunks_exact_mut(x.len()) {
        copy.copy_from_slice(x);
    }
}

/// Sum of the copies, in order.
pub fn repeat_vjp(dy: &[f32], out: &mut [f32]) {
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
}

/// Samples `rows` of `x`, each of `sample` elements.
#[track_caller]
pub fn gather(x: &[f32], sample: usize, rows: &[u32], out: &mut [f32]) {
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(sample)) {
        out.copy_from_slice(&x[row as usize * sample..][..sample]);
    }
}

/// Batches one after another.
pub fn stack(parts: &[&[f32]], mut out: &mut [f32]) {
    for part in parts {
        let (head, tail) = out.split_at_mut(part.len());
        head.copy_from_slice(part);
        out = tail;
    }
}

/// The class token (if any), then the tokens, plus positions; `x` is the shape of the tokens' image.
pub fn embed(x: &[f32], shape: Shape, token: Option<&[f32]>, position: &[f32], out: &mut [f32]) {
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
}

/// Drops the class token's row, where there was one.
pub fn embed_vjp(dy: &[f32], x: Shape, out: &mut [f32]) {
    let tokens = dy.len() / x.n.max(1);
    for (dy, out) in dy.chunks_exact(tokens).zip(out.chunks_exact_mut(x.sample())) {
        out.copy_from_slice(&dy[tokens - x.sample()..]);
    }
}

/// Token `at[i]` of sample `i`.
#[track_caller]
pub fn take_token(x: &[f32], x_shape: Shape, at: &[u32], out: &mut [f32]) {
    let c = x_shape.c;
    for ((x, &at), out) in x.chunks_exact(x_shape.sample()).zip(at).zip(out.chunks_exact_mut(c)) {
        out.copy_from_slice(&x[at as usize * c..][..c]);
    }
}

/// `dy` at token `at[i]` of zeros.
#[track_caller]
pub fn take_token_vjp(dy: &[f32], at: &[u32], x_shape: Shape, out: &mut [f32]) {
    let c = x_shape.c;
    for ((dy, &at), out) in dy.chunks_exact(c).zip(at).zip(out.chunks_exact_mut(x_shape.sample())) {
        out.fill(0.0);
        out[at as usize * c..][..c].copy_from_slice(dy);
    }
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
pub fn resize(x: &[f32], x_shape: Shape, rows: &Banded, columns: &Banded, out: &mut [f32]) {
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
