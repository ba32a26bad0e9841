//! Sequential Monte Carlo on the GPU: moving, weighing and resampling particles, and the step engine of a
//! run.

mod array64;
pub mod engine;
pub mod particle;
pub mod resample;
pub mod weigh;

pub use array64::Array64;
