//! The backend that computes nothing: tensors are shapes, operations are counted. One pass of a model over it
//! gives the multiply-adds, the memory traffic and the peak of live bytes of the same pass on a real backend.
//!
//! What is counted:
//! - `flops`: two per multiply-add of matrix products, nothing else (the habit of the field's FLOP counters).
//!   Convolutions count padded taps as if they were pixels. A convolution on a twice enlarged image counts the
//!   four sub-pixel kernels it folds into (4/9 of the 3x3 work), because that is what is executed. Attention
//!   counts whole score matrices, causal or not: forward 2 products, the transpose of self-attention 5 (scores
//!   again, dP, dV, dQ, dK), that of cross-attention 3 (scores, dP, dQ; keys and values are constants).
//! - `bytes`: every input read once and every output written once.
//! - memory: outputs, saved tensors and declared scratch space while their handles live.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Filter, GroupNorm, Memory, ParticleId,
    Particles, Saved, reserved,
};
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::noise::Purpose;
use crate::tensor::{HostSlice, Shape, Tensor};

/// What kind of work an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Convolutions with kernels larger than 1x1.
    Conv,
    /// Linear layers and 1x1 convolutions.
    Linear,
    SelfAttention,
    CrossAttention,
    Norm,
    Pointwise,
    Image,
    Particle,
}

/// Work done: floating point operations of matrix products, bytes read and written, calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub flops: u64,
    pub bytes: u64,
    pub calls: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.flops = self.flops.saturating_add(other.flops);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.calls += other.calls;
    }
}

/// All work since the last [`Meter::reset_counts`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub flops: u64,
    pub bytes: u64,
    pub calls: u64,
    pub by_family: BTreeMap<Family, Work>,
}

#[derive(Debug, Default)]
struct State {
    live: u64,
    peak: u64,
    parameters: u64,
    work: BTreeMap<Family, Work>,
}

impl State {
    fn take(&mut self, bytes: u64) {
        self.live += bytes;
        self.peak = self.peak.max(self.live);
    }
}

/// Bytes of one tensor, given back when its last handle goes.
#[derive(Debug)]
struct Block {
    bytes: u64,
    parameter: bool,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Counters stay meaningful when a thread died elsewhere.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.live -= self.bytes;
        if self.parameter {
            state.parameters -= self.bytes;
        }
    }
}

/// A backend of shapes and counters.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Bytes of an activation.
    activation: u64,
    /// Bytes of an uploaded element; `None` as stored: 2 for 16-bit files, 4 for f32.
    weight: Option<u64>,
    /// Rows that are not whole packets of eight are f32, as the GPU backend keeps them.
    packets: bool,
    /// Operations hold the scratch space that the CPU backend takes for the length of a call.
    scratch: bool,
    state: Arc<Mutex<State>>,
}

/// Bytes of statistics, which are f32 everywhere.
const F32: u64 = 4;

/// Numbers saved per group or row by the norms: mean in two parts, 1/std.
const NORM_SAVED: usize = 3;

impl Default for Meter {
    fn default() -> Meter {
        Meter::new()
    }
}

impl Meter {
    /// Counts like the CPU backend: f32 activations and weights, and its scratch space.
    pub fn new() -> Meter {
        Meter { scratch: true, ..Meter::with_elements(4, Some(4)) }
    }

    /// Bytes per activation, and per weight (`None`: as wide as in the file); no scratch space.
    pub fn with_elements(activation: u64, weight: Option<u64>) -> Meter {
        Meter { activation, weight, packets: false, scratch: false, state: Arc::default() }
    }

    /// Counts like the GPU backend: weights and activations of `element` bytes, and f32 where the channels are no whole
    /// packets.
    pub fn of_packets(element: u64) -> Meter {
        Meter { packets: true, ..Meter::with_elements(element, Some(element)) }
    }

