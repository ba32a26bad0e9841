//! The emulator and the stand-in driver themselves: that right kernels pass, that wrong ones are found, and that calls do
//! what CUDA's do.

#[path = "emulator/cases/device.rs"]
mod device;
#[path = "emulator/cases/driver.rs"]
mod driver;
#[path = "emulator/cases/graphs.rs"]
mod graphs;
#[path = "emulator/cases/operations.rs"]
mod operations;
#[path = "emulator/cases/planted.rs"]
mod planted;

use das_cuda_emulator as emulator;

#[test]
fn every_kernel_file_compiles() {
    emulator::available().unwrap();
    assert_eq!(emulator::broken_kernels(), "");
}
