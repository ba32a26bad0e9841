//! Pointers to device memory as the arguments of kernels, typed by what a kernel reads and writes.

use std::marker::PhantomData;

use cudarc::driver::DeviceRepr;

/// The element type of activations in an image: `Act` of the `.cu` files.
#[derive(Clone, Copy, Debug)]
pub enum Act {}

/// A device pointer a kernel reads: `const T*`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct In<'a, T>(u64, PhantomData<&'a T>);

/// A device pointer a kernel writes (and may read): `T*`.
#[repr(transparent)]
#[derive(Debug)]
pub struct Out<'a, T>(u64, PhantomData<&'a mut T>);

impl<T> In<'_, T> {
    pub fn new(address: u64) -> Self {
        In(address, PhantomData)
    }
    /// A null pointer, for an absent tensor.
    pub fn none() -> Self {
        In(0, PhantomData)
    }
}

impl<T> Out<'_, T> {
    pub fn new(address: u64) -> Self {
        Out(address, PhantomData)
    }
    /// From element `at` on, for a kernel that reads what an earlier one writes.
    pub fn read_at(&self, at: usize) -> In<'_, T> {
        In(self.0 + (at * size_of::<T>()) as u64, PhantomData)
    }
    /// From element `at` on.
    pub fn part(&mut self, at: usize) -> Out<'_, T> {
        Out(self.0 + (at * size_of::<T>()) as u64, PhantomData)
    }
    /// For several kernels one after another.
    pub fn reborrow(&mut self) -> Out<'_, T> {
        Out(self.0, PhantomData)
    }
    pub fn none() -> Self {
        Out(0, PhantomData)
    }
}

// SAFETY: both are one 64-bit device address, which is what a kernel's pointer parameter is.
#[allow(unsafe_code)]
unsafe impl<T> DeviceRepr for In<'_, T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T> DeviceRepr for Out<'_, T> {}
