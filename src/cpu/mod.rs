//! The backend that computes on the host, in f32. It is the reference for the others, and with
//! [`Cpu::with_rounding`] also their yardstick: every result rounded to 16 bits, everything else exact.
//!
//! Threads come from rayon's global pool. Results do not depend on the number of threads.

mod attention;
mod buffer;
mod conv;
mod gemm;
mod image;
mod math;
mod norm;
mod parallel;
mod particle;
mod pointwise;

use std::sync::Arc;

use crate::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Filter, GroupNorm, Memory, ParticleId,
    Particles, Saved, reserved,
};
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::noise::Purpose;
use crate::resize::Banded;
use crate::tensor::{HostSlice, Shape, Tensor};

pub use buffer::Round;
use buffer::{Buffer, Pool};

/// The host as a device.
#[derive(Debug, Default)]
pub struct Cpu {
    pool: Arc<Pool>,
    round: Option<Round>,
}

impl Cpu {
    /// Exact: every result in f32.
    pub fn new() -> Cpu {
        Cpu::default()
    }

    /// Every uploaded tensor and every result rounded to 16 bits; statistics and sums stay f32.
    pub fn with_rounding(round: Option<Round>) -> Cpu {
        Cpu { round, ..Cpu::default() }
    }

    #[track_caller]
    fn buffer<'a>(&self, x: &'a Tensor) -> &'a Buffer {
        let Some(buffer) = x.data::<Buffer>() else { panic!("{x:?} belongs to another backend") };
        buffer
    }

    /// The elements of a tensor.
    #[track_caller]
    fn view<'a>(&self, x: &'a Tensor) -> &'a [f32] {
        self.buffer(x).elements()
    }

    fn view_of<'a>(&self, x: Option<&'a Tensor>) -> Option<&'a [f32]> {
        x.map(|x| self.view(x))
    }

    /// Memory for a result. Its elements are arbitrary: whoever asks must write them all.
    fn alloc(&self, shape: Shape) -> Result<Buffer> {
        Pool::alloc(&self.pool, shape.len())
    }

    /// A finished result, rounded if this backend rounds.
    fn wrap(&self, shape: Shape, mut y: Buffer) -> Tensor {
        if let Some(round) = self.round {
            round.apply(y.elements_mut());
        }
        self.keep(shape, y)
    }

    /// A finished result that is f32 on every device.
    fn keep(&self, shape: Shape, y: Buffer) -> Tensor {
        assert_eq!(shape.len(), y.elements().len());
        Tensor::new(shape, y)
    }

    /// A result of `shape` written by `f`.
    fn make(&self, shape: Shape, f: impl FnOnce(&mut [f32])) -> Result<Tensor> {
        let mut y = self.alloc(shape)?;
        f(y.elements_mut());
        Ok(self.wrap(shape, y))
    }

    /// A result of `shape` and what its transpose will need, written by `f`.
    fn make_saving(
        &self,
        shape: Shape,
        saved_shape: Shape,
        f: impl FnOnce(&mut [f32], &mut [f32]),
    ) -> Result<(Tensor, Saved)> {
        let (mut y, mut saved) = (self.alloc(shape)?, self.alloc(saved_shape)?);
        f(y.elements_mut(), saved.elements_mut());
        Ok((self.wrap(shape, y), self.keep(saved_shape, saved)))
    }
}

/// The host weighs.
impl EngineBackend for Cpu {}

