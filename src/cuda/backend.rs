//! The instruction set on a GPU: every operation of [`Backend`] by its launcher.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::attention;
use super::ctx::Cuda;
use super::device::{Elem, nvtx};
use super::launch::graph;
use super::ops::{conv, image, linear, norm, pointwise};
use super::smc::{engine, particle};
use crate::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Epilogue, Filter, GroupNorm, Memory,
    ParticleId, Particles, Record, Saved, reserved,
};
use crate::engine::{EngineBackend, EngineSetup, StepEngine};
use crate::error::Result;
use crate::noise::Purpose;
use crate::tensor::{HostSlice, Shape, Tensor};

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

    fn linear(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>) -> Result<Tensor> {
        linear::linear(self, x, w, b, add)
    }
    fn linear_epilogue(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        epilogue: Epilogue,
        keep: bool,
    ) -> Result<(Tensor, Option<Saved>)> {
        linear::linear_epilogue(self, x, w, b, epilogue, keep)
    }
    fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        linear::linear_vjp(self, dy, w)
    }
    fn conv(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        add: Option<&Tensor>,
        conv: Conv,
    ) -> Result<Tensor> {
        conv::conv(self, x, w, b, add, conv)
    }
    fn conv_vjp(&self, dy: &Tensor, w: &Tensor, x: Shape, conv: Conv) -> Result<Tensor> {
        conv::conv_vjp(self, dy, w, x, conv)
    }

    fn group_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        norm: GroupNorm,
    ) -> Result<(Tensor, Saved)> {
        norm::group_norm(self, x, gamma, beta, norm)
    }
    fn group_norm_vjp(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        norm: GroupNorm,
    ) -> Result<Tensor> {
        norm::group_norm_vjp(self, x, gamma, beta, saved, dy, norm)
    }
    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<(Tensor, Saved)> {
        norm::layer_norm(self, x, gamma, beta, eps)
    }
    fn layer_norm_vjp(&self, x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Result<Tensor> {
        norm::layer_norm_vjp(self, x, gamma, saved, dy)
    }
    fn l2_norm(&self, x: &Tensor) -> Result<Tensor> {
        norm::l2_norm(self, x)
    }
    fn l2_norm_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        norm::l2_norm_vjp(self, x, dy)
    }

    fn self_attention(&self, qkv: &Tensor, attention: Attention) -> Result<(Tensor, Saved)> {
        attention::self_attention(self, qkv, attention)
    }
    fn self_attention_vjp(
        &self,
        qkv: &Tensor,
        y: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        attention: Attention,
    ) -> Result<Tensor> {
        attention::self_attention_vjp(self, qkv, y, saved, dy, attention)
    }
    fn cross_attention(
        &self,
        q: &Tensor,
        kv: &Tensor,
        kv_of: &[u32],
        attention: Attention,
    ) -> Result<Tensor> {
        attention::cross_attention(self, q, kv, kv_of, attention)
    }
    fn cross_attention_vjp(
        &self,
        q: &Tensor,
        kv: &Tensor,
        kv_of: &[u32],
        dy: &Tensor,
        attention: Attention,
    ) -> Result<Tensor> {
        attention::cross_attention_vjp(self, q, kv, kv_of, dy, attention)
    }

    fn activate(&self, x: &Tensor, f: Activation) -> Result<Tensor> {
        pointwise::activate(self, x, f)
    }
    fn activate_vjp(&self, x: &Tensor, dy: &Tensor, f: Activation) -> Result<Tensor> {
        pointwise::activate_vjp(self, x, dy, f)
    }
    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        pointwise::geglu(self, x)
    }
    fn geglu_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        pointwise::geglu_vjp(self, x, dy)
    }
    fn axpby(&self, a: f32, x: &Tensor, b: f32, y: &Tensor) -> Result<Tensor> {
        pointwise::axpby(self, a, x, b, y)
    }
    fn blend(&self, k: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        pointwise::blend(self, k, x, y)
    }
    fn blend_vjp(&self, k: &Tensor, which: usize, dy: &Tensor) -> Result<Tensor> {
        pointwise::blend_vjp(self, k, which, dy)
    }
    fn scale(&self, a: f32, x: &Tensor) -> Result<Tensor> {
        pointwise::scale(self, a, x)
    }
    fn affine_clamp(&self, x: &Tensor, map: AffineClamp) -> Result<Tensor> {
        pointwise::affine_clamp(self, x, map)
    }
    fn affine_clamp_vjp(&self, x: &Tensor, dy: &Tensor, map: AffineClamp) -> Result<Tensor> {
        pointwise::affine_clamp_vjp(self, x, dy, map)
    }
    fn channel_affine(&self, x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
        pointwise::channel_affine(self, x, gain, shift)
    }

    fn concat(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        image::concat(self, x, y)
    }
    fn slice(&self, x: &Tensor, from: usize, c: usize) -> Result<Tensor> {
        image::slice(self, x, from, c)
    }
    fn slice_vjp(&self, dy: &Tensor, from: usize, c: usize) -> Result<Tensor> {
        image::slice_vjp(self, dy, from, c)
    }
    fn repeat(&self, x: &Tensor, times: usize) -> Result<Tensor> {
        image::repeat(self, x, times)
    }
    fn repeat_vjp(&self, dy: &Tensor, times: usize) -> Result<Tensor> {
        image::repeat_vjp(self, dy, times)
    }
    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        image::gather(self, x, rows)
    }
    fn stack(&self, parts: &[&Tensor]) -> Result<Tensor> {
        image::stack(self, parts)
    }
    fn cfg_combine(&self, x: &Tensor, s: f32) -> Result<Tensor> {
        pointwise::cfg_combine(self, x, s)
    }
    fn cfg_combine_vjp(&self, dy: &Tensor, s: f32) -> Result<Tensor> {
        pointwise::cfg_combine_vjp(self, dy, s)
    }
    fn embed(&self, x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Result<Tensor> {
        image::embed(self, x, token, position)
    }
    fn embed_vjp(&self, dy: &Tensor, x: Shape) -> Result<Tensor> {
        image::embed_vjp(self, dy, x)
    }
    fn take_token(&self, x: &Tensor, at: &[u32]) -> Result<Tensor> {
        image::take_token(self, x, at)
    }
    fn take_token_vjp(&self, dy: &Tensor, at: &[u32], x: Shape) -> Result<Tensor> {
        image::take_token_vjp(self, dy, at, x)
    }
    fn resize(&self, x: &Tensor, h: usize, w: usize, filter: Filter) -> Result<Tensor> {
        image::resize(self, x, h, w, filter)
    }
    fn resize_vjp(&self, dy: &Tensor, x: Shape, filter: Filter) -> Result<Tensor> {
        image::resize_vjp(self, dy, x, filter)
    }

    fn normals(
        &self,
        shape: Shape,
        seed: u64,
        step: u32,
        purpose: Purpose,
        ids: &[ParticleId],
    ) -> Result<Tensor> {
        particle::normals(self, shape, seed, step, purpose, ids)
    }
    fn advance(
        &self,
        particles: Particles<'_>,
        ancestors: &[u32],
        strength: &[f32],
        advance: Advance<'_>,
    ) -> Result<(Tensor, Vec<f64>)> {
        particle::advance(self, particles, ancestors, strength, advance)
    }
    fn squared_norms(&self, x: &Tensor) -> Result<Vec<f64>> {
        particle::squared_norms(self, x)
    }
    fn where_finite(&self, score: &Tensor, by: &Tensor) -> Result<Tensor> {
        particle::where_finite(self, score, by)
    }
}

impl EngineBackend for Cuda {
    fn step_engine<'a>(&'a self, setup: EngineSetup<'_>) -> Result<Option<Box<dyn StepEngine + 'a>>> {
        engine::step_engine(self, setup)
    }
}
