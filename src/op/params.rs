//! Parameters of operations: what an operation is given besides tensors.

use crate::noise::Purpose;
use crate::tensor::{Shape, Tensor};

/// Pointwise nonlinearities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `x * Phi(x)` with the exact normal distribution function (erf), not its tanh approximation.
    Gelu,
    /// `x * sigmoid(1.702 x)`
    QuickGelu,
}

/// What follows a linear map in the same operation; see
/// [`Backend::linear_epilogue`](crate::backend::Backend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// A pointwise nonlinearity.
    Activate(Activation),
    /// `[a, g] -> a * gelu(g)`, which halves the channels.
    Geglu,
}

impl Epilogue {
    /// Shape of the result for the pre-activation's.
    pub fn output(self, x: Shape) -> Shape {
        match self {
            Epilogue::Activate(_) => x,
            Epilogue::Geglu => x.with_c(x.c / 2),
        }
    }
}

/// Geometry of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Pixels from one output to the next, on both axes; 1 with `upsample`.
    pub stride: usize,
    /// Zeros around the image, in pixels: `[top, bottom, left, right]`.
    pub pad: [usize; 4],
    /// The input is first enlarged twice by nearest neighbour, and padded then. The enlarged image is never
    /// stored.
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

    /// Shape of the result for the input `x` and the weight `w` `(out, kh, kw, in)`.
    ///
    /// # Panics
    /// Where `x` and `w` differ in channels, the kernel is larger than the padded input, or an enlarged image
    /// is strided.
    #[track_caller]
    pub fn output(self, x: Shape, w: Shape) -> Shape {
        assert_eq!(x.c, w.c, "conv: input {x} and weight {w} differ in channels");
        assert!(!self.upsample || self.stride == 1, "conv: a strided convolution of an enlarged image");
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

/// Group norm (Wu and He, 2018): the channels in `groups`, each normalised by its mean and biased variance
/// over pixels and channels, then an affine map per channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups of channels; they divide the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Apply SiLU to the result.
    pub silu: bool,
}

/// Heads and scale of an attention: `softmax(scale * q k^T) v` per head, head width `c / heads`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads; they divide the channels.
    pub heads: usize,
    /// Factor of the scores, above 0; usually `1 / sqrt(c / heads)`.
    pub scale: f32,
    /// Token `i` sees tokens `0..=i`. Not for cross attention, where keys have no order.
    pub causal: bool,
}

/// Resampling filter of a resize; both are antialiased (the filter widens when shrinking).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Keys cubic, a = -0.5.
    Bicubic,
}

/// Parameters of `affine_clamp`: `min(max(a x + b, lo), hi)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AffineClamp {
    /// Factor.
    pub a: f32,
    /// Addend.
    pub b: f32,
    /// Least result.
    pub lo: f32,
    /// Largest result.
    pub hi: f32,
}

impl AffineClamp {
    /// `max(x, 0)`.
    pub const RELU: AffineClamp = AffineClamp { a: 1.0, b: 0.0, lo: 0.0, hi: f32::INFINITY };
}

/// Squared coordinates count no more than this in [`Quadratic`] (docs/spec.md 9).
const MOST: f64 = 1e4;

/// A reward of points: `r(x) = -sum_i weight_i min((x_i - centre_i)^2, 1e4)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quadratic {
    /// Where the reward is largest: 0.
    pub centre: [f64; 3],
    /// How fast it falls along each coordinate, at least 0; 0 along those that a point has not.
    pub weight: [f64; 3],
}

impl Quadratic {
    /// A reward of these weights around the origin, at most three.
    #[track_caller]
    pub fn new(weight: &[f64]) -> Quadratic {
        let mut reward = Quadratic::default();
        reward.weight[..weight.len()].copy_from_slice(weight);
        reward
    }

    /// The reward of a point.
    pub fn value(&self, x: &[f64; 3]) -> f64 {
        let terms = self.weight.iter().zip(&self.centre).zip(x);
        terms.map(|((w, c), x)| -w * ((x - c) * (x - c)).min(MOST)).sum()
    }

    /// Its gradient.
    pub fn gradient(&self, x: &[f64; 3]) -> [f64; 3] {
        std::array::from_fn(|i| {
            let away = x[i] - self.centre[i];
            if away * away < MOST { -2.0 * self.weight[i] * away } else { 0.0 }
        })
    }
}

/// What [`Backend::evaluate_points`](crate::backend::Backend::evaluate_points) is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PointStep {
    /// The last input of the network: the time of the step.
    pub time: f32,
    /// `a` and `b` of the clean point `a x + b eps`.
    pub x0: [f32; 2],
    /// The reward of a clean point.
    pub reward: Quadratic,
    /// Whether the gradient of the reward is wanted.
    pub gradient: bool,
}

/// What it answers, for `n` points of `d` coordinates.
#[derive(Clone, Debug)]
pub struct PointValues {
    /// The noise, `(n, 1, 1, d)`.
    pub eps: Tensor,
    /// The clean point, `(n, 1, 1, d)`.
    pub x0: Tensor,
    /// Its reward, `(n, 1, 1, 1)`: computed in f64, rounded to f32.
    pub reward: Tensor,
    /// The gradient of the reward with respect to the point, through the network, `(n, 1, 1, d)`.
    pub grad: Option<Tensor>,
}

/// Whose random numbers a particle draws: see [`crate::noise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParticleId {
    /// Index of the prompt.
    pub prompt: u32,
    /// Index of the particle among those of its prompt.
    pub particle: u32,
}

/// One transition of all particles: `x' = mean + kappa v s g + sqrt(v) z` with
/// `mean = mean_x0 x0 + mean_eps eps`, standard normal `z`, and `s` the strength of each slot, its inverse
/// temperature over alpha (docs/spec.md 1.4).
#[derive(Clone, Copy, Debug)]
pub struct Advance<'a> {
    /// Coefficient of the predicted clean latent.
    pub mean_x0: f32,
    /// Coefficient of the predicted noise.
    pub mean_eps: f32,
    /// Transition variance `v`; 0 for a deterministic chain.
    pub variance: f32,
    /// Factor of the drift along the gradient; 1 for DDIM, `eta^2` for LCM.
    pub kappa: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step, for the noise's key.
    pub step: u32,
    /// What the noise is for.
    pub purpose: Purpose,
    /// Whose noise each slot draws.
    pub ids: &'a [ParticleId],
}

/// The state of all particles that `advance` gathers by ancestor, each `(n, h, w, c)`.
#[derive(Clone, Copy, Debug)]
pub struct Particles<'a> {
    /// Predicted clean latents.
    pub x0: &'a Tensor,
    /// Predicted noise.
    pub eps: &'a Tensor,
    /// Gradient of the reward with respect to the noisy latent; `None` moves by the prior.
    pub grad: Option<&'a Tensor>,
}
