//! The CUDA backend, operation by operation, against the CPU backend. Where there is no GPU it runs on the stand-in driver
//! of `tests/emulator`; `DAS_CUDA_REQUIRE_GPU=1` makes it run on the GPU, and fail where there is none.

#[path = "../common/cases.rs"]
mod cases;
mod device;
#[path = "../common/laws.rs"]
mod laws;
mod parity;

mod attention;
mod conv;
mod cublas;
mod gemm;
mod graph;
mod image;
mod norm;
mod once;
mod particle;
mod pointwise;
mod queue;
mod resample;
mod sample;
mod table;
mod weigh;
