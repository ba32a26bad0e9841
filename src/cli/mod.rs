//! The command line: what was typed (`args.rs`), what it means (`options.rs`), and the work. Results go to
//! standard output, progress and warnings to stderr.

mod again;
mod args;
mod axes;
mod check;
mod compare;
mod doctor;
mod downloads;
mod draw;
mod eval;
mod experiment;
mod flags;
mod gpus;
mod held_out;
mod help;
mod inspect;
mod limits;
mod look;
mod man;
mod meaning;
mod merge;
mod normalise;
mod one;
mod optimize;
mod options;
mod output;
mod pareto;
mod plan;
mod preview;
mod progress;
mod prompts;
mod rebuild;
mod record;
mod replay;
mod report;
mod resume;
mod sample;
mod save;
mod scene;
mod score;
mod shard;
mod signals;
mod skip;
mod statistics;
mod summary;
mod threads;
mod toy;
mod trace;
mod values;
mod weights;
mod words;
mod work;

use std::process::ExitCode;

use clap::Parser;

use crate::error::Result;
use args::{Cli, Command};
use options::Options;

pub use flags::{exit_code, report};

/// Runs the program as it was called. What failed is said on stderr, and in the exit code: see [`exit_code`].
pub fn run() -> ExitCode {
    signals::ignore_file_limit();
    let done = match Cli::try_parse() {
        Ok(cli) => command(cli.command),
        // What was typed wrong is clap's to say, with its exit code.
        Err(wrong) if wrong.use_stderr() => wrong.exit(),
        Err(help) => output::help(&help),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed, the exit code still tells.
            output::note(format_args!("error: {}", flags::report(&error)));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The command line, for records: what is no UTF-8 is shown as well as it can be.
fn typed() -> Vec<String> {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

fn command(command: Command) -> Result<()> {
    match command {
        Command::Sample(args) => {
            threads::start(args.threads)?;
            sample::run(Options::resolve(&args)?, typed())
        }
        Command::Replay(args) => replay::run(&args, typed()),
        Command::Resume(args) => {
            threads::start(args.threads)?;
            resume::run(&args)
        }
        Command::Merge(args) => merge::run(&args),
        Command::Compare(args) => {
            threads::start(args.cases.threads)?;
            compare::run(&args, &typed())
        }
        Command::Toy(args) => {
            threads::start(args.threads)?;
            toy::run(&args, &typed())
        }
        Command::Pareto(args) => {
            threads::start(args.cases.threads)?;
            pareto::run(&args, &typed())
        }
        Command::Optimize(args) => {
            threads::start(args.cases.threads)?;
            optimize::run(&args, &typed())
        }
        Command::Eval(args) => {
            threads::start(args.judge.threads)?;
            eval::run(&args, &typed())
        }
        Command::Report(args) => report::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(args) => {
            threads::start(args.threads)?;
            signals::end_scorers_first();
            plan::run(Options::resolve(&args)?)
        }
        Command::Score(args) => {
            threads::start(args.judge.threads)?;
            signals::end_scorers_first();
            match &args.check {
                Some(pairs) => check::run(&args, pairs),
                None => score::run(&args),
            }
        }
        Command::Rewards => output::bytes(help::rewards().as_bytes()),
        Command::Devices => doctor::devices(),
        Command::Doctor => doctor::run(),
        Command::Completions { shell } => output::bytes(&man::completions(shell)),
        Command::Man => output::bytes(&man::page()?),
    }
}
