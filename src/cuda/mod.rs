//! The backend that computes on an NVIDIA GPU (compute capability 8.0 and newer) with the driver alone:
//! hand-written kernels, one stream, memory in stream order. Nothing here waits for the GPU but `download`
//! and what returns numbers.
//!
//! Activations and weights are bf16, f16 or f32 (`Elem`), chosen at opening; tensors whose rows are not whole
//! packets of eight channels (latents, pictures, scores) are f32 always, and are worked on by the kernels of
//! the f32 image. An operation that meets both widens what is narrow; matrix products narrow what is wide.

mod attention;
mod backend;
mod ctx;
mod device;
mod launch;
mod matmul;
mod ops;
mod smc;

pub use ctx::Cuda;
pub use device::{Elem, GpuInfo, count, driver_version, info};
pub use launch::{ARCHITECTURES, TOOLKIT, compiles, has_nvrtc, usable};
pub use matmul::has_cublaslt;

/// What tests and benches look at inside the backend; no part of the library's interface.
#[doc(hidden)]
pub mod testing {
    pub use super::launch::Mark;
    pub use super::matmul::autotune::Outcome;
    pub use super::matmul::problem::Problem;
    pub use super::smc::Array64;
    pub use super::smc::resample::Resampled;
    pub use super::smc::weigh::{Decision, Populations, Weighing};
}
