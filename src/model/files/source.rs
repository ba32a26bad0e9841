//! Where the files of a model or a reward are.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::assembled::{Assembled, Piece};
use crate::error::{Error, Result};
use crate::hash::{sha256, sha256_of_weights};
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
    /// Files from several places: a checkpoint in a single file, or a folder with parts replaced.
    Assembled(AssembledModel),
}

/// A model whose files come from several places, as
/// [`ModelFolder::open_with`](crate::model::folder::ModelFolder::open_with) puts it together.
#[derive(Clone)]
pub struct AssembledModel(pub(crate) Arc<Assembled>);

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
            Source::Assembled(model) => match (model.0.piece(rel), model.0.in_base(rel)) {
                (Some(Piece::Made(content)), _) => Ok(content.clone()),
                (Some(Piece::Changed { content, .. }), _) => Ok(Cow::Owned(content.clone())),
                (Some(Piece::File(path)), _) => regular::read(path, MOST_BYTES).map(Cow::Owned),
                (None, Some(path)) => regular::read(&path, MOST_BYTES).map(Cow::Owned),
                (Some(Piece::Weights(_)) | None, _) => Err(std::io::ErrorKind::NotFound.into()),
            },
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
            Source::Assembled(model) => {
                model.0.piece(rel).is_some() || model.0.in_base(rel).is_some_and(|path| path.is_file())
            }
        }
    }

    /// Whether this program makes the file at `rel`, for a checkpoint that holds none.
    pub(crate) fn is_made(&self, rel: &str) -> bool {
        match self {
            Source::Assembled(model) => matches!(model.0.piece(rel), Some(Piece::Made(_))),
            Source::Dir(_) | Source::Embedded(_) => false,
        }
    }

    /// The path of `rel` for people to read.
    pub fn describe(&self, rel: &str) -> String {
        match self {
            Source::Dir(dir) => dir.join(rel).display().to_string(),
            Source::Embedded(_) => format!("built-in:{rel}"),
            Source::Assembled(model) => match (model.0.piece(rel), model.0.in_base(rel)) {
                (Some(Piece::File(path) | Piece::Changed { from: path, .. }), _) => {
                    path.display().to_string()
                }
                (Some(Piece::Weights(renaming)), _) => renaming.path.display().to_string(),
                (None, Some(path)) => path.display().to_string(),
                (Some(Piece::Made(_)) | None, _) => format!("{}:{rel}", model.0.name),
            },
        }
    }

    /// Names of the files in the folder `component` (`""` is the top), sorted; empty where there is no such
    /// folder.
    pub fn list(&self, component: &str) -> Vec<String> {
        let on_disk = |dir: &Path| {
            let listing = fs::read_dir(dir.join(component)).into_iter().flatten();
            listing.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect()
        };
        let prefix = join(component, "");
        let here = |name: &str| {
            let rest = name.strip_prefix(prefix.as_str())?;
            (!rest.contains('/')).then(|| rest.to_string())
        };
        let mut names: Vec<String> = match self {
            Source::Dir(dir) => on_disk(dir),
            Source::Embedded(files) => files.iter().filter_map(|(name, _)| here(name)).collect(),
            Source::Assembled(model) => match &model.0.base {
                Some(base) if !model.0.has_component(component) => on_disk(base),
                _ => model.0.pieces.keys().filter_map(|name| here(name)).collect(),
            },
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
        let path = match self {
            Source::Dir(dir) => Some(dir.join(rel)),
            Source::Embedded(_) => None,
            Source::Assembled(model) => match model.0.piece(rel) {
                Some(Piece::File(path)) => Some(path.clone()),
                Some(Piece::Weights(renaming)) => Some(renaming.path.clone()),
                Some(Piece::Made(_) | Piece::Changed { .. }) => None,
                None => model.0.in_base(rel),
            },
        };
        let (bytes, sha256) = match path {
            Some(path) => sha256_or_name(&path).map_err(|e| {
                let usual = "fetch this file again, and leave the model in place while it is in use";
                let fix = regular::fix(&e, usual);
                Error::model(format!("{}: cannot be read", self.describe(rel))).because(e).advice(fix)
            })?,
            None => {
                let content = self.read(rel)?;
                (content.len() as u64, sha256(&content))
            }
        };
        Ok(FileHash { path: self.recorded(rel), bytes, sha256 })
    }

    /// The path of `rel` in records: several components may be in one file.
    pub(crate) fn recorded(&self, rel: &str) -> String {
        match self {
            Source::Assembled(model) => match model.0.piece(rel) {
                Some(Piece::Weights(renaming)) => renaming.recorded.clone(),
                _ => rel.to_string(),
            },
            Source::Dir(_) | Source::Embedded(_) => rel.to_string(),
        }
    }
}

/// What `cell` holds; where that is nothing yet, what `compute` gives is put there.
///
/// # Errors
/// Those of `compute`, after which the cell holds nothing still.
pub fn computed_once<T>(cell: &OnceLock<T>, compute: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = compute()?;
    Ok(cell.get_or_init(|| value))
}

/// SHA-256 of a file that a run reads, computed once for `cell`; `refuse` begins the error.
///
/// # Errors
/// What `refuse` makes of the words, where the file cannot be read any more.
pub fn sha256_once<'a>(
    cell: &'a OnceLock<String>,
    path: &Path,
    refuse: impl FnOnce(&'static str) -> Error,
) -> Result<&'a str> {
    let hash = computed_once(cell, || match sha256_of_weights(path) {
        Ok((_, hash)) => Ok(hash),
        Err(e) => {
            let fix = regular::fix(&e, "leave the file in place while it is in use");
            Err(refuse("cannot be read").because(e).advice(fix))
        }
    })?;
    Ok(hash)
}

/// Length and SHA-256 of a file, read only where the cache of the hub does not say it.
fn sha256_or_name(path: &Path) -> io::Result<(u64, String)> {
    match hash_of(path) {
        Some(hash) => Ok((regular::open(path)?.metadata()?.len(), hash)),
        None => sha256_of_weights(path),
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Dir(dir) => write!(f, "Source({})", dir.display()),
            Source::Embedded(files) => write!(f, "Source(built-in, {} files)", files.len()),
            Source::Assembled(model) => write!(f, "Source({}, assembled)", model.0.name),
        }
    }
}

/// The path of `file` in the folder `component`, relative to the model.
pub(crate) fn join(component: &str, file: &str) -> String {
    if component.is_empty() { file.to_string() } else { format!("{component}/{file}") }
}
