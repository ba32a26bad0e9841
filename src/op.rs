//! Operations, each described once: its name and signature in [`for_each_op`], and a
//! function of the same name below, which checks the shapes of what it is given and says what it makes and
//! what it costs ([`Description`]).
//!
//! From the table come the methods of [`Backend`](crate::backend::Backend), the forwarding of the backends to
//! their launchers, the counts of the [`Meter`](crate::meter::Meter), the observation in benches, and
//! [`NAMES`], which the table of test cases is held against. `docs/recipes.md` lists the places that a new
//! operation touches.
//!
//! Names: `x` input, `y` output, `w` weight, `b` bias, `dy` cotangent of `y`. The result of `_vjp` is the
//! product of the cotangent and the Jacobian: the cotangent of `x`. Weights of models are constants, so only
//! cotangents of inputs exist, and linear operations need no saved activation; `linear_weight_vjp` is for the
//! small networks that this program trains. A cotangent may have another shape of as many elements.
//!
//! A breach of the stated shapes is the caller's own bug and panics, on every backend with the same words.

mod description;
mod params;

use crate::noise::Purpose;
use crate::tensor::{Shape, Tensor};

pub use description::{Description, Elements, Family};
pub use params::{
    Activation, Advance, AffineClamp, Attention, Conv, Epilogue, Filter, GroupNorm, ParticleId, Particles,
    PointStep, PointValues, Quadratic,
};

/// A saved intermediate of a forward operation, kept for its transpose.
pub type Saved = Tensor;

