//! Moving data on the GPU: launchers of kernels/image.cu.

use super::layout::{BLOCK, IN_FLIGHT, RowLayout, access, flat};
use crate::backend::Filter;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Act, Buffer, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::error::Result;
use crate::resize::Banded;
use crate::tensor::{Shape, Tensor};

params! {
    /// `c` channels of the result, `from` a channel, `other` channels of the slice's other side.
    pub struct PartParams {
        pub rows: i64,
        pub c: i32,
        pub from: i32,
        pub other: i32,
        pub columns: i32,
        pub lanes: i32,
        pub vectorized: i32,
    }
    /// Run `i` is read from `from + i from_stride + rows[i] row_stride` on and written to `to + i to_stride`
    /// on.
    pub struct CopyParams {
        pub len: i64,
        pub from: i64,
        pub from_stride: i64,
        pub row_stride: i64,
        pub to: i64,
        pub to_stride: i64,
        pub runs: i32,
        pub vectorized: i32,
    }
    pub struct TokenParams {
        pub len: i64,
        pub samples: i32,
        pub c: i32,
        pub vectorized: i32,
    }
    pub struct RepeatParams {
        pub n: i64,
        pub times: i32,
        pub vectorized: i32,
    }
    pub struct EmbedParams {
        pub samples: i32,
        pub tokens: i32,
        pub head: i32,
        pub c: i32,
        pub columns: i32,
        pub lanes: i32,
        pub vectorized: i32,
    }
    pub struct ResizeParams {
        pub x_h: i32,
        pub x_w: i32,
        pub c: i32,
        pub y_h: i32,
        pub y_w: i32,
        pub row_taps: i32,
        pub column_taps: i32,
        pub tile: i32,
        pub channels: i32,
    }
}

kernels! {
    /// The kernels of image.cu.
    pub struct Table from "image" {
        fn concat(a: In<Act>, b: In<Act>, y: Out<Act>, p: PartParams);
        fn slice(x: In<Act>, y: Out<Act>, p: PartParams);
        fn slice_vjp(dy: In<Act>, dx: Out<Act>, p: PartParams);
        fn copy(x: In<Act>, rows: In<u32>, y: Out<Act>, p: CopyParams);
        fn take_token_vjp(dy: In<Act>, at: In<u32>, dx: Out<Act>, p: TokenParams);
        fn repeat_vjp(dy: In<Act>, dx: Out<Act>, p: RepeatParams);
        fn embed(x: In<Act>, token: In<Act>, position: In<Act>, y: Out<f32>, p: EmbedParams);
        fn resize(x: In<Act>, rows: In<u32>, columns: In<u32>, y: Out<Act>, p: ResizeParams);
    }
}

/// Most blocks along y: runs and samples beyond are taken by the same blocks.
const HIGH: usize = 32768;

fn part(layout: &RowLayout, y: Shape, from: usize, other: usize) -> PartParams {
    PartParams {
        rows: y.positions() as i64,
        c: y.c as i32,
        from: from as i32,
        other: other as i32,
        columns: layout.columns as i32,
        lanes: layout.lanes as i32,
        vectorized: layout.vectorized(),
    }
}

pub fn concat(cuda: &Cuda, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (cx, cy) = (x.shape().c, y.shape().c);
    let shape = x.shape().with_c(cx + cy);
    let elem = cuda.common(&[x, y], &[cx, cy]);
    let (kernels, x, y) = (cuda.kernels(elem), cuda.cast(x, elem)?, cuda.cast(y, elem)?);
    let layout = RowLayout::new(elem, cx + cy, &[cx, cy]);
    let mut out = cuda.alloc(elem, shape)?;
    let (a, b) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&y)));
    let launch = layout.launch(shape.positions());
    kernels.image.concat(&cuda.device, launch, a, b, kernels.write(&mut out), part(&layout, shape, cx, 0))?;
    Ok(cuda.wrap(shape, out))
}

