//! Files that are either whole or not there, and their hashes.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hash::sha256_of_file;
use crate::regular;

/// What to do about a file that cannot be written.
pub(super) const FIX_OUTPUT: &str = "choose a directory that can be written, and has room, with `output`";

/// What to do about data that cannot be encoded, which no input should cause.
pub(super) const FIX_REPORT: &str = "this is a bug of das-cuda: please report it with the command";

/// How the names begin and end of files that are not whole yet.
pub(super) const PART: (&str, &str) = (".das-cuda-", ".part");

/// Writes `bytes` to a file of another name beside `path` and renames it: readers see the old file or the new
/// one, never a part, also after a power cut.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the path.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes).map_err(|e| unwritten(path, e))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    let mut part = part(&folder)?;
    part.write_all(bytes)?;
    part.as_file().sync_all()?;
    part.persist(path).map_err(|e| e.error)?;
    sync(&folder)
}

/// The folder that a path names an entry of.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => ".".into(),
    }
}

/// A new file in `folder`, removed unless it is given a name, with the rights that any new file would have.
fn part(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PART.0).suffix(PART.1);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Makes the names in a folder last, where the system can: some file systems (and Windows) open or flush no
/// folders, and a rename there lasts as they see fit.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    let Ok(folder) = fs::File::open(folder) else { return Ok(()) };
    match folder.sync_all() {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}

/// Finds out whether a file `path` could be written, its name and folders that are still to be made included,
/// and leaves everything as it was.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the path.
pub fn probe_file(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
    let probed = fs::create_dir_all(&folder).and_then(|()| probe(path));
    for folder in missing {
        // Goes if it is empty: another program may have made something in it meanwhile.
        let _ = fs::remove_dir(folder);
    }
    probed.map_err(|e| unwritten(path, e))
}

pub(super) fn unwritten(path: &Path, e: io::Error) -> Error {
    let fix = regular::fix(&e, FIX_OUTPUT);
    Error::io(format!("{}: cannot be written", path.display())).because(e).advice(fix)
}

/// Finds out whether a file `path` could be written, its name included, and leaves everything as it was.
///
/// # Errors
/// Why it could not.
pub(super) fn probe(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => part(&folder_of(path)).map(drop),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut file = fs::File::options();
            file.write(true).create_new(true).open(path).and_then(|_| fs::remove_file(path))
        }
        Err(e) => Err(e),
    }
}

/// SHA-256 of a file's content, in hexadecimal.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
pub fn sha256_file(path: &Path) -> Result<String> {
    let hashed = sha256_of_file(path).map_err(|e| {
        let fix = regular::fix(&e, "check its path and rights");
        Error::io(format!("{}: cannot be read", path.display())).because(e).advice(fix)
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

    /// The longest name that file systems take leaves no room for a longer temporary one.
    #[test]
    fn the_longest_name_can_be_written_and_a_longer_one_is_found_before() {
        let dir = tempfile::tempdir().unwrap();
        let longest = dir.path().join("x".repeat(255));
        probe(&longest).unwrap();
        write_atomic(&longest, b"x").unwrap();
        probe(&longest).unwrap();
        assert_eq!(fs::read(&longest).unwrap(), b"x", "a probe changes nothing");
        for wrong in [dir.path().join("x".repeat(256)), dir.path().join("no/folder"), dir.path().into()] {
            probe(&wrong).unwrap_err();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_has_the_rights_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
        write_atomic(&ours, b"x").unwrap();
        fs::write(&plain, b"x").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(ours), mode(plain));
    }
}