/// Hands the table of operations to the macro `$callback`: groups, which name the files of an operation under
/// `cpu/`, `cuda/ops/` and `kernels/`, and in each the operations' signatures with their documentation.
///
/// ```ignore
/// $callback! {
///     linear {
///         /// `y = x w^T + b + add`
///         fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>) -> Tensor;
///         ..
///     }
///     conv { .. }
///     ..
/// }
/// ```
///
/// So a callback that forwards to another backend is
///
/// ```
/// use das_cuda::backend::*;
/// use das_cuda::{Result, noise::Purpose, tensor::{HostSlice, Shape, Tensor}};
///
/// struct Wrapper<'a>(&'a dyn Backend);
///
/// macro_rules! forward {
///     ($($group:ident {
///         $($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $result:ty;)*
///     })*) => {$($(
///         fn $name(&self, $($arg: $kind),*) -> Result<$result> {
///             self.0.$name($($arg),*)
///         }
///     )*)*};
/// }
///
/// impl Backend for Wrapper<'_> {
///     // fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
///     //     self.0.linear_vjp(dy, w)
///     // }
///     // and so on, one method for each operation.
///     das_cuda::op::for_each_op!(forward);
///
///     fn name(&self) -> String {
///         self.0.name()
///     }
///     fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
///         self.0.upload(shape, data)
///     }
///     fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
///         self.0.download(x)
///     }
///     fn zeros(&self, shape: Shape) -> Result<Tensor> {
///         self.0.zeros(shape)
///     }
///     fn memory(&self) -> Memory {
///         self.0.memory()
///     }
///     fn reset_peak(&self) {
///         self.0.reset_peak();
///     }
/// }
/// ```
///
/// The types of the signatures are resolved where the macro is called.
#[macro_export]
macro_rules! for_each_op {
    ($callback:ident) => {
        $callback! {
            linear {
                /// `y = x w^T + b + add` over the rows of `x` `(n, h, w, in)`; `w` `(out, 1, 1, in)`, `b`
                /// `(1|n, 1, 1, out)`, `add` as many elements as `y` `(n, h, w, out)`. If `add` is f32, so is
                /// `y`.
                fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>) -> Tensor;
                /// `dx = dy w`.
                fn linear_vjp(dy: &Tensor, w: &Tensor) -> Tensor;
                /// `dw = dy^T x` over all rows, `(out, 1, 1, in)`, in f32: for layers that learn.
                fn linear_weight_vjp(dy: &Tensor, x: &Tensor) -> Tensor;
            }
            conv {
                /// Convolution (cross-correlation, as in the field) of `x` `(n, h, w, in)` with `w`
                /// `(out, kh, kw, in)`, plus `b` `(1|n, 1, 1, out)` and `add` of as many elements as the
                /// result, which is f32 if `add` is.
                fn conv(
                    x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>, conv: Conv
                ) -> Tensor;
                /// `x` is the shape of the forward's input.
                fn conv_vjp(dy: &Tensor, w: &Tensor, x: Shape, conv: Conv) -> Tensor;
            }
            norm {
                /// Group norm with `gamma` and `beta` `(1, 1, 1, c)`. Saved, in f32: mean in two parts and
                /// 1/std of each group, `(n, 1, groups, 3)`.
                fn group_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, norm: GroupNorm) -> (Tensor, Saved);
                /// `dx` of a group norm; `saved` is what the forward saved.
                fn group_norm_vjp(
                    x: &Tensor, gamma: &Tensor, beta: &Tensor, saved: &Saved, dy: &Tensor, norm: GroupNorm
                ) -> Tensor;
                /// Layer norm of each row of `c` channels, with `gamma` and `beta` `(1, 1, 1, c)` and `eps`
                /// added to the biased variance. Saved, in f32: mean in two parts and 1/std of each row,
                /// `(n, h, w, 3)`.
                fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> (Tensor, Saved);
                /// `dx` of a layer norm; `saved` is what the forward saved.
                fn layer_norm_vjp(x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Tensor;
                /// Each row of `c` channels divided by its Euclidean length (at least 1e-12).
                fn l2_norm(x: &Tensor) -> Tensor;
                /// `dx` of `l2_norm`.
                fn l2_norm_vjp(x: &Tensor, dy: &Tensor) -> Tensor;
            }
            attention {
                /// `qkv` `(n, h, w, 3c)` holds q, k and v side by side; `y` `(n, h, w, c)`. Tokens are the
                /// `h * w` pixels, heads are contiguous slices of the channels. Saved, in f32: log-sum-exp of
                /// the scores, `(n, 1, heads, tokens)`.
                fn self_attention(qkv: &Tensor, attention: Attention) -> (Tensor, Saved);
                /// `dqkv`; `y` and `saved` are the forward's results.
                fn self_attention_vjp(
                    qkv: &Tensor, y: &Tensor, saved: &Saved, dy: &Tensor, attention: Attention
                ) -> Tensor;
                /// Attention of `q` `(n, h, w, c)` to constant keys and values `kv` `(m, 1, tokens, 2c)`:
                /// sample `i` attends to row `kv_of[i]`.
                fn cross_attention(q: &Tensor, kv: &Tensor, kv_of: &[u32], attention: Attention) -> Tensor;
                /// `dq`; keys and values are constants.
                fn cross_attention_vjp(
                    q: &Tensor, kv: &Tensor, kv_of: &[u32], dy: &Tensor, attention: Attention
                ) -> Tensor;
            }
            pointwise {
                /// `f(x)` of each element.
                fn activate(x: &Tensor, f: Activation) -> Tensor;
                /// `f'(x) dy`.
                fn activate_vjp(x: &Tensor, dy: &Tensor, f: Activation) -> Tensor;
                /// `x` `(n, h, w, 2c)` is `[a, g]`; `y = a * gelu(g)` `(n, h, w, c)` (Shazeer, 2020).
                fn geglu(x: &Tensor) -> Tensor;
                /// `dx` `(n, h, w, 2c)`.
                fn geglu_vjp(x: &Tensor, dy: &Tensor) -> Tensor;
                /// `a x + b y` of tensors of one shape. Its transposes are `scale` by `a` and by `b`.
                fn axpby(a: f32, x: &Tensor, b: f32, y: &Tensor) -> Tensor;
                /// `k0 x + k1 y` with `k` `(1, 1, 1, 2)` on the device: coefficients that change from step to
                /// step while the recorded work stays the same.
                fn blend(k: &Tensor, x: &Tensor, y: &Tensor) -> Tensor;
                /// `k[which] dy`.
                fn blend_vjp(k: &Tensor, which: usize, dy: &Tensor) -> Tensor;
                /// `a x`; its own transpose.
                fn scale(a: f32, x: &Tensor) -> Tensor;
                /// `min(max(a x + b, lo), hi)`.
                fn affine_clamp(x: &Tensor, map: AffineClamp) -> Tensor;
                /// `a dy` where the forward was strictly inside `(lo, hi)` or on a bound exactly, else 0.
                fn affine_clamp_vjp(x: &Tensor, dy: &Tensor, map: AffineClamp) -> Tensor;
                /// `limit tanh(x / limit)`: the identity near 0, and never beyond `limit`, which is above 0.
                fn soft_clamp(x: &Tensor, limit: f32) -> Tensor;
                /// `(1 - tanh(x / limit)^2) dy`.
                fn soft_clamp_vjp(x: &Tensor, dy: &Tensor, limit: f32) -> Tensor;
                /// `x * gain + shift` per channel, both `(1, 1, 1, c)`. Its transpose is itself without the
                /// shift.
                fn channel_affine(x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Tensor;
                /// Classifier-free guidance (Ho and Salimans, 2022): `x` `(2n, h, w, c)` is `[u, c]`, without
                /// and with the prompt; `y = u + s (c - u)`.
                fn cfg_combine(x: &Tensor, s: f32) -> Tensor;
                /// `[(1 - s) dy, s dy]`.
                fn cfg_combine_vjp(dy: &Tensor, s: f32) -> Tensor;
            }
            image {
                /// `[x, y]` along the channels.
                fn concat(x: &Tensor, y: &Tensor) -> Tensor;
                /// Channels `from..from + c` of `x`.
                fn slice(x: &Tensor, from: usize, c: usize) -> Tensor;
                /// `dy` placed at channel `from` of zeros with `c` channels.
                fn slice_vjp(dy: &Tensor, from: usize, c: usize) -> Tensor;
                /// The batch `times` over: `(n, ..) -> (times * n, ..)`, whole batch after whole batch.
                fn repeat(x: &Tensor, times: usize) -> Tensor;
                /// Sum over the `times` copies.
                fn repeat_vjp(dy: &Tensor, times: usize) -> Tensor;
                /// Samples `rows` of `x`, in that order: `(n, ..) -> (rows.len(), ..)`.
                fn gather(x: &Tensor, rows: &[u32]) -> Tensor;
                /// Batches one after another; at least one.
                fn stack(parts: &[&Tensor]) -> Tensor;
                /// Puts `token` `(1, 1, 1, c)` before the tokens of `x` (if given) and adds `position`
                /// `(1, 1, tokens, c)`: `(n, h, w, c) -> (n, 1, tokens, c)`. f32 on every device: a sum
                /// that grows over the layers of a transformer begins here, and in 16 bits every layer would
                /// round all of it.
                fn embed(x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Tensor;
                /// Drops the class token's row, if there is one; `x` is the shape of the forward's input.
                fn embed_vjp(dy: &Tensor, x: Shape) -> Tensor;
                /// Token `at[i]` of sample `i`: `(n, h, w, c) -> (n, 1, 1, c)`.
                fn take_token(x: &Tensor, at: &[u32]) -> Tensor;
                /// `dy` placed at the tokens `at` of zeros; `x` is the shape of the forward's input.
                fn take_token_vjp(dy: &Tensor, at: &[u32], x: Shape) -> Tensor;
                /// Antialiased resize to `h` by `w` pixels, as torchvision's on tensors: half-pixel centres,
                /// weights normalised.
                fn resize(x: &Tensor, h: usize, w: usize, filter: Filter) -> Tensor;
                /// `x` is the shape of the forward's input.
                fn resize_vjp(dy: &Tensor, x: Shape, filter: Filter) -> Tensor;
            }
            particle {
                /// Standard normals for each particle, keyed by (seed, prompt, particle, step, purpose);
                /// `ids` has one entry per sample of `shape`.
                fn normals(
                    shape: Shape, seed: u64, step: u32, purpose: Purpose, ids: &[ParticleId]
                ) -> Tensor;
                /// Gathers whole particles by `ancestors` (slot `i` takes particle `ancestors[i]` of the
                /// batch), draws the next latents, and returns them with `log p - log m` of each slot:
                /// `-1/2 kappa^2 v |s g|^2 - kappa sqrt(v) <s g, z>` (docs/spec.md 1.4), in natural
                /// logarithms. `strength` is `s` of each slot, after the gather.
                fn advance(
                    particles: Particles<'_>, ancestors: &[u32], strength: &[f32], advance: Advance<'_>
                ) -> (Tensor, Vec<f64>);
                /// Squared Euclidean length of each sample.
                fn squared_norms(x: &Tensor) -> Vec<f64>;
                /// `score` `(n, 1, 1, 1)` where every element of that sample of `by` is finite, NaN
                /// elsewhere.
                fn where_finite(score: &Tensor, by: &Tensor) -> Tensor;
            }
        }
    };
}

#[doc(no_inline)]
pub use for_each_op;

macro_rules! names {
    ($($group:ident {
        $($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $result:ty;)*
    })*) => {
        &[$($(stringify!($name)),*),*]
    };
}

/// Names of all operations, in the table's order.
pub const NAMES: &[&str] = for_each_op!(names);

/// Bias and addend of a linear map with the result `y`.
#[track_caller]
fn check_addends(b: Option<&Tensor>, add: Option<&Tensor>, y: Shape) {
    if let Some(b) = b.map(Tensor::shape) {
        assert!(b.c == y.c && [1, y.n].contains(&b.n), "bias {b} for {} samples of {} channels", y.n, y.c);
    }
    if let Some(add) = add.map(Tensor::shape) {
        assert_eq!(add.len(), y.len(), "addend {add} for a result {y}");
    }
}

/// A cotangent has as many elements as what it belongs to.
#[track_caller]
fn check_cotangent(dy: &Tensor, y: Shape) {
    assert_eq!(dy.shape().len(), y.len(), "{} is no cotangent of {y}", dy.shape());
}

/// A number for each channel of `x`.
#[track_caller]
fn check_channels(what: &str, of: &Tensor, x: Shape) {
    assert_eq!(of.shape().len(), x.c, "{what} {} for the channels of {x}", of.shape());
}

#[track_caller]
fn check_rows(rows: &[u32], n: usize) {
    assert!(rows.iter().all(|&row| (row as usize) < n), "rows {rows:?} of {n}");
}

/// Describes `linear`.
#[track_caller]
pub fn linear<'a>(
    x: &'a Tensor,
    w: &'a Tensor,
    b: Option<&'a Tensor>,
    add: Option<&'a Tensor>,
) -> Description<'a> {
    let (s, weight) = (x.shape(), w.shape());
    assert_eq!((weight.h, weight.w, weight.c), (1, 1, s.c), "linear: weight {weight} for the input {s}");
    let y = s.with_c(weight.n);
    check_addends(b, add, y);
    Description::new(Family::Linear, y, [x, w])
        .also_reading([b])
        .adding(add)
        .products(1, &[s.positions(), weight.n, weight.c])
        .packing(weight.c, weight.n)
}

