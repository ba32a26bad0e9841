//! The emulator and the stand-in driver themselves: that right kernels pass and wrong ones are found.

use das_cuda_emulator as emulator;

#[path = "emulator/cases/planted.rs"]
mod planted;

#[path = "emulator/cases/operations.rs"]
mod operations;

#[path = "emulator/cases/driver.rs"]
mod driver;

#[test]
fn every_kernel_file_compiles() {
    emulator::available().unwrap();
    assert_eq!(emulator::broken_kernels(), "");
}
