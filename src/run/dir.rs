//! The folders of a run: `OUT/0000-a-star` and those beside it, one per prompt.
//!
//! A folder belongs to one process at a time: that process holds a lock on the folder (`flock`), which the
//! system takes back however the process ends. Folders are chosen, put in place and taken away under a lock
//! on `OUT`. On file systems without such locks (some network file systems) a folder is still made by one
//! process only; just two processes that replace the same folder are not told apart.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::file::{FIX_OUTPUT, FIX_REPORT, PART, folder_of, probe, sync, unwritten, write_atomic};
use super::metadata::{Parameters, encode_png};
use super::record::{SCHEMA, Status, Versioned};
use super::slug::slug;
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::pixels::Picture;
use crate::regular;

/// The record of a run.
pub const RECORD: &str = "run.json";
/// Most bytes of it that are read.
const MOST_OF_RECORD: u64 = 1 << 28;
/// The lines of the final particles.
pub const PARTICLES: &str = "particles.jsonl";
/// The lines of the steps.
pub const TRACE: &str = "trace.jsonl";
/// What a run goes on from; see [`encode_checkpoint`](super::encode_checkpoint).
pub const CHECKPOINT: &str = "checkpoint.safetensors";
const PICTURES: &str = "particles";
/// Folder of pictures of what the particles are about to become.
pub const PREVIEWS: &str = "previews";
/// Files that a run may leave in its folder, with the numbered pictures in `particles`. Anything else there
/// belongs to the user.
const OURS: [&str; 7] = [RECORD, TRACE, PARTICLES, CHECKPOINT, "best.png", "grid.png", "latents.safetensors"];

/// What records in folders say. Of those that hold no JSON object, or are of another layout, nobody can say
/// how the run ended.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Finished {
    /// Folders of finished runs, with their records.
    pub runs: Vec<(PathBuf, Value)>,
    /// Folders of runs that have not finished, or not yet, with their records.
    pub unfinished: Vec<(PathBuf, Value)>,
    /// Records that are no JSON objects, or of another layout.
    pub damaged: Vec<PathBuf>,
}

/// The directory that holds the folders of runs.
#[derive(Clone, Debug)]
pub struct OutDir {
    path: PathBuf,
}

/// Folders of an output directory, by number.
#[derive(Clone, Debug)]
pub struct Listing {
    folders: Vec<PathBuf>,
    /// Where the folders are that are named after a prompt, by that part of their name.
    by_slug: HashMap<String, Vec<usize>>,
}

impl Listing {
    fn new(folders: Vec<PathBuf>) -> Listing {
        let mut by_slug: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, path) in folders.iter().enumerate() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some((_, slug)) = name.split_once('-') {
                by_slug.entry(slug.into()).or_default().push(at);
            }
        }
        Listing { folders, by_slug }
    }

    /// What the records of all folders say.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming a folder whose record cannot be read.
    pub fn results(&self) -> Result<Finished> {
        results(self.folders.iter())
    }

    /// The same of the folders that are named after this prompt.
    ///
    /// # Errors
    /// As [`Listing::results`].
    pub fn results_of(&self, prompt: &str) -> Result<Finished> {
        results(self.by_slug.get(&slug(prompt)).into_iter().flatten().map(|&at| &self.folders[at]))
    }
}

fn results<'a>(folders: impl Iterator<Item = &'a PathBuf>) -> Result<Finished> {
    let mut found = Finished::default();
    for path in folders {
        let record = match record(path) {
            // A folder or a pipe of that name is no record, as little as a damaged file.
            Err(e) if matches!(e.kind(), io::ErrorKind::Other | io::ErrorKind::FileTooLarge) => {
                Some(Value::Null)
            }
            record => record.map_err(|e| unlisted(path, e))?,
        };
        match record {
            Some(record) if record["schema"] != SCHEMA => found.damaged.push(path.join(RECORD)),
            Some(record) if is_finished(&record) => found.runs.push((path.clone(), record)),
            Some(record) => found.unfinished.push((path.clone(), record)),
            None => {}
        }
    }
    Ok(found)
}