/// Describes `linear_vjp`.
#[track_caller]
pub fn linear_vjp<'a>(dy: &'a Tensor, w: &'a Tensor) -> Description<'a> {
    let (s, weight) = (dy.shape(), w.shape());
    assert_eq!(
        (weight.h, weight.w, weight.n),
        (1, 1, s.c),
        "linear_vjp: weight {weight} for the cotangent {s}"
    );
    Description::new(Family::Linear, s.with_c(weight.c), [dy, w])
        .products(1, &[s.positions(), weight.n, weight.c])
        .packing(weight.n, weight.c)
}

/// Describes `linear_weight_vjp`. On the host every [`WEIGHT_ROWS`] rows are summed apart.
#[track_caller]
pub fn linear_weight_vjp<'a>(dy: &'a Tensor, x: &'a Tensor) -> Description<'a> {
    let (s, input) = (dy.shape(), x.shape());
    assert_eq!(s.positions(), input.positions(), "linear_weight_vjp: cotangent {s} for the input {input}");
    let parts = s.positions().div_ceil(WEIGHT_ROWS).max(1);
    Description::new(Family::Linear, Shape::rows(s.c, input.c), [dy, x])
        .making_f32()
        .products(1, &[s.positions(), s.c, input.c])
        .with_scratch(parts * s.c * input.c)
}

