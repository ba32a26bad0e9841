//! Products on tensor cores: launchers of kernels/tensor.cu, for 16-bit elements.

use super::gather::Class;
use super::problem::{Fused, Output, Product, ProductParams, epilogue_code, read};
use super::tile::{Plan, STEP, TILES, Work};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Act, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels};
use crate::error::Result;

kernels! {
    /// The kernels of tensor.cu, for 16-bit elements only; each family in the order of [`TILES`].
    pub struct Table from "tensor" {
        family product [product_256x128, product_128x160, product_128x128, product_128x64, product_64x64](
            x: In<Act>, w: In<Act>, bias: In<Act>, add: In<Act>, y: Out<Act>, pre_activation: Out<Act>,
            z: Out<f32>, p: ProductParams,
        );
        family transposed [
            transposed_256x128, transposed_128x160, transposed_128x128, transposed_128x64, transposed_64x64
        ](
            x: In<Act>, w: In<Act>, bias: In<Act>, add: In<Act>, y: Out<Act>, pre_activation: Out<Act>,
            z: Out<f32>, p: ProductParams,
        );
    }
}

impl Product<'_> {
    /// The result, by the kernels of tensor.cu. The epilogue is fused unless the sum is split or the result
    /// is f32; then `finish` of gemm.cu adds the parts and applies it.
    ///
    /// # Errors
    /// Memory or driver.
    #[track_caller]
    pub fn on_tensor_cores(self, cuda: &Cuda, table: &Table, epilogue: Fused) -> Result<Output> {
        let (act, out) = (cuda.elem(), self.out);
        let kernels = cuda.kernels(act);
        let (x, w) = (cuda.cast(self.x, act)?, cuda.cast_weight(self.w, act)?);
        let target = if self.f32_output { Elem::F32 } else { cuda.elem_of(out) };
        let plan = self.plan(cuda);
        let tile = TILES[plan.tile];
        let p = ProductParams {
            epilogue: epilogue_code(epilogue),
            ..self.params(&self.gather.classes, [tile.rows, tile.columns], plan.splits)
        };
        let blocks = p.tiles_m as usize * p.tiles_n as usize;
        let launch = Launch::grid(blocks, plan.splits, self.gather.classes.len(), tile.threads);
        let launch = launch.shared(tile.shared());
        let start = if self.transposed { Table::transposed } else { Table::product };
        let (x, w) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&w)));
        if target == act && plan.splits == 1 {
            let (bias, add) = (self.cast(cuda, self.bias, act)?, self.cast(cuda, self.add, act)?);
            let [bias, add] = [&bias, &add].map(|t| read(cuda, t, act));
            let mut buffers = self.alloc_output(cuda, act, epilogue)?;
            let (y, kept) = buffers.write(kernels);
            start(table, plan.tile, &cuda.device, launch, x, w, bias, add, y, kept, Out::none(), p)?;
            return Ok(self.wrap_output(cuda, buffers, epilogue));
        }
        let mut z = cuda.device.alloc(Elem::F32, plan.splits * out.len())?;
        let (none, nowhere) = (In::none, Out::none);
        let to = z.f32_mut();
        start(table, plan.tile, &cuda.device, launch, x, w, none(), none(), nowhere(), nowhere(), to, p)?;
        let unfinished = self.bias.is_some() || self.add.is_some() || epilogue.is_some();
        if target == Elem::F32 && plan.splits == 1 && !unfinished {
            return Ok((cuda.wrap(out, z), None));
        }
        self.finish(cuda, &z, plan.splits, target, epilogue)
    }

    /// The tile, and in how many parts the sum is split.
    fn plan(self, cuda: &Cuda) -> Plan {
        if let Some(plan) = cuda.plan {
            return plan;
        }
        let steps = self.x.shape().c.div_ceil(STEP);
        let class = |c: &Class| (self.rows(c), c.taps[0] * c.taps[1] * steps);
        let classes = self.gather.classes.iter().map(class).collect();
        let work = Work { classes, columns: self.out.c, len: self.out.len() };
        work.plan(cuda.device.limits())
    }
}
