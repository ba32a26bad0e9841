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
    let done = bounded(file, 200, || {
        let embedding = Embedding::open(&Spec { name: None, path: path.clone() })?;
        assert!(!embedding.name().is_empty() && embedding.vectors() > 0);
        let xl = embedding.check_family(&[6, 8]);
        let widths = if xl.is_ok() { &[6, 8][..] } else { &[6] };
        embedding.check_family(widths)?;
        for (encoder, width) in widths.iter().enumerate() {
            assert_eq!(embedding.values(encoder)?.len(), embedding.vectors() * width);
        }
        Ok(())
    });
    if let Err(error) = done {
        names(&error, "word.safetensors");
    }
});