/// Rows of a partial sum of a weight's gradient on the host.
pub const WEIGHT_ROWS: usize = 1024;

/// A 1x1 convolution is a linear layer.
fn conv_family(w: Shape) -> Family {
    if w.h * w.w == 1 { Family::Linear } else { Family::Conv }
}

/// Input pixels an output pixel reads. On a twice enlarged image kernel positions fall on the same pixels:
/// `k / 2 + 1` per axis for an odd kernel.
fn conv_taps(w: Shape, conv: Conv) -> usize {
    let taps = |k: usize| if conv.upsample { k / 2 + 1 } else { k };
    taps(w.h) * taps(w.w)
}

/// Describes `conv`. On a twice enlarged image the work is that of the four sub-pixel kernels that it folds
/// into (4/9 of a 3x3), because that is what is executed.
#[track_caller]
pub fn conv<'a>(
    x: &'a Tensor,
    w: &'a Tensor,
    b: Option<&'a Tensor>,
    add: Option<&'a Tensor>,
    conv: Conv,
) -> Description<'a> {
    let weight = w.shape();
    let y = conv.output(x.shape(), weight);
    check_addends(b, add, y);
    let taps = conv_taps(weight, conv);
    // One packed factor for each of the four kinds of pixels of an enlarged image.
    let kinds = if conv.upsample { 4 } else { 1 };
    Description::new(conv_family(weight), y, [x, w])
        .also_reading([b])
        .adding(add)
        .products(1, &[y.positions(), weight.n, taps, weight.c])
        .packing(kinds * taps * weight.c, weight.n)
}

/// Describes `conv_vjp`.
#[track_caller]
pub fn conv_vjp<'a>(dy: &'a Tensor, w: &'a Tensor, x: Shape, conv: Conv) -> Description<'a> {
    let weight = w.shape();
    let y = conv.output(x, weight);
    check_cotangent(dy, y);
    // A pixel stands twice per axis of the enlarged image, so its kernel is one wider.
    let more = usize::from(conv.upsample);
    Description::new(conv_family(weight), x, [dy, w])
        .products(1, &[y.positions(), weight.n, conv_taps(weight, conv), weight.c])
        .packing((weight.h + more) * (weight.w + more) * weight.n, weight.c)
}