    /// Work since the last reset.
    pub fn counts(&self) -> Counts {
        let by_family = lock(&self.state).work.clone();
        let mut sum = Work::default();
        by_family.values().for_each(|&work| sum += work);
        Counts { flops: sum.flops, bytes: sum.bytes, calls: sum.calls, by_family }
    }

    pub fn reset_counts(&self) {
        lock(&self.state).work.clear();
    }

    /// Live bytes of uploaded tensors, part of [`Memory::live`].
    pub fn parameters(&self) -> u64 {
        lock(&self.state).parameters
    }

    fn block(&self, shape: Shape, element: u64, parameter: bool) -> Tensor {
        let element = if self.packets && !shape.c.is_multiple_of(8) { F32 } else { element };
        let bytes = shape.len() as u64 * element;
        let mut state = lock(&self.state);
        state.take(bytes);
        if parameter {
            state.parameters += bytes;
        }
        drop(state);
        Tensor::new(shape, Block { bytes, parameter, state: self.state.clone() })
    }

    fn activation(&self, shape: Shape) -> Tensor {
        self.block(shape, self.activation, false)
    }

    /// Counts a call that reads `inputs` and `flops` and writes `outputs`, and returns nothing.
    #[track_caller]
    fn count(&self, family: Family, flops: u64, inputs: &[&Tensor], outputs: &[&Tensor]) {
        let bytes = inputs.iter().chain(outputs).map(|x| self.bytes(x)).fold(0, u64::saturating_add);
        *lock(&self.state).work.entry(family).or_default() += Work { flops, bytes, calls: 1 };
    }

    #[track_caller]
    fn bytes(&self, x: &Tensor) -> u64 {
        let Some(block) = x.data::<Block>() else { panic!("{x:?} belongs to another backend") };
        block.bytes
    }

    /// A call with one result.
    #[track_caller]
    fn call(&self, family: Family, flops: u64, inputs: &[&Tensor], y: Shape) -> Result<Tensor> {
        let y = self.activation(y);
        self.count(family, flops, inputs, &[&y]);
        Ok(y)
    }

    /// A call with a result and saved f32 numbers.
    #[track_caller]
    fn call_saving(
        &self,
        family: Family,
        flops: u64,
        inputs: &[&Tensor],
        y: Shape,
        saved: Shape,
    ) -> Result<(Tensor, Saved)> {
        let (y, saved) = (self.activation(y), self.block(saved, F32, false));
        self.count(family, flops, inputs, &[&y, &saved]);
        Ok((y, saved))
    }
}

/// Columns of a packed factor are padded to whole vectors; 16 is the widest, narrower ones waste less.
const LANES: usize = 16;

impl Meter {
    /// Notes scratch space of `bytes`, held beside everything that lives after the call.
    fn scratch(&self, bytes: u64) {
        if self.scratch {
            let mut state = lock(&self.state);
            state.peak = state.peak.max(state.live + bytes);
        }
    }

    /// Matrix products copy their right factor into vectors first.
    fn packed(&self, depth: usize, columns: usize) {
        self.scratch((depth * columns.next_multiple_of(LANES)) as u64 * F32);
    }
}

/// Images of the largest sizes that can be asked for need more work than 64 bits count: then it is their maximum.
fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor as u64))
}

