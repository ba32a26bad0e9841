//! Products without tensor cores, and the sum and epilogue of products that were split: launchers of
//! kernels/gemm.cu.

use super::problem::{
    CLASSES, FinishParams, Fused, Output, Product, ProductParams, epilogue_code, read, small,
};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Act, Buffer, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::error::Result;
use crate::tensor::{PACKET, Shape, Tensor};

/// Rows and columns of a tile of the kernel `simt`.
const TILE: usize = 64;

/// Rows that a step of the kernel `linear_weight_vjp` takes.
const STEP: usize = 16;
/// Fewest rows of a part of a weight's gradient, and most parts.
const ROWS: usize = 1024;
const PARTS: usize = 128;

params! {
    pub struct WeightParams {
        pub rows: i64,
        /// Of a part.
        pub each: i64,
        pub out: i32,
        pub width: i32,
    }
}

kernels! {
    /// The kernels of gemm.cu.
    pub struct Table from "gemm" {
        fn simt(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            transposed: i32,
            p: ProductParams,
        );
        fn linear_weight_vjp(dy: In<Act>, x: In<Act>, z: Out<f32>, p: WeightParams);
        fn finish(
            z: In<f32>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            pre_activation: Out<Act>,
            p: FinishParams,
        );
    }
}

/// The parts of `dy^T x` `(parts, 1, out, in)` in f32, whose sum is the gradient of a weight.
pub fn linear_weight_vjp(cuda: &Cuda, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (rows, out, width) = (dy.shape().positions(), dy.shape().c, x.shape().c);
    let elem = cuda.common(&[dy, x], &[out, width]);
    let (kernels, dy, x) = (cuda.kernels(elem), cuda.cast(dy, elem)?, cuda.cast(x, elem)?);
    let each = rows.div_ceil(PARTS).max(ROWS).next_multiple_of(STEP);
    let parts = rows.div_ceil(each).max(1);
    let shape = Shape::new(parts, 1, out, width);
    let mut z = cuda.alloc(Elem::F32, shape)?;
    let p = WeightParams { rows: rows as i64, each: each as i64, out: small(out), width: small(width) };
    let launch = Launch::grid(out.div_ceil(TILE), width.div_ceil(TILE), parts, 128);
    let (dy, x) = (kernels.read(cuda.buffer(&dy)), kernels.read(cuda.buffer(&x)));
    kernels.simt.linear_weight_vjp(&cuda.device, launch, dy, x, z.f32_mut(), p)?;
    Ok(cuda.wrap(shape, z))
}

impl Product<'_> {
    /// `y = epilogue(sum of the parts of z + bias + add)`, with elements of type `target`.
    pub fn finish(
        self,
        cuda: &Cuda,
        z: &Buffer,
        splits: usize,
        target: Elem,
        epilogue: Fused,
    ) -> Result<Output> {
        let (bias, add) = (self.cast(cuda, self.bias, target)?, self.cast(cuda, self.add, target)?);
        let [bias, add] = [&bias, &add].map(|t| read(cuda, t, target));
        let mut buffers = self.alloc_output(cuda, target, epilogue)?;
        let p = FinishParams {
            len: self.out.len() as i64,
            columns: small(self.out.c),
            splits: small(splits),
            per_sample: if self.bias_each() { small(self.out.tokens()) } else { 0 },
            epilogue: epilogue_code(epilogue),
        };
        let (kernels, launch) = (cuda.kernels(target), Launch::cover(self.out.len().div_ceil(PACKET), 256));
        let (y, kept) = buffers.write(kernels);
        kernels.simt.finish(&cuda.device, launch, z.f32(), bias, add, y, kept, p)?;
        Ok(self.wrap_output(cuda, buffers, epilogue))
    }

    /// The product without its epilogue, without tensor cores: in `Act` if all operands and the result are,
    /// else in f32.
    pub fn simt(self, cuda: &Cuda) -> Result<Tensor> {
        let target = if self.f32_output { Elem::F32 } else { cuda.elem_of(self.out) };
        let all = [Some(self.x), Some(self.w), self.bias, self.add];
        let narrow = all.iter().flatten().all(|t| cuda.buffer(t).elem() == target);
        let elem = if narrow { target } else { Elem::F32 };
        let kernels = cuda.kernels(elem);
        let (x, w) = (cuda.cast(self.x, elem)?, cuda.cast_weight(self.w, elem)?);
        let (bias, add) = (self.cast(cuda, self.bias, elem)?, self.cast(cuda, self.add, elem)?);
        let mut y = cuda.alloc(elem, self.out)?;
        for classes in self.gather.classes.chunks(CLASSES) {
            let p = self.params(classes, [TILE, TILE], 1);
            let blocks = p.tiles_m as usize * p.tiles_n as usize;
            let launch = Launch::grid(blocks, 1, classes.len(), 128);
            let (x, w) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&w)));
            let [bias, add] = [&bias, &add].map(|t| read(cuda, t, elem));
            let (y, transposed) = (kernels.write(&mut y), i32::from(self.transposed));
            kernels.simt.simt(&cuda.device, launch, x, w, bias, add, y, transposed, p)?;
        }
        cuda.cast(&cuda.wrap(self.out, y), target)
    }
}
