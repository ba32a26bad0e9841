//! The CUDA backend, operation by operation, against the CPU backend. Where there is no GPU it runs on the
//! stand-in driver of `tests/emulator`; `DAS_CUDA_REQUIRE_GPU=1` makes it run on the GPU, and fail where
//! there is none. With neither a GPU nor a C++ compiler every test is ignored.

#[path = "../common/cases.rs"]
mod cases;
mod device;
#[path = "../common/golden.rs"]
mod golden;
#[path = "../common/harness.rs"]
mod harness;
#[path = "../common/laws.rs"]
mod laws;
mod parity;
#[path = "../common/resume.rs"]
mod resume;

mod attention;
mod conv;
mod cublas;
mod gemm;
mod graph;
mod image;
mod norm;
mod once;
mod particle;
mod points;
mod pointwise;
mod queue;
mod resample;
mod reward;
mod sample;
mod table;
mod texts;
mod tiny;
mod weigh;
mod wide;

use std::process::ExitCode;

fn main() -> ExitCode {
    let modules = [
        attention::TESTS,
        conv::TESTS,
        cublas::TESTS,
        gemm::TESTS,
        graph::TESTS,
        image::TESTS,
        norm::TESTS,
        once::TESTS,
        particle::TESTS,
        points::TESTS,
        pointwise::TESTS,
        queue::TESTS,
        resample::TESTS,
        reward::TESTS,
        sample::TESTS,
        table::TESTS,
        texts::TESTS,
        tiny::TESTS,
        weigh::TESTS,
        wide::TESTS,
    ];
    harness::main(&modules, device::unavailable())
}
