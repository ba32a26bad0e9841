//! What a scorer writes (docs/reward-protocol.md): each input is read as its hello, and as its answer to
//! requests with gradients and without.
#![no_main]

use das_cuda::reward::fuzzing::{Hello, Request, shown};
use das_cuda_fuzz::bounded;

/// What is shown of a line: its beginning, escaped.
const MOST_SHOWN: usize = 160 * "\\u{10ffff}".len() + 100;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bounded(input.len(), 200, || {
    let _ = Hello::parse(input);
    let beginning = shown(input);
    assert!(beginning.len() <= MOST_SHOWN && !beginning.chars().any(char::is_control), "{beginning:?}");
    for (gradient, named) in [(false, false), (false, true), (true, true)] {
        let (prompts, images) = (vec!["a star", "\u{1b}[31m"], vec![String::new(); 2]);
        let request = Request { id: 7, prompts, images, width: 2, height: 1, gradient };
        if let Ok(answer) = request.answered(input, named) {
            assert_eq!(answer.scores.len(), 2);
            assert_eq!(answer.gradients.len(), if gradient { 2 * 6 } else { 0 });
        }
    }
}));
