//! The two streams: results go to standard output, which may be full or closed; everything said beside them goes to
//! stderr, where nobody may be listening.

use std::fmt::Display;
use std::io::{self, Write};

use crate::error::{Error, Result};

/// A line of results on standard output.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be written; see [`reader_left`].
pub fn line(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| {
        Error::io("standard output cannot be written")
            .because(e)
            .fix("send it where there is room; the files of finished prompts are complete")
    })
}

/// A line on stderr, in one piece. If it cannot be written, there is nobody to tell.
pub fn note(text: impl Display) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Whether whoever read the results has seen enough, as `head` does: no failure, but nothing more to do.
pub fn reader_left(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
    source.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
