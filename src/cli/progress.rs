//! Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere, nothing when quiet.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output;

/// Shortest time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one run: all steps of all prompts, of which several may be under way.
pub enum Progress {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
    Quiet,
}

/// Progress where there is no terminal.
pub struct Lines {
    total: u64,
    done: u64,
    start: Instant,
    last: Instant,
}

impl Progress {
    /// `total` counts steps over all prompts.
    pub fn new(total: u64, quiet: bool) -> Progress {
        let now = Instant::now();
        if quiet {
            return Progress::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Progress::Lines(Mutex::new(Lines { total, done: 0, start: now, last: now }));
        }
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len}  {eta} left  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style);
        output::set_bar(Some(bar.clone()));
        Progress::Bar(bar)
    }

    /// One more step is done; `message` says how it stands.
    pub fn step(&self, message: &str) {
        match self {
            Progress::Bar(bar) => {
                bar.set_message(message.to_string());
                bar.inc(1);
            }
            Progress::Lines(lines) => {
                let Lines { total, done, start, last } = &mut *locked(lines);
                *done += 1;
                let now = Instant::now();
                if *done == 1 || *done == *total || now - *last >= LINE_EVERY {
                    *last = now;
                    let left = (now - *start).as_secs_f64() / *done as f64 * (*total - *done) as f64;
                    output::note(format_args!("{done}/{total}  {left:.0} s left  {message}"));
                }
            }
            Progress::Quiet => {}
        }
    }

    /// How a long step stands, which is not over.
    pub fn say(&self, message: &str) {
        match self {
            Progress::Bar(bar) => bar.set_message(message.to_string()),
            Progress::Lines(lines) => {
                let now = Instant::now();
                let last = &mut locked(lines).last;
                if now - *last >= LINE_EVERY {
                    *last = now;
                    output::note(message);
                }
            }
            Progress::Quiet => {}
        }
    }

    /// A line that must be seen even when quiet.
    pub fn warn(&self, message: &str) {
        output::note(format_args!("warning: {message}"));
    }

    /// What a result was like; nothing when quiet.
    pub fn summary(&self, line: &str) {
        if !matches!(self, Progress::Quiet) {
            output::note(line);
        }
    }

    /// A prompt of `steps` steps is not drawn.
    pub fn skip(&self, steps: u64) {
        match self {
            Progress::Bar(bar) => bar.inc(steps),
            Progress::Lines(lines) => locked(lines).total -= steps,
            Progress::Quiet => {}
        }
    }
}

fn locked(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Progress::Bar(bar) = self {
            output::set_bar(None);
            bar.finish_and_clear();
        }
    }
}
