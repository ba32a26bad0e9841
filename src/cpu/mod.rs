//! The backend that computes on the host, in f32. It is the reference for the others, and with
//! [`Cpu::with_rounding`] also their yardstick: results rounded to 16 bits as a GPU keeps them, all else
//! exact.
//!
//! Threads come from rayon's global pool. Results do not depend on the number of threads.

mod attention;
mod buffer;
mod conv;
mod ctx;
mod gemm;
mod image;
mod linear;
mod math;
mod norm;
mod parallel;
mod particle;
mod points;
mod pointwise;

use crate::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Filter, GroupNorm, Memory, ParticleId,
    Particles, PointStep, PointValues, Saved, reserved,
};
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::noise::Purpose;
use crate::op::{self, for_each_op};
use crate::tensor::{HostSlice, OwnedSlice, Shape, Tensor};

pub use buffer::Round;
pub use ctx::Cpu;

/// The host weighs.
impl EngineBackend for Cpu {}

/// Makes a method of every operation, which describes it, checking the inputs' shapes, and hands it to the
/// function of the same name in the module of its group:
///
/// ```ignore
/// fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
///     linear::linear_vjp(self, op::linear_vjp(dy, w), dy, w)
/// }
/// ```
macro_rules! compute {
    ($($group:ident {
        $($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $result:ty;)*
    })*) => {$($(
        fn $name(&self, $($arg: $kind),*) -> Result<$result> {
            $group::$name(self, op::$name($($arg),*), $($arg),*)
        }
    )*)*};
}

impl Backend for Cpu {
    fn name(&self) -> String {
        match self.round {
            None => "cpu".into(),
            Some(round) => format!("cpu rounding to {round}"),
        }
    }

    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
        self.put(shape, data)
    }
    fn upload_owned(&self, shape: Shape, data: OwnedSlice) -> Result<Tensor> {
        self.put_owned(shape, data)
    }
    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        let mut y = reserved(x.shape().len())?;
        y.resize(x.shape().len(), 0.0);
        self.elements(x).write(&mut y);
        Ok(y)
    }
    fn zeros(&self, shape: Shape) -> Result<Tensor> {
        self.make_new(shape, |y| y.fill(0.0))
    }
    fn memory(&self) -> Memory {
        self.pool.memory()
    }
    fn reset_peak(&self) {
        self.pool.reset_peak();
    }

    for_each_op!(compute);

    fn evaluate_points(&self, x: &Tensor, network: &[Tensor; 6], step: &PointStep) -> Result<PointValues> {
        points::evaluate_points(self, x, network, step)
    }
}
