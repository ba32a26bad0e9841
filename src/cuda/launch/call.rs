//! The one launch of a kernel: grid, block, shared memory and an argument list.

use cudarc::driver::{CudaFunction, DeviceRepr, LaunchConfig, PushKernelArg};

use crate::cuda::device::Device;
use crate::error::Result;

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
        // SAFETY: the arguments are those of the prototype, in order and by type (tests/kernels.rs); each
        // pointer is a live buffer that the launcher has checked to be as long as the kernel reads or writes.
        // Buffers are freed in the order of the stream, so they outlive the kernel.
        let started = unsafe { self.0.launch(config) };
        started.map(drop).map_err(|e| device.failed("starting a kernel", e))
    }
}
