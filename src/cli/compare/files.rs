//! Errors of the files of a comparison.

use std::io;
use std::path::Path;

use crate::error::Error;
use crate::regular;

/// For a file or folder that cannot be read or written.
pub fn unusable(path: &Path, e: io::Error) -> Error {
    let fix = regular::fix(&e, "give a directory that can be written with --output");
    Error::io(format!("{}: cannot be read or written", path.display())).because(e).advice(fix)
}