/// Numbers saved per group or row by the norms: mean in two parts, 1/std.
const NORM_SAVED: usize = 3;

/// What a group norm of `x` saves.
#[track_caller]
fn group_saved(x: Shape, norm: GroupNorm) -> Shape {
    let groups = norm.groups;
    assert!(groups > 0 && x.c.is_multiple_of(groups), "{} channels in {groups} groups", x.c);
    Shape::new(x.n, 1, groups, NORM_SAVED)
}

/// Describes `group_norm`.
#[track_caller]
pub fn group_norm<'a>(
    x: &'a Tensor,
    gamma: &'a Tensor,
    beta: &'a Tensor,
    norm: GroupNorm,
) -> Description<'a> {
    let s = x.shape();
    check_channels("gamma", gamma, s);
    check_channels("beta", beta, s);
    Description::new(Family::Norm, s, [x, gamma, beta]).saving(group_saved(s, norm))
}

/// Describes `group_norm_vjp`.
#[track_caller]
pub fn group_norm_vjp<'a>(
    x: &'a Tensor,
    gamma: &'a Tensor,
    beta: &'a Tensor,
    saved: &'a Saved,
    dy: &'a Tensor,
    norm: GroupNorm,
) -> Description<'a> {
    let s = x.shape();
    check_channels("gamma", gamma, s);
    check_channels("beta", beta, s);
    check_cotangent(dy, s);
    assert_eq!(saved.shape().len(), group_saved(s, norm).len(), "statistics of a group norm of {s}");
    Description::new(Family::Norm, s, [x, gamma, beta, saved, dy])
}

/// Describes `layer_norm`.
#[track_caller]
pub fn layer_norm<'a>(x: &'a Tensor, gamma: &'a Tensor, beta: &'a Tensor, _eps: f32) -> Description<'a> {
    let s = x.shape();
    check_channels("gamma", gamma, s);
    check_channels("beta", beta, s);
    Description::new(Family::Norm, s, [x, gamma, beta]).saving(s.with_c(NORM_SAVED))
}

/// Describes `layer_norm_vjp`.
#[track_caller]
pub fn layer_norm_vjp<'a>(
    x: &'a Tensor,
    gamma: &'a Tensor,
    saved: &'a Saved,
    dy: &'a Tensor,
) -> Description<'a> {
    let s = x.shape();
    check_channels("gamma", gamma, s);
    check_cotangent(dy, s);
    assert_eq!(saved.shape().len(), s.with_c(NORM_SAVED).len(), "statistics of a layer norm of {s}");
    Description::new(Family::Norm, s, [x, gamma, saved, dy])
}

/// Describes `l2_norm`.
pub fn l2_norm(x: &Tensor) -> Description<'_> {
    Description::new(Family::Norm, x.shape(), [x])
}

/// Describes `l2_norm_vjp`.
#[track_caller]
pub fn l2_norm_vjp<'a>(x: &'a Tensor, dy: &'a Tensor) -> Description<'a> {
    check_cotangent(dy, x.shape());
    Description::new(Family::Norm, x.shape(), [x, dy])
}

/// Shapes of the result of a self-attention to `qkv`, and of what it saves.
#[track_caller]
fn self_attention_shapes(qkv: Shape, attention: Attention) -> (Shape, Shape) {
    let Attention { heads, scale, .. } = attention;
    assert!(heads > 0 && qkv.c.is_multiple_of(3 * heads), "q, k and v {qkv} in {heads} heads");
    assert!(scale > 0.0, "scale {scale} of attention");
    let y = qkv.with_c(qkv.c / 3);
    (y, Shape::new(y.n, 1, heads, y.tokens()))
}

/// Describes `self_attention`. The work is that of whole score matrices, causal or not: two products.
#[track_caller]
pub fn self_attention(qkv: &Tensor, attention: Attention) -> Description<'_> {
    let (y, saved) = self_attention_shapes(qkv.shape(), attention);
    Description::new(Family::SelfAttention, y, [qkv])
        .saving(saved)
        .products(2, &[y.n, y.tokens(), y.tokens(), y.c])
}

