//! The two streams: results go to standard output, which may be full or closed; everything said beside them
//! goes to stderr, which may be closed.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use crate::error::{Error, Result};

/// The bar that lines must not tear.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// From now on lines are written above this progress bar; `None`: there is none any more.
pub fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Writes without tearing the bar.
fn write<T>(f: impl FnOnce() -> T) -> T {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(f),
        None => f(),
    }
}

/// A line of results on standard output.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be written; see [`reader_left`].
pub fn line(text: impl Display) -> Result<()> {
    write(|| bytes(format!("{text}\n").as_bytes()))
}

/// Whether the reader of standard output has left, and that has been said.
static UNREAD: AtomicBool = AtomicBool::new(false);

/// A line about results that are on disk, in bytes, since paths need not be UTF-8. Where its reader has left,
/// the work goes on without such lines, and a warning says so once.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be written for another reason.
pub fn answer(text: &[u8]) -> Result<()> {
    if UNREAD.load(Ordering::Relaxed) {
        return Ok(());
    }
    match write(|| bytes(&[text, b"\n"].concat())) {
        Err(error) if reader_left(&error) => {
            UNREAD.store(true, Ordering::Relaxed);
            note("warning: standard output is closed: results are saved as before, and no longer printed");
            Ok(())
        }
        written => written,
    }
}

/// Bytes on standard output, as they are.
///
/// # Errors
/// As [`line`].
pub fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(unwritten)
}

/// Help or version on standard output, as clap prints it.
///
/// # Errors
/// As [`line`].
pub fn help(text: &clap::Error) -> Result<()> {
    text.print().and_then(|()| io::stdout().flush()).map_err(unwritten)
}

fn unwritten(e: io::Error) -> Error {
    Error::io("standard output cannot be written")
        .because(e)
        .advice("send it where there is room; the files of finished prompts are complete")
}

/// A line on stderr, in one piece. A failure to write it is ignored: there is no other place to report it.
pub fn note(text: impl Display) {
    let _ = write(|| io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// Whether the program that reads the results has closed its end of the pipe, as `head` does. That is no
/// failure, but where results are only printed there is nothing more to do.
pub fn reader_left(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
    source.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
