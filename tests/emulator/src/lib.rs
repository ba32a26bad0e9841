//! The CUDA kernels of das-cuda on a CPU, and a driver that stands in for CUDA's: what the tests run on where
//! there is no GPU.
//!
//! Kernels can be launched by name ([`launch`]) on buffers with guard zones ([`Guarded`]); or [`install`]
//! makes this process see one device through cudarc, so that everything above the driver is tested as it is.

mod args;
mod guarded;
mod library;

pub use args::Arg;
pub use guarded::Guarded;
pub use library::{
    Counters, Cublas, available, broken_kernels, counters, cublas, cublas_calls, environment,
    fail_allocation, install, kernels, launches, library_dir, limit_memory, seed_driver, take_failure,
};

use std::ffi::c_void;

/// Runs a kernel to its end. `name` is the one in the image (`das_gemm_bf16`). Seed 0 runs blocks and threads
/// in order; any other is an order of its own, and every fourth of the same kind (see `Order` in
/// `machine.h`).
///
/// The arguments must be those of the kernel in number, size and kind, and pointers to what the kernel writes
/// must come from `&mut`. Not `unsafe`, though a wrong kernel may do anything: showing it is what this is
/// for.
///
/// # Errors
/// What the kernel did wrong and where, or why it cannot be launched.
pub fn launch(
    name: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    args: &[Arg],
    seed: u64,
) -> Result<(), String> {
    let kernel = library::find(name)?;
    args::matches(&kernel, args).map_err(|e| format!("{name}{}: {e}", kernel.text))?;
    let mut pointers: Vec<*mut c_void> = args.iter().map(Arg::place).collect();
    library::launch(&kernel, grid, block, shared_bytes, &mut pointers, seed)
}

/// Every seed worth trying: in order, and twice each order that is not. `DAS_EMULATOR_SEEDS` (`0,1,5`)
/// overrides.
pub fn seeds() -> Vec<u64> {
    match std::env::var("DAS_EMULATOR_SEEDS") {
        Ok(list) => list.split(',').filter_map(|s| s.trim().parse().ok()).collect(),
        Err(_) => (0..9).collect(),
    }
}
