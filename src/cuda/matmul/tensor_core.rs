//! Products on tensor cores: launchers of kernels/tensor.cu, for 16-bit elements.

use super::gather::Class;
use super::problem::{Output, Product, ProductParams, Then, number, read};
use super::tile::{Plan, STEP, TILES, Work};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Act, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels};
use crate::error::Result;

kernels! {
    /// The kernels of tensor.cu, for 16-bit elements only.
    pub struct Table from "tensor" {
        fn product_256x128(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn product_128x160(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn product_128x128(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn product_128x64(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn product_64x64(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_256x128(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_128x160(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_128x128(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_128x64(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_64x64(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
    }
}

impl Product<'_> {
    /// The result, of tensor cores.
    ///
    /// # Errors
    /// Memory or driver.
    pub fn on_tensor_cores(self, cuda: &Cuda, table: &Table, then: Then) -> Result<Output> {
        let (act, out) = (cuda.elem(), self.out);
        let kernels = cuda.kernels(act);
        let (x, w) = (cuda.cast(self.x, act)?, cuda.cast_weight(self.w, act)?);
        let target = if self.wide { Elem::F32 } else { cuda.elem_of(out) };
        let plan = self.plan(cuda);
        let tile = TILES[plan.tile];
        let epilogue = then.map_or(0, |(epilogue, _)| number(epilogue));
        let p = ProductParams {
            epilogue,
            ..self.params(&self.gather.classes, [tile.rows, tile.columns], plan.splits)
        };
        let blocks = p.tiles_m as usize * p.tiles_n as usize;
        let launch = Launch::grid(blocks, plan.splits, self.gather.classes.len(), tile.threads);
        let launch = launch.shared(tile.shared());
        let start = match (self.turned, plan.tile) {
            (false, 0) => Table::product_256x128,
            (false, 1) => Table::product_128x160,
            (false, 2) => Table::product_128x128,
            (false, 3) => Table::product_128x64,
            (false, _) => Table::product_64x64,
            (true, 0) => Table::turned_256x128,
            (true, 1) => Table::turned_128x160,
            (true, 2) => Table::turned_128x128,
            (true, 3) => Table::turned_128x64,
            (true, _) => Table::turned_64x64,
        };
        let (x, w) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&w)));
        if target == act && plan.splits == 1 {
            let (bias, add) = (self.cast(cuda, self.bias, act)?, self.cast(cuda, self.add, act)?);
            let [bias, add] = [&bias, &add].map(|t| read(cuda, t, act));
            let (mut y, mut given) = self.places(cuda, act, then)?;
            let (to, kept) =
                (kernels.write(&mut y), given.as_mut().map_or_else(Out::none, |y| kernels.write(y)));
            start(table, &cuda.device, launch, x, w, bias, add, to, kept, Out::none(), p)?;
            return Ok(self.wrapped(cuda, y, given, then));
        }
        let mut z = cuda.device.alloc(Elem::F32, plan.splits * out.len())?;
        let (none, nowhere) = (In::none, Out::none);
        start(table, &cuda.device, launch, x, w, none(), none(), nowhere(), nowhere(), z.f32_mut(), p)?;
        let ends = self.bias.is_some() || self.add.is_some() || then.is_some();
        if target == Elem::F32 && plan.splits == 1 && !ends {
            return Ok((cuda.wrap(out, z), None));
        }
        self.finish(cuda, &z, plan.splits, target, then)
    }

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
