//! The GPU itself: opening it, memory and its accounts, whether its work is being recorded, ranges for
//! profilers.

mod account;
mod buffer;
mod capture;
mod elem;
mod gpu;
#[allow(unsafe_code)]
pub mod nvtx;
mod pinned;
mod pointer;

pub use buffer::{Buffer, Form};
pub use capture::Captured;
pub use elem::Elem;
pub use gpu::{Device, GpuInfo, Limits, count, driver_version, info};
pub use pinned::Pinned;
pub use pointer::{Act, In, Out};
