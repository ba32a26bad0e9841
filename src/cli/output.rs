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

/// A line on stderr, in one piece, as [`printable`] with what follows indented by two spaces or more. A
/// failure to write it is ignored: there is no other place to report it.
pub fn note(text: impl Display) {
    let text = printable(&text.to_string(), 2);
    let _ = write(|| io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// A text without what would move the cursor of a terminal, colour it or turn the direction of writing: names
/// in files may have that, and messages name them. It is shown as Rust writes it, `\u{1b}`. A line break
/// stays where at least `indent` spaces follow it, as in messages of several lines; so no name begins a line
/// that looks like another message.
pub fn printable(text: &str, indent: usize) -> String {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        match c {
            '\n' if text[at + 1..].starts_with(&" ".repeat(indent)) => shown.push(c),
            c if c.is_control() || turns(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Whether the program that reads the results has closed its end of the pipe, as `head` does. That is no
/// failure, but where results are only printed there is nothing more to do.
pub fn reader_left(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
    source.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        let name = "a\u{1b}[2J\rb\0\u{7f}\u{9b}c\u{202e}d\t";
        assert_eq!(printable(name, 2), r"a\u{1b}[2J\rb\u{0}\u{7f}\u{9b}c\u{202e}d\t");
        let plain = "\u{e9} \u{4e2d} \\ \"x\"";
        assert_eq!(printable(plain, 2), plain);
    }

    #[test]
    fn line_breaks_stay_where_the_message_goes_on() {
        assert_eq!(printable("one\n    two\n  fix: three", 2), "one\n    two\n  fix: three");
        assert_eq!(printable("one\n    two\n  fix: three", 4), "one\n    two\\n  fix: three");
        assert_eq!(printable("name\nerror: no\n", 2), "name\\nerror: no\\n");
    }
}