pub fn slice(cuda: &Cuda, x: &Tensor, from: usize, c: usize) -> Result<Tensor> {
    let (all, shape) = (x.shape().c, x.shape().with_c(c));
    let elem = cuda.common(&[x], &[all, from, c]);
    let (kernels, x) = (cuda.kernels(elem), cuda.cast(x, elem)?);
    let layout = RowLayout::new(elem, c, &[all, from]);
    let mut y = cuda.alloc(elem, shape)?;
    let (source, to) = (kernels.read(cuda.buffer(&x)), kernels.write(&mut y));
    let launch = layout.launch(shape.positions());
    kernels.image.slice(&cuda.device, launch, source, to, part(&layout, shape, from, all))?;
    Ok(cuda.wrap(shape, y))
}

pub fn slice_vjp(cuda: &Cuda, dy: &Tensor, from: usize, c: usize) -> Result<Tensor> {
    let (some, shape) = (dy.shape().c, dy.shape().with_c(c));
    let elem = cuda.common(&[dy], &[some, from, c]);
    let (kernels, dy) = (cuda.kernels(elem), cuda.cast(dy, elem)?);
    let layout = RowLayout::new(elem, c, &[some, from]);
    let mut dx = cuda.alloc(elem, shape)?;
    let (source, to) = (kernels.read(cuda.buffer(&dy)), kernels.write(&mut dx));
    let launch = layout.launch(shape.positions());
    kernels.image.slice_vjp(&cuda.device, launch, source, to, part(&layout, shape, from, some))?;
    Ok(cuda.wrap(shape, dx))
}

/// Runs of elements from one place to another.
#[derive(Clone, Copy, Default)]
struct Runs<'a> {
    count: usize,
    len: usize,
    from: usize,
    from_stride: usize,
    /// Which row each run comes from, and how long a row is.
    rows: Option<&'a Buffer>,
    row_stride: usize,
    to: usize,
    to_stride: usize,
}

fn copy(cuda: &Cuda, x: &Buffer, y: &mut Buffer, runs: Runs<'_>) -> Result<()> {
    let Runs { count, len, from, from_stride, rows, row_stride, to, to_stride } = runs;
    let elem = x.elem();
    let kernels = cuda.kernels(elem);
    let access = access(elem, &[len, from, from_stride, row_stride, to, to_stride]);
    let p = CopyParams {
        len: len as i64,
        from: from as i64,
        from_stride: from_stride as i64,
        row_stride: row_stride as i64,
        to: to as i64,
        to_stride: to_stride as i64,
        runs: count as i32,
        vectorized: i32::from(access > 1),
    };
    let blocks = flat(len, access, IN_FLIGHT).grid[0] as usize;
    let launch = Launch::grid(blocks, count.min(HIGH), 1, BLOCK);
    let rows = rows.map_or(In::none(), Buffer::u32);
    kernels.image.copy(&cuda.device, launch, kernels.read(x), rows, kernels.write(y), p)
}

pub fn repeat(cuda: &Cuda, x: &Tensor, times: usize) -> Result<Tensor> {
    let (shape, len) = (x.shape().with_n(x.shape().n * times), x.shape().len());
    let x = cuda.buffer(x);
    let mut y = cuda.alloc(x.elem(), shape)?;
    copy(cuda, x, &mut y, Runs { count: times, len, to_stride: len, ..Runs::default() })?;
    Ok(cuda.wrap(shape, y))
}

pub fn repeat_vjp(cuda: &Cuda, dy: &Tensor, times: usize) -> Result<Tensor> {
    let shape = dy.shape().with_n(dy.shape().n / times);
    let dy = cuda.buffer(dy);
    let (elem, n, kernels) = (dy.elem(), shape.len(), cuda.kernels(dy.elem()));
    let access = access(elem, &[n]);
    let p = RepeatParams { n: n as i64, times: times as i32, vectorized: i32::from(access > 1) };
    let mut dx = cuda.alloc(elem, shape)?;
    let launch = flat(n, access, IN_FLIGHT / 2);
    kernels.image.repeat_vjp(&cuda.device, launch, kernels.read(dy), kernels.write(&mut dx), p)?;
    Ok(cuda.wrap(shape, dx))
}

pub fn gather(cuda: &Cuda, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (len, shape) = (x.shape().sample(), x.shape().with_n(rows.len()));
    let (x, rows) = (cuda.buffer(x), cuda.indices(rows)?);
    let mut y = cuda.alloc(x.elem(), shape)?;
    let runs = Runs { count: shape.n, len, row_stride: len, to_stride: len, ..Runs::default() };
    copy(cuda, x, &mut y, Runs { rows: Some(&rows), ..runs })?;
    Ok(cuda.wrap(shape, y))
}

