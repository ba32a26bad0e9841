//! The device that the tests run on.

use std::sync::Once;

use das_cuda::cuda::{Cuda, Elem};

/// The three types of activations.
pub const ELEMS: [Elem; 3] = [Elem::F32, Elem::F16, Elem::Bf16];

/// Whether only a GPU will do.
pub fn gpu_required() -> bool {
    std::env::var("DAS_CUDA_REQUIRE_GPU").is_ok_and(|v| v == "1")
}

/// Whether there are kernels of this type: the libraries for sanitizers have no f16.
pub fn has_kernels(elem: Elem) -> bool {
    let some = || das_cuda_emulator::kernels().is_ok_and(|names| names.iter().any(|n| n == "das_copy_f16"));
    elem != Elem::F16 || gpu_required() || some()
}

/// Opens a device whose activations are of type `elem`. `None`, said on stderr, where neither a GPU is required
/// nor the stand-in could be built.
pub fn open(elem: Elem) -> Option<Cuda> {
    static STAND_IN: Once = Once::new();
    if !gpu_required() {
        if let Err(why) = das_cuda_emulator::available() {
            eprintln!("skipped: no stand-in for a GPU: {why}");
            return None;
        }
        if !has_kernels(elem) {
            eprintln!("skipped: no kernels of {elem:?}");
            return None;
        }
        STAND_IN.call_once(|| das_cuda_emulator::install().unwrap());
    }
    Some(Cuda::open(0, elem).unwrap())
}
