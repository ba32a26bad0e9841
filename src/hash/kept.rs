//! Hashes of large files that have been read before. To hash gigabytes takes longer than to load them, so
//! what was found is kept, with what the system says of the file: while that is the same, so are the bytes.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{is_hex, sha256_of_reader};
use crate::{cache, regular};

/// Bytes from which on a file is large: a smaller one is read in a few hundredths of a second.
const LARGE: u64 = 64 << 20;

/// Nanoseconds after a change in which another may leave no mark: file systems round times, by up to two
/// seconds; and who writes through a mapping leaves one at a page's first write alone, until the system has
/// written the page to the disk, half a minute later.
const UNSETTLED: i128 = 60_000_000_000;

/// Most bytes of a kept hash's own file.
const MOST_BYTES: u64 = 1 << 12;

/// What the system says of a file. Writing to it changes `changed`, which no program can set. Writing through
/// a mapping can leave all of this as it was where there is no disk, on tmpfs, or where the system writes
/// pages back later than usual; and some file systems make that time up.
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
        self.changed + UNSETTLED < now
    }

    /// Where the hash of this file is kept: a file has one number on its device, under whatever names.
    fn place(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{:x}-{:x}.json", self.device, self.inode))
    }
}

/// A hash and of what.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    stamp: Stamp,
    sha256: String,
}

/// Length in bytes and SHA-256 of the file at `path`, as [`sha256_of_file`](super::sha256_of_file) gives
/// them. A file of at least 64 MiB whose hash was computed before, and which the system says has not changed
/// since, is not read.
///
/// # Errors
/// As [`sha256_of_file`](super::sha256_of_file).
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
    // One file from the first stamp to the last, whatever its name comes to mean.
    let file = regular::open(path)?;
    let stamp = || -> io::Result<Option<Stamp>> { Ok(Stamp::of(&file.metadata()?)) };
    let before = stamp()?.filter(|stamp| stamp.bytes >= large);
    let (Some(folder), Some(before)) = (folder, before) else { return sha256_of_reader(file) };
    let place = before.place(&folder);
    if let Some(kept) = read(&place).filter(|kept| kept.stamp == before) {
        return Ok((before.bytes, kept.sha256));
    }
    let (bytes, hash) = sha256_of_reader(&file)?;
    if before.is_settled(now) && stamp()? == Some(before) && bytes == before.bytes {
        let kept = Kept { stamp: before, sha256: hash.clone() };
        // What cannot be kept is computed again at the next start.
        let _ =
            serde_json::to_vec(&kept).map_err(io::Error::from).and_then(|text| cache::keep(&place, &text));
    }
    Ok((bytes, hash))
}

/// What is in a file of the cache, if that is a hash.
fn read(file: &Path) -> Option<Kept> {
    let kept: Kept = serde_json::from_slice(&regular::read(file, MOST_BYTES).ok()?).ok()?;
    is_hex(&kept.sha256, 64).then_some(kept)
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, File};
    use std::thread;
    use std::time::Duration;

    use super::super::sha256;
    use super::*;

    /// Seconds from now when what is written now is settled.
    const LATER: u64 = 600;

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

        /// The file of the hash that is kept.
        fn kept(&self) -> Option<PathBuf> {
            let stamp = Stamp::of(&fs::metadata(self.weights()).unwrap()).unwrap();
            Some(stamp.place(&self.hashes())).filter(|file| file.exists())
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
        assert_eq!(place.hash(LATER), sha256(b"weights"));
        let forged = place.forge();
        assert_eq!(place.hash(LATER), forged);
        // Through a link it is the same file.
        let link = place.dir.path().join("link");
        std::os::unix::fs::symlink(place.weights(), &link).unwrap();
        let hash = read_or_kept(&link, Some(place.hashes()), 1, SystemTime::now()).unwrap().1;
        assert_eq!(hash, forged);
    }

    #[test]
    fn a_file_that_was_written_just_now_is_not_kept() {
        let place = Place::new("weights");
        assert_eq!(place.hash(0), sha256(b"weights"));
        assert_eq!(place.kept(), None);
    }

    #[test]
    fn every_change_is_seen() {
        let place = Place::new("weights");
        place.hash(LATER);
        place.forge();
        // As long as before, and with the time of before.
        let time = fs::metadata(place.weights()).unwrap().modified().unwrap();
        place.write("heights");
        File::options().write(true).open(place.weights()).unwrap().set_modified(time).unwrap();
        assert_eq!(place.hash(LATER), sha256(b"heights"));
        // Another file of that name: nothing is kept of it yet.
        place.forge();
        fs::write(place.dir.path().join("other"), "weights").unwrap();
        fs::rename(place.dir.path().join("other"), place.weights()).unwrap();
        assert_eq!(place.hash(LATER), sha256(b"weights"));
        place.forge();
        place.write("more weights");
        assert_eq!(place.hash(LATER), sha256(b"more weights"));
    }

    #[test]
    fn what_is_no_kept_hash_is_computed_anew() {
        let place = Place::new("weights");
        place.hash(LATER);
        let file = place.kept().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let hash = sha256(b"weights");
        for damaged in ["".into(), text[..text.len() / 2].into(), text.replace(&hash, "weights"), "[]".into()]
        {
            fs::write(&file, &damaged).unwrap();
            assert_eq!(place.hash(LATER), hash, "{damaged}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn small_files_and_homes_that_cannot_be_written_keep_nothing() {
        let place = Place::new("weights");
        let later = SystemTime::now() + Duration::from_secs(LATER);
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
