//! Convolutions and their transposes on the GPU, as products with gathered rows (matmul/product.rs); and
//! launchers of kernels/conv.cu, which gather patches, sum taps and pad weights where the channels are too
//! few for tensor cores.

use crate::backend::Conv;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Act, Elem, Form, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::cuda::matmul::Product;
use crate::cuda::matmul::gather::{Gather, point};
use crate::error::Result;
use crate::tensor::{PACKET, Shape, Tensor};

/// Threads per block.
const BLOCK: u32 = 256;

params! {
    /// Patches of an image as rows of a matrix (im2col).
    pub struct PatchesParams {
        pub rows: i64,
        pub out_h: i32,
        pub out_w: i32,
        pub in_h: i32,
        pub in_w: i32,
        pub channels: i32,
        pub width: i32,
        pub step: i32,
        pub in_y: i32,
        pub in_x: i32,
        pub dstep: i32,
        pub unit: i32,
        pub exact: i32,
        pub taps_y: i32,
        pub taps_x: i32,
        pub by_channel: i32,
    }
    /// Sums over the taps of each pixel.
    pub struct TapSumParams {
        pub len: i64,
        pub out_h: i32,
        pub out_w: i32,
        pub channels: i32,
        pub in_h: i32,
        pub in_w: i32,
        pub in_y: i32,
        pub in_x: i32,
        pub dstep: i32,
        pub unit: i32,
        pub taps_y: i32,
        pub taps_x: i32,
        pub by_channel: i32,
        pub bias_each: i32,
    }
    /// Sums of neighbouring kernel positions.
    pub struct FoldParams {
        pub len: i64,
        pub kernel_y: i32,
        pub kernel_x: i32,
        pub channels: i32,
    }
}

kernels! {
    /// The kernels of conv.cu.
    pub struct Table from "conv" {
        fn patches(x: In<f32>, y: Out<Act>, p: PatchesParams);
        fn tap_sum(z: In<f32>, bias: In<f32>, add: In<f32>, y: Out<f32>, p: TapSumParams);
        fn pad(x: In<f32>, y: Out<Act>, rows: i64, len: i64);
        fn fold(w: In<Act>, y: Out<Act>, p: FoldParams);
    }
}

fn packets(c: usize) -> bool {
    c.is_multiple_of(PACKET)
}

pub fn conv(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    add: Option<&Tensor>,
    conv: Conv,
) -> Result<Tensor> {
    let (input, kernel) = (x.shape(), w.shape());
    let out = conv.output(input, kernel);
    let product = |gather: &Gather, x: &Tensor, w: &Tensor, out: Shape, ends: bool| {
        let (bias, add) = if ends { (b, add) } else { (None, None) };
        // What is added to a sum in f32 leaves it f32.
        let wide = add.is_some_and(|add| cuda.buffer(add).elem() == Elem::F32);
        Product { gather, x, w, transposed: false, bias, add, out, f32_output: !ends || wide }.run(cuda)
    };
    match (packets(kernel.c), packets(kernel.n)) {
        // Few input channels: gather each pixel's patch into one row (im2col).
        (false, true) if cuda.tensor.is_some() => {
            let unit = if conv.upsample { 2 } else { 1 };
            let patches = Patches { step: conv.stride, first: first_tap(conv), dstep: 1, unit, exact: false };
            let x = patches.gather(cuda, x, out, [kernel.h, kernel.w], false)?;
            let w = padded(cuda, w, Form::Patches, Shape::rows(kernel.n, kernel.sample()))?;
            product(&point(out), &x, &w, out, true)
        }
        // Few output channels: compute all taps per pixel, then sum them.
        (true, false) if sums_taps(cuda, kernel, kernel.n) && conv.stride == 1 && !conv.upsample => {
            let w = w.reshape(Shape::rows(kernel.n * kernel.tokens(), kernel.c));
            let rows = input.with_c(w.shape().n);
            let rows = product(&point(rows), x, &w, rows, false)?;
            let sum = TapSum { first: first_tap(conv), dstep: 1, unit: 1, by_channel: true };
            sum.apply(cuda, &rows, [kernel.h, kernel.w], b, add, out)
        }
        _ => {
            let gather = Gather::forward(out, [kernel.h, kernel.w], conv);
            product(&gather, x, &folded(cuda, w, conv)?, out, true)
        }
    }
}

