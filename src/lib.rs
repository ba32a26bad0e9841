//! das-cuda: test-time alignment of diffusion models by Sequential Monte Carlo.
//!
//! A [`Session`] opens a device, a model and rewards, and draws samples of `p(x) exp(r(x) / alpha)`: pictures
//! that the model could have drawn and that the reward likes.
//!
//! ```
//! # #[cfg(feature = "shapes")]
//! # fn main() -> das_cuda::Result<()> {
//! use das_cuda::{Device, Session};
//!
//! // The small model inside this library and its aesthetic reward.
//! let mut session = Session::builder().device(Device::Cpu).open()?;
//! let options = session.defaults().particles(2).steps(2).seed(1);
//! let mut run = session.sample("a red star", &options)?;
//! for step in &mut run {
//!     println!("effective sample size {:.1}", step?.prompts[0].ess);
//! }
//! let samples = run.conclude()?.swap_remove(0);
//! assert_eq!(samples.pictures.len(), 2);
//! println!("reward {:.3}", samples.population.rewards[samples.best()]);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "shapes"))]
//! # fn main() {}
//! ```
//!
//! Beneath it lie the [`Sampler`], an iterator of [`Step`]s over any [`Target`](sampler::Target)
//! (examples/toy.rs), methods ([`Method`]) and rewards ([`Reward`]), to which you can add your own
//! (examples/custom_reward.rs). `ARCHITECTURE.md` says which rooms there are, and who may use whom.
//!
//! # Features
//!
//! All are on by default.
//!
//! - `cli`: the program `das-cuda`, and what only a program needs.
//! - `cuda`: the backend on NVIDIA GPUs. build.rs compiles its kernels where it finds an nvcc.
//! - `hub`: downloads from the Hugging Face Hub; without it, its cache on disk is still read.
//! - `shapes`: the small model inside the library, 19 MB.

#![deny(unsafe_code)]
#![warn(missing_docs, clippy::missing_errors_doc)]

pub mod assets;
pub mod backend;
mod cache;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod ddim;
pub mod engine;
pub mod error;
pub mod hash;
pub mod hub;
pub mod meter;
pub mod method;
pub mod mlp;
pub mod model;
pub mod noise;
pub mod op;
pub mod ops;
pub mod pixels;
mod regular;
mod resize;
pub mod reward;
pub mod run;
pub mod sampler;
pub mod session;
pub mod smc;
mod spread;
pub mod surrogate;
pub mod tape;
pub mod target;
pub mod tensor;
pub mod toy;

pub use error::{Error, ErrorKind, Result};
pub use method::Method;
pub use reward::Reward;
pub use sampler::{Options, Sampler, Step};
pub use session::{Device, Dtype, Prompt, Run, SampleOptions, Samples, Session, SessionBuilder};
