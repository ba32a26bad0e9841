//! The files of a tokenizer. An input is several files, each behind a line `--- NAME`; `text` among them is
//! what is cut into tokens.
#![no_main]

use das_cuda::model::files::Source;
use das_cuda::model::tokenizer::Tokenizer;
use das_cuda::model::wordpiece::WordPiece;
use das_cuda_fuzz::{bounded, embedded, names};

const CONTEXT: usize = 12;

/// The files in an input.
fn files(input: &[u8]) -> Vec<(&str, &[u8])> {
    let mut files = Vec::new();
    let mut rest = input;
    while let Some(named) = rest.strip_prefix(b"--- ") {
        let Some(end) = named.iter().position(|&byte| byte == b'\n') else { break };
        let Ok(name) = std::str::from_utf8(&named[..end]) else { break };
        let content = &named[end + 1..];
        let length = content.windows(5).position(|five| five == b"\n--- ").map_or(content.len(), |at| at + 1);
        files.push((name, &content[..length]));
        rest = &content[length..];
    }
    files
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let files = files(embedded(input));
    let text =
        files.iter().find(|(name, _)| *name == "text").map_or(&b"a photo of 2 cats"[..], |(_, text)| text);
    let text = String::from_utf8_lossy(text);
    bounded(input.len(), 1000, || {
        // SAFETY: the source is gone when the list is.
        let list: &'static [(&str, &[u8])] = unsafe { std::mem::transmute(files.as_slice()) };
        let source = Source::Embedded(list);
        if list.iter().any(|(name, _)| *name == "vocab.txt") {
            match WordPiece::open(&source, CONTEXT) {
                Ok(tokenizer) => {
                    let tokens = tokenizer.encode(&text);
                    assert!((2..=CONTEXT).contains(&tokens.ids.len()), "{tokens:?}");
                    assert!(tokens.ids.iter().all(|id| (*id as usize) < tokenizer.size()), "{tokens:?}");
                }
                Err(error) => names(&error, "built-in:"),
            }
            return;
        }
        match Tokenizer::open(&source, "", CONTEXT) {
            Ok(tokenizer) => {
                let tokens = tokenizer.encode(&text);
                assert_eq!(tokens.ids.len(), tokenizer.context());
                assert!(tokens.ids.iter().all(|id| *id <= tokenizer.largest_id()), "{tokens:?}");
            }
            Err(error) => names(&error, "built-in:"),
        }
    })
});