impl Backend for Cpu {
    fn name(&self) -> String {
        match self.round {
            None => "cpu".into(),
            Some(round) => format!("cpu rounding to {round}"),
        }
    }

    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
        self.make(shape, |y| y.copy_from_slice(&data.to_f32()))
    }
    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        let mut y = reserved(x.shape().len())?;
        y.extend_from_slice(self.view(x));
        Ok(y)
    }
    fn zeros(&self, shape: Shape) -> Result<Tensor> {
        self.make(shape, |y| y.fill(0.0))
    }
    fn memory(&self) -> Memory {
        self.pool.memory()
    }
    fn reset_peak(&self) {
        self.pool.reset_peak();
    }

    fn linear(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>) -> Result<Tensor> {
        gemm::linear(self, x, w, b, add)
    }
    fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        gemm::linear_vjp(self, dy, w)
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
        let shape = x.shape();
        self.make_saving(shape, norm::group_saved(shape, norm), |y, saved| {
            norm::group_norm(self.view(x), shape, self.view(gamma), self.view(beta), norm, y, saved);
        })
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
        let (shape, gamma, beta) = (x.shape(), self.view(gamma), self.view(beta));
        self.make(shape, |dx| {
            let (x, saved, dy) = (self.view(x), self.view(saved), self.view(dy));
            norm::group_norm_vjp(x, shape, gamma, beta, saved, dy, norm, dx);
        })
    }
    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<(Tensor, Saved)> {
        self.make_saving(x.shape(), norm::layer_saved(x.shape()), |y, saved| {
            norm::layer_norm(self.view(x), self.view(gamma), self.view(beta), eps, y, saved);
        })
    }
    fn layer_norm_vjp(&self, x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Result<Tensor> {
        self.make(x.shape(), |dx| {
            norm::layer_norm_vjp(self.view(x), self.view(gamma), self.view(saved), self.view(dy), dx);
        })
    }
    fn l2_norm(&self, x: &Tensor) -> Result<Tensor> {
        self.make(x.shape(), |y| norm::l2_norm(self.view(x), x.shape().c, y))
    }
    fn l2_norm_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        self.make(x.shape(), |dx| norm::l2_norm_vjp(self.view(x), self.view(dy), x.shape().c, dx))
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
        self.make(x.shape(), |y| pointwise::activate(self.view(x), f, y))
    }
    fn activate_vjp(&self, x: &Tensor, dy: &Tensor, f: Activation) -> Result<Tensor> {
        self.make(x.shape(), |dx| pointwise::activate_vjp(self.view(x), self.view(dy), f, dx))
    }
    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        let c = x.shape().c / 2;
        self.make(x.shape().with_c(c), |y| pointwise::geglu(self.view(x), c, y))
    }
    fn geglu_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let c = x.shape().c / 2;
        self.make(x.shape(), |dx| pointwise::geglu_vjp(self.view(x), self.view(dy), c, dx))
    }
    fn axpby(&self, a: f32, x: &Tensor, b: f32, y: &Tensor) -> Result<Tensor> {
        self.make(x.shape(), |out| pointwise::axpby(a, self.view(x), b, self.view(y), out))
    }
    fn blend(&self, k: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let k = self.view(k);
        self.axpby(k[0], x, k[1], y)
    }
    fn blend_vjp(&self, k: &Tensor, which: usize, dy: &Tensor) -> Result<Tensor> {
        self.scale(self.view(k)[which], dy)
    }
    fn scale(&self, a: f32, x: &Tensor) -> Result<Tensor> {
        self.make(x.shape(), |y| pointwise::scale(a, self.view(x), y))
    }
    fn affine_clamp(&self, x: &Tensor, map: AffineClamp) -> Result<Tensor> {
        self.make(x.shape(), |y| pointwise::affine_clamp(self.view(x), map, y))
    }
    fn affine_clamp_vjp(&self, x: &Tensor, dy: &Tensor, map: AffineClamp) -> Result<Tensor> {
        self.make(x.shape(), |dx| pointwise::affine_clamp_vjp(self.view(x), self.view(dy), map, dx))
    }
    fn channel_affine(&self, x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
        let (gain, shift) = (self.view(gain), self.view_of(shift));
        self.make(x.shape(), |y| pointwise::channel_affine(self.view(x), gain, shift, y))
    }

    fn concat(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let (cx, cy) = (x.shape().c, y.shape().c);
        self.make(x.shape().with_c(cx + cy), |out| image::concat(self.view(x), cx, self.view(y), cy, out))
    }
    fn slice(&self, x: &Tensor, from: usize, c: usize) -> Result<Tensor> {
        self.make(x.shape().with_c(c), |y| image::slice(self.view(x), x.shape().c, from, c, y))
    }
    fn slice_vjp(&self, dy: &Tensor, from: usize, c: usize) -> Result<Tensor> {
        let part = dy.shape().c;
        self.make(dy.shape().with_c(c), |dx| image::slice_vjp(self.view(dy), part, from, c, dx))
    }
    fn repeat(&self, x: &Tensor, times: usize) -> Result<Tensor> {
        self.make(x.shape().with_n(x.shape().n * times), |y| image::repeat(self.view(x), y))
    }
    fn repeat_vjp(&self, dy: &Tensor, times: usize) -> Result<Tensor> {
        self.make(dy.shape().with_n(dy.shape().n / times), |dx| image::repeat_vjp(self.view(dy), dx))
    }
    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let shape = x.shape();
        self.make(shape.with_n(rows.len()), |y| image::gather(self.view(x), shape.sample(), rows, y))
    }
    fn stack(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let views: Vec<&[f32]> = parts.iter().map(|part| self.view(part)).collect();
        let n = parts.iter().map(|part| part.shape().n).sum();
        self.make(parts[0].shape().with_n(n), |y| image::stack(&views, y))
    }
    fn cfg_combine(&self, x: &Tensor, s: f32) -> Result<Tensor> {
        self.make(x.shape().with_n(x.shape().n / 2), |y| pointwise::cfg_combine(self.view(x), s, y))
    }
    fn cfg_combine_vjp(&self, dy: &Tensor, s: f32) -> Result<Tensor> {
        self.make(dy.shape().with_n(2 * dy.shape().n), |dx| pointwise::cfg_combine_vjp(self.view(dy), s, dx))
    }
    fn embed(&self, x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Result<Tensor> {
        let shape = x.shape();
        let out = Shape::new(shape.n, 1, position.shape().w, shape.c);
        let (token, position) = (self.view_of(token), self.view(position));
        self.make(out, |y| image::embed(self.view(x), shape, token, position, y))
    }
    fn embed_vjp(&self, dy: &Tensor, x: Shape) -> Result<Tensor> {
        self.make(x, |dx| image::embed_vjp(self.view(dy), x, dx))
    }
    fn take_token(&self, x: &Tensor, at: &[u32]) -> Result<Tensor> {
        let shape = x.shape();
        self.make(Shape::rows(shape.n, shape.c), |y| image::take_token(self.view(x), shape, at, y))
    }
    fn take_token_vjp(&self, dy: &Tensor, at: &[u32], x: Shape) -> Result<Tensor> {
        self.make(x, |dx| image::take_token_vjp(self.view(dy), at, x, dx))
    }
    fn resize(&self, x: &Tensor, h: usize, w: usize, filter: Filter) -> Result<Tensor> {
        let shape = x.shape();
        let rows = Banded::resample(shape.h, h, filter);
        let columns = Banded::resample(shape.w, w, filter);
        self.make(Shape { h, w, ..shape }, |y| image::resize(self.view(x), shape, &rows, &columns, y))
    }
    fn resize_vjp(&self, dy: &Tensor, x: Shape, filter: Filter) -> Result<Tensor> {
        let shape = dy.shape();
        let rows = Banded::resample(x.h, shape.h, filter).transpose(x.h);
        let columns = Banded::resample(x.w, shape.w, filter).transpose(x.w);
        self.make(x, |dx| image::resize(self.view(dy), shape, &rows, &columns, dx))
    }

    fn normals(
        &self,
        shape: Shape,
        seed: u64,
        step: u32,
        purpose: Purpose,
        ids: &[ParticleId],
    ) -> Result<Tensor> {
        assert_eq!(shape.n, ids.len(), "one identity per particle");
        self.make(shape, |y| particle::normals(shape.sample(), seed, step, purpose, ids, y))
    }
    fn advance(
        &self,
        particles: Particles<'_>,
        ancestors: &[u32],
        strength: &[f32],
        advance: Advance<'_>,
    ) -> Result<(Tensor, Vec<f64>)> {
        let shape = particles.x0.shape();
        let (x0, eps) = (self.view(particles.x0), self.view(particles.eps));
        let grad = self.view_of(particles.grad);
        let out = shape.with_n(ancestors.len());
        let mut y = self.alloc(out)?;
        let ratios =
            particle::advance(x0, eps, grad, shape.sample(), ancestors, strength, advance, y.elements_mut());
        Ok((self.wrap(out, y), ratios))
    }
    fn squared_norms(&self, x: &Tensor) -> Result<Vec<f64>> {
        Ok(particle::squared_norms(self.view(x), x.shape().sample()))
    }
    fn where_finite(&self, score: &Tensor, by: &Tensor) -> Result<Tensor> {
        assert_eq!(score.shape(), Shape::rows(by.shape().n, 1), "one score per sample");
        let scores = self.view(score).iter().zip(self.squared_norms(by)?);
        let y: Vec<f32> = scores.map(|(&s, norm)| if norm.is_finite() { s } else { f32::NAN }).collect();
        self.upload(score.shape(), HostSlice::F32(&y))
    }
}
