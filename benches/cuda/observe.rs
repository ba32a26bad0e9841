//! A backend that leaves the work to another and is told of every operation: before it, and after it with its name and
//! what it was given. It records nothing for replay, so every operation is seen every time.

use std::fmt::Write;

use das_cuda::Result;
use das_cuda::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Epilogue, Filter, GroupNorm, Memory,
    ParticleId, Particles, Saved,
};
use das_cuda::engine::{EngineBackend, EngineSetup, StepEngine};
use das_cuda::noise::Purpose;
use das_cuda::tensor::{HostSlice, Shape, Tensor};

/// See the module.
pub struct Observed<'a> {
    pub backend: &'a (dyn EngineBackend + 'a),
    pub before: &'a (dyn Fn() + Sync),
    pub after: &'a (dyn Fn(&'static str, String) + Sync),
}

/// An argument in few letters: shapes and parameters, never contents.
trait Shown {
    fn show(&self) -> String;
}

macro_rules! shown_by_debug {
    ($($t:ty),*) => { $(impl Shown for $t {
        fn show(&self) -> String {
            format!("{self:?}")
        }
    })* };
}
shown_by_debug!(
    f32,
    usize,
    bool,
    Epilogue,
    Shape,
    Activation,
    AffineClamp,
    Attention,
    Conv,
    Filter,
    GroupNorm
);

impl Shown for Tensor {
    fn show(&self) -> String {
        let s = self.shape();
        format!("{}x{}x{}x{}", s.n, s.h, s.w, s.c)
    }
}
impl Shown for Option<&Tensor> {
    fn show(&self) -> String {
        self.map_or("-".into(), Tensor::show)
    }
}
impl Shown for [u32] {
    fn show(&self) -> String {
        format!("[{}]", self.len())
    }
}
impl Shown for [&Tensor] {
    fn show(&self) -> String {
        self.iter().map(|x| x.show()).collect::<Vec<_>>().join("+")
    }
}
impl<T: Shown + ?Sized> Shown for &T {
    fn show(&self) -> String {
        (**self).show()
    }
}

fn line(arguments: &[&dyn Shown]) -> String {
    let mut text = String::new();
    for argument in arguments {
        let _ = write!(text, "{}{}", if text.is_empty() { "" } else { " " }, argument.show());
    }
    text
}

macro_rules! observed {
    ($(fn $name:ident($($arg:ident: $kind:ty),*) -> $result:ty;)*) => {$(
        fn $name(&self, $($arg: $kind),*) -> Result<$result> {
            (self.before)();
            let result = self.backend.$name($($arg),*);
            (self.after)(stringify!($name), line(&[$(&$arg as &dyn Shown),*]));
            result
        }
    )*};
}

impl EngineBackend for Observed<'_> {
    fn step_engine<'a>(&'a self, setup: EngineSetup<'_>) -> Result<Option<Box<dyn StepEngine + 'a>>> {
        self.backend.step_engine(setup)
    }
}

