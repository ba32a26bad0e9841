//! The device that the tests run on.

use std::sync::Once;

use das_cuda::cuda::{Cuda, Elem};

use crate::harness::skip;

/// The three types of activations.
const ELEMS: [Elem; 3] = [Elem::F32, Elem::F16, Elem::Bf16];

/// Whether only a GPU will do.
pub fn gpu_required() -> bool {
    std::env::var("DAS_CUDA_REQUIRE_GPU").is_ok_and(|v| v == "1")
}

/// Why there is no device to run on: neither is a GPU required nor was the stand-in built.
pub fn unavailable() -> Option<String> {
    if gpu_required() { None } else { das_cuda_emulator::available().err() }
}

/// Ends a test that only the stand-in can run; `why` says what a GPU lacks.
pub fn stand_in_only(why: &str) {
    if gpu_required() {
        skip(why);
    }
}

/// Whether there are kernels of this type: the libraries for sanitizers have no f16.
fn has_kernels(elem: Elem) -> bool {
    let some = || das_cuda_emulator::kernels().is_ok_and(|names| names.iter().any(|n| n == "das_copy_f16"));
    elem != Elem::F16 || gpu_required() || some()
}

/// The types of activations that there are kernels of.
pub fn elems() -> impl Iterator<Item = Elem> {
    ELEMS.into_iter().filter(|elem| has_kernels(*elem))
}

/// Opens a device whose activations are of type `elem`.
pub fn open(elem: Elem) -> Cuda {
    static STAND_IN: Once = Once::new();
    if !gpu_required() {
        if !has_kernels(elem) {
            skip(format!("the libraries for sanitizers have no kernels of {elem:?}"));
        }
        STAND_IN.call_once(|| das_cuda_emulator::install().unwrap());
    }
    Cuda::open(0, elem).unwrap()
}
