//! The instruction set on a GPU: every operation of [`Backend`] by its launcher.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::attention;
use super::ctx::Cuda;
use super::device::{Elem, nvtx};
use super::launch::graph;
use super::ops::{conv, image, linear, norm, points, pointwise};
use super::smc::{engine, particle};
use crate::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Epilogue, Filter, GroupNorm, Memory,
    ParticleId, Particles, PointStep, PointValues, Record, Saved, reserved,
};
use crate::engine::{EngineBackend, EngineSetup, StepEngine};
use crate::error::Result;
use crate::noise::Purpose;
use crate::op::{self, for_each_op};
use crate::tensor::{HostSlice, Shape, Tensor};

/// Makes a method of every operation, which checks the inputs' shapes by describing it, and hands it to the
/// launcher of the same name in the module of its group:
///
/// ```ignore
/// fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
///     op::linear_vjp(dy, w);
///     linear::linear_vjp(self, dy, w)
/// }
/// ```
macro_rules! launch {
    ($($group:ident {
        $($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $result:ty;)*
    })*) => {$($(
        fn $name(&self, $($arg: $kind),*) -> Result<$result> {
            op::$name($($arg),*);
            $group::$name(self, $($arg),*)
        }
    )*)*};
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.device.name()
    }

    fn replay(
        &self,
        record: &mut Record,
        inputs: &[&Tensor],
        f: &mut dyn FnMut(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        graph::replay(self, record, inputs, f)
    }

    fn range_start(&self, name: &str) {
        nvtx::push(name);
    }
    fn range_end(&self) {
        nvtx::pop();
    }

    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
        assert_eq!(shape.len(), data.len(), "as many elements as the shape says");
        let elem = self.elem_of(shape);
        let mut y = self.alloc(elem, shape)?;
        match (elem, data) {
            (Elem::F32, data) => pointwise::put(self, bytemuck::cast_slice(&data.to_f32()), &mut y)?,
            (Elem::F16, HostSlice::F16(data)) => pointwise::put(self, bytemuck::cast_slice(data), &mut y)?,
            (Elem::Bf16, HostSlice::BF16(data)) => pointwise::put(self, bytemuck::cast_slice(data), &mut y)?,
            (Elem::F16, data) => {
                let mut narrow = vec![f16::ZERO; data.len()];
                narrow.convert_from_f32_slice(&data.to_f32());
                pointwise::put(self, bytemuck::cast_slice(&narrow), &mut y)?;
            }
            (Elem::Bf16, data) => {
                let mut narrow = vec![bf16::ZERO; data.len()];
                narrow.convert_from_f32_slice(&data.to_f32());
                pointwise::put(self, bytemuck::cast_slice(&narrow), &mut y)?;
            }
            (Elem::U32, _) => unreachable!("tensors hold numbers"),
        }
        Ok(self.wrap(shape, y))
    }

    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        let (buffer, len) = (self.buffer(x), x.shape().len());
        let mut y = reserved(len)?;
        y.resize(len, 0.0);
        match buffer.elem() {
            Elem::F32 => self.device.copy_out(buffer, bytemuck::cast_slice_mut(&mut y))?,
            Elem::F16 => {
                let mut narrow = vec![f16::ZERO; len];
                self.device.copy_out(buffer, bytemuck::cast_slice_mut(&mut narrow))?;
                narrow.convert_to_f32_slice(&mut y);
            }
            Elem::Bf16 => {
                let mut narrow = vec![bf16::ZERO; len];
                self.device.copy_out(buffer, bytemuck::cast_slice_mut(&mut narrow))?;
                narrow.convert_to_f32_slice(&mut y);
            }
            Elem::U32 => unreachable!("tensors hold numbers"),
        }
        Ok(y)
    }

    fn zeros(&self, shape: Shape) -> Result<Tensor> {
        pointwise::zeros(self, shape)
    }
    fn memory(&self) -> Memory {
        self.device.account().memory()
    }
    fn reset_peak(&self) {
        self.device.account().reset_peak();
    }

    for_each_op!(launch);

    fn linear_epilogue(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        epilogue: Epilogue,
        keep: bool,
    ) -> Result<(Tensor, Option<Saved>)> {
        op::linear(x, w, b, None);
        linear::linear_epilogue(self, x, w, b, epilogue, keep)
    }

    fn evaluate_points(&self, x: &Tensor, network: &[Tensor; 6], step: &PointStep) -> Result<PointValues> {
        points::evaluate_points(self, x, network, step)
    }
}

impl EngineBackend for Cuda {
    fn step_engine<'a>(&'a self, setup: EngineSetup<'_>) -> Result<Option<Box<dyn StepEngine + 'a>>> {
        engine::step_engine(self, setup)
    }
}
