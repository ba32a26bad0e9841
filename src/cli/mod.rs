//! The command line: what was typed (`args.rs`), what it means (`options.rs`), and the work. Results go to
//! standard output, progress and warnings to stderr.

pub mod args;
pub mod options;
mod progress;
mod prompts;
