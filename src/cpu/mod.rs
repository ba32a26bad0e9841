//! The backend that computes on the host, in f32. It is the reference for the others, and with
//! [`Cpu::with_rounding`] also their yardstick: every result rounded to 16 bits, everything else exact.
//!
//! Threads come from rayon's global pool. Results do not depend on the number of threads.

mod attention;
mod buffer;
mod conv;
mod gemm;
mod image;
mod linear;
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
use crate::op::{self, Description, for_each_op};
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

    /// Memory for a result of `shape`. Uninitialised: the caller must write every element before anything
    /// reads it.
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

    /// A result and what its transpose will need, of the shapes described, written by `f`.
    fn make_saving(
        &self,
        described: Description<'_>,
        f: impl FnOnce(&mut [f32], &mut [f32]),
    ) -> Result<(Tensor, Saved)> {
        let Description { output, saved: Some(saved_shape), .. } = described else {
            panic!("an operation that saves says so")
        };
        let (mut y, mut saved) = (self.alloc(output)?, self.alloc(saved_shape)?);
        f(y.elements_mut(), saved.elements_mut());
        Ok((self.wrap(output, y), self.keep(saved_shape, saved)))
    }
}

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

    for_each_op!(compute);
}
