//! A matrix product with gathered rows, as data: its operands and its epilogue, the parameters of its
//! kernels, and the problem that it is to the autotuner.

use super::gather::{Class, Gather};
use crate::backend::{Activation, Backend, Epilogue};
use crate::cuda::ctx::{Cuda, Kernels};
use crate::cuda::device::{Act, Buffer, Elem, In, Out};
use crate::cuda::launch::params;
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// Most classes of one launch: `CLASSES` of product.cuh.
pub const CLASSES: usize = 16;
/// Most taps along an axis: a row of tensor.cu keeps a bit for each.
pub const TAPS: usize = 16;

params! {
    /// A product with gathered rows: kernels/product.cuh.
    pub struct ProductParams {
        pub samples: i32,
        pub out_h: i32,
        pub out_w: i32,
        pub columns: i32,
        pub step_out: i32,
        pub in_h: i32,
        pub in_w: i32,
        pub channels: i32,
        pub step_in: i32,
        pub dstep: i32,
        pub depth: i32,
        pub weight_row: i32,
        pub weight_y: i32,
        pub weight_x: i32,
        pub bias_each: i32,
        pub splits: i32,
        pub tiles_m: i32,
        pub tiles_n: i32,
        pub epilogue: i32,
        pub grid_h: [i32; 16],
        pub grid_w: [i32; 16],
        pub out_y: [i32; 16],
        pub out_x: [i32; 16],
        pub in_y: [i32; 16],
        pub in_x: [i32; 16],
        pub taps_y: [i32; 16],
        pub taps_x: [i32; 16],
        pub weight_at: [i32; 16],
    }
    /// How the parts of a split sum become a result: kernels/gemm.cu.
    pub struct FinishParams {
        pub len: i64,
        pub columns: i32,
        pub splits: i32,
        pub per_sample: i32,
        pub epilogue: i32,
    }
}

/// The operands of `y = epilogue(gather(x) w + bias + add)`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub gather: &'a Gather,
    pub x: &'a Tensor,
    /// `(rows, kh, kw, c)`. Each row makes one column of `y`, as a sum over the channels `c` of `x`. If
    /// `transposed`, each row belongs to one channel of `x` instead, and `c` are the columns of `y`.
    pub w: &'a Tensor,
    pub transposed: bool,
    /// `(1|n, 1, 1, out)`: one row for all samples, or one for each.
    pub bias: Option<&'a Tensor>,
    /// Of the shape `out`.
    pub add: Option<&'a Tensor>,
    pub out: Shape,
    /// The result is f32, whatever its number of channels.
    pub f32_output: bool,
}

/// What decides how fast a plain product is: `y (rows, columns) = epilogue(x (rows, depth) w + bias + add)`.
/// Both the autotuner and its cache are keyed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub columns: usize,
    /// What is summed over.
    pub depth: usize,
    /// Whether the weight is transposed: as in `Product`.
    pub transposed: bool,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether another tensor is added.
    pub add: bool,
    /// The epilogue, and whether the pre-activation is kept for its transpose.
    /// cuBLASLt does not fuse it: after the library's product it is a kernel of its own.
    pub epilogue: Fused,
}

/// The result, and the pre-activation `gather(x) w + bias + add` if the epilogue keeps it.
pub type Output = (Tensor, Option<Tensor>);
/// The epilogue, if there is one, and whether the pre-activation is kept for its transpose.
pub type Fused = Option<(Epilogue, bool)>;

/// The number of an epilogue in product.cuh; 0 is none.
pub fn epilogue_code(epilogue: Fused) -> i32 {
    match epilogue {
        None => 0,
        Some((Epilogue::Activate(Activation::Silu), _)) => 1,
        Some((Epilogue::Activate(Activation::Gelu), _)) => 2,
        Some((Epilogue::Activate(Activation::QuickGelu), _)) => 3,
        Some((Epilogue::Geglu, _)) => 4,
    }
}

/// The shape of `y` where the product itself has the shape `out`: GEGLU halves the channels.
pub fn output_shape(out: Shape, epilogue: Fused) -> Shape {
    if matches!(epilogue, Some((Epilogue::Geglu, _))) { out.with_c(out.c / 2) } else { out }
}

/// Applies the epilogue as a kernel of its own, after a product that could not fuse it.
///
/// # Errors
/// Memory or driver.
pub fn epilogue_pass(cuda: &Cuda, pre_activation: Tensor, epilogue: Fused) -> Result<Output> {
    let Some((epilogue, keep)) = epilogue else { return Ok((pre_activation, None)) };
    let y = match epilogue {
        Epilogue::Activate(f) => cuda.activate(&pre_activation, f)?,
        Epilogue::Geglu => cuda.geglu(&pre_activation)?,
    };
    Ok((y, keep.then_some(pre_activation)))
}

