//! The backend that computes nothing: tensors are shapes, operations are counted. One pass of a model over it
//! gives the multiply-adds, the memory traffic and the peak of live bytes of the same pass on a real backend.
//!
//! What is counted:
//! - `flops`: two per multiply-add of matrix products, nothing else (the habit of the field's FLOP counters).
//!   Convolutions count padded taps as if they were pixels. A convolution on a twice enlarged image counts
//!   the four sub-pixel kernels it folds into (4/9 of the 3x3 work), because that is what is executed.
//!   Attention counts whole score matrices, causal or not: forward 2 products, the transpose of
//!   self-attention 5 (scores again, dP, dV, dQ, dK), that of cross-attention 3 (scores, dP, dQ; keys and
//!   values are constants). The functions of [`op`] say how much each operation is.
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
use crate::op::{self, Description, for_each_op};
use crate::tensor::{HostSlice, Shape, Tensor};

pub use crate::op::Family;

/// Work done: floating point operations of matrix products, bytes read and written, calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Floating point operations of matrix products: two per multiply-add.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Operations called.
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
#[non_exhaustive]
pub struct Counts {
    /// Floating point operations of matrix products: two per multiply-add.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Operations called.
    pub calls: u64,
    /// The same by kind of work.
    pub by_family: BTreeMap<Family, Work>,
    /// The same by operation, under the names of [`op::NAMES`].
    pub by_operation: BTreeMap<&'static str, Work>,
}

#[derive(Debug, Default)]
struct State {
    live: u64,
    peak: u64,
    parameters: u64,
    work: BTreeMap<(Family, &'static str), Work>,
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
    /// f32 although its shape is one of 16 bits.
    wide: bool,
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

/// A backend of shapes and counters. Its tensors have a size and no elements; [`download`](Backend::download)
/// gives zeros.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Bytes of an activation.
    activation: u64,
    /// Bytes of an uploaded element; `None` as stored: 2 for 16-bit files, 4 for f32.
    weight: Option<u64>,
    /// Matrices of 16-bit files stay so, whatever `weight` says, as the CPU backend keeps them.
    stored_matrices: bool,
    /// Rows that are not whole packets of eight are f32, as the GPU backend keeps them.
    packets: bool,
    /// Operations hold the scratch space that the CPU backend takes for the length of a call.
    scratch: bool,
    state: Arc<Mutex<State>>,
}

/// Bytes of statistics, which are f32 everywhere.
const F32: u64 = 4;

impl Default for Meter {
    fn default() -> Meter {
        Meter::new()
    }
}

impl Meter {
    /// Counts like the CPU backend: f32 but for matrices of 16-bit files, and its scratch space.
    pub fn new() -> Meter {
        Meter { scratch: true, stored_matrices: true, ..Meter::with_elements(4, Some(4)) }
    }

    /// Counts like the CPU backend that rounds to 16 bits: f32 throughout, and its scratch space.
    pub fn of_rounding() -> Meter {
        Meter { stored_matrices: false, ..Meter::new() }
    }

    /// Bytes per activation, and per weight (`None`: as wide as in the file); no scratch space.
    pub fn with_elements(activation: u64, weight: Option<u64>) -> Meter {
        let state = Arc::default();
        Meter { activation, weight, stored_matrices: false, packets: false, scratch: false, state }
    }

    /// Counts like the GPU backend: weights and activations of `element` bytes, and f32 where the channels
    /// are no whole packets.
    pub fn of_packets(element: u64) -> Meter {
        Meter { packets: true, ..Meter::with_elements(element, Some(element)) }
    }

    /// Work since the last reset.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let mut sum = Work::default();
        for (&(family, name), &work) in &lock(&self.state).work {
            *counts.by_family.entry(family).or_default() += work;
            *counts.by_operation.entry(name).or_default() += work;
            sum += work;
        }
        Counts { flops: sum.flops, bytes: sum.bytes, calls: sum.calls, ..counts }
    }

    /// Forgets all work so far.
    pub fn reset_counts(&self) {
        lock(&self.state).work.clear();
    }

    /// Live bytes of uploaded tensors, part of [`Memory::live`].
    pub fn parameters(&self) -> u64 {
        lock(&self.state).parameters
    }

