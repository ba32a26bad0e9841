//! The emulator and the stand-in driver themselves: that right kernels pass, that wrong ones are found, and
//! that calls do what CUDA's do.

#[path = "emulator/cases/device.rs"]
mod device;
#[path = "emulator/cases/driver.rs"]
mod driver;
#[path = "emulator/cases/graphs.rs"]
mod graphs;
#[path = "common/harness.rs"]
mod harness;
#[path = "emulator/cases/operations.rs"]
mod operations;
#[path = "emulator/cases/planted.rs"]
mod planted;

use std::process::ExitCode;

use das_cuda_emulator as emulator;

fn main() -> ExitCode {
    let modules = [TESTS, driver::TESTS, graphs::TESTS, operations::TESTS, planted::TESTS];
    harness::main(&modules, emulator::available().err())
}

fn every_kernel_file_compiles() {
    assert_eq!(emulator::broken_kernels(), "");
}

tests![every_kernel_file_compiles];