/// Describes `self_attention_vjp`. Five products: scores again, dP, dV, dQ, dK.
#[track_caller]
pub fn self_attention_vjp<'a>(
    qkv: &'a Tensor,
    y: &'a Tensor,
    saved: &'a Saved,
    dy: &'a Tensor,
    attention: Attention,
) -> Description<'a> {
    let (s, statistics) = self_attention_shapes(qkv.shape(), attention);
    assert_eq!(y.shape().len(), s.len(), "result {} of self-attention to {}", y.shape(), qkv.shape());
    assert_eq!(saved.shape().len(), statistics.len(), "log-sum-exp of self-attention to {}", qkv.shape());
    check_cotangent(dy, s);
    Description::new(Family::SelfAttention, qkv.shape(), [qkv, y, saved, dy])
        .products(5, &[s.n, s.tokens(), s.tokens(), s.c])
}

#[track_caller]
fn check_cross_attention(q: Shape, kv: Shape, kv_of: &[u32], attention: Attention) {
    let Attention { heads, scale, causal } = attention;
    assert!(!causal, "cross attention has no order");
    assert!(heads > 0 && q.c.is_multiple_of(heads), "{} channels in {heads} heads", q.c);
    assert!(scale > 0.0, "scale {scale} of attention");
    assert_eq!(kv.c, 2 * q.c, "keys and values {kv} as wide as queries {q}");
    assert!(kv.tokens() > 0 || q.is_empty(), "no keys to attend to");
    assert_eq!(kv_of.len(), q.n, "one key row per sample");
    check_rows(kv_of, kv.n);
}

/// Describes `cross_attention`. Two products.
#[track_caller]
pub fn cross_attention<'a>(
    q: &'a Tensor,
    kv: &'a Tensor,
    kv_of: &[u32],
    attention: Attention,
) -> Description<'a> {
    let s = q.shape();
    check_cross_attention(s, kv.shape(), kv_of, attention);
    Description::new(Family::CrossAttention, s, [q, kv])
        .products(2, &[s.n, s.tokens(), kv.shape().tokens(), s.c])
}

/// Describes `cross_attention_vjp`. Three products: scores, dP, dQ.
#[track_caller]
pub fn cross_attention_vjp<'a>(
    q: &'a Tensor,
    kv: &'a Tensor,
    kv_of: &[u32],
    dy: &'a Tensor,
    attention: Attention,
) -> Description<'a> {
    let s = q.shape();
    check_cross_attention(s, kv.shape(), kv_of, attention);
    check_cotangent(dy, s);
    Description::new(Family::CrossAttention, s, [q, kv, dy])
        .products(3, &[s.n, s.tokens(), kv.shape().tokens(), s.c])
}

/// Describes `activate`.
pub fn activate(x: &Tensor, _f: Activation) -> Description<'_> {
    Description::new(Family::Pointwise, x.shape(), [x])
}

/// Describes `activate_vjp`.
#[track_caller]
pub fn activate_vjp<'a>(x: &'a Tensor, dy: &'a Tensor, _f: Activation) -> Description<'a> {
    check_cotangent(dy, x.shape());
    Description::new(Family::Pointwise, x.shape(), [x, dy])
}

/// Half the channels of `x`.
#[track_caller]
fn halved(x: Shape) -> Shape {
    assert!(x.c.is_multiple_of(2), "geglu: {x} holds two halves");
    x.with_c(x.c / 2)
}

/// Describes `geglu`.
#[track_caller]
pub fn geglu(x: &Tensor) -> Description<'_> {
    Description::new(Family::Pointwise, halved(x.shape()), [x])
}

/// Describes `geglu_vjp`.
#[track_caller]
pub fn geglu_vjp<'a>(x: &'a Tensor, dy: &'a Tensor) -> Description<'a> {
    check_cotangent(dy, halved(x.shape()));
    Description::new(Family::Pointwise, x.shape(), [x, dy])
}

#[track_caller]
fn check_sum(x: &Tensor, y: &Tensor) {
    assert_eq!(x.shape(), y.shape(), "a sum of unlike shapes");
}

/// Describes `axpby`.
#[track_caller]
pub fn axpby<'a>(_a: f32, x: &'a Tensor, _b: f32, y: &'a Tensor) -> Description<'a> {
    check_sum(x, y);
    Description::new(Family::Pointwise, x.shape(), [x, y])
}

#[track_caller]
fn check_coefficients(k: &Tensor) {
    assert_eq!(k.shape(), Shape::vector(2), "two coefficients");
}

/// Describes `blend`.
#[track_caller]
pub fn blend<'a>(k: &'a Tensor, x: &'a Tensor, y: &'a Tensor) -> Description<'a> {
    check_coefficients(k);
    check_sum(x, y);
    Description::new(Family::Pointwise, x.shape(), [k, x, y])
}

/// Describes `blend_vjp`.
#[track_caller]
pub fn blend_vjp<'a>(k: &'a Tensor, which: usize, dy: &'a Tensor) -> Description<'a> {
    check_coefficients(k);
    assert!(which < 2, "coefficient {which} of two");
    Description::new(Family::Pointwise, dy.shape(), [k, dy])
}