impl Backend for Observed<'_> {
    fn name(&self) -> String {
        self.backend.name()
    }
    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
        self.backend.upload(shape, data)
    }
    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        self.backend.download(x)
    }
    fn zeros(&self, shape: Shape) -> Result<Tensor> {
        self.backend.zeros(shape)
    }
    fn memory(&self) -> Memory {
        self.backend.memory()
    }
    fn reset_peak(&self) {
        self.backend.reset_peak();
    }

    observed! {
        fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>) -> Tensor;
        fn linear_epilogue(
            x: &Tensor, w: &Tensor, b: Option<&Tensor>, epilogue: Epilogue, keep: bool
        ) -> (Tensor, Option<Saved>);
        fn linear_vjp(dy: &Tensor, w: &Tensor) -> Tensor;
        fn conv(x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>, conv: Conv) -> Tensor;
        fn conv_vjp(dy: &Tensor, w: &Tensor, x: Shape, conv: Conv) -> Tensor;
        fn group_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, norm: GroupNorm) -> (Tensor, Saved);
        fn group_norm_vjp(
            x: &Tensor, gamma: &Tensor, beta: &Tensor, saved: &Saved, dy: &Tensor, norm: GroupNorm
        ) -> Tensor;
        fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> (Tensor, Saved);
        fn layer_norm_vjp(x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Tensor;
        fn l2_norm(x: &Tensor) -> Tensor;
        fn l2_norm_vjp(x: &Tensor, dy: &Tensor) -> Tensor;
        fn self_attention(qkv: &Tensor, attention: Attention) -> (Tensor, Saved);
        fn self_attention_vjp(
            qkv: &Tensor, y: &Tensor, saved: &Saved, dy: &Tensor, attention: Attention
        ) -> Tensor;
        fn cross_attention(q: &Tensor, kv: &Tensor, kv_of: &[u32], attention: Attention) -> Tensor;
        fn cross_attention_vjp(
            q: &Tensor, kv: &Tensor, kv_of: &[u32], dy: &Tensor, attention: Attention
        ) -> Tensor;
        fn activate(x: &Tensor, f: Activation) -> Tensor;
        fn activate_vjp(x: &Tensor, dy: &Tensor, f: Activation) -> Tensor;
        fn geglu(x: &Tensor) -> Tensor;
        fn geglu_vjp(x: &Tensor, dy: &Tensor) -> Tensor;
        fn axpby(a: f32, x: &Tensor, b: f32, y: &Tensor) -> Tensor;
        fn blend(k: &Tensor, x: &Tensor, y: &Tensor) -> Tensor;
        fn blend_vjp(k: &Tensor, which: usize, dy: &Tensor) -> Tensor;
        fn scale(a: f32, x: &Tensor) -> Tensor;
        fn affine_clamp(x: &Tensor, map: AffineClamp) -> Tensor;
        fn affine_clamp_vjp(x: &Tensor, dy: &Tensor, map: AffineClamp) -> Tensor;
        fn channel_affine(x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Tensor;
        fn concat(x: &Tensor, y: &Tensor) -> Tensor;
        fn slice(x: &Tensor, from: usize, c: usize) -> Tensor;
        fn slice_vjp(dy: &Tensor, from: usize, c: usize) -> Tensor;
        fn repeat(x: &Tensor, times: usize) -> Tensor;
        fn repeat_vjp(dy: &Tensor, times: usize) -> Tensor;
        fn gather(x: &Tensor, rows: &[u32]) -> Tensor;
        fn stack(parts: &[&Tensor]) -> Tensor;
        fn cfg_combine(x: &Tensor, s: f32) -> Tensor;
        fn cfg_combine_vjp(dy: &Tensor, s: f32) -> Tensor;
        fn embed(x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Tensor;
        fn embed_vjp(dy: &Tensor, x: Shape) -> Tensor;
        fn take_token(x: &Tensor, at: &[u32]) -> Tensor;
        fn take_token_vjp(dy: &Tensor, at: &[u32], x: Shape) -> Tensor;
        fn resize(x: &Tensor, h: usize, w: usize, filter: Filter) -> Tensor;
        fn resize_vjp(dy: &Tensor, x: Shape, filter: Filter) -> Tensor;
        fn where_finite(score: &Tensor, by: &Tensor) -> Tensor;
        fn squared_norms(x: &Tensor) -> Vec<f64>;
    }

    fn normals(
        &self,
        shape: Shape,
        seed: u64,
        step: u32,
        purpose: Purpose,
        ids: &[ParticleId],
    ) -> Result<Tensor> {
        self.backend.normals(shape, seed, step, purpose, ids)
    }
    fn advance(
        &self,
        particles: Particles<'_>,
        ancestors: &[u32],
        strength: &[f32],
        advance: Advance<'_>,
    ) -> Result<(Tensor, Vec<f64>)> {
        self.backend.advance(particles, ancestors, strength, advance)
    }
}
