//! The host as a device: memory for results, and the elements of tensors.

use std::sync::Arc;

use super::buffer::{Buffer, Pool, Round, Stored};
use crate::backend::{Saved, out_of_memory};
use crate::error::Result;
use crate::op::Description;
use crate::tensor::{HostSlice, OwnedSlice, Shape, Tensor};

/// The host as a device.
#[derive(Debug, Default)]
pub struct Cpu {
    pub(super) pool: Arc<Pool>,
    pub(super) round: Option<Round>,
}

impl Cpu {
    /// Exact: every result in f32.
    pub fn new() -> Cpu {
        Cpu::default()
    }

    /// Uploaded tensors and results rounded to 16 bits where a GPU keeps them so: those whose rows are whole
    /// packets ([`Shape::in_packets`]). Statistics and sums stay f32.
    pub fn with_rounding(round: Option<Round>) -> Cpu {
        Cpu { round, ..Cpu::default() }
    }

    /// The elements of a tensor, in the type in which it keeps them.
    #[track_caller]
    pub(super) fn elements<'a>(&self, x: &'a Tensor) -> HostSlice<'a> {
        match (x.data::<Buffer>(), x.data::<Stored>()) {
            (Some(buffer), _) => HostSlice::F32(buffer.elements()),
            (_, Some(stored)) => stored.elements(),
            _ => panic!("{x:?} belongs to another backend"),
        }
    }

    /// The elements of a tensor as f32.
    #[track_caller]
    pub(super) fn view<'a>(&self, x: &'a Tensor) -> &'a [f32] {
        match (x.data::<Buffer>(), x.data::<Stored>()) {
            (Some(buffer), _) => buffer.elements(),
            (_, Some(stored)) => stored.widened(),
            _ => panic!("{x:?} belongs to another backend"),
        }
    }

    pub(super) fn view_of<'a>(&self, x: Option<&'a Tensor>) -> Option<&'a [f32]> {
        x.map(|x| self.view(x))
    }

    /// Memory for a result of `shape`. Uninitialised: the caller must write every element before anything
    /// reads it.
    pub(super) fn alloc(&self, shape: Shape) -> Result<Buffer> {
        Pool::alloc(&self.pool, shape.len())
    }

    /// A finished result, rounded if this backend rounds tensors of its kind.
    pub(super) fn wrap(&self, described: &Description<'_>, mut y: Buffer) -> Tensor {
        if self.round.is_none() {
            return self.keep(described.output, y);
        }
        y.wide = described.makes_wide(|x| x.data::<Buffer>().is_some_and(|x| x.wide));
        if y.wide { self.keep(described.output, y) } else { self.wrap_new(described.output, y) }
    }

    /// A finished tensor that is made of no other, rounded if this backend rounds tensors of its shape.
    fn wrap_new(&self, shape: Shape, mut y: Buffer) -> Tensor {
        if let Some(round) = self.round.filter(|_| shape.in_packets()) {
            round.apply(y.elements_mut());
        }
        self.keep(shape, y)
    }

    /// A finished result that is f32 on every device.
    pub(super) fn keep(&self, shape: Shape, y: Buffer) -> Tensor {
        assert_eq!(shape.len(), y.elements().len());
        Tensor::new(shape, y)
    }

    /// Elements of the host as a tensor. Matrices of 16 bits stay so: their products read them as they are.
    pub(super) fn put(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
        assert_eq!(shape.len(), data.len(), "upload of {shape}");
        if self.stores(shape, data) {
            let own = data.try_to_owned().ok_or_else(|| out_of_memory(data.len()))?;
            return Ok(Tensor::new(shape, Pool::store(&self.pool, own)));
        }
        self.make_new(shape, |y| data.write(y))
    }

    /// The same of elements that the caller is done with.
    pub(super) fn put_owned(&self, shape: Shape, data: OwnedSlice) -> Result<Tensor> {
        if !self.stores(shape, data.as_slice()) {
            return self.put(shape, data.as_slice());
        }
        assert_eq!(shape.len(), data.as_slice().len(), "upload of {shape}");
        Ok(Tensor::new(shape, Pool::store(&self.pool, data)))
    }

    fn stores(&self, shape: Shape, data: HostSlice<'_>) -> bool {
        self.round.is_none() && shape.is_matrix() && !matches!(data, HostSlice::F32(_))
    }

    /// A tensor of `shape` that is made of no other, written by `f`.
    pub(super) fn make_new(&self, shape: Shape, f: impl FnOnce(&mut [f32])) -> Result<Tensor> {
        let mut y = self.alloc(shape)?;
        f(y.elements_mut());
        Ok(self.wrap_new(shape, y))
    }

    /// The result described, written by `f`.
    pub(super) fn make(&self, described: Description<'_>, f: impl FnOnce(&mut [f32])) -> Result<Tensor> {
        let mut y = self.alloc(described.output)?;
        f(y.elements_mut());
        Ok(self.wrap(&described, y))
    }

    /// A result and what its transpose will need, of the shapes described, written by `f`.
    pub(super) fn make_saving(
        &self,
        described: Description<'_>,
        f: impl FnOnce(&mut [f32], &mut [f32]),
    ) -> Result<(Tensor, Saved)> {
        let Description { output, saved: Some(saved_shape), .. } = described else {
            panic!("an operation that saves says so")
        };
        let (mut y, mut saved) = (self.alloc(output)?, self.alloc(saved_shape)?);
        f(y.elements_mut(), saved.elements_mut());
        Ok((self.wrap(&described, y), self.keep(saved_shape, saved)))
    }
}
