//! The instruction set: what a backend must be able to do. About twenty operations, each with the product of
//! a cotangent and its Jacobian (`_vjp`: `dy -> dx`), and the particle operations. Weights are constants, so
//! only gradients with respect to inputs exist, and linear operations need no saved activation.
//!
//! Callers obey the stated shapes (a breach is our own bug and panics); `Err` is for what the world does:
//! memory, driver, device.

use std::any::Any;

use crate::error::{Error, ErrorKind, Result};
use crate::noise::Purpose;
use crate::tensor::{HostSlice, Shape, Tensor};

/// Pointwise nonlinearities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `x * Phi(x)`, exact (erf)
    Gelu,
    /// `x * sigmoid(1.702 x)`
    QuickGelu,
}

/// What follows a linear map in one operation; see [`Backend::linear_epilogue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    Activate(Activation),
    Geglu,
}

/// Geometry of a convolution. `pad` is `[top, bottom, left, right]` zeros. With `upsample` the input is first
/// enlarged twice by nearest neighbour (never materialised); padding then applies to the enlarged image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    pub stride: usize,
    pub pad: [usize; 4],
    pub upsample: bool,
}

impl Conv {
    /// 3x3, padding 1.
    pub const SAME3: Conv = Conv { stride: 1, pad: [1; 4], upsample: false };
    /// 3x3 on the twice enlarged image.
    pub const UP3: Conv = Conv { stride: 1, pad: [1; 4], upsample: true };
    /// 3x3, stride 2, padding 1 on every side (UNet).
    pub const DOWN3: Conv = Conv { stride: 2, pad: [1; 4], upsample: false };
    /// 3x3, stride 2, padding bottom and right only (VAE encoder).
    pub const DOWN3_ASYM: Conv = Conv { stride: 2, pad: [0, 1, 0, 1], upsample: false };
    /// Non-overlapping patches of side `p`.
    pub const fn patches(p: usize) -> Conv {
        Conv { stride: p, pad: [0; 4], upsample: false }
    }

    /// Output shape for input `x` and weight `w` `(out, kh, kw, in)`.
    #[track_caller]
    pub fn output(self, x: Shape, w: Shape) -> Shape {
        assert_eq!(x.c, w.c, "conv: input {x} and weight {w} differ in channels");
        let up = if self.upsample { 2 } else { 1 };
        let size = |len: usize, a: usize, b: usize, k: usize| {
            let padded = len * up + a + b;
            assert!(padded >= k, "conv: kernel {k} larger than padded input {padded}");
            (padded - k) / self.stride + 1
        };
        Shape::new(
            x.n,
            size(x.h, self.pad[0], self.pad[1], w.h),
            size(x.w, self.pad[2], self.pad[3], w.w),
            w.n,
        )
    }
}

/// Group norm: `c` channels in `groups`, biased variance, optional SiLU after the affine map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    pub groups: usize,
    pub eps: f32,
    pub silu: bool,
}

/// Heads and scale of an attention: `softmax(scale * q k^T) v` per head, head width `c / heads`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    pub heads: usize,
    pub scale: f32,
    /// Token `i` sees tokens `0..=i`.
    pub causal: bool,
}

/// Resampling filter of [`Backend::resize`]; both are antialiased (the filter widens when shrinking).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Keys cubic, a = -0.5.
    Bicubic,
}

/// A saved intermediate of a forward operation, kept for its transpose.
pub type Saved = Tensor;

/// Who a particle is, for its noise: see [`crate::noise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParticleId {
    pub prompt: u32,
    pub particle: u32,
}

/// One transition of all particles: `x' = mean + kappa v s g + sqrt(v) z`, `mean = mean_x0 x0 + mean_eps eps`,
/// `s` the inverse temperature over alpha of each particle.
#[derive(Clone, Copy, Debug)]
pub struct Advance<'a> {
    pub mean_x0: f32,
    pub mean_eps: f32,
    /// Transition variance `v`.
    pub variance: f32,
    /// Guidance strength; 1 for DDIM, eta^2 for LCM.
    pub kappa: f32,
    pub seed: u64,
    pub step: u32,
    pub purpose: Purpose,
    pub ids: &'a [ParticleId],
}

