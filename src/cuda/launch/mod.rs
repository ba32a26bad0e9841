//! How kernels reach the GPU: the compiled images, the typed tables of kernels, the launch, and work recorded
//! as a graph.

mod call;
pub mod graph;
mod kernels;
mod module;
mod timer;

pub use call::{Call, Launch};
pub(super) use kernels::{kernels, params};
pub use module::{ARCHITECTURES, Image, TOOLKIT, compiles, has_nvrtc, usable};
pub use timer::Mark;