pub fn conv_vjp(cuda: &Cuda, dy: &Tensor, w: &Tensor, x: Shape, conv: Conv) -> Result<Tensor> {
    let kernel = w.shape();
    let product = |gather: &Gather, dy: &Tensor, w: &Tensor, out: Shape, f32_output: bool| {
        Product { gather, x: dy, w, transposed: true, bias: None, add: None, out, f32_output }.run(cuda)
    };
    let gather = Gather::transpose(x, [kernel.h, kernel.w], conv);
    let [top, left] = first_tap(conv);
    match (packets(kernel.c), packets(kernel.n)) {
        // Few input channels: gather the pixels of `dy` that have read a pixel into one row.
        (true, false) if cuda.tensor.is_some() => {
            let w = folded(cuda, w, conv)?;
            let kernel = w.shape();
            let patches = if conv.upsample {
                Patches { step: 2, first: [1 - top, 1 - left], dstep: -1, unit: 1, exact: false }
            } else {
                Patches { step: 1, first: [-top, -left], dstep: -1, unit: conv.stride, exact: true }
            };
            let rows = patches.gather(cuda, dy, x, [kernel.h, kernel.w], true)?;
            product(&point(x), &rows, &w.reshape(Shape::rows(kernel.n * kernel.tokens(), kernel.c)), x, false)
        }
        // Few output channels of the transpose: compute all taps per pixel of `dy`, then sum them.
        (false, true) if sums_taps(cuda, kernel, kernel.c) && !conv.upsample => {
            let w = padded(cuda, w, Form::Patches, Shape::rows(kernel.n, kernel.sample()))?;
            let rows = dy.shape().with_c(kernel.sample());
            let rows = product(&point(rows), dy, &w, rows, true)?;
            let sum = TapSum { first: [-top, -left], dstep: -1, unit: conv.stride, by_channel: false };
            sum.apply(cuda, &rows, [kernel.h, kernel.w], None, None, x)
        }
        (false, true) if cuda.tensor.is_some() => {
            let w = folded(cuda, w, conv)?;
            product(&gather, dy, &padded(cuda, &w, Form::Padded, w.shape())?, x, false)
        }
        _ => product(&gather, dy, &folded(cuda, w, conv)?, x, false),
    }
}

/// Whether to compute all taps of a result of `few` channels as columns of one product and to sum them
/// afterwards. A tile of `few` columns would be mostly empty.
fn sums_taps(cuda: &Cuda, kernel: Shape, few: usize) -> bool {
    cuda.tensor.is_some() && kernel.tokens() > 1 && few <= 16
}

/// Offset of the first tap from its pixel, down and across.
fn first_tap(conv: Conv) -> [isize; 2] {
    [-(conv.pad[0] as isize), -(conv.pad[2] as isize)]
}

/// How patches are gathered: output pixel `g` reads input pixel `(step g + first + dstep tap) / unit`,
/// rounded down; if `exact`, only where that is whole.
struct Patches {
    step: usize,
    first: [isize; 2],
    dstep: isize,
    unit: usize,
    exact: bool,
}

impl Patches {
    /// One row for each pixel of `grid`, with columns (tap, channel) or, `by_channel`, (channel, tap), padded
    /// to whole packets.
    fn gather(
        &self,
        cuda: &Cuda,
        x: &Tensor,
        grid: Shape,
        taps: [usize; 2],
        by_channel: bool,
    ) -> Result<Tensor> {
        let from = x.shape();
        let shape = grid.with_c((taps[0] * taps[1] * from.c).next_multiple_of(PACKET));
        let x = cuda.cast(x, Elem::F32)?;
        let kernels = cuda.act();
        let mut y = cuda.alloc(kernels.elem, shape)?;
        let p = PatchesParams {
            rows: grid.positions() as i64,
            out_h: grid.h as i32,
            out_w: grid.w as i32,
            in_h: from.h as i32,
            in_w: from.w as i32,
            channels: from.c as i32,
            width: shape.c as i32,
            step: self.step as i32,
            in_y: self.first[0] as i32,
            in_x: self.first[1] as i32,
            dstep: self.dstep as i32,
            unit: self.unit as i32,
            exact: i32::from(self.exact),
            taps_y: taps[0] as i32,
            taps_x: taps[1] as i32,
            by_channel: i32::from(by_channel),
        };
        let launch = Launch::cover(shape.len() / PACKET, BLOCK);
        kernels.conv.patches(&cuda.device, launch, cuda.buffer(&x).f32(), kernels.write(&mut y), p)?;
        Ok(cuda.wrap(shape, y))
    }
}

