//! das-cuda: test-time alignment of diffusion models by Sequential Monte Carlo.
//!
//! The rooms of this library and who may use whom are in `ARCHITECTURE.md`.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod assets;
pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod ddim;
pub mod engine;
pub mod error;
pub mod hash;
pub mod meter;
pub mod method;
pub mod model;
pub mod noise;
pub mod op;
pub mod ops;
pub mod pixels;
mod resize;
pub mod reward;
pub mod run;
pub mod sampler;
pub mod session;
pub mod smc;
pub mod tape;
pub mod target;
pub mod tensor;

pub use error::{Error, ErrorKind, Result};
pub use session::{Device, Dtype, Prompt, Run, SampleOptions, Samples, Session};
