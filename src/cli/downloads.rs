//! Downloads as the user sees them: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{output, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Hub, Progress, Settings};

/// Shortest time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Least bytes of a file that a plain line tells of.
const TOLD_OF: u64 = 100_000;

/// The hub that the environment describes.
pub fn hub(offline: bool, quiet: bool) -> Hub {
    let mut settings = Settings::from_env();
    settings.offline |= offline;
    Hub::new(settings).with_progress(Downloads { quiet, shown: Mutex::new(None) })
}

struct Downloads {
    quiet: bool,
    /// The file that is told of, since when.
    shown: Mutex<Option<(String, Shown)>>,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Instant),
}

impl Progress for Downloads {
    fn at(&self, file: &str, bytes: u64, total: u64) -> Result<()> {
        if signals::requested().is_some() {
            return Err(Error::new(ErrorKind::Interrupted, format!("stopped while {file} was downloaded"))
                .advice("the same command goes on with the download where it was stopped"));
        }
        if self.quiet {
            return Ok(());
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_none_or(|(of, _)| of != file) {
            *shown = Some((file.to_string(), begin(file, bytes, total)));
        }
        if let Some((_, shown)) = &mut *shown {
            shown.at(file, bytes, total);
        }
        if bytes == total {
            *shown = None;
        }
        Ok(())
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn begin(file: &str, bytes: u64, total: u64) -> Shown {
    if !std::io::stderr().is_terminal() {
        let from = if bytes > 0 { format!(", from {:.1} on", megabytes(bytes)) } else { String::new() };
        if total >= TOLD_OF {
            output::note(format_args!("downloading {file}, {:.1} MB{from}", megabytes(total)));
        }
        return Shown::Lines(Instant::now());
    }
    let style = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes}  {eta} left  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style).with_message(file.to_string()).with_position(bytes);
    bar.reset_eta();
    output::set_bar(Some(bar.clone()));
    Shown::Bar(bar)
}

impl Shown {
    fn at(&mut self, file: &str, bytes: u64, total: u64) {
        match self {
            Shown::Bar(bar) => {
                bar.set_position(bytes);
                if bytes == total {
                    output::set_bar(None);
                    bar.finish_and_clear();
                }
            }
            Shown::Lines(last) if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let (there, all) = (megabytes(bytes), megabytes(total));
                output::note(format_args!("downloading {file}: {there:.1} of {all:.1} MB"));
            }
            Shown::Lines(_) => {}
        }
    }
}