/// How taps are summed: output pixel `g` adds, for each tap, that tap's column of row `(g + first + dstep
/// tap) / unit`, where that is whole.
struct TapSum {
    first: [isize; 2],
    dstep: isize,
    unit: usize,
    by_channel: bool,
}

impl TapSum {
    /// `out` from `rows (n, h, w, taps * c)` f32, plus `bias` and `add`.
    fn apply(
        &self,
        cuda: &Cuda,
        rows: &Tensor,
        taps: [usize; 2],
        bias: Option<&Tensor>,
        add: Option<&Tensor>,
        out: Shape,
    ) -> Result<Tensor> {
        let from = rows.shape();
        let wide = |t: Option<&Tensor>| t.map(|t| cuda.cast(t, Elem::F32)).transpose();
        let (bias, add) = (wide(bias)?, wide(add)?);
        let [b, a] = [&bias, &add].map(|t| t.as_ref().map_or_else(In::none, |t| cuda.buffer(t).f32()));
        let mut y = cuda.device.alloc(Elem::F32, out.len())?;
        let p = TapSumParams {
            len: out.len() as i64,
            out_h: out.h as i32,
            out_w: out.w as i32,
            channels: out.c as i32,
            in_h: from.h as i32,
            in_w: from.w as i32,
            in_y: self.first[0] as i32,
            in_x: self.first[1] as i32,
            dstep: self.dstep as i32,
            unit: self.unit as i32,
            taps_y: taps[0] as i32,
            taps_x: taps[1] as i32,
            by_channel: i32::from(self.by_channel),
            bias_each: i32::from(bias.as_ref().is_some_and(|b| b.shape().n > 1)),
        };
        let launch = Launch::cover(out.len(), BLOCK);
        cuda.f32.conv.tap_sum(&cuda.device, launch, cuda.buffer(rows).f32(), b, a, y.f32_mut(), p)?;
        Ok(cuda.wrap(out, y))
    }
}

/// A weight as rows padded to whole packets; kept with the weight.
fn padded(cuda: &Cuda, w: &Tensor, form: Form, rows: Shape) -> Result<Tensor> {
    cuda.buffer(w).form(form, || {
        let (kernels, shape) = (cuda.act(), rows.with_c(rows.c.next_multiple_of(PACKET)));
        let x = cuda.cast(w, Elem::F32)?;
        let mut y = cuda.alloc(kernels.elem, shape)?;
        let launch = Launch::cover(shape.len() / PACKET, BLOCK);
        let (x, to) = (cuda.buffer(&x).f32(), kernels.write(&mut y));
        kernels.conv.pad(&cuda.device, launch, x, to, rows.positions() as i64, rows.c as i64)?;
        Ok(cuda.wrap(shape, y))
    })
}

/// The weight that the gather of `conv` reads: itself, or for an upsampling convolution the folded one, which
/// is kept with the weight.
fn folded(cuda: &Cuda, w: &Tensor, conv: Conv) -> Result<Tensor> {
    if !conv.upsample {
        return Ok(w.clone());
    }
    let (kernel, buffer) = (w.shape(), cuda.buffer(w));
    buffer.form(Form::Folded, || {
        let shape = Shape { h: kernel.h + 1, w: kernel.w + 1, ..kernel };
        let kernels = cuda.kernels(buffer.elem());
        let mut y = cuda.alloc(kernels.elem, shape)?;
        let p = FoldParams {
            len: shape.len() as i64,
            kernel_y: kernel.h as i32,
            kernel_x: kernel.w as i32,
            channels: kernel.c as i32,
        };
        let launch = Launch::cover(shape.len(), BLOCK);
        kernels.conv.fold(&cuda.device, launch, kernels.read(buffer), kernels.write(&mut y), p)?;
        Ok(cuda.wrap(shape, y))
    })
}
