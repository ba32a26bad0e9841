//! The command line: what was typed (`args.rs`), what it means (`options.rs`), and the work. Results go to
//! standard output, progress and warnings to stderr.

mod args;
mod device;
mod flags;
mod meaning;
mod memory;
mod options;
mod output;
mod plan;
mod progress;
mod prompts;
mod record;
mod sample;
mod save;
mod score;
mod session;

use clap::Parser;

use crate::error::Result;
use args::{Cli, Command};
use options::Options;

pub use flags::{exit_code, report};

/// Runs the program; the error decides the exit code.
///
/// # Errors
/// Whatever the command meets.
pub fn run() -> Result<()> {
    match command(Cli::parse().command) {
        Err(error) if output::reader_left(&error) => Ok(()),
        outcome => outcome,
    }
}

fn command(command: Command) -> Result<()> {
    match command {
        Command::Sample(args) => {
            options::threads(args.threads)?;
            // For the record: what is no UTF-8 is shown as well as it can be.
            let typed = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            sample::run(Options::resolve(&args)?, typed)
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
