//! Hashes of large files that have been read before. To hash gigabytes takes longer than to load them, so
//! what was found is kept, with what the system says of the file: while that is the same, so are the bytes.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{sha256, sha256_of_file};
use crate::{cache, regular};

/// Bytes from which on a file is large: a smaller one is read in a few hundredths of a second.
const LARGE: u64 = 64 << 20;

/// Nanoseconds for which a change may leave no mark: file systems round times, by up to two seconds.
const COARSE: i128 = 2_000_000_000;

/// Most bytes of a kept hash's own file.
const MOST_BYTES: u64 = 1 << 12;

/// What the system says of a file. Writing to it changes `changed`, which no program can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Nanoseconds since 1970, of the content and of anything.
    modified: i128,
    changed: i128,
}

impl Stamp {
    #[cfg(unix)]
    fn of(file: &Metadata) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let time = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Some(Stamp {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            modified: time(file.mtime(), file.mtime_nsec()),
            changed: time(file.ctime(), file.ctime_nsec()),
        })
    }

    /// Other systems tell no time of change that programs cannot set.
    #[cfg(not(unix))]
    fn of(_: &Metadata) -> Option<Stamp> {
        None
    }

    /// Whether every change from `now` on gives the file another stamp.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i128);
        self.changed.max(self.modified) + COARSE < now
    }
}

/// A hash and of what.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    stamp: Stamp,
    sha256: String,
}

/// Length in bytes and SHA-256 of the file at `path`, as [`sha256_of_file`] gives them. A file of at least 64
/// MiB whose hash was computed before, and which the system says has not changed since, is not read.
///
/// # Errors
/// As [`sha256_of_file`].
pub fn sha256_of_weights(path: &Path) -> io::Result<(u64, String)> {
    // Without a folder of its own nothing is kept.
    let folder = cache::folder().map(|folder| folder.join("hashes"));
    read_or_kept(path, folder, LARGE, SystemTime::now())
}

fn read_or_kept(
    path: &Path,
    folder: Option<PathBuf>,
    large: u64,
    now: SystemTime,
) -> io::Result<(u64, String)> {
    let stamp = || -> io::Result<Option<Stamp>> {
        let file = regular::open(path)?.metadata()?;
        Ok(Stamp::of(&file).filter(|_| file.len() >= large))
    };
    let (Some(folder), Some(before)) = (folder, stamp()?) else { return sha256_of_file(path) };
    let name = path.canonicalize()?;
    let file = folder.join(sha256(name.as_os_str().as_encoded_bytes())).with_extension("json");
    if let Some(kept) = read(&file).filter(|kept| kept.stamp == before) {
        return Ok((before.bytes, kept.sha256));
    }
    let (bytes, hash) = sha256_of_file(path)?;
    if before.is_settled(now) && stamp()? == Some(before) && bytes == before.bytes {
        let kept = Kept { stamp: before, sha256: hash.clone() };
        // What cannot be kept is computed again at the next start.
        let _ = serde_json::to_vec(&kept).map_err(io::Error::from).and_then(|text| cache::keep(&file, &text));
    }
    Ok((bytes, hash))
}

/// What is in a file of the cache, if that is a hash.
fn read(file: &Path) -> Option<Kept> {
    let kept: Kept = serde_json::from_slice(&regular::read(file, MOST_BYTES).ok()?).ok()?;
    let digits = kept.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (kept.sha256.len() == 64 && digits).then_some(kept)
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, File};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A folder with weights, and where hashes are kept.
    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new(content: &str) -> Place {
            let place = Place { dir: tempfile::tempdir().unwrap() };
            fs::write(place.weights(), content).unwrap();
            place
        }

        fn weights(&self) -> PathBuf {
            self.dir.path().join("weights")
        }

        /// Writes them anew. Systems tell times of changes to a few milliseconds.
        fn write(&self, content: &str) {
            thread::sleep(Duration::from_millis(30));
            fs::write(self.weights(), content).unwrap();
        }

        fn hashes(&self) -> PathBuf {
            self.dir.path().join("hashes")
        }

        /// The hash at `seconds` from now.
        fn hash(&self, seconds: u64) -> String {
            let now = SystemTime::now() + Duration::from_secs(seconds);
            read_or_kept(&self.weights(), Some(self.hashes()), 1, now).unwrap().1
        }

        /// The file of the one hash that is kept.
        fn kept(&self) -> Option<PathBuf> {
            let mut files = fs::read_dir(self.hashes()).into_iter().flatten();
            let file = files.next()?.unwrap().path();
            assert!(files.next().is_none());
            Some(file)
        }

        /// Says in the kept file that the hash is another one.
        fn forge(&self) -> String {
            let file = self.kept().unwrap();
            let forged = "ab".repeat(32);
            let kept = Kept { sha256: forged.clone(), ..read(&file).unwrap() };
            fs::write(file, serde_json::to_vec(&kept).unwrap()).unwrap();
            forged
        }
    }

    #[test]
    fn a_file_that_has_not_changed_is_not_read_again() {
        let place = Place::new("weights");
        assert_eq!(place.hash(60), sha256(b"weights"));
        let forged = place.forge();
        assert_eq!(place.hash(60), forged);
    }

    #[test]
    fn a_file_that_was_written_just_now_is_not_kept() {
        let place = Place::new("weights");
        assert_eq!(place.hash(1), sha256(b"weights"));
        assert_eq!(place.kept(), None);
    }

    #[test]
    fn every_change_is_seen() {
        let place = Place::new("weights");
        place.hash(60);
        place.forge();
        // As long as before, and with the time of before.
        let time = fs::metadata(place.weights()).unwrap().modified().unwrap();
        place.write("heights");
        File::options().write(true).open(place.weights()).unwrap().set_modified(time).unwrap();
        assert_eq!(place.hash(60), sha256(b"heights"));
        // Another file of that name.
        place.forge();
        fs::write(place.dir.path().join("other"), "weights").unwrap();
        fs::rename(place.dir.path().join("other"), place.weights()).unwrap();
        assert_eq!(place.hash(60), sha256(b"weights"));
        place.forge();
        place.write("more weights");
        assert_eq!(place.hash(60), sha256(b"more weights"));
    }

    #[test]
    fn what_is_no_kept_hash_is_computed_anew() {
        let place = Place::new("weights");
        place.hash(60);
        let file = place.kept().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let hash = sha256(b"weights");
        for damaged in ["".into(), text[..text.len() / 2].into(), text.replace(&hash, "weights"), "[]".into()]
        {
            fs::write(&file, &damaged).unwrap();
            assert_eq!(place.hash(60), hash, "{damaged}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn small_files_and_homes_that_cannot_be_written_keep_nothing() {
        let place = Place::new("weights");
        let later = SystemTime::now() + Duration::from_secs(60);
        let hash = |folder, large| read_or_kept(&place.weights(), folder, large, later).unwrap();
        let right = (7, sha256(b"weights"));
        assert_eq!(hash(Some(place.hashes()), 8), right);
        assert_eq!(hash(None, 1), right);
        // A file where a folder would be.
        assert_eq!(hash(Some(place.weights().join("hashes")), 1), right);
        assert_eq!(place.kept(), None);
        assert!(read_or_kept(place.dir.path(), Some(place.hashes()), 1, later).is_err());
    }
}
