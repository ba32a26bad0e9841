//! Where the files of a model or a reward are.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hash::{sha256, sha256_of_file};
use crate::hub::hash_of;
use crate::regular;

/// Most bytes of a file that is read whole: configurations and vocabularies have a few. Weights are mapped.
const MOST_BYTES: u64 = 1 << 30;

/// Where the files of a model are.
#[derive(Clone)]
#[non_exhaustive]
pub enum Source {
    /// A folder on disk.
    Dir(PathBuf),
    /// A table inside the program: paths relative to the model, with `/` between their parts, and contents.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// One file of a model and its hash, for the record of a run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FileHash {
    /// Relative to the model folder, `/` between parts.
    pub path: String,
    /// Length of the file.
    pub bytes: u64,
    /// Lower-case hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
}

impl Source {
    /// The content of the file at `rel`, with `/` between its parts.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file that is missing or unreadable.
    pub fn read(&self, rel: &str) -> Result<Cow<'static, [u8]>> {
        let found = match self {
            Source::Dir(dir) => regular::read(&dir.join(rel), MOST_BYTES).map(Cow::Owned),
            Source::Embedded(files) => files
                .iter()
                .find(|(name, _)| *name == rel)
                .map(|(_, bytes)| Cow::Borrowed(*bytes))
                .ok_or_else(|| std::io::ErrorKind::NotFound.into()),
        };
        found.map_err(|e| {
            let usual = "the download is incomplete: fetch this file, or correct the path of the model";
            let fix = regular::fix(&e, usual);
            Error::model(format!("{}: cannot be read", self.describe(rel))).because(e).advice(fix)
        })
    }

    /// Whether there is a file at `rel`.
    pub fn exists(&self, rel: &str) -> bool {
        match self {
            Source::Dir(dir) => dir.join(rel).is_file(),
            Source::Embedded(files) => files.iter().any(|(name, _)| *name == rel),
        }
    }

    /// The path of `rel` for people to read.
    pub fn describe(&self, rel: &str) -> String {
        match self {
            Source::Dir(dir) => dir.join(rel).display().to_string(),
            Source::Embedded(_) => format!("built-in:{rel}"),
        }
    }

    /// Names of the files in the folder `component` (`""` is the top), sorted; empty where there is no such
    /// folder.
    pub fn list(&self, component: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Source::Dir(dir) => fs::read_dir(dir.join(component))
                .map(|listing| {
                    listing
                        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
                        .collect()
                })
                .unwrap_or_default(),
            Source::Embedded(files) => {
                let prefix = join(component, "");
                let below = files.iter().filter_map(|(name, _)| name.strip_prefix(prefix.as_str()));
                below.filter(|rest| !rest.contains('/')).map(str::to_string).collect()
            }
        };
        names.sort();
        names
    }

    /// Size and SHA-256 of the file at `rel`; of a large file in the cache of the hub, the hash that it is
    /// kept under ([`hash_of`]).
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file.
    pub fn hash(&self, rel: &str) -> Result<FileHash> {
        let (bytes, sha256) = match self {
            Source::Dir(dir) => sha256_or_name(&dir.join(rel)).map_err(|e| {
                let usual = "fetch this file again, and leave the model in place while it is in use";
                let fix = regular::fix(&e, usual);
                Error::model(format!("{}: cannot be read", self.describe(rel))).because(e).advice(fix)
            })?,
            Source::Embedded(_) => {
                let content = self.read(rel)?;
                (content.len() as u64, sha256(&content))
            }
        };
        Ok(FileHash { path: rel.to_string(), bytes, sha256 })
    }
}

/// Length and SHA-256 of a file, read only where the cache of the hub does not say it.
fn sha256_or_name(path: &Path) -> io::Result<(u64, String)> {
    match hash_of(path) {
        Some(hash) => Ok((regular::open(path)?.metadata()?.len(), hash)),
        None => sha256_of_file(path),
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Dir(dir) => write!(f, "Source({})", dir.display()),
            Source::Embedded(files) => write!(f, "Source(built-in, {} files)", files.len()),
        }
    }
}

/// The path of `file` in the folder `component`, relative to the model.
pub(crate) fn join(component: &str, file: &str) -> String {
    if component.is_empty() { file.to_string() } else { format!("{component}/{file}") }
}