/// A lock, where the file system has locks.
pub type Lock = Option<fs::File>;

impl OutDir {
    /// Names the directory; touches nothing.
    pub fn new(path: &Path) -> OutDir {
        OutDir { path: path.into() }
    }

    /// The folder of result `number` inside this directory, `OUT/0007-a-photo-of-a-cat`.
    pub fn folder(&self, number: usize, prompt: &str) -> PathBuf {
        self.path.join(name(number, prompt))
    }

    /// Finds out whether folders can be made and written here, and leaves everything as it was.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the directory, where nothing can be written.
    pub fn probe(&self) -> Result<()> {
        let missing: Vec<&Path> = self.path.ancestors().take_while(|path| !path.exists()).collect();
        // As long a path as any of a run.
        let prefix = format!(".das-cuda-{:-<50}", "");
        let made = self.in_directory(|| {
            let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.path)?;
            probe(&folder.path().join("particles.part"))
        });
        for folder in missing {
            // Goes if it is empty: another run may have begun here meanwhile.
            let _ = fs::remove_dir(folder);
        }
        made.map_err(|e| unwritable(&self.path, e))
    }

    /// Does `f` in this directory, which is made if it is not there, and made again if the probe of another
    /// process, which had made it too, takes it away meanwhile.
    fn in_directory<T>(&self, f: impl Fn() -> io::Result<T>) -> io::Result<T> {
        const OFTEN: usize = 100;
        let mut done = Err(io::ErrorKind::NotFound.into());
        for _ in 0..OFTEN {
            fs::create_dir_all(&self.path)?;
            done = f();
            if !matches!(&done, Err(e) if e.kind() == io::ErrorKind::NotFound) {
                break;
            }
        }
        done
    }

    /// Finds out whether result `number` can be replaced: see [`OutDir::replace`].
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where another process works on it,
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be written.
    pub fn probe_replace(&self, number: usize, prompt: &str) -> Result<()> {
        let folder = self.folder(number, prompt);
        for path in [hidden(&folder, "part"), folder.clone()].iter().filter(|path| path.is_dir()) {
            lock(path)?;
            probe(&path.join("run.json.part")).map_err(|e| unwritable(path, e))?;
        }
        Ok(())
    }

    /// Makes a new folder for result `number`, or for the number after the largest where that number is
    /// taken. Nothing that is there already is touched.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the directory, where nothing can be written.
    pub fn claim(&self, number: usize, prompt: &str) -> Result<RunDir> {
        let made = self.in_directory(|| {
            let _folders = self.lock_folders()?;
            self.new_folder(number, prompt)
        });
        let path = made.map_err(|e| unwritable(&self.path, e))?;
        Ok(RunDir { _lock: lock(&path)?, out: self.clone(), prompt: prompt.into(), path, old: None })
    }

    /// Makes a folder for result `number` that will take the place of the folder of that number and prompt
    /// when the run has finished; until then what is there stays.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where another process works on that folder;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the directory, where nothing can be written.
    pub fn replace(&self, number: usize, prompt: &str) -> Result<RunDir> {
        let _folders = self.in_directory(|| self.lock_folders()).map_err(|e| unwritable(&self.path, e))?;
        let target = self.folder(number, prompt);
        settle(&target).map_err(|e| unwritable(&target, e))?;
        let old = match target.is_dir() {
            true => Some(Old { _lock: lock(&target)?, path: target.clone() }),
            false => None,
        };
        let path = if old.is_some() { hidden(&target, "part") } else { target.clone() };
        // The remains of a run that was killed.
        if path.is_dir() {
            lock(&path)?;
            fs::remove_dir_all(&path).map_err(|e| unwritable(&path, e))?;
        }
        fs::create_dir(&path).map_err(|e| unwritable(&path, e))?;
        Ok(RunDir { _lock: lock(&path)?, out: self.clone(), prompt: prompt.into(), path, old })
    }

    /// Takes the folder of a run that has not finished, to go on with it: also a hidden one that waits to
    /// replace another. Parts of files that a killed process left in it are removed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where another process works on it;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be written.
    pub fn take(&self, folder: &Path, prompt: &str) -> Result<RunDir> {
        self.taken(folder, prompt, lock(folder)?)
    }

    fn taken(&self, folder: &Path, prompt: &str, lock_of: Lock) -> Result<RunDir> {
        let failed = |e| unwritable(folder, e);
        [folder.to_path_buf(), folder.join(PICTURES), folder.join(PREVIEWS)]
            .iter()
            .try_for_each(|f| sweep(f))
            .map_err(failed)?;
        probe(&folder.join([PART.0, PART.1].concat())).map_err(failed)?;
        let target = waits_for(folder);
        // An exchange of folders that was begun.
        target.iter().try_for_each(|target| settle(target)).map_err(failed)?;
        let old = match target.filter(|target| target.is_dir()) {
            Some(path) => Some(Old { _lock: lock(&path)?, path }),
            None => None,
        };
        let (out, prompt, path) = (self.clone(), prompt.into(), folder.into());
        Ok(RunDir { _lock: lock_of, out, prompt, path, old })
    }

    /// Takes the folder of result `number`, made if it is not there, and never another; `None` where another
    /// process has it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be made or written.
    pub fn take_exactly(&self, number: usize, prompt: &str) -> Result<Option<RunDir>> {
        let path = self.folder(number, prompt);
        self.in_directory(|| match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        })
        .map_err(|e| unwritable(&path, e))?;
        match try_lock(&path) {
            Some(lock) => self.taken(&path, prompt, lock).map(Some),
            None => Ok(None),
        }
    }

    /// The folder of result `number` where a process was killed before it wrote anything into it.
    pub fn empty(&self, number: usize, prompt: &str) -> Option<PathBuf> {
        let folder = self.folder(number, prompt);
        let mut entries = fs::read_dir(&folder).ok()?.flatten();
        entries.all(|entry| entry.file_name().to_str().is_some_and(is_part)).then_some(folder)
    }

    /// All folders of runs, by number; none where the directory is not there. Their records are not read yet.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the directory, where it cannot be listed.
    pub fn listing(&self) -> Result<Listing> {
        let mut all = match self.numbered() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|e| unlisted(&self.path, e))?,
        };
        all.sort();
        Ok(Listing::new(all.into_iter().map(|(_, path)| path).collect()))
    }

    /// The listing of the folder of result `number` alone, whatever else there is.
    pub fn listing_of(&self, number: usize, prompt: &str) -> Listing {
        Listing::new(vec![self.folder(number, prompt)])
    }

    /// The folders with a number, in any order.
    fn numbered(&self) -> io::Result<Vec<(usize, PathBuf)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            all.extend(entry.file_name().to_str().and_then(number).map(|number| (number, entry.path())));
        }
        Ok(all)
    }

    fn new_folder(&self, wanted: usize, prompt: &str) -> io::Result<PathBuf> {
        loop {
            let taken: Vec<usize> = self.numbered()?.into_iter().map(|(number, _)| number).collect();
            let number = match taken.iter().max() {
                Some(largest) if taken.contains(&wanted) => largest.checked_add(1).ok_or_else(full)?,
                _ => wanted,
            };
            let path = self.folder(number, prompt);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                // Made by another process since, on a file system without locks.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Locks the choosing and moving of folders in this directory against other processes, which hold the
    /// lock for moments only. Waits for it.
    fn lock_folders(&self) -> io::Result<Lock> {
        let folder = match fs::File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(e),
            Err(_) => return Ok(None),
            Ok(folder) => folder,
        };
        let locked = folder.lock().is_ok();
        // What is locked may have been taken away while this waited.
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let (locked, named) = (folder.metadata()?, fs::metadata(&self.path)?);
            if (locked.dev(), locked.ino()) != (named.dev(), named.ino()) {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
        Ok(locked.then_some(folder))
    }
}

fn unlisted(path: &Path, e: io::Error) -> Error {
    Error::io(format!("{}: cannot be listed or read", path.display()))
        .because(e)
        .advice("check its permissions, or give another directory with `output`")
}

/// For a folder that somebody has given the largest number there is.
fn full() -> io::Error {
    io::Error::other(format!("there is no number after {}", usize::MAX))
}

fn name(number: usize, prompt: &str) -> String {
    format!("{number:04}-{}", slug(prompt))
}

/// The number in front of a folder's name.
fn number(name: &str) -> Option<usize> {
    let (digits, _) = name.split_once('-')?;
    let plain = digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// A name beside `folder` that listings leave out.
fn hidden(folder: &Path, end: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.{end}"))
}

/// The folder that a hidden one waits to replace.
fn waits_for(folder: &Path) -> Option<PathBuf> {
    let name = folder.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix(".part")?;
    number(name).map(|_| folder.with_file_name(name))
}

/// Whether a name is that of a file that was not written whole.
fn is_part(name: &str) -> bool {
    name.starts_with(PART.0) && name.ends_with(PART.1)
}

/// Removes files that were not written whole.
fn sweep(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_part) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Locks a folder of results until what is returned is dropped; nothing where the system has no locks.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where another process has locked it.
pub fn lock(path: &Path) -> Result<Lock> {
    try_lock(path).ok_or_else(|| in_use(path))
}

/// The same; `None` where another process has locked it.
fn try_lock(path: &Path) -> Option<Lock> {
    let Ok(folder) = fs::File::open(path) else { return Some(None) };
    match folder.try_lock() {
        Ok(()) => Some(Some(folder)),
        Err(fs::TryLockError::WouldBlock) => None,
        Err(fs::TryLockError::Error(_)) => Some(None),
    }
}

/// The `run.json` of a folder, `null` where it is no JSON; `None` where there is none.
fn record(folder: &Path) -> io::Result<Option<Value>> {
    match regular::read(&folder.join(RECORD), MOST_OF_RECORD) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        text => text.map(|text| Some(serde_json::from_slice(&text).unwrap_or_default())),
    }
}

/// Whether a record is that of a run that has finished.
fn is_finished(record: &Value) -> bool {
    record["status"] == serde_json::json!(Status::Finished)
}

fn unwritable(path: &Path, e: io::Error) -> Error {
    let fix = regular::fix(&e, FIX_OUTPUT);
    Error::io(format!("{}: cannot be made or written", path.display())).because(e).advice(fix)
}

fn in_use(folder: &Path) -> Error {
    Error::usage(format!("{}: another run is writing this folder", folder.display()))
        .advice("wait until it has ended, or choose another directory with `output`")
}

/// Ends what an exchange of folders has begun: what it took away comes back if nothing is in its place; else
/// our files of it go, and the user's move into the new folder.
fn settle(target: &Path) -> io::Result<()> {
    let old = hidden(target, "old");
    if !old.is_dir() {
        return Ok(());
    }
    if !target.is_dir() {
        return fs::rename(&old, target);
    }
    let folders = [PICTURES, PREVIEWS];
    move_files(&old, target, |name| OURS.contains(&name) || folders.contains(&name))?;
    folders.iter().try_for_each(|name| move_files(&old.join(name), &target.join(name), is_picture))?;
    for name in OURS {
        remove(&old.join(name))?;
    }
    // Where something had the name of what the user left, that stays.
    for folder in [old.join(PICTURES), old.join(PREVIEWS), old] {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// Whether a name is that of a particle's picture, or of a preview.
fn is_picture(name: &str) -> bool {
    name.strip_suffix(".png").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

/// Moves what is not `ours` from one folder to another, unless its name is taken there, and removes what is.
fn move_files(from: &Path, to: &Path, ours: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if name.to_str().is_some_and(&ours) {
            if !path.is_dir() {
                remove(&path)?;
            }
        } else if !to.join(&name).exists() {
            fs::create_dir_all(to)?;
            fs::rename(path, to.join(name))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The folder of one result, which this process alone writes.
#[derive(Debug)]
pub struct RunDir {
    out: OutDir,
    prompt: String,
    /// Where files are written.
    path: PathBuf,
    /// Held while this lives.
    _lock: Lock,
    /// What the folder will replace.
    old: Option<Old>,
}

#[derive(Debug)]
struct Old {
    path: PathBuf,
    _lock: Lock,
}

impl RunDir {
    /// Where files are written: the folder's own name, or a hidden one beside it while it waits to replace
    /// another.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name that the folder has when it has finished.
    pub fn final_path(&self) -> &Path {
        self.old.as_ref().map_or(&self.path, |old| &old.path)
    }

    /// Puts the folder in its place. One that was to replace an earlier result does so if it has finished
    /// itself or the earlier one had not; else it goes under the next free number. To be called when
    /// `run.json` says how the run ended; returns where the folder is.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where folders cannot be renamed.
    pub fn close(&self) -> Result<PathBuf> {
        let Some(old) = &self.old else { return Ok(self.path.clone()) };
        let failed = |e| unwritable(&old.path, e);
        let _folders = self.out.lock_folders().map_err(failed)?;
        // An earlier record that cannot be read may be of a result that is finished.
        let whole = |folder: &Path| Ok(record(folder)?.is_some_and(|record| is_finished(&record)));
        let target = if whole(&self.path).map_err(failed)? || matches!(whole(&old.path), Ok(false)) {
            let aside = hidden(&old.path, "old");
            fs::rename(&old.path, &aside).map_err(failed)?;
            old.path.clone()
        } else {
            let taken = old.path.file_name().and_then(|name| number(name.to_str()?)).unwrap_or_default();
            let free = self.out.new_folder(taken, &self.prompt).map_err(failed)?;
            // Only its name was wanted.
            fs::remove_dir(&free).map_err(failed)?;
            free
        };
        let placed = fs::rename(&self.path, &target)
            .and_then(|()| sync(&folder_of(&target)))
            .and_then(|()| settle(&target));
        placed.map_err(|e| unwritable(&target, e)).map(|()| target)
    }

    /// Writes `run.json`: `record` (an object) with `schema` and `status` in front.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn write_run(&self, status: Status, record: &impl Serialize) -> Result<()> {
        #[derive(Serialize)]
        struct Run<'a, T: Serialize> {
            status: Status,
            #[serde(flatten)]
            record: &'a T,
        }
        let path = self.path.join(RECORD);
        let mut json = serde_json::to_vec_pretty(&Versioned::new(Run { status, record }))
            .map_err(|e| encode(&path, e))?;
        json.push(b'\n');
        write_atomic(&path, &json)
    }

    /// `run.json` as it is now; `null` where it is no JSON, `None` where there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the folder.
    pub fn record(&self) -> Result<Option<Value>> {
        record(&self.path).map_err(|e| unlisted(&self.path, e))
    }

    /// Opens `trace.jsonl` for a line per step.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn trace(&self) -> Result<Lines> {
        Lines::create(self.path.join(TRACE))
    }

    /// Opens `trace.jsonl` to go on after its first `len` bytes; what stands behind them is of steps that are
    /// taken again, and goes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file, also where it is shorter.
    pub fn trace_from(&self, len: u64) -> Result<Lines> {
        let path = self.path.join(TRACE);
        let mut lines = Lines::append(&path)?;
        if lines.len < len {
            return Err(Error::io(format!("{}: lines are missing at its end", path.display()))
                .advice(format!("remove {CHECKPOINT} beside it to begin this prompt anew")));
        }
        lines.file.set_len(len).map_err(|e| unwritten(&path, e))?;
        lines.len = len;
        Ok(lines)
    }

    /// Writes the checkpoint: what [`encode_checkpoint`](super::encode_checkpoint) made.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn write_checkpoint(&self, bytes: &[u8]) -> Result<()> {
        write_atomic(&self.path.join(CHECKPOINT), bytes)
    }

    /// Removes pictures and other results of a run that was to end early and went on, before its own are
    /// written.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the folder.
    pub fn clear_results(&self) -> Result<()> {
        let results = OURS.into_iter().filter(|name| ![RECORD, TRACE, CHECKPOINT].contains(name));
        let clear = |name: &str| remove(&self.path.join(name));
        let pictures = self.path.join(PICTURES);
        let cleared = results.into_iter().try_for_each(clear).and_then(|()| {
            let entries = fs::read_dir(&pictures).into_iter().flatten().flatten();
            let mut ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_picture));
            ours.try_for_each(|entry| remove(&entry.path()))
        });
        cleared.map_err(|e| unwritable(&self.path, e))
    }

    /// Removes the checkpoint, if there is one: `run.json` says that the run has finished.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn remove_checkpoint(&self) -> Result<()> {
        let path = self.path.join(CHECKPOINT);
        remove(&path).map_err(|e| unwritable(&path, e))
    }

    /// Writes `particles.jsonl`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn write_particles(&self, particles: &[impl Serialize]) -> Result<()> {
        let path = self.path.join(PARTICLES);
        let mut text = Vec::new();
        for particle in particles {
            serde_json::to_writer(&mut text, &Versioned::new(particle)).map_err(|e| encode(&path, e))?;
            text.push(b'\n');
        }
        write_atomic(&path, &text)
    }

    /// Name of a particle's picture inside the folder.
    pub fn particle_name(index: usize) -> String {
        format!("{PICTURES}/{index:03}.png")
    }

    /// Name of the preview of a population after so many steps inside the folder; `population` where there
    /// are several.
    pub fn preview_name(population: Option<usize>, steps: usize) -> String {
        match population {
            Some(population) => format!("{PREVIEWS}/{population}-{steps:03}.png"),
            None => format!("{PREVIEWS}/{steps:03}.png"),
        }
    }

    /// Writes a picture under `name` (such as `best.png` or [`RunDir::particle_name`]); returns the file's
    /// SHA-256.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn write_png(
        &self,
        name: &str,
        picture: &Picture,
        parameters: Option<&Parameters>,
    ) -> Result<String> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| unwritable(parent, e))?;
        }
        let file = encode_png(picture, parameters)?;
        write_atomic(&path, &file)?;
        Ok(sha256(&file))
    }
}

