//! The emulator and the stand-in driver themselves: that right kernels pass and wrong ones are found.

use das_cuda_emulator as emulator;

#[path = "emulator/tests/planted.rs"]
mod planted;

#[test]
fn every_kernel_file_compiles() {
    emulator::available().unwrap();
    assert_eq!(emulator::broken_kernels(), "");
}
