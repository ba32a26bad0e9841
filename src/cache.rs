//! What this program keeps between runs, in one folder of the user's.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// The folder: `$XDG_CACHE_HOME/das-cuda` or `~/.cache/das-cuda`. Relative paths in these variables
/// are ignored, as the XDG Base Directory Specification has it.
pub fn folder() -> Option<PathBuf> {
    let dir = |name: &str| env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = dir("XDG_CACHE_HOME").or_else(|| dir("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("das-cuda"))
}

/// Writes a file of the cache. Its name appears only when it is whole, whichever threads and programs write
/// it too.
///
/// # Errors
/// Of the system.
pub fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mut part = NamedTempFile::new_in(folder)?;
    part.write_all(bytes)?;
    part.persist(path)?;
    Ok(())
}