/// `[x, w]` and what else is read.
fn with<'a>(x: &[&'a Tensor], more: [Option<&'a Tensor>; 2]) -> Vec<&'a Tensor> {
    x.iter().copied().chain(more.into_iter().flatten()).collect()
}

/// Input pixels an output pixel sees. On a twice enlarged image (k odd) they are k/2 + 1 per axis.
fn conv_taps(w: Shape, conv: Conv) -> usize {
    let taps = |k: usize| if conv.upsample { k / 2 + 1 } else { k };
    taps(w.h) * taps(w.w)
}

/// Two per multiply-add of a convolution.
fn conv_flops(y: Shape, w: Shape, conv: Conv) -> u64 {
    product(&[2, y.positions(), w.n, conv_taps(w, conv), w.c])
}

fn conv_family(w: Shape) -> Family {
    if w.h * w.w == 1 { Family::Linear } else { Family::Conv }
}

fn linear_flops(rows: usize, w: Shape) -> u64 {
    product(&[2, rows, w.n, w.c])
}

/// One product of all heads' `(queries, d)` with `(d, keys)`.
fn attention_product(n: usize, queries: usize, keys: usize, c: usize) -> u64 {
    product(&[2, n, queries, keys, c])
}

/// The host weighs.
impl EngineBackend for Meter {}

impl Backend for Meter {
    fn name(&self) -> String {
        "meter".into()
    }

    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
        assert_eq!(shape.len(), data.len(), "upload of {shape}");
        let stored = if matches!(data, HostSlice::F32(_)) { 4 } else { 2 };
        Ok(self.block(shape, self.weight.unwrap_or(stored), true))
    }
    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        let mut zeros = reserved(x.shape().len())?;
        zeros.resize(x.shape().len(), 0.0);
        Ok(zeros)
    }
    fn zeros(&self, shape: Shape) -> Result<Tensor> {
        Ok(self.activation(shape))
    }
    fn memory(&self) -> Memory {
        let state = lock(&self.state);
        Memory { live: state.live, peak: state.peak }
    }
    fn reset_peak(&self) {
        let mut state = lock(&self.state);
        state.peak = state.live;
    }

    fn linear(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>) -> Result<Tensor> {
        let (s, w_shape) = (x.shape(), w.shape());
        assert_eq!(s.c, w_shape.c, "linear: input {s}, weight {w_shape}");
        let flops = linear_flops(s.positions(), w_shape);
        let y = self.call(Family::Linear, flops, &with(&[x, w], [b, add]), s.with_c(w_shape.n))?;
        self.packed(w_shape.c, w_shape.n);
        Ok(y)
    }
    fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (s, w_shape) = (dy.shape(), w.shape());
        assert_eq!(s.c, w_shape.n, "linear_vjp: cotangent {s}, weight {w_shape}");
        let flops = linear_flops(s.positions(), w_shape);
        let dx = self.call(Family::Linear, flops, &[dy, w], s.with_c(w_shape.c))?;
        self.packed(w_shape.n, w_shape.c);
        Ok(dx)
    }
    fn conv(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        add: Option<&Tensor>,
        conv: Conv,
    ) -> Result<Tensor> {
        let y = conv.output(x.shape(), w.shape());
        let flops = conv_flops(y, w.shape(), conv);
        let y = self.call(conv_family(w.shape()), flops, &with(&[x, w], [b, add]), y)?;
        // One factor for each of the four kinds of pixels of an enlarged image.
        let kinds = if conv.upsample { 4 } else { 1 };
        self.packed(kinds * conv_taps(w.shape(), conv) * w.shape().c, w.shape().n);
        Ok(y)
    }
    fn conv_vjp(&self, dy: &Tensor, w: &Tensor, x: Shape, conv: Conv) -> Result<Tensor> {
        assert_eq!(conv.output(x, w.shape()), dy.shape(), "conv_vjp: input {x}");
        let flops = conv_flops(dy.shape(), w.shape(), conv);
        let dx = self.call(conv_family(w.shape()), flops, &[dy, w], x)?;
        // A pixel stands twice per axis of the enlarged image, so its kernel is one wider.
        let more = usize::from(conv.upsample);
        self.packed((w.shape().h + more) * (w.shape().w + more) * w.shape().n, w.shape().c);
        Ok(dx)
    }

    fn group_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        norm: GroupNorm,
    ) -> Result<(Tensor, Saved)> {
        let saved = Shape::new(x.shape().n, 1, norm.groups, NORM_SAVED);
        self.call_saving(Family::Norm, 0, &[x, gamma, beta], x.shape(), saved)
    }
    fn group_norm_vjp(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        _: GroupNorm,
    ) -> Result<Tensor> {
        self.call(Family::Norm, 0, &[x, gamma, beta, saved, dy], x.shape())
    }
    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, _: f32) -> Result<(Tensor, Saved)> {
        self.call_saving(Family::Norm, 0, &[x, gamma, beta], x.shape(), x.shape().with_c(NORM_SAVED))
    }
    fn layer_norm_vjp(&self, x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Result<Tensor> {
        self.call(Family::Norm, 0, &[x, gamma, saved, dy], x.shape())
    }
    fn l2_norm(&self, x: &Tensor) -> Result<Tensor> {
        self.call(Family::Norm, 0, &[x], x.shape())
    }
    fn l2_norm_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        self.call(Family::Norm, 0, &[x, dy], x.shape())
    }

    fn self_attention(&self, qkv: &Tensor, attention: Attention) -> Result<(Tensor, Saved)> {
        let y = qkv.shape().with_c(qkv.shape().c / 3);
        let product = attention_product(y.n, y.tokens(), y.tokens(), y.c);
        let saved = Shape::new(y.n, 1, attention.heads, y.tokens());
        self.call_saving(Family::SelfAttention, product.saturating_mul(2), &[qkv], y, saved)
    }
    fn self_attention_vjp(
        &self,
        qkv: &Tensor,
        y: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        _: Attention,
    ) -> Result<Tensor> {
        let s = dy.shape();
        let product = attention_product(s.n, s.tokens(), s.tokens(), s.c);
        self.call(Family::SelfAttention, product.saturating_mul(5), &[qkv, y, saved, dy], qkv.shape())
    }
    fn cross_attention(&self, q: &Tensor, kv: &Tensor, kv_of: &[u32], _: Attention) -> Result<Tensor> {
        let s = q.shape();
        assert_eq!(kv_of.len(), s.n, "one key row per sample");
        let product = attention_product(s.n, s.tokens(), kv.shape().tokens(), s.c);
        self.call(Family::CrossAttention, product.saturating_mul(2), &[q, kv], s)
    }
    fn cross_attention_vjp(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _: &[u32],
        dy: &Tensor,
        _: Attention,
    ) -> Result<Tensor> {
        let s = q.shape();
        let product = attention_product(s.n, s.tokens(), kv.shape().tokens(), s.c);
        self.call(Family::CrossAttention, product.saturating_mul(3), &[q, kv, dy], s)
    }

    fn activate(&self, x: &Tensor, _: Activation) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[x], x.shape())
    }
    fn activate_vjp(&self, x: &Tensor, dy: &Tensor, _: Activation) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[x, dy], x.shape())
    }
    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[x], x.shape().with_c(x.shape().c / 2))
    }
    fn geglu_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[x, dy], x.shape())
    }
    fn axpby(&self, _: f32, x: &Tensor, _: f32, y: &Tensor) -> Result<Tensor> {
        assert_eq!(x.shape(), y.shape(), "a sum of unlike shapes");
        self.call(Family::Pointwise, 0, &[x, y], x.shape())
    }
    fn blend(&self, k: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        assert_eq!(x.shape(), y.shape(), "a sum of unlike shapes");
        self.call(Family::Pointwise, 0, &[k, x, y], x.shape())
    }
    fn blend_vjp(&self, k: &Tensor, _: usize, dy: &Tensor) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[k, dy], dy.shape())
    }
    fn scale(&self, _: f32, x: &Tensor) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[x], x.shape())
    }
    fn affine_clamp(&self, x: &Tensor, _: AffineClamp) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[x], x.shape())
    }
    fn affine_clamp_vjp(&self, x: &Tensor, dy: &Tensor, _: AffineClamp) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[x, dy], x.shape())
    }
    fn channel_affine(&self, x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &with(&[x, gain], [shift, None]), x.shape())
    }

    fn concat(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.call(Family::Image, 0, &[x, y], x.shape().with_c(x.shape().c + y.shape().c))
    }
    fn slice(&self, x: &Tensor, _: usize, c: usize) -> Result<Tensor> {
        let y = self.activation(x.shape().with_c(c));
        // Only the slice is read.
        self.count(Family::Image, 0, &[&y], &[&y]);
        Ok(y)
    }
    fn slice_vjp(&self, dy: &Tensor, _: usize, c: usize) -> Result<Tensor> {
        self.call(Family::Image, 0, &[dy], dy.shape().with_c(c))
    }
    fn repeat(&self, x: &Tensor, times: usize) -> Result<Tensor> {
        self.call(Family::Image, 0, &[x], x.shape().with_n(x.shape().n * times))
    }
    fn repeat_vjp(&self, dy: &Tensor, times: usize) -> Result<Tensor> {
        self.call(Family::Image, 0, &[dy], dy.shape().with_n(dy.shape().n / times))
    }
    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let y = self.activation(x.shape().with_n(rows.len()));
        self.count(Family::Image, 0, &[&y], &[&y]);
        Ok(y)
    }
    fn stack(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let n = parts.iter().map(|p| p.shape().n).sum();
        self.call(Family::Image, 0, parts, parts[0].shape().with_n(n))
    }
    fn cfg_combine(&self, x: &Tensor, _: f32) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[x], x.shape().with_n(x.shape().n / 2))
    }
    fn cfg_combine_vjp(&self, dy: &Tensor, _: f32) -> Result<Tensor> {
        self.call(Family::Pointwise, 0, &[dy], dy.shape().with_n(2 * dy.shape().n))
    }
    fn embed(&self, x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Result<Tensor> {
        let s = x.shape();
        let tokens = s.tokens() + usize::from(token.is_some());
        self.call(Family::Image, 0, &with(&[x, position], [token, None]), Shape::new(s.n, 1, tokens, s.c))
    }
    fn embed_vjp(&self, dy: &Tensor, x: Shape) -> Result<Tensor> {
        self.call(Family::Image, 0, &[dy], x)
    }
    fn take_token(&self, x: &Tensor, at: &[u32]) -> Result<Tensor> {
        let y = self.activation(Shape::rows(at.len(), x.shape().c));
        self.count(Family::Image, 0, &[&y], &[&y]);
        Ok(y)
    }
    fn take_token_vjp(&self, dy: &Tensor, _: &[u32], x: Shape) -> Result<Tensor> {
        self.call(Family::Image, 0, &[dy], x)
    }
    fn resize(&self, x: &Tensor, h: usize, w: usize, _: Filter) -> Result<Tensor> {
        self.call(Family::Image, 0, &[x], Shape { h, w, ..x.shape() })
    }
    fn resize_vjp(&self, dy: &Tensor, x: Shape, _: Filter) -> Result<Tensor> {
        self.call(Family::Image, 0, &[dy], x)
    }

    fn normals(&self, shape: Shape, _: u64, _: u32, _: Purpose, ids: &[ParticleId]) -> Result<Tensor> {
        assert_eq!(shape.n, ids.len(), "one id per particle");
        self.call(Family::Particle, 0, &[], shape)
    }
    fn advance(
        &self,
        particles: Particles<'_>,
        ancestors: &[u32],
        strength: &[f32],
        _: Advance<'_>,
    ) -> Result<(Tensor, Vec<f64>)> {
        assert_eq!(ancestors.len(), strength.len(), "one strength per slot");
        let y = self.activation(particles.x0.shape().with_n(ancestors.len()));
        // One sample of each state is read per slot.
        let reads = vec![&y; 2 + usize::from(particles.grad.is_some())];
        self.count(Family::Particle, 0, &reads, &[&y]);
        Ok((y, vec![0.0; ancestors.len()]))
    }
    fn squared_norms(&self, x: &Tensor) -> Result<Vec<f64>> {
        self.count(Family::Particle, 0, &[x], &[]);
        Ok(vec![0.0; x.shape().n])
    }
    fn where_finite(&self, score: &Tensor, by: &Tensor) -> Result<Tensor> {
        self.call(Family::Particle, 0, &[score, by], score.shape())
    }
}
