//! What a picture says of its making: texts in a PNG, and the prompt in them. Checksums are not looked at
//! under `--cfg fuzzing`.
#![no_main]

use das_cuda::run::{prompt_in, read_prompt, read_texts};
use das_cuda_fuzz::{bounded, folder};

/// A chunk may be compressed a thousandfold; the decoder stops at 2 MiB of each.
const TEXTS: usize = 24 << 20;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let path = folder().join("a.png");
    std::fs::write(&path, input).expect("room for a picture");
    bounded(TEXTS + 200 * input.len(), 1, || {
        let texts = read_texts(&path).expect("the file is there");
        let prompt = read_prompt(&path).expect("the file is there");
        let own = texts.record.is_some_and(|record| record["prompt"].is_string());
        assert_eq!(prompt.is_some(), own || texts.parameters.as_deref().and_then(prompt_in).is_some());
        if let Ok(text) = std::str::from_utf8(input) {
            prompt_in(text);
        }
    })
});
