//! Numbers of 64 bits in device memory: sums of weights and lengths, log-weights, records.

use bytemuck::Pod;

use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Buffer, Elem, In, Out};
use crate::cuda::ops::pointwise;
use crate::error::Result;

/// `len` numbers of 64 bits, f64 or u64 as the kernels at hand take them.
pub struct Array64 {
    // Two words each.
    words: Buffer,
    len: usize,
}

impl Array64 {
    /// Arbitrary bits, to be written by a kernel.
    pub(in crate::cuda) fn alloc(cuda: &Cuda, len: usize) -> Result<Array64> {
        Ok(Array64 { words: cuda.device.alloc(Elem::U32, 2 * len)?, len })
    }

    /// A copy of `data` on the device.
    ///
    /// # Errors
    /// Of the device, and where there is no memory.
    pub fn upload(cuda: &Cuda, data: &[f64]) -> Result<Array64> {
        let mut wide = Array64::alloc(cuda, data.len())?;
        pointwise::put(cuda, bytemuck::cast_slice(data), &mut wide.words)?;
        Ok(wide)
    }

    /// Waits for the device.
    ///
    /// # Errors
    /// Of the backend.
    pub fn download<T: Pod>(&self, cuda: &Cuda) -> Result<Vec<T>> {
        assert_eq!(size_of::<T>(), 8, "numbers of 64 bits");
        let mut data = vec![T::zeroed(); self.len];
        cuda.device.copy_out(&self.words, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }

    pub(in crate::cuda) fn len(&self) -> usize {
        self.len
    }

    /// All numbers 0.
    pub(in crate::cuda) fn clear(&mut self, cuda: &Cuda) -> Result<()> {
        cuda.device.clear(&mut self.words)
    }

    /// Parts of these lengths, one after another.
    #[track_caller]
    pub(in crate::cuda) fn parts<const N: usize>(&mut self, lens: [usize; N]) -> [Out<'_, f64>; N] {
        assert_eq!(lens.iter().sum::<usize>(), self.len, "parts of another whole");
        let mut at = self.words.address();
        lens.map(|len| {
            let part = Out::new(at);
            at += 8 * len as u64;
            part
        })
    }

    /// `len` numbers from `at` on.
    #[track_caller]
    pub(in crate::cuda) fn part(&self, at: usize, len: usize) -> In<'_, f64> {
        assert!(at + len <= self.len, "a part beyond the end");
        In::new(self.words.address() + 8 * at as u64)
    }

    pub(in crate::cuda) fn words(&self) -> &Buffer {
        &self.words
    }

    /// As `const T*`.
    pub(in crate::cuda) fn read<T>(&self) -> In<'_, T> {
        assert_eq!(size_of::<T>(), 8, "numbers of 64 bits");
        self.words.read(Elem::U32)
    }

    /// As `T*`.
    pub(in crate::cuda) fn write<T>(&mut self) -> Out<'_, T> {
        assert_eq!(size_of::<T>(), 8, "numbers of 64 bits");
        self.words.write(Elem::U32)
    }
}