    fn block(&self, shape: Shape, element: u64, parameter: bool) -> Tensor {
        let element = if self.packets && !shape.in_packets() { F32 } else { element };
        self.counted(shape, element, parameter, false)
    }

    fn counted(&self, shape: Shape, element: u64, parameter: bool, wide: bool) -> Tensor {
        let bytes = shape.len() as u64 * element;
        let mut state = lock(&self.state);
        state.take(bytes);
        if parameter {
            state.parameters += bytes;
        }
        drop(state);
        Tensor::new(shape, Block { bytes, parameter, wide, state: self.state.clone() })
    }

    fn activation(&self, shape: Shape) -> Tensor {
        self.block(shape, self.activation, false)
    }

    /// Does an operation: counts it, and makes tensors of the shapes that it makes.
    #[track_caller]
    fn run(&self, name: &'static str, described: Description<'_>) -> Made {
        let Description { family, output, saved, numbers, flops, excerpts, scratch, .. } = described;
        let y = match self.packets && described.makes_wide(|x| self.of(x).wide) {
            true => self.counted(output, F32, false, true),
            false => self.activation(output),
        };
        let saved = saved.map(|saved| self.block(saved, F32, false));
        // The result is written once, and as many excerpts of its size are read.
        let written = self.bytes(&y).saturating_mul(1 + excerpts as u64);
        let others = described.read().chain(&saved).map(|x| self.bytes(x));
        let work = Work { flops, bytes: others.fold(written, u64::saturating_add), calls: 1 };
        let mut state = lock(&self.state);
        *state.work.entry((family, name)).or_default() += work;
        if self.scratch {
            // Beside everything that lives after the call.
            state.peak = state.peak.max(state.live + scratch as u64 * F32);
        }
        drop(state);
        Made { y, saved, numbers: vec![0.0; numbers] }
    }

    #[track_caller]
    fn of<'a>(&self, x: &'a Tensor) -> &'a Block {
        let Some(block) = x.data() else { panic!("{x:?} belongs to another backend") };
        block
    }

    #[track_caller]
    fn bytes(&self, x: &Tensor) -> u64 {
        self.of(x).bytes
    }
}

/// What an operation makes.
struct Made {
    y: Tensor,
    saved: Option<Saved>,
    numbers: Vec<f64>,
}

impl From<Made> for Tensor {
    fn from(made: Made) -> Tensor {
        made.y
    }
}

impl From<Made> for (Tensor, Saved) {
    fn from(made: Made) -> (Tensor, Saved) {
        let Some(saved) = made.saved else { panic!("an operation that saves says so") };
        (made.y, saved)
    }
}

impl From<Made> for Vec<f64> {
    fn from(made: Made) -> Vec<f64> {
        made.numbers
    }
}

impl From<Made> for (Tensor, Vec<f64>) {
    fn from(made: Made) -> (Tensor, Vec<f64>) {
        (made.y, made.numbers)
    }
}

/// Makes a method of every operation, which counts what the operation's description says:
///
/// ```ignore
/// fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
///     Ok(self.run("linear_vjp", op::linear_vjp(dy, w)).into())
/// }
/// ```
macro_rules! count {
    ($($group:ident {
        $($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $result:ty;)*
    })*) => {$($(
        fn $name(&self, $($arg: $kind),*) -> Result<$result> {
            Ok(self.run(stringify!($name), op::$name($($arg),*)).into())
        }
    )*)*};
}

/// The host weighs.
impl EngineBackend for Meter {}

impl Backend for Meter {
    fn name(&self) -> String {
        "meter".into()
    }

    fn computes(&self) -> bool {
        false
    }

    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
        self.upload_parts(shape, &[data])
    }
    fn upload_parts(&self, shape: Shape, parts: &[HostSlice<'_>]) -> Result<Tensor> {
        assert_eq!(shape.len(), parts.iter().map(|part| part.len()).sum::<usize>(), "upload of {shape}");
        let fixed = self.weight.filter(|_| !(self.stored_matrices && shape.is_matrix()));
        Ok(self.block(shape, fixed.unwrap_or(HostSlice::bytes_together(parts)), true))
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

    for_each_op!(count);
}
