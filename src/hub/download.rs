//! Files into the cache: continued where they were cut, checked by size and hash, and under their final name
//! only when they are whole. One process at a time downloads a file; the lock is that of `huggingface_hub`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::cache::{Cache, is_commit};
use super::http::{About, Client, Failure, Revision, TRIES, pause};
use super::name::is_path;
use super::snapshot::{Missing, Progress, Snapshot};
use crate::error::{Error, Result};
use crate::hash::is_hex;

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;
/// How often what is missing is asked for: an index, what it names, and what that names.
const ROUNDS: usize = 8;
/// Between two looks at a lock of another process.
const LOOK: Duration = Duration::from_millis(200);

/// Downloads what is missing of the revision, or of the commit that the cache knows it as. Returns the commit
/// and its folder.
pub fn fetch(
    client: &Client,
    cache: &Cache,
    known: Option<String>,
    missing: Missing<'_>,
    progress: Option<&dyn Progress>,
) -> Result<(String, PathBuf)> {
    let Revision { commit, files } = client.revision(known.as_deref().unwrap_or(&cache.revision))?;
    let folder = cache.snapshot(&commit);
    let transfer = Transfer { client, cache, commit: &commit, folder: &folder, progress };
    for _ in 0..ROUNDS {
        let lacking = missing(Snapshot { folder: &folder, listing: Some(&files) })?;
        if lacking.is_empty() {
            return Ok((commit, folder));
        }
        if let Some(absent) = lacking.iter().find(|file| !files.contains(file)) {
            return Err(client.lacks(&commit, absent, &files));
        }
        transfer.remember_revision()?;
        lacking.iter().try_for_each(|file| transfer.file(file))?;
    }
    Err(Error::model("files that were downloaded are still missed")
        .advice(format!("remove {} and try again", folder.display())))
}

/// Downloads of one commit.
struct Transfer<'a> {
    client: &'a Client,
    cache: &'a Cache,
    commit: &'a str,
    folder: &'a Path,
    progress: Option<&'a dyn Progress>,
}

impl Transfer<'_> {
    /// Writes which commit the branch or tag is.
    fn remember_revision(&self) -> Result<()> {
        let Cache { folder, revision, .. } = self.cache;
        if is_commit(revision) {
            return Ok(());
        }
        let path = folder.join("refs").join(revision);
        put(&path, |made| fs::write(made, self.commit)).map_err(|e| on_disk(e, &path))
    }

    /// The file at `file`, if it is not there.
    fn file(&self, file: &str) -> Result<()> {
        if !is_path(file) {
            return Err(Error::model(format!("{file:?} is no path below the repository"))
                .advice("use another repository: this one names files outside of it"));
        }
        let about = self.client.about(self.commit, file)?;
        let blobs = self.cache.folder.join("blobs");
        let blob = blobs.join(&about.hash);
        let lock = self.lock(file, &about)?;
        fs::create_dir_all(&blobs).map_err(|e| on_disk(e, &blobs))?;
        if !fs::metadata(&blob).is_ok_and(|found| found.len() == about.size) {
            let part = blobs.join(format!("{}.incomplete", about.hash));
            let resumed = self.content(file, &about, &part);
            // Bytes of an earlier attempt may be what is wrong.
            let done = match resumed {
                Err(Wrong::Hash { resumed: true, .. }) => self.content(file, &about, &part),
                done => done,
            };
            done.map_err(|wrong| wrong.error(file, &about))?;
            fs::rename(&part, &blob).map_err(|e| on_disk(e, &blob))?;
        }
        let target = self.folder.join(file);
        put(&target, |made| place(&blob, made, file)).map_err(|e| on_disk(e, &target))?;
        drop(lock);
        Ok(())
    }

    /// Waits until no other process downloads this content.
    fn lock(&self, file: &str, about: &About) -> Result<File> {
        let name = self.cache.folder.file_name().unwrap_or_default();
        let folder = self.cache.root.join(".locks").join(name);
        let path = folder.join(format!("{}.lock", about.hash));
        let open = || {
            fs::create_dir_all(&folder)?;
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)
        };
        let lock = open().map_err(|e| on_disk(e, &path))?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => {
                    let part = self.cache.folder.join("blobs").join(format!("{}.incomplete", about.hash));
                    let there = fs::metadata(part).map_or(0, |part| part.len());
                    self.at(file, there, about.size)?;
                    thread::sleep(LOOK);
                }
                // Not every file system has locks; then a file is downloaded twice at worst.
                Err(TryLockError::Error(_)) => return Ok(lock),
            }
        }
    }

    fn at(&self, file: &str, bytes: u64, total: u64) -> Result<()> {
        self.progress.map_or(Ok(()), |progress| progress.at(file, bytes, total))
    }

    /// Completes `part`, and removes it where its content is wrong.
    fn content(&self, file: &str, about: &About, part: &Path) -> Result<(), Wrong> {
        let disk = |e| Wrong::Other(on_disk(e, part));
        let mut out = OpenOptions::new().create(true).append(true).open(part).map_err(disk)?;
        let mut done = out.metadata().map_err(disk)?.len();
        if done > about.size {
            out.set_len(0).map_err(disk)?;
            done = 0;
        }
        let resumed = done > 0;
        let mut sum = Sum::of(about);
        io::copy(&mut File::open(part).map_err(disk)?.take(done), &mut sum).map_err(disk)?;
        let (mut tried, mut block) = (0, vec![0; BLOCK]);
        self.at(file, done, about.size)?;
        while done < about.size {
            let began = done;
            let cut = match self.client.open(self.commit, file, done) {
                Ok(content) => {
                    if content.from != done {
                        out.set_len(content.from).map_err(disk)?;
                        (done, sum) = (content.from, Sum::of(about));
                    }
                    let mut reader = content.reader;
                    loop {
                        match reader.read(&mut block) {
                            Ok(0) => break None,
                            Ok(n) if done + n as u64 > about.size => {
                                fs::remove_file(part).map_err(disk)?;
                                return Err(Wrong::Long);
                            }
                            Ok(n) => {
                                out.write_all(&block[..n]).map_err(disk)?;
                                sum.update(&block[..n]);
                                done += n as u64;
                                self.at(file, done, about.size)?;
                            }
                            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                            Err(e) => break Some(e.to_string()),
                        }
                    }
                }
                Err(Failure::Passing(e)) => Some(e.message().to_string()),
                Err(Failure::Lasting(e)) => return Err(Wrong::Other(e)),
            };
            // A connection that brought something is no failure: it goes on where it was cut.
            tried = if done > began { 0 } else { tried + 1 };
            if done < about.size && tried == TRIES {
                return Err(Wrong::Cut { done, cause: cut });
            }
            if tried > 0 {
                pause(tried);
            }
        }
        out.sync_all().map_err(disk)?;
        // Where locks are not honoured, as on some network disks, another process may have written too.
        if out.metadata().map_err(disk)?.len() != about.size {
            fs::remove_file(part).map_err(disk)?;
            return Err(Wrong::Long);
        }
        match sum.found() {
            Some(found) if found != about.hash => {
                fs::remove_file(part).map_err(disk)?;
                Err(Wrong::Hash { found, resumed })
            }
            _ => Ok(()),
        }
    }
}

