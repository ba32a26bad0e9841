//! A file of textual inversion, by the names and sizes of its tensors: lines as `das_cuda_fuzz::safetensors`
//! reads them. It is held against a model with one text encoder, and against one with two.
#![no_main]

use das_cuda::model::embedding::{Embedding, Spec};
use das_cuda_fuzz::{MOST_BYTES, bounded, folder, names, safetensors, write};

libfuzzer_sys::fuzz_target!(|input: &str| {
    let Some((header, bytes)) = safetensors(input) else { return };
    let path = folder().join("word.safetensors");
    write(&path, &header, bytes);
    let file = header.len() + bytes.min(MOST_BYTES) as usize;
    let opened = bounded(file, 200, || Embedding::open(&Spec { name: None, path: path.clone() }));
    match opened {
        Ok(embedding) => {
            assert!(!embedding.name().is_empty() && embedding.vectors() > 0);
            for widths in [&[6][..], &[6, 8]] {
                match embedding.check_family(widths) {
                    Ok(()) => assert_eq!(embedding.values(0).len(), embedding.vectors() * widths[0]),
                    Err(error) => names(&error, "word.safetensors"),
                }
            }
        }
        Err(error) => names(&error, "word.safetensors"),
    }
});
