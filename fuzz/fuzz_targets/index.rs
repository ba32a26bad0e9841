//! An index of shards: JSON that names files. Only files beside it are opened.
#![no_main]

use std::sync::LazyLock;

use das_cuda::model::checkpoint::Checkpoint;
use das_cuda_fuzz::{bounded, folder, names, safetensors, write};

/// Folder with an index beside two shards; others are above it and below it.
static SHARDS: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
    let inner = folder().join("model");
    std::fs::create_dir_all(inner.join("sub")).expect("a folder");
    for (nth, place) in ["1", "2", "../above", "sub/below"].into_iter().enumerate() {
        let (header, bytes) = safetensors(&format!("t{nth} F32 2")).expect("a file");
        write(&inner.join(format!("{place}.safetensors")), &header, bytes);
    }
    inner
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let path = SHARDS.join("model.safetensors.index.json");
    std::fs::write(&path, input).expect("room for an index");
    bounded(input.len(), 400, || match Checkpoint::open(&SHARDS, None) {
        Ok(checkpoint) => {
            assert!(checkpoint.paths().all(|path| path.parent() == Some(&*SHARDS)), "{checkpoint:?}");
            assert!(checkpoint.names().all(|name| ["t0", "t1"].contains(&name)), "{checkpoint:?}");
        }
        Err(error) => names(&error, "model.safetensors.index.json"),
    })
});
