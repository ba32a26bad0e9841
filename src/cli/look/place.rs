//! What a path leads to: one run, one comparison, one optimisation, or a folder of these.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::experiment::{COMPARISON, OPTIMISATION};
use crate::error::{Error, Result};
use crate::run::{PARTICLES, RECORD, TRACE};

/// What to give instead of something else.
const FIX: &str = "give the folder of a run (run.json is in it), of a comparison (compare.json) or an optimisation \
                   (optimize.json), or the directory that these are in; or the folder of a toy, a front or an \
                   evaluation";

/// A folder with something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Run(PathBuf),
    Comparison(PathBuf),
    Optimisation(PathBuf),
}

/// What is at `path`, a folder or a file in one, in the order of names.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be read;
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where nothing of the kind is.
pub fn places(path: &Path) -> Result<Vec<Place>> {
    let names = [RECORD, TRACE, PARTICLES, COMPARISON, OPTIMISATION];
    if path.is_file() && path.file_name().is_some_and(|name| names.iter().any(|known| name == *known)) {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        return places(folder.unwrap_or(Path::new(".")));
    }
    let unreadable = |e| Error::io(format!("{}: cannot be read", path.display())).because(e).advice(FIX);
    if let Some(place) = place(path) {
        return Ok(vec![place]);
    }
    if path.is_file() {
        return Err(Error::usage(format!("{}: is no file of a run", path.display())).advice(FIX));
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // Hidden folders are of results that are not finished.
        if !entry.file_name().to_string_lossy().starts_with('.') {
            found.extend(place(&entry.path()));
        }
    }
    if found.is_empty() {
        return Err(Error::usage(format!("{}: there is no run in it", path.display())).advice(FIX));
    }
    found.sort_by(|a, b| a.folder().cmp(b.folder()));
    Ok(found)
}

fn place(folder: &Path) -> Option<Place> {
    if folder.join(COMPARISON).exists() {
        return Some(Place::Comparison(folder.into()));
    }
    if folder.join(OPTIMISATION).exists() {
        return Some(Place::Optimisation(folder.into()));
    }
    // A run without its record is one too, and is said to lack it.
    [RECORD, TRACE, PARTICLES]
        .iter()
        .any(|name| folder.join(name).exists())
        .then(|| Place::Run(folder.into()))
}

impl Place {
    pub fn folder(&self) -> &Path {
        match self {
            Place::Run(folder) | Place::Comparison(folder) | Place::Optimisation(folder) => folder,
        }
    }
}
