//! Numbers of 64 bits in device memory: sums of weights and lengths, log-weights, records.

use bytemuck::Pod;

use super::buffer::{Buffer, Elem};
use super::kernels::{In, Out};
use super::{Cuda, pointwise};
use crate::error::Result;

/// `len` numbers of 64 bits, f64 or u64 as the kernels at hand take them.
pub struct Wide {
    // Two words each.
    words: Buffer,
    len: usize,
}

impl Wide {
    /// Arbitrary bits, to be written by a kernel.
    pub(super) fn alloc(cuda: &Cuda, len: usize) -> Result<Wide> {
        Ok(Wide { words: cuda.device.alloc(Elem::U32, 2 * len)?, len })
    }

    pub fn upload(cuda: &Cuda, data: &[f64]) -> Result<Wide> {
        let mut wide = Wide::alloc(cuda, data.len())?;
        pointwise::put(cuda, bytemuck::cast_slice(data), &mut wide.words)?;
        Ok(wide)
    }

    /// Waits for the device.
    pub fn download<T: Pod>(&self, cuda: &Cuda) -> Result<Vec<T>> {
        assert_eq!(size_of::<T>(), 8, "numbers of 64 bits");
        let mut data = vec![T::zeroed(); self.len];
        cuda.device.copy_out(&self.words, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// As `const T*`.
    pub(super) fn read<T>(&self) -> In<'_, T> {
        assert_eq!(size_of::<T>(), 8, "numbers of 64 bits");
        self.words.read(Elem::U32)
    }

    /// As `T*`.
    pub(super) fn write<T>(&mut self) -> Out<'_, T> {
        assert_eq!(size_of::<T>(), 8, "numbers of 64 bits");
        self.words.write(Elem::U32)
    }
}