/// The hash that a content is kept under, as it is computed.
enum Sum {
    /// Of a large file.
    Sha256(Sha256),
    /// As git has it, of a small one.
    Git(Sha1),
    /// Of a mirror with names of its own: the size must do.
    Other,
}

impl Sum {
    fn of(about: &About) -> Sum {
        match &about.hash {
            hash if is_hex(hash, 64) => Sum::Sha256(Sha256::new()),
            hash if is_hex(hash, 40) => Sum::Git(Sha1::new_with_prefix(format!("blob {}\0", about.size))),
            _ => Sum::Other,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Sha256(hash) => hash.update(bytes),
            Sum::Git(hash) => hash.update(bytes),
            Sum::Other => {}
        }
    }

    fn found(self) -> Option<String> {
        match self {
            Sum::Sha256(hash) => Some(format!("{:x}", hash.finalize())),
            Sum::Git(hash) => Some(format!("{:x}", hash.finalize())),
            Sum::Other => None,
        }
    }
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a content is not there.
enum Wrong {
    Hash { found: String, resumed: bool },
    Long,
    Cut { done: u64, cause: Option<String> },
    Other(Error),
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Wrong {
        Wrong::Other(error)
    }
}

impl Wrong {
    fn error(self, file: &str, about: &About) -> Error {
        let proxy = "try again; if it stays so, a proxy or mirror (HTTPS_PROXY, HF_ENDPOINT) changes what it passes on";
        match self {
            Wrong::Hash { found, .. } => Error::model(format!(
                "{file}: what was downloaded has the hash {found}, the hub says {}; it was removed",
                about.hash
            ))
            .advice(proxy),
            Wrong::Long => Error::model(format!(
                "{file}: there is more than the {} bytes that the hub says; it was removed",
                about.size
            ))
            .advice(proxy),
            Wrong::Cut { done, cause } => {
                let error =
                    Error::model(format!("{file}: the connection ends after {done} of {} bytes", about.size))
                        .advice("check the network and try again: the download goes on where it was cut");
                match cause {
                    Some(cause) => error.because(cause),
                    None => error,
                }
            }
            Wrong::Other(error) => error,
        }
    }
}

/// Makes what is to be at `target` under a name of its own first, so that no other process sees half of it.
fn put(target: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let above = target.parent().unwrap_or(target);
    fs::create_dir_all(above)?;
    let part = tempfile::TempDir::with_prefix_in(".part-", above)?;
    let made = part.path().join("file");
    make(&made)?;
    fs::rename(&made, target)
}

/// Makes `made` the file `file` of a snapshot, whose content is `blob`: a link where the system has them.
#[cfg(unix)]
fn place(blob: &Path, made: &Path, file: &str) -> io::Result<()> {
    // From snapshots/COMMIT/a/b up to the repository and down to its blobs.
    let up = "../".repeat(file.split('/').count() + 1);
    let hash = blob.file_name().unwrap_or_default().to_string_lossy();
    std::os::unix::fs::symlink(format!("{up}blobs/{hash}"), made)
}

#[cfg(not(unix))]
fn place(blob: &Path, made: &Path, _: &str) -> io::Result<()> {
    fs::hard_link(blob, made).or_else(|_| fs::copy(blob, made).map(|_| ()))
}

/// An error of the cache's disk.
fn on_disk(e: io::Error, path: &Path) -> Error {
    use io::ErrorKind as Kind;
    let (what, fix) = match e.kind() {
        Kind::StorageFull | Kind::QuotaExceeded => {
            ("the disk is full", "make room, or set HF_HUB_CACHE to a folder on another disk")
        }
        Kind::AlreadyExists | Kind::IsADirectory | Kind::NotADirectory => {
            ("cannot be written", "remove what is in its place, or set HF_HUB_CACHE to another folder")
        }
        _ => ("cannot be written", "let this user write there, or set HF_HUB_CACHE to another folder"),
    };
    Error::io(format!("{}: {what}", path.display())).because(e).advice(fix)
}
