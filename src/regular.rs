//! Regular files: what is read whole must end. A device never does, a pipe without a writer waits for ever,
//! and neither can be read twice, first for its content and then for its hash.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens the regular file at `path`, through links.
///
/// # Errors
/// Of the system; and where there is something else, what it is.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: opening a pipe waits for a writer.
    let kind = fs::metadata(path)?.file_type();
    match kind.is_file() {
        true => File::open(path),
        false => Err(io::Error::other(format!("this is {}, not a regular file", name(kind)))),
    }
}

/// The content of the regular file at `path`, of at most `most` bytes.
///
/// # Errors
/// As [`open`]; [`io::ErrorKind::FileTooLarge`] where there are more.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    if file.metadata()?.len() <= most {
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 <= most {
            return Ok(bytes);
        }
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {} MiB", most >> 20)))
}

/// What is at `path`, if that is neither a regular file nor a folder.
pub fn special(path: &Path) -> Option<&'static str> {
    let kind = fs::metadata(path).ok()?.file_type();
    (!kind.is_file() && !kind.is_dir()).then(|| name(kind))
}

#[cfg(unix)]
fn name(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn name(kind: fs::FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "a device" }
}

/// What to do about an error of a file: `usual`, unless a limit of the system is the cause.
pub fn fix<'a>(error: &io::Error, usual: &'a str) -> &'a str {
    // The same numbers on every Unix that Rust knows.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const EFBIG: i32 = 27;
    const ENOSPC: i32 = 28;
    // Temporary files wrap the error that they got: its number is in the text only.
    let in_text = || {
        let text = error.to_string();
        text.split_once("(os error ")?.1.split_once(')')?.0.parse().ok()
    };
    match error.raw_os_error().or_else(in_text) {
        Some(ENFILE | EMFILE) if cfg!(unix) => {
            "as many files are open as the system allows: raise the limit (ulimit -n), or close other programs"
        }
        Some(EFBIG) if cfg!(unix) => "a file may not grow so large here: raise the limit (ulimit -f)",
        Some(ENOSPC) if cfg!(unix) => {
            "the disk is full: make room, or choose another directory with `output`"
        }
        _ => usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        assert_eq!(read(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(&dir.path().join("g"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read(dir.path(), 4).unwrap_err().to_string(), "this is a folder, not a regular file");
    }

    #[cfg(unix)]
    #[test]
    fn what_has_no_end_is_refused_through_links_too() {
        let dir = tempfile::tempdir().unwrap();
        let (link, socket) = (dir.path().join("link"), dir.path().join("socket"));
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(open(&link).unwrap_err().to_string(), "this is a device, not a regular file");
        assert_eq!(open(&socket).unwrap_err().to_string(), "this is a socket, not a regular file");
        assert_eq!((special(&link), special(&socket)), (Some("a device"), Some("a socket")));
        assert_eq!((special(dir.path()), special(&dir.path().join("absent"))), (None, None));
    }

    #[cfg(unix)]
    #[test]
    fn a_limit_of_the_system_is_named_as_the_cause() {
        let plain = io::Error::from_raw_os_error;
        let wrapped = |code| io::Error::other(format!("{} at path \"x\"", plain(code)));
        let kinds: [&dyn Fn(i32) -> io::Error; 2] = [&plain, &wrapped];
        for error in kinds {
            let said = |code| fix(&error(code), "usual");
            assert!(said(24).contains("ulimit -n") && said(27).contains("ulimit -f"));
            assert!(said(28).contains("disk is full"));
            assert_eq!(said(2), "usual");
        }
    }
}
