//! Files that are either whole or not there, and their hashes.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::hash::sha256_of_file;

/// What to do about a file that cannot be written.
pub(super) const FIX_OUTPUT: &str = "choose a directory that can be written, and has room, with `output`";

/// What to do about data that cannot be encoded, which no input should cause.
pub(super) const FIX_REPORT: &str = "this is a bug of das-cuda: please report it with the command";

/// Writes `bytes` beside `path` and renames: readers see the old file or the new one, never a part.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the path and the option `output`.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written = fs::File::create(&part).and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| fs::rename(&part, path)).map_err(|e| {
        // The error to report is the first; that the remains cannot be removed either adds nothing.
        let _ = fs::remove_file(&part);
        Error::io(format!("{}: cannot be written", path.display())).because(e).fix(FIX_OUTPUT)
    })
}

/// SHA-256 of a file's content, in hexadecimal.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
pub fn sha256_file(path: &Path) -> Result<String> {
    let hashed = sha256_of_file(path).map_err(|e| {
        Error::io(format!("{}: cannot be read", path.display())).because(e).fix("check its path and rights")
    });
    hashed.map(|(_, hash)| hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        write_atomic(&path, b"first").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_content_and_no_parts() {
        let dir = tempfile::tempdir().unwrap();
        // A directory cannot be replaced by a file: the rename fails after the bytes were written.
        let path = dir.path().join("best.png");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "old").unwrap();
        let error = write_atomic(&path, b"new").unwrap_err().to_string();
        assert!(error.contains("best.png") && error.contains("`output`"), "{error}");
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