/// Describes `scale`.
pub fn scale(_a: f32, x: &Tensor) -> Description<'_> {
    Description::new(Family::Pointwise, x.shape(), [x])
}

/// Describes `affine_clamp`.
pub fn affine_clamp(x: &Tensor, _map: AffineClamp) -> Description<'_> {
    Description::new(Family::Pointwise, x.shape(), [x])
}

/// Describes `affine_clamp_vjp`.
#[track_caller]
pub fn affine_clamp_vjp<'a>(x: &'a Tensor, dy: &'a Tensor, _map: AffineClamp) -> Description<'a> {
    check_cotangent(dy, x.shape());
    Description::new(Family::Pointwise, x.shape(), [x, dy])
}

/// Describes `soft_clamp`.
#[track_caller]
pub fn soft_clamp(x: &Tensor, limit: f32) -> Description<'_> {
    assert!(limit > 0.0, "soft_clamp: the limit {limit}");
    Description::new(Family::Pointwise, x.shape(), [x])
}

/// Describes `soft_clamp_vjp`.
#[track_caller]
pub fn soft_clamp_vjp<'a>(x: &'a Tensor, dy: &'a Tensor, limit: f32) -> Description<'a> {
    assert!(limit > 0.0, "soft_clamp_vjp: the limit {limit}");
    check_cotangent(dy, x.shape());
    Description::new(Family::Pointwise, x.shape(), [x, dy])
}

/// Describes `channel_affine`.
#[track_caller]
pub fn channel_affine<'a>(x: &'a Tensor, gain: &'a Tensor, shift: Option<&'a Tensor>) -> Description<'a> {
    let s = x.shape();
    check_channels("gain", gain, s);
    shift.into_iter().for_each(|shift| check_channels("shift", shift, s));
    Description::new(Family::Pointwise, s, [x, gain]).also_reading([shift])
}

/// Describes `cfg_combine`.
#[track_caller]
pub fn cfg_combine(x: &Tensor, _s: f32) -> Description<'_> {
    let s = x.shape();
    assert!(s.n.is_multiple_of(2), "classifier-free guidance of {s}, which is no [uncond, cond]");
    Description::new(Family::Pointwise, s.with_n(s.n / 2), [x])
}

/// Describes `cfg_combine_vjp`.
pub fn cfg_combine_vjp(dy: &Tensor, _s: f32) -> Description<'_> {
    Description::new(Family::Pointwise, dy.shape().with_n(2 * dy.shape().n), [dy])
}

/// Describes `concat`.
#[track_caller]
pub fn concat<'a>(x: &'a Tensor, y: &'a Tensor) -> Description<'a> {
    let (sx, sy) = (x.shape(), y.shape());
    assert_eq!((sx.n, sx.h, sx.w), (sy.n, sy.h, sy.w), "concat of {sx} and {sy}");
    Description::new(Family::Image, sx.with_c(sx.c + sy.c), [x, y])
}

/// Describes `slice`. Only the slice is read.
#[track_caller]
pub fn slice(x: &Tensor, from: usize, c: usize) -> Description<'_> {
    let s = x.shape();
    assert!(from + c <= s.c, "channels {from}..{} of {s}", from + c);
    Description::new(Family::Image, s.with_c(c), []).reading_excerpt_of(x)
}

/// Describes `slice_vjp`.
#[track_caller]
pub fn slice_vjp(dy: &Tensor, from: usize, c: usize) -> Description<'_> {
    let s = dy.shape();
    assert!(from + s.c <= c, "channels {from}..{} of {c}", from + s.c);
    Description::new(Family::Image, s.with_c(c), [dy])
}

/// Describes `repeat`.
pub fn repeat(x: &Tensor, times: usize) -> Description<'_> {
    Description::new(Family::Image, x.shape().with_n(x.shape().n * times), [x])
}

/// Describes `repeat_vjp`.
#[track_caller]
pub fn repeat_vjp(dy: &Tensor, times: usize) -> Description<'_> {
    let s = dy.shape();
    assert!(times > 0 && s.n.is_multiple_of(times), "{times} copies in {s}");
    Description::new(Family::Image, s.with_n(s.n / times), [dy])
}

/// Describes `gather`. Only the rows asked for are read.
#[track_caller]
pub fn gather<'a>(x: &'a Tensor, rows: &[u32]) -> Description<'a> {
    check_rows(rows, x.shape().n);
    Description::new(Family::Image, x.shape().with_n(rows.len()), []).reading_excerpt_of(x)
}

