//! The bytes of a safetensors file: its header, and the ranges of tensors in it.
#![no_main]

use das_cuda::model::checkpoint::Checkpoint;
use das_cuda_fuzz::{bounded, embedded, names, read_all};

libfuzzer_sys::fuzz_target!(|input: &[u8]| bounded(input.len(), 200, || {
    match Checkpoint::embedded("a.safetensors", embedded(input)) {
        Ok(checkpoint) => read_all(&checkpoint, input.len()),
        Err(error) => names(&error, "a.safetensors"),
    }
}));
