//! What a device must be able to do: hold tensors, do the operations of [`op`](crate::op), and record work to
//! replay it.
//!
//! Callers obey the shapes that the operations state; a breach is their own bug and panics. `Err` is for what
//! the world does: memory, driver, device.

use std::any::Any;

use crate::error::{Error, ErrorKind, Result};
use crate::noise::Purpose;
use crate::op::for_each_op;
use crate::tensor::{HostSlice, OwnedSlice, Shape, Tensor};

pub use crate::op::{
    Activation, Advance, AffineClamp, Attention, Conv, Epilogue, Filter, GroupNorm, ParticleId, Particles,
    PointStep, PointValues, Quadratic, Saved,
};

/// Makes a method of every operation, without a body:
///
/// ```ignore
/// /// `dx = dy w`.
/// fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor>;
/// ```
macro_rules! declare {
    ($($group:ident {
        $($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $result:ty;)*
    })*) => {$($(
        $(#[$doc])*
        ///
        /// # Errors
        /// Where memory or the device fails.
        fn $name(&self, $($arg: $kind),*) -> Result<$result>;
    )*)*};
}

/// A device that can run the networks and move the particles.
///
/// Its operations are those of the table [`for_each_op`]; the module [`op`](crate::op)
/// says what their arguments are called. All tensors of one call belong to this backend.
pub trait Backend: Send + Sync {
    /// For records: `cpu`, `cuda:0 NVIDIA H200`, `meter`.
    fn name(&self) -> String;

    /// Whether tensors have elements. Where they have none, nothing is asked of other programs either.
    fn computes(&self) -> bool {
        true
    }

    /// Runs `f` on `inputs` and returns its results. A device may record the work at one of the first calls
    /// with this `record` and replay it at later ones instead of calling `f`. Therefore `f` must do the same
    /// operations whenever the record is the same, and its results must depend on `inputs` and on nothing
    /// else that changes. Work that waits for a result cannot be recorded; then `f` is called every time.
    ///
    /// # Errors
    /// Those of `f`, and where the device cannot record or replay.
    fn replay(
        &self,
        _record: &mut Record,
        inputs: &[&Tensor],
        f: &mut dyn FnMut(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        f(&inputs.iter().map(|&x| x.clone()).collect::<Vec<_>>())
    }

    /// Opens a range named `name` for profilers; [`range_end`](Backend::range_end) closes it. Ranges nest.
    fn range_start(&self, _name: &str) {}
    /// Closes the range that was opened last.
    fn range_end(&self) {}

    /// Copies host elements to the device, converted to the type that the device keeps a tensor of this shape
    /// in.
    ///
    /// # Errors
    /// Where there is no memory for them, or the device fails.
    ///
    /// # Panics
    /// Where `data` has not as many elements as `shape`.
    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor>;
    /// The same of elements that the caller is done with, which a device may keep as they are.
    ///
    /// # Errors
    /// As [`upload`](Backend::upload).
    fn upload_owned(&self, shape: Shape, data: OwnedSlice) -> Result<Tensor> {
        self.upload(shape, data.as_slice())
    }
    /// The same of elements in several parts, each behind the last, in their common type, or in f32.
    ///
    /// # Errors
    /// As [`upload`](Backend::upload).
    ///
    /// # Panics
    /// As [`upload`](Backend::upload).
    fn upload_parts(&self, shape: Shape, parts: &[HostSlice<'_>]) -> Result<Tensor> {
        let all = HostSlice::try_concat(parts).ok_or_else(|| out_of_memory(shape.len()))?;
        self.upload_owned(shape, all)
    }
    /// Copies to the host as f32, waiting for the device.
    ///
    /// # Errors
    /// Where there is no memory for them, or the device fails.
    fn download(&self, x: &Tensor) -> Result<Vec<f32>>;
    /// A tensor of zeros.
    ///
    /// # Errors
    /// Where there is no memory for it, or the device fails.
    fn zeros(&self, shape: Shape) -> Result<Tensor>;
    /// Bytes of tensors in use now, and at most since the last [`reset_peak`](Backend::reset_peak); weights
    /// included.
    fn memory(&self) -> Memory;
    /// Starts the measurement of [`Memory::peak`] anew from what is in use now.
    fn reset_peak(&self);

    for_each_op!(declare);

    /// `y = epilogue(x w^T + b)`, as [`linear`](Backend::linear) and then the epilogue, in one pass where the
    /// device can. With `keep` it also returns the pre-activation `x w^T + b`, which the epilogue's transpose
    /// needs.
    ///
    /// # Errors
    /// Where memory or the device fails.
    fn linear_epilogue(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        epilogue: Epilogue,
        keep: bool,
    ) -> Result<(Tensor, Option<Saved>)> {
        let pre_activation = self.linear(x, w, b, None)?;
        let y = match epilogue {
            Epilogue::Activate(f) => self.activate(&pre_activation, f)?,
            Epilogue::Geglu => self.geglu(&pre_activation)?,
        };
        Ok((y, keep.then_some(pre_activation)))
    }

    /// Runs a small score network (docs/spec.md 9) at points `x` `(n, 1, 1, d)`, d at most 3, and back:
    /// noise, clean points, their rewards and the gradients of these, in one pass where the device can.
    /// `network` is weight and bias of each of three layers with ReLU between them, of `d + 1` inputs and d
    /// outputs, in f32.
    ///
    /// # Errors
    /// Where memory or the device fails.
    fn evaluate_points(&self, x: &Tensor, network: &[Tensor; 6], step: &PointStep) -> Result<PointValues> {
        points_by_operations(self, x, network, step)
    }
}

/// [`Backend::evaluate_points`] as the operations that it consists of, one after another.
///
/// # Errors
/// Where memory or the device fails.
pub(crate) fn points_by_operations<B: Backend + ?Sized>(
    backend: &B,
    x: &Tensor,
    network: &[Tensor; 6],
    step: &PointStep,
) -> Result<PointValues> {
    let ([w1, b1, w2, b2, w3, b3], relu) = (network, AffineClamp::RELU);
    let (n, d) = (x.shape().n, x.shape().sample());
    let time = backend.upload(Shape::rows(n, 1), HostSlice::F32(&vec![step.time; n]))?;
    let first = backend.linear(&backend.concat(x, &time)?, w1, Some(b1), None)?;
    let second = backend.linear(&backend.affine_clamp(&first, relu)?, w2, Some(b2), None)?;
    let eps = backend.linear(&backend.affine_clamp(&second, relu)?, w3, Some(b3), None)?;
    let [a, b] = step.x0;
    let x0 = backend.axpby(a, x, b, &eps)?;
    let (reward, towards) = judge_points(backend, &x0, &step.reward, step.gradient)?;
    let Some(towards) = towards else { return Ok(PointValues { eps, x0, reward, grad: None }) };
    let cotangent = backend.linear_vjp(&backend.scale(b, &towards)?, w3)?;
    let cotangent = backend.linear_vjp(&backend.affine_clamp_vjp(&second, &cotangent, relu)?, w2)?;
    let cotangent = backend.linear_vjp(&backend.affine_clamp_vjp(&first, &cotangent, relu)?, w1)?;
    let grad = backend.axpby(a, &towards, 1.0, &backend.slice(&cotangent, 0, d)?)?;
    Ok(PointValues { eps, x0, reward, grad: Some(grad) })
}

/// The rewards `(n, 1, 1, 1)` of clean points `(n, 1, 1, d)`, and where asked for the gradients with respect
/// to the points: on the host in f64, rounded to f32.
///
/// # Errors
/// Where memory or the device fails.
pub(crate) fn judge_points<B: Backend + ?Sized>(
    backend: &B,
    x0: &Tensor,
    reward: &Quadratic,
    gradient: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (n, d) = (x0.shape().n, x0.shape().sample());
    let points: Vec<[f64; 3]> = backend.download(x0)?.chunks_exact(d).map(widened).collect();
    let values: Vec<f32> = points.iter().map(|x0| reward.value(x0) as f32).collect();
    let values = backend.upload(Shape::rows(n, 1), HostSlice::F32(&values))?;
    if !gradient {
        return Ok((values, None));
    }
    let towards = |x0: &[f64; 3]| reward.gradient(x0).map(|g| g as f32);
    let towards: Vec<f32> = points.iter().flat_map(|x0| towards(x0).into_iter().take(d)).collect();
    Ok((values, Some(backend.upload(x0.shape(), HostSlice::F32(&towards))?)))
}

/// A point of at most three coordinates; those that it has not are 0.
pub(crate) fn widened(x: &[f32]) -> [f64; 3] {
    std::array::from_fn(|i| x.get(i).map_or(0.0, |v| f64::from(*v)))
}

/// Work that a device has recorded, or knows it cannot record; for [`Backend::replay`]. Empty at first.
#[derive(Default)]
pub struct Record(pub Option<Box<dyn Any + Send>>);

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

/// Bytes of tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// In use now.
    pub live: u64,
    /// In use at most since the last [`Backend::reset_peak`].
    pub peak: u64,
}

/// The error for `elements` f32 numbers that do not fit into memory.
pub fn out_of_memory(elements: usize) -> Error {
    let gigabytes = 4.0 * elements as f64 / 1e9;
    let advice = "lower `micro_batch`, set `checkpointing` on, or ask for smaller images with `width` and \
                  `height`";
    Error::new(ErrorKind::Memory, format!("out of memory: {gigabytes:.1} GB more are needed"))
        .option("micro_batch")
        .advice(advice)
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