/// The state of all particles that `advance` gathers by ancestor, each `(n, h, w, c)`.
#[derive(Clone, Copy, Debug)]
pub struct Particles<'a> {
    pub x0: &'a Tensor,
    pub eps: &'a Tensor,
    /// Gradient of the reward with respect to the noisy latent; `None` moves by the prior.
    pub grad: Option<&'a Tensor>,
}

/// A device that can run the networks and move the particles.
///
/// Names: `x` input, `y` output, `w` weight, `b` bias, `dy` cotangent of `y`, result of `_vjp` the cotangent
/// of `x`. All tensors of one call belong to this backend.
pub trait Backend: Send + Sync {
    /// For records: `cpu`, `cuda:0 NVIDIA H200`, `meter`.
    fn name(&self) -> String;

    /// Runs `f` on `inputs`. A device may record the work at one of the first calls with this `record` and replay it
    /// at later ones instead of calling `f`: so `f` does the same operations whenever the record is the same, its
    /// results depend on `inputs` and on nothing else that changes, and it waits for no result (where it does, it is
    /// called every time).
    fn replay(
        &self,
        _record: &mut Record,
        inputs: &[&Tensor],
        f: &mut dyn FnMut(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        f(&inputs.iter().map(|&x| x.clone()).collect::<Vec<_>>())
    }

    /// Names what follows for profilers, until the end of the range is said by `range_end`. Ranges nest.
    fn range_start(&self, _name: &str) {}
    fn range_end(&self) {}

    // Memory.

    /// Copies host elements, converted to the backend's element type. Weights keep 16 bits where that is exact.
    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor>;
    /// Copies to the host as f32, waiting for the device.
    fn download(&self, x: &Tensor) -> Result<Vec<f32>>;
    fn zeros(&self, shape: Shape) -> Result<Tensor>;
    /// Bytes in use now and at most since the last `reset_peak`, parameters included.
    fn memory(&self) -> Memory;
    fn reset_peak(&self);

    // Linear maps with constant weights. `b` is `(1|n, 1, 1, out)`, `add` is shaped like `y`.

    /// `y = x w^T + b + add` over the rows of `(n*h*w, in)`; `w` `(out, 1, 1, in)`.
    fn linear(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>) -> Result<Tensor>;
    /// `linear` and then `epilogue`; and what that was given, which its transpose wants, if `keep`.
    fn linear_epilogue(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        epilogue: Epilogue,
        keep: bool,
    ) -> Result<(Tensor, Option<Saved>)> {
        let given = self.linear(x, w, b, None)?;
        let y = match epilogue {
            Epilogue::Activate(f) => self.activate(&given, f)?,
            Epilogue::Geglu => self.geglu(&given)?,
        };
        Ok((y, keep.then_some(given)))
    }
    /// `dx = dy w`.
    fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor>;
    /// Convolution (cross-correlation), `w` `(out, kh, kw, in)`.
    fn conv(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        add: Option<&Tensor>,
        conv: Conv,
    ) -> Result<Tensor>;
    /// `x` is the shape of the forward's input.
    fn conv_vjp(&self, dy: &Tensor, w: &Tensor, x: Shape, conv: Conv) -> Result<Tensor>;

    // Normalisation. `gamma`, `beta` are `(1, 1, 1, c)`; the saved tensor holds mean and 1/std in f32.

    fn group_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        norm: GroupNorm,
    ) -> Result<(Tensor, Saved)>;
    fn group_norm_vjp(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        norm: GroupNorm,
    ) -> Result<Tensor>;
    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<(Tensor, Saved)>;
    fn layer_norm_vjp(&self, x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Result<Tensor>;
    /// Each row divided by its Euclidean length (at least 1e-12).
    fn l2_norm(&self, x: &Tensor) -> Result<Tensor>;
    fn l2_norm_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor>;

    // Attention. Tokens are `h*w`; heads are contiguous slices of the channels.

    /// `qkv` `(n, h, w, 3c)` holds q, k, v side by side; `y` `(n, h, w, c)`. Saved: log-sum-exp `(n, heads, tokens)`.
    fn self_attention(&self, qkv: &Tensor, attention: Attention) -> Result<(Tensor, Saved)>;
    fn self_attention_vjp(
        &self,
        qkv: &Tensor,
        y: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        attention: Attention,
    ) -> Result<Tensor>;
    /// Constant keys and values: `kv` `(m, 1, tokens, 2c)`, sample `i` attends to row `kv_of[i]`.
    fn cross_attention(&self, q: &Tensor, kv: &Tensor, kv_of: &[u32], attention: Attention)
    -> Result<Tensor>;
    fn cross_attention_vjp(
        &self,
        q: &Tensor,
        kv: &Tensor,
        kv_of: &[u32],
        dy: &Tensor,
        attention: Attention,
    ) -> Result<Tensor>;

    // Pointwise.

    fn activate(&self, x: &Tensor, f: Activation) -> Result<Tensor>;
    fn activate_vjp(&self, x: &Tensor, dy: &Tensor, f: Activation) -> Result<Tensor>;
    /// `x` `(n, h, w, 2c)` is `[a, g]`; `y = a * gelu(g)` `(n, h, w, c)`.
    fn geglu(&self, x: &Tensor) -> Result<Tensor>;
    fn geglu_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor>;
    /// `a x + b y`; transposes are the same call with zeros elided by the tape.
    fn axpby(&self, a: f32, x: &Tensor, b: f32, y: &Tensor) -> Result<Tensor>;
    /// `k0 x + k1 y` with `k` `(1, 1, 1, 2)` on the device: coefficients that change from step to step while the
    /// work stays the same.
    fn blend(&self, k: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor>;
    /// `k[which] dy`.
    fn blend_vjp(&self, k: &Tensor, which: usize, dy: &Tensor) -> Result<Tensor>;
    /// `a x`.
    fn scale(&self, a: f32, x: &Tensor) -> Result<Tensor>;
    /// `min(max(a x + b, lo), hi)`.
    fn affine_clamp(&self, x: &Tensor, map: AffineClamp) -> Result<Tensor>;
    /// `a dy` where the forward was strictly inside `(lo, hi)` or on a bound exactly, else 0.
    fn affine_clamp_vjp(&self, x: &Tensor, dy: &Tensor, map: AffineClamp) -> Result<Tensor>;
    /// `x * gain + shift` per channel, both `(1, 1, 1, c)`. Its transpose is itself without the shift.
    fn channel_affine(&self, x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Result<Tensor>;

    // Moving data.

    /// `[x, y]` along the channels.
    fn concat(&self, x: &Tensor, y: &Tensor) -> Result<Tensor>;
    /// Channels `from..from+c` of `x`.
    fn slice(&self, x: &Tensor, from: usize, c: usize) -> Result<Tensor>;
    /// Transpose of `slice`: `dy` placed at channel `from` of zeros with `c` channels.
    fn slice_vjp(&self, dy: &Tensor, from: usize, c: usize) -> Result<Tensor>;
    /// The batch `times` over: `(n) -> (times * n)`, whole batch after whole batch.
    fn repeat(&self, x: &Tensor, times: usize) -> Result<Tensor>;
    /// Sum over the `times` copies.
    fn repeat_vjp(&self, dy: &Tensor, times: usize) -> Result<Tensor>;
    /// Samples `rows` of `x`, in that order: `(n, ..) -> (rows.len(), ..)`.
    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor>;
    /// Batches one after another.
    fn stack(&self, parts: &[&Tensor]) -> Result<Tensor>;
    /// Classifier-free guidance: `x` `(2n, ..)` is `[uncond, cond]`; `y = u + s (c - u)`.
    fn cfg_combine(&self, x: &Tensor, s: f32) -> Result<Tensor>;
    /// `[(1-s) dy, s dy]`.
    fn cfg_combine_vjp(&self, dy: &Tensor, s: f32) -> Result<Tensor>;
    /// Puts `token` `(1, 1, 1, c)` before the tokens of `x` (if given) and adds `position` `(1, 1, tokens, c)`:
    /// `(n, h, w, c) -> (n, 1, tokens, c)`.
    fn embed(&self, x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Result<Tensor>;
    /// Drops the class token's row: `x` is the forward's input shape.
    fn embed_vjp(&self, dy: &Tensor, x: Shape) -> Result<Tensor>;
    /// Token `at[i]` of each sample: `(n, h, w, c) -> (n, 1, 1, c)`.
    fn take_token(&self, x: &Tensor, at: &[u32]) -> Result<Tensor>;
    fn take_token_vjp(&self, dy: &Tensor, at: &[u32], x: Shape) -> Result<Tensor>;
    /// Antialiased resize to `(h, w)`, as torchvision's on tensors; half-pixel centres, weights normalised.
    fn resize(&self, x: &Tensor, h: usize, w: usize, filter: Filter) -> Result<Tensor>;
    fn resize_vjp(&self, dy: &Tensor, x: Shape, filter: Filter) -> Result<Tensor>;

    // Particles.

    /// Standard normals for each particle, keyed by (seed, prompt, particle, step, purpose).
    fn normals(
        &self,
        shape: Shape,
        seed: u64,
        step: u32,
        purpose: Purpose,
        ids: &[ParticleId],
    ) -> Result<Tensor>;
    /// Gathers whole particles by `ancestors` (index into the batch; slot `i` takes particle `ancestors[i]`),
    /// draws the next latents and returns `(x', log p - log m)` with the ratio `(n, 1, 1, 1)` per slot:
    /// `-1/2 kappa^2 v |s g|^2 - kappa sqrt(v) <s g, z>` (docs/spec.md 1.4). `strength` is `s` of each slot,
    /// after the gather.
    fn advance(
        &self,
        particles: Particles<'_>,
        ancestors: &[u32],
        strength: &[f32],
        advance: Advance<'_>,
    ) -> Result<(Tensor, Vec<f64>)>;
    /// Squared Euclidean length of each sample.
    fn squared_norms(&self, x: &Tensor) -> Result<Vec<f64>>;
    /// `score` `(n, 1, 1, 1)` where every element of that sample of `by` is finite, NaN elsewhere.
    fn where_finite(&self, score: &Tensor, by: &Tensor) -> Result<Tensor>;
}

/// Work that a device has recorded, or knows it cannot record; for [`Backend::replay`]. Empty at first.
#[derive(Default)]
pub struct Record(pub Option<Box<dyn Any>>);

/// A range of [`Backend::range_start`] that ends with its scope.
pub struct Range<'a>(&'a dyn Backend);

/// Opens a range named `name`.
pub fn range<'a>(backend: &'a dyn Backend, name: &str) -> Range<'a> {
    backend.range_start(name);
    Range(backend)
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        self.0.range_end();
    }
}

/// Parameters of [`Backend::affine_clamp`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AffineClamp {
    pub a: f32,
    pub b: f32,
    pub lo: f32,
    pub hi: f32,
}

/// Bytes of tensors alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub live: u64,
    pub peak: u64,
}

/// The error for `elements` f32 numbers that do not fit into memory.
pub fn out_of_memory(elements: usize) -> Error {
    let gigabytes = 4.0 * elements as f64 / 1e9;
    Error::new(ErrorKind::Memory, format!("out of memory: {gigabytes:.1} GB more are needed")).option("micro_batch").advice(
        "lower `micro_batch`, set `checkpointing` on, or ask for smaller images with `width` and `height`",
    )
}

/// An empty list with room for `len` elements, for what a backend hands to the host.
///
/// # Errors
/// [`ErrorKind::Memory`] where the memory is not there: a `Vec` of that size would abort
/// the program.
pub fn reserved(len: usize) -> Result<Vec<f32>> {
    let mut list = Vec::new();
    list.try_reserve_exact(len).map_err(|e| out_of_memory(len).because(e))?;
    Ok(list)
}
