//! The command line: what was typed (`args.rs`), what it means (`options.rs`), and the work. Results go to
//! standard output, progress and warnings to stderr.

mod args;
mod options;
mod plan;
mod progress;
mod prompts;
mod sample;
mod score;
mod session;

use clap::Parser;

use crate::error::Result;
use args::{Cli, Command};
use options::Options;

/// Runs the program; the error decides the exit code.
///
/// # Errors
/// Whatever the command meets.
pub fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Sample(args) => {
            options::threads(args.threads)?;
            sample::run(Options::resolve(&args)?, std::env::args().collect())
        }
        Command::Plan(args) => {
            options::threads(args.threads)?;
            plan::run(Options::resolve(&args)?)
        }
        Command::Score(args) => {
            options::threads(args.threads)?;
            score::run(&args)
        }
    }
}
