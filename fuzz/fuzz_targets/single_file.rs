//! A checkpoint in a single file, by the names and sizes of its tensors: lines as
//! `das_cuda_fuzz::safetensors` reads them. What it is presented as is read as a folder.
#![no_main]

use das_cuda::model::config::{AutoencoderConfig, ClipTextConfig, SchedulerFile, UNetConfig};
use das_cuda::model::original::{self, Choices};
use das_cuda_fuzz::{MOST_BYTES, bounded, folder, names, read_all, safetensors, write};

/// The tables of CLIP's tokenizer, which every model without one of its own gets.
const TOKENIZER: usize = 64 << 20;

libfuzzer_sys::fuzz_target!(|input: &str| {
    let Some((header, bytes)) = safetensors(input) else { return };
    let path = folder().join("model.safetensors");
    write(&path, &header, bytes);
    let file = header.len() + bytes.min(MOST_BYTES) as usize;
    bounded(TOKENIZER + 200 * file, 1, || {
        let source = match original::open(&path, &Choices::default()) {
            Ok((source, notes)) => {
                assert!(notes.iter().all(|note| note.contains("model.safetensors")), "{notes:?}");
                source
            }
            Err(error) => return names(&error, "model.safetensors"),
        };
        let told = |error| names(&error, "model.safetensors");
        UNetConfig::open(&source, "unet").map_or_else(told, drop);
        AutoencoderConfig::open(&source, "vae").map_or_else(told, drop);
        ClipTextConfig::open(&source, "text_encoder").map_or_else(told, drop);
        SchedulerFile::open(&source, "scheduler", "DDIMScheduler").map_or_else(told, drop);
        for component in ["unet", "vae", "text_encoder"] {
            match source.checkpoint(component, None) {
                Ok(checkpoint) if bytes <= MOST_BYTES => read_all(&checkpoint, file),
                Ok(_) => {}
                Err(error) => told(error),
            }
        }
    })
});
