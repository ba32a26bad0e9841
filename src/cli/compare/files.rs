//! Errors of the files of a comparison.

use std::io;
use std::path::Path;

use crate::error::Error;

/// For a file or folder that cannot be read or written.
pub fn unusable(path: &Path, e: io::Error) -> Error {
    Error::io(format!("{}: cannot be read or written", path.display()))
        .because(e)
        .advice("give a directory that can be written with --output")
}
