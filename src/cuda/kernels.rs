//! How a kernel is declared and launched. `kernels!` lists the kernels of one `.cu` file with typed arguments and makes
//! a method of each; `params!` declares the structs they take by value. `tests/kernels.rs` compares both with the
//! text of the `.cu` files, so that an argument cannot change on one side only.
//!
//! A launcher (the functions of `gemm.rs`, `norm.rs`, ...) owns grid, block, shared memory and the asserts on shapes; the
//! one launch is here.

use std::marker::PhantomData;

use cudarc::driver::{CudaFunction, DeviceRepr, LaunchConfig, PushKernelArg};

use super::device::Device;
use crate::error::Result;

/// The element of activations in an image: `Act` of the `.cu` files.
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
    pub(super) fn new(address: u64) -> Self {
        In(address, PhantomData)
    }
    /// No tensor: kernels compare with null.
    pub fn none() -> Self {
        In(0, PhantomData)
    }
}

impl<T> Out<'_, T> {
    pub(super) fn new(address: u64) -> Self {
        Out(address, PhantomData)
    }
    /// From element `at` on, for a kernel that reads what another one has written.
    pub fn read_at(&self, at: usize) -> In<'_, T> {
        In(self.0 + (at * size_of::<T>()) as u64, PhantomData)
    }
    /// For several kernels one after another.
    pub fn again(&mut self) -> Out<'_, T> {
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

/// Shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: u32,
    /// Dynamic shared memory per block, bytes.
    pub shared: u32,
}

impl Launch {
    /// `blocks` blocks of `block` threads.
    #[track_caller]
    pub fn line(blocks: usize, block: u32) -> Launch {
        Launch { grid: [dimension(blocks), 1, 1], block, shared: 0 }
    }

    /// Enough blocks of `block` threads for `items` threads.
    #[track_caller]
    pub fn cover(items: usize, block: u32) -> Launch {
        Launch::line(items.div_ceil(block as usize), block)
    }

    /// A grid of blocks; y and z at most 65535.
    #[track_caller]
    pub fn grid(x: usize, y: usize, z: usize, block: u32) -> Launch {
        assert!(y <= 65535 && z <= 65535, "a grid of ({x}, {y}, {z}) blocks");
        Launch { grid: [dimension(x), y as u32, z as u32], block, shared: 0 }
    }

    pub fn shared(self, bytes: usize) -> Launch {
        Launch { shared: bytes as u32, ..self }
    }
}

#[track_caller]
fn dimension(blocks: usize) -> u32 {
    let Some(n) = u32::try_from(blocks).ok().filter(|&n| n <= i32::MAX as u32) else {
        panic!("a grid of {blocks} blocks")
    };
    n
}

/// An argument list under construction.
pub struct Call<'a>(cudarc::driver::LaunchArgs<'a>);

impl<'a> Call<'a> {
    pub fn new(device: &'a Device, function: &'a CudaFunction) -> Call<'a> {
        Call(device.stream().launch_builder(function))
    }

    pub fn argument<T: DeviceRepr>(&mut self, x: &'a T) {
        self.0.arg(x);
    }

    /// Starts the kernel; an empty grid starts nothing.
    #[allow(unsafe_code)]
    pub fn launch(mut self, device: &Device, launch: Launch) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let config = LaunchConfig {
            grid_dim: launch.grid.into(),
            block_dim: (launch.block, 1, 1),
            shared_mem_bytes: launch.shared,
        };
        // SAFETY: the arguments are those of the prototype, in order and by type (tests/kernels.rs); each pointer is a
        // live buffer that the launcher has checked to be as long as the kernel reads or writes. Buffers are freed in the
        // order of the stream, so they outlive the kernel.
        let started = unsafe { self.0.launch(config) };
        started.map(drop).map_err(|e| device.failed("starting a kernel", e))
    }
}

/// `kernels! { pub struct Table from "file" { fn name(x: In<Act>, y: Out<f32>, p: Params); } }`: the kernels of
/// kernels/file.cu, each a method `table.name(device, launch, x, y, p)`.
macro_rules! kernels {
    ($(#[$meta:meta])* pub struct $Table:ident from $file:literal {
        $( $(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?); )*
    }) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $Table { $( $name: cudarc::driver::CudaFunction, )* }

        impl $Table {
            #[allow(unused_variables)]
            pub fn load(image: &$crate::cuda::module::Image<'_>) -> $crate::error::Result<$Table> {
                let module = image.module($file)?;
                Ok($Table { $( $name: image.function(&module, $file, stringify!($name))?, )* })
            }

            $(
                $(#[$doc])*
                #[allow(clippy::too_many_arguments)]
                pub fn $name(
                    &self,
                    device: &$crate::cuda::device::Device,
                    launch: $crate::cuda::kernels::Launch,
                    $($arg: $kind,)*
                ) -> $crate::error::Result<()> {
                    let mut call = $crate::cuda::kernels::Call::new(device, &self.$name);
                    $( call.argument(&$arg); )*
                    call.launch(device, launch)
                }
            )*
        }
    };
}
pub(super) use kernels;

/// A struct that a kernel takes by value: plain numbers and arrays of them, laid out as in C.
macro_rules! params {
    ($( $(#[$meta:meta])* pub struct $Name:ident { $( $(#[$doc:meta])* pub $field:ident: $kind:ty, )* } )*) => { $(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $Name { $( $(#[$doc])* pub $field: $kind, )* }
        // SAFETY: numbers only, in C's layout, as the kernel declares them (tests/kernels.rs).
        #[allow(unsafe_code)]
        unsafe impl cudarc::driver::DeviceRepr for $Name {}
    )* };
}
pub(super) use params;
