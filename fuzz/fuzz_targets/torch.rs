//! The bytes of a file of `torch.save`: a zip archive, or the pickles of PyTorch before 1.6 one after
//! another. An input that begins as neither gets the beginning of the latter.
#![no_main]

use das_cuda::model::checkpoint::Checkpoint;
use das_cuda_fuzz::{bounded, embedded, names, read_all};

/// Magic number and version, each a pickle.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let known = input.starts_with(b"PK\x03\x04") || input.starts_with(&LEGACY[..4]);
    let whole = if known { input.to_vec() } else { [LEGACY, input].concat() };
    bounded(whole.len(), 400, || match Checkpoint::embedded("a.pt", embedded(&whole)) {
        Ok(checkpoint) => read_all(&checkpoint, whole.len()),
        Err(error) => names(&error, "a.pt"),
    })
});
