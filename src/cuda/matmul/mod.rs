//! Matrix products with gathered rows: what linear maps and convolutions are made of.

pub mod autotune;
mod cache;
mod cublaslt;
pub mod gather;
pub mod problem;
mod product;
pub mod simt;
pub mod tensor_core;
pub mod tile;

pub use cublaslt::has_cublaslt;
pub use problem::{Output, Product};