pub fn stack(cuda: &Cuda, parts: &[&Tensor]) -> Result<Tensor> {
    let first = parts[0].shape();
    let shape = first.with_n(parts.iter().map(|part| part.shape().n).sum());
    let elem = cuda.common(parts, &[]);
    let mut y = cuda.alloc(elem, shape)?;
    let mut to = 0;
    for part in parts {
        let (x, len) = (cuda.cast(part, elem)?, part.shape().len());
        copy(cuda, cuda.buffer(&x), &mut y, Runs { count: 1, len, to, ..Runs::default() })?;
        to += len;
    }
    Ok(cuda.wrap(shape, y))
}

pub fn embed(cuda: &Cuda, x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Result<Tensor> {
    let (from, tokens, head) = (x.shape(), position.shape().w, usize::from(token.is_some()));
    let (shape, elem) = (Shape::new(from.n, 1, tokens, from.c), cuda.buffer(x).elem());
    let kernels = cuda.kernels(elem);
    let token = token.map(|t| cuda.cast_weight(t, elem)).transpose()?;
    let position = cuda.cast_weight(position, elem)?;
    let layout = RowLayout::new(elem, from.c, &[]);
    let p = EmbedParams {
        samples: from.n as i32,
        tokens: tokens as i32,
        head: head as i32,
        c: from.c as i32,
        columns: layout.columns as i32,
        lanes: layout.lanes as i32,
        vectorized: layout.vectorized(),
    };
    let mut y = cuda.alloc(Elem::F32, shape)?;
    let [blocks, chunks, _] = layout.launch(tokens).grid;
    kernels.image.embed(
        &cuda.device,
        Launch::grid(blocks as usize, chunks as usize, from.n.min(HIGH), layout.threads),
        kernels.read(cuda.buffer(x)),
        token.as_ref().map_or(In::none(), |t| kernels.read(cuda.buffer(t))),
        kernels.read(cuda.buffer(&position)),
        y.f32_mut(),
        p,
    )?;
    Ok(cuda.wrap(shape, y))
}

pub fn embed_vjp(cuda: &Cuda, dy: &Tensor, x: Shape) -> Result<Tensor> {
    let (tokens, len) = (dy.shape().sample(), x.sample());
    let dy = cuda.buffer(dy);
    let mut dx = cuda.alloc(dy.elem(), x)?;
    let runs = Runs { count: x.n, len, from: tokens - len, from_stride: tokens, ..Runs::default() };
    copy(cuda, dy, &mut dx, Runs { to_stride: len, ..runs })?;
    Ok(cuda.wrap(x, dx))
}

pub fn take_token(cuda: &Cuda, x: &Tensor, at: &[u32]) -> Result<Tensor> {
    let from = x.shape();
    let (shape, c) = (Shape::rows(from.n, from.c), from.c);
    let (x, at) = (cuda.buffer(x), cuda.indices(at)?);
    let mut y = cuda.alloc(x.elem(), shape)?;
    let runs = Runs { count: from.n, len: c, from_stride: from.sample(), ..Runs::default() };
    copy(cuda, x, &mut y, Runs { rows: Some(&at), row_stride: c, to_stride: c, ..runs })?;
    Ok(cuda.wrap(shape, y))
}

pub fn take_token_vjp(cuda: &Cuda, dy: &Tensor, at: &[u32], x: Shape) -> Result<Tensor> {
    let (dy, at) = (cuda.buffer(dy), cuda.indices(at)?);
    let (elem, kernels) = (dy.elem(), cuda.kernels(dy.elem()));
    let access = access(elem, &[x.c]);
    let p = TokenParams {
        len: x.sample() as i64,
        samples: x.n as i32,
        c: x.c as i32,
        vectorized: i32::from(access > 1),
    };
    let mut dx = cuda.alloc(elem, x)?;
    let blocks = flat(x.sample(), access, IN_FLIGHT).grid[0] as usize;
    let launch = Launch::grid(blocks, x.n.min(HIGH), 1, BLOCK);
    let to = kernels.write(&mut dx);
    kernels.image.take_token_vjp(&cuda.device, launch, kernels.read(dy), at.u32(), to, p)?;
    Ok(cuda.wrap(x, dx))
}

/// Floats of shared memory that a block of the resize may have: several blocks fit on a multiprocessor.
const MIXED: usize = 6144;

/// A banded matrix as the kernel reads it: first column and number of weights of each row, then the weights,
/// as many for every row as the longest has.
struct Weights {
    taps: usize,
    words: Vec<u32>,
}

impl Weights {
    fn new(band: &Banded) -> Weights {
        let rows = || (0..band.rows()).map(|i| band.row(i));
        let taps = rows().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        assert!(rows().all(|(_, weights)| !weights.is_empty()), "an output that reads no input");
        let mut words: Vec<u32> =
            rows().flat_map(|(first, weights)| [first as u32, weights.len() as u32]).collect();
        for (_, weights) in rows() {
            words.extend(weights.iter().map(|w| w.to_bits()));
            words.resize(words.len() + taps - weights.len(), 0);
        }
        Weights { taps, words }
    }
}

/// Columns of the input that outputs `first..end` read.
fn span(band: &Banded, first: usize, end: usize) -> usize {
    let (last, weights) = band.row(end - 1);
    last + weights.len() - band.row(first).0
}

/// Applies `rows` to the rows and `columns` to the columns of every picture.
fn apply(cuda: &Cuda, x: &Tensor, rows: &Banded, columns: &Banded) -> Result<Tensor> {
    let (from, elem) = (x.shape(), cuda.buffer(x).elem());
    let shape = Shape { h: rows.rows(), w: columns.rows(), ..from };
    let mut y = cuda.alloc(elem, shape)?;
    if shape.is_empty() {
        return Ok(cuda.wrap(shape, y));
    }
    let widest = |tile: usize| {
        let spans = (0..shape.w).step_by(tile).map(|first| span(columns, first, shape.w.min(first + tile)));
        spans.max().unwrap_or(0)
    };
    // Runs of 32 channels are whole cache lines; fewer only where one output reads very many columns.
    let mut channels = from.c.min(32);
    while channels > 1 && widest(1) * channels > MIXED {
        channels = channels.div_ceil(2);
    }
    // Two blocks per multiprocessor at least, where there are columns for them.
    let wanted = (2 * cuda.device.multiprocessors()).div_ceil(shape.n * shape.h);
    let mut tile = shape.w.div_ceil(wanted).max(16).min(shape.w);
    while tile > 1 && widest(tile) * channels > MIXED {
        tile = tile.div_ceil(2);
    }
    let (row_table, column_table) = (Weights::new(rows), Weights::new(columns));
    let p = ResizeParams {
        x_h: from.h as i32,
        x_w: from.w as i32,
        c: from.c as i32,
        y_h: shape.h as i32,
        y_w: shape.w as i32,
        row_taps: row_table.taps as i32,
        column_taps: column_table.taps as i32,
        tile: tile as i32,
        channels: channels as i32,
    };
    let (row_words, column_words) = (cuda.indices(&row_table.words)?, cuda.indices(&column_table.words)?);
    let kernels = cuda.kernels(elem);
    let grid = Launch::grid(shape.n * shape.h, shape.w.div_ceil(tile), from.c.div_ceil(channels), BLOCK);
    kernels.image.resize(
        &cuda.device,
        grid.shared(widest(tile) * channels * size_of::<f32>()),
        kernels.read(cuda.buffer(x)),
        row_words.u32(),
        column_words.u32(),
        kernels.write(&mut y),
        p,
    )?;
    Ok(cuda.wrap(shape, y))
}

pub fn resize(cuda: &Cuda, x: &Tensor, h: usize, w: usize, filter: Filter) -> Result<Tensor> {
    let shape = x.shape();
    let rows = Banded::resample(shape.h, h, filter);
    let columns = Banded::resample(shape.w, w, filter);
    apply(cuda, x, &rows, &columns)
}

pub fn resize_vjp(cuda: &Cuda, dy: &Tensor, x: Shape, filter: Filter) -> Result<Tensor> {
    let shape = dy.shape();
    let rows = Banded::resample(x.h, shape.h, filter).transpose(x.h);
    let columns = Banded::resample(x.w, shape.w, filter).transpose(x.w);
    apply(cuda, dy, &rows, &columns)
}