/// Describes `stack`.
#[track_caller]
pub fn stack<'a>(parts: &'a [&'a Tensor]) -> Description<'a> {
    let Some(first) = parts.first().map(|part| part.shape()) else { panic!("a stack of nothing") };
    let alike = parts.iter().all(|part| part.shape().with_n(first.n) == first);
    assert!(alike, "a stack of unlike shapes: {parts:?}");
    let n = parts.iter().map(|part| part.shape().n).sum();
    Description::new(Family::Image, first.with_n(n), []).reading_parts(parts)
}

/// Describes `embed`.
#[track_caller]
pub fn embed<'a>(x: &'a Tensor, token: Option<&'a Tensor>, position: &'a Tensor) -> Description<'a> {
    let s = x.shape();
    token.into_iter().for_each(|token| check_channels("class token", token, s));
    let tokens = s.tokens() + usize::from(token.is_some());
    assert_eq!(position.shape(), Shape::new(1, 1, tokens, s.c), "positions of {s}");
    Description::new(Family::Image, Shape::new(s.n, 1, tokens, s.c), [x, position])
        .also_reading([token])
        .making_f32()
}

/// Describes `embed_vjp`.
#[track_caller]
pub fn embed_vjp(dy: &Tensor, x: Shape) -> Description<'_> {
    let s = dy.shape();
    assert!((s.n, s.c) == (x.n, x.c) && s.tokens() >= x.tokens(), "{s} is no cotangent of tokens of {x}");
    Description::new(Family::Image, x, [dy])
}

#[track_caller]
fn check_tokens(at: &[u32], x: Shape) {
    assert_eq!(at.len(), x.n, "one token per sample");
    check_rows(at, x.tokens());
}

/// Describes `take_token`. Only the tokens asked for are read.
#[track_caller]
pub fn take_token<'a>(x: &'a Tensor, at: &[u32]) -> Description<'a> {
    let s = x.shape();
    check_tokens(at, s);
    Description::new(Family::Image, Shape::rows(s.n, s.c), []).reading_excerpt_of(x)
}

/// Describes `take_token_vjp`.
#[track_caller]
pub fn take_token_vjp<'a>(dy: &'a Tensor, at: &[u32], x: Shape) -> Description<'a> {
    check_tokens(at, x);
    check_cotangent(dy, Shape::rows(x.n, x.c));
    Description::new(Family::Image, x, [dy])
}

/// Describes `resize`.
pub fn resize(x: &Tensor, h: usize, w: usize, _filter: Filter) -> Description<'_> {
    Description::new(Family::Image, Shape { h, w, ..x.shape() }, [x])
}

/// Describes `resize_vjp`.
#[track_caller]
pub fn resize_vjp(dy: &Tensor, x: Shape, _filter: Filter) -> Description<'_> {
    let s = dy.shape();
    assert_eq!((s.n, s.c), (x.n, x.c), "{s} is no cotangent of a resized {x}");
    Description::new(Family::Image, x, [dy])
}

/// Describes `normals`.
#[track_caller]
pub fn normals<'a>(shape: Shape, _: u64, _: u32, _: Purpose, ids: &[ParticleId]) -> Description<'a> {
    assert_eq!(shape.n, ids.len(), "one identity per particle");
    Description::new(Family::Particle, shape, [])
}

/// Describes `advance`. One sample of each state is read per slot.
#[track_caller]
pub fn advance<'a>(
    particles: Particles<'a>,
    ancestors: &[u32],
    strength: &[f32],
    advance: Advance<'_>,
) -> Description<'a> {
    let Particles { x0, eps, grad } = particles;
    let (s, slots) = (x0.shape(), ancestors.len());
    let alike = [Some(eps), grad].into_iter().flatten().all(|state| state.shape() == s);
    assert!(alike, "states of particles {x0:?} {eps:?} {grad:?} differ in shape");
    assert_eq!((strength.len(), advance.ids.len()), (slots, slots), "one strength and one identity per slot");
    check_rows(ancestors, s.n);
    Description::new(Family::Particle, s.with_n(slots), [])
        .reading_excerpts(2 + usize::from(grad.is_some()))
        .returning(slots)
}

/// Describes `squared_norms`.
pub fn squared_norms(x: &Tensor) -> Description<'_> {
    Description::new(Family::Particle, Shape::new(0, 0, 0, 0), [x]).returning(x.shape().n)
}

/// Describes `where_finite`.
#[track_caller]
pub fn where_finite<'a>(score: &'a Tensor, by: &'a Tensor) -> Description<'a> {
    assert_eq!(score.shape(), Shape::rows(by.shape().n, 1), "one score per sample");
    Description::new(Family::Particle, score.shape(), [score, by])
}
