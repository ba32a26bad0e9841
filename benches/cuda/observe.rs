//! A backend that leaves the work to another and is told of every operation: before it, and after it with its
//! name and what it was given. It records nothing for replay, so every operation is seen every time.

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
    u32,
    u64,
    usize,
    bool,
    Purpose,
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
macro_rules! shown_by_length {
    ($($t:ty),*) => { $(impl Shown for [$t] {
        fn show(&self) -> String {
            format!("[{}]", self.len())
        }
    })* };
}
shown_by_length!(u32, f32, ParticleId);

impl Shown for Particles<'_> {
    fn show(&self) -> String {
        [Some(self.x0), Some(self.eps), self.grad].map(|x| x.show()).join("+")
    }
}
impl Shown for Advance<'_> {
    fn show(&self) -> String {
        format!("v={}", self.variance)
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

/// Makes a method of every operation, which is told before and after it, with its name and arguments:
///
/// ```ignore
/// fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
///     (self.before)();
///     let result = self.backend.linear_vjp(dy, w);
///     (self.after)("linear_vjp", line(&[&dy as &dyn Shown, &w as &dyn Shown]));
///     result
/// }
/// ```
macro_rules! observe {
    ($($group:ident {
        $($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $result:ty;)*
    })*) => {$($(
        fn $name(&self, $($arg: $kind),*) -> Result<$result> {
            (self.before)();
            let result = self.backend.$name($($arg),*);
            (self.after)(stringify!($name), line(&[$(&$arg as &dyn Shown),*]));
            result
        }
    )*)*};
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

    das_cuda::op::for_each_op!(observe);
    observe! {
        linear {
            fn linear_epilogue(
                x: &Tensor, w: &Tensor, b: Option<&Tensor>, epilogue: Epilogue, keep: bool
            ) -> (Tensor, Option<Saved>);
        }
    }
}