fn encode(path: &Path, e: serde_json::Error) -> Error {
    Error::io(format!("{}: cannot be encoded as JSON", path.display())).because(e).advice(FIX_REPORT)
}

/// A JSONL file that grows: each line is in the file, whole, when `push` returns.
pub struct Lines {
    path: PathBuf,
    file: fs::File,
    /// Bytes of the whole lines.
    len: u64,
}

impl Lines {
    fn create(path: PathBuf) -> Result<Lines> {
        match fs::File::create(&path) {
            Ok(file) => Ok(Lines { path, file, len: 0 }),
            Err(e) => Err(unwritten(&path, e)),
        }
    }

    /// Opens a file to go on with, or makes a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn append(path: &Path) -> Result<Lines> {
        let opened = fs::OpenOptions::new().append(true).create(true).open(path);
        let opened = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|e| {
            Error::io(format!("{}: cannot be written", path.display())).because(e).advice(FIX_OUTPUT)
        })?;
        Ok(Lines { path: path.into(), file, len })
    }

    /// Bytes of the whole lines.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Makes the lines last, also through a power cut.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| unwritten(&self.path, e))
    }

    /// Appends one line, an object, with `schema` in front.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn push(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(&Versioned::new(line)).map_err(|e| encode(&self.path, e))?;
        text.push(b'\n');
        // One unbuffered write per line. Of a line that finds no room, no part stays.
        if let Err(e) = self.file.write_all(&text) {
            let _ = self.file.set_len(self.len);
            return Err(unwritten(&self.path, e));
        }
        self.len += text.len() as u64;
        Ok(())
    }
}