/// A size as a 32-bit parameter of a kernel.
#[track_caller]
pub fn small(n: usize) -> i32 {
    let Ok(n) = i32::try_from(n) else { panic!("{n} is beyond the 32-bit numbers of a product") };
    n
}

/// Memory that a product writes: the result, and the pre-activation if it is kept.
pub struct OutputBuffers {
    pub y: Buffer,
    pub pre_activation: Option<Buffer>,
}

impl OutputBuffers {
    /// Both as arguments of a kernel over `kernels.elem`.
    pub fn write(&mut self, kernels: &Kernels) -> (Out<'_, Act>, Out<'_, Act>) {
        let kept = self.pre_activation.as_mut().map_or_else(Out::none, |buffer| kernels.write(buffer));
        (kernels.write(&mut self.y), kept)
    }
}

impl Product<'_> {
    /// Memory for the result and, if it is kept, for the pre-activation.
    pub fn alloc_output(self, cuda: &Cuda, elem: Elem, epilogue: Fused) -> Result<OutputBuffers> {
        let keep = epilogue.is_some_and(|(_, keep)| keep);
        Ok(OutputBuffers {
            y: cuda.alloc(elem, output_shape(self.out, epilogue))?,
            pre_activation: keep.then(|| cuda.alloc(elem, self.out)).transpose()?,
        })
    }

    /// The same as tensors.
    pub fn wrap_output(self, cuda: &Cuda, buffers: OutputBuffers, epilogue: Fused) -> Output {
        let kept = buffers.pre_activation.map(|kept| cuda.wrap(self.out, kept));
        (cuda.wrap(output_shape(self.out, epilogue), buffers.y), kept)
    }

    pub fn cast(self, cuda: &Cuda, t: Option<&Tensor>, elem: Elem) -> Result<Option<Tensor>> {
        t.map(|t| cuda.cast(t, elem)).transpose()
    }

    pub fn bias_each(self) -> bool {
        self.bias.is_some_and(|b| b.shape().n > 1)
    }

    pub fn rows(self, class: &Class) -> usize {
        self.out.n * class.grid[0] * class.grid[1]
    }

    pub fn params(self, classes: &[Class], tile: [usize; 2], splits: usize) -> ProductParams {
        let (out, x, w, gather) = (self.out, self.x.shape(), self.w.shape(), self.gather);
        // Offsets that the kernels form in 32 bits.
        small(out.positions());
        small(x.positions());
        small(w.len());
        small(out.n * out.c);
        let rows = classes.iter().map(|c| self.rows(c)).max().unwrap_or(0);
        let each = |f: &dyn Fn(&Class) -> isize| {
            let mut all = [0; CLASSES];
            for (to, class) in all.iter_mut().zip(classes) {
                *to = f(class) as i32;
            }
            all
        };
        ProductParams {
            samples: small(out.n),
            out_h: small(out.h),
            out_w: small(out.w),
            columns: small(out.c),
            step_out: small(gather.step_out),
            in_h: small(x.h),
            in_w: small(x.w),
            channels: small(x.c),
            step_in: small(gather.step_in),
            dstep: gather.dstep as i32,
            depth: small(if self.transposed { w.n } else { w.c }),
            weight_row: small(w.sample()),
            weight_y: small(gather.kernel_step * w.w * w.c),
            weight_x: small(gather.kernel_step * w.c),
            bias_each: i32::from(self.bias_each()),
            splits: small(splits),
            tiles_m: small(rows.div_ceil(tile[0])),
            tiles_n: small(out.c.div_ceil(tile[1])),
            epilogue: 0,
            grid_h: each(&|c| c.grid[0] as isize),
            grid_w: each(&|c| c.grid[1] as isize),
            out_y: each(&|c| c.out[0] as isize),
            out_x: each(&|c| c.out[1] as isize),
            in_y: each(&|c| c.first[0]),
            in_x: each(&|c| c.first[1]),
            taps_y: each(&|c| c.taps[0] as isize),
            taps_x: each(&|c| c.taps[1] as isize),
            weight_at: each(&|c| ((c.kernel[0] * w.w + c.kernel[1]) * w.c) as isize),
        }
    }
}

/// An optional tensor as `const Act*` of the kernels over `elem`.
pub fn read<'a>(cuda: &Cuda, t: &'a Option<Tensor>, elem: Elem) -> In<'a, Act> {
    t.as_ref().map_or_else(In::none, |t| cuda.buffer(t).read(elem))
}
