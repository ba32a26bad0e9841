//! Products without tensor cores, and what is left to do after products in parts: launchers of kernels/gemm.cu.

use super::problem::{CLASSES, FinishParams, Output, Product, ProductParams, Then, number, read, small};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Act, Buffer, Elem, In, Out, PACKET};
use crate::cuda::launch::{Launch, kernels};
use crate::error::Result;
use crate::tensor::Tensor;

/// Rows and columns of `plain`'s tile.
const PLAIN: usize = 64;

kernels! {
    /// The kernels of gemm.cu.
    pub struct Table from "gemm" {
        fn plain(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            turned: i32,
            p: ProductParams,
        );
        fn finish(
            z: In<f32>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            p: FinishParams,
        );
    }
}

impl Product<'_> {
    /// Adds the parts of `z`, bias and addend, and does what follows.
    pub fn finish(self, cuda: &Cuda, z: &Buffer, splits: usize, target: Elem, then: Then) -> Result<Output> {
        let (bias, add) = (self.cast(cuda, self.bias, target)?, self.cast(cuda, self.add, target)?);
        let [bias, add] = [&bias, &add].map(|t| read(cuda, t, target));
        let (mut y, mut given) = self.places(cuda, target, then)?;
        let p = FinishParams {
            len: self.out.len() as i64,
            columns: small(self.out.c),
            splits: small(splits),
            per_sample: if self.bias_each() { small(self.out.tokens()) } else { 0 },
            epilogue: then.map_or(0, |(epilogue, _)| number(epilogue)),
        };
        let (kernels, launch) = (cuda.kernels(target), Launch::cover(self.out.len().div_ceil(PACKET), 256));
        let (to, kept) = (kernels.write(&mut y), given.as_mut().map_or_else(Out::none, |y| kernels.write(y)));
        kernels.simt.finish(&cuda.device, launch, z.f32(), bias, add, to, kept, p)?;
        Ok(self.wrapped(cuda, y, given, then))
    }

    /// Without tensor cores: in `Act` if everything is, else in f32.
    pub fn plain(self, cuda: &Cuda) -> Result<Tensor> {
        let target = if self.wide { Elem::F32 } else { cuda.elem_of(self.out) };
        let all = [Some(self.x), Some(self.w), self.bias, self.add];
        let narrow = all.iter().flatten().all(|t| cuda.buffer(t).elem() == target);
        let elem = if narrow { target } else { Elem::F32 };
        let kernels = cuda.kernels(elem);
        let (x, w) = (cuda.cast(self.x, elem)?, cuda.cast_weight(self.w, elem)?);
        let (bias, add) = (self.cast(cuda, self.bias, elem)?, self.cast(cuda, self.add, elem)?);
        let mut y = cuda.alloc(elem, self.out)?;
        for classes in self.gather.classes.chunks(CLASSES) {
            let p = self.params(classes, [PLAIN, PLAIN], 1);
            let blocks = p.tiles_m as usize * p.tiles_n as usize;
            let launch = Launch::grid(blocks, 1, classes.len(), 128);
            let (x, w) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&w)));
            let [bias, add] = [&bias, &add].map(|t| read(cuda, t, elem));
            let (y, turned) = (kernels.write(&mut y), i32::from(self.turned));
            kernels.simt.plain(&cuda.device, launch, x, w, bias, add, y, turned, p)?;
        }
        cuda.cast(&cuda.wrap(self.out, y), target)
    }
}
