//! What a caller says of a repository: which of its files are needed, and who hears of their download.

use std::path::Path;

use crate::error::Result;

/// What there is of a repository, for deciding which files are missing.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// The folder of the revision in the cache, which need not exist.
    pub folder: &'a Path,
    /// All files of the revision on the hub; `None` as long as nobody was asked.
    pub listing: Option<&'a [String]>,
}

/// Names the files that are needed and not in the snapshot's folder, in the order of their download. It is
/// asked again when they are there, because one file may tell of others; none missing ends it.
pub type Missing<'a> = &'a dyn Fn(Snapshot<'_>) -> Result<Vec<String>>;

/// Hears of downloads.
pub trait Progress: Send + Sync {
    /// `bytes` of `total` of the file `file` are there.
    ///
    /// # Errors
    /// One that the listener makes ends the download; it goes on there the next time.
    fn at(&self, file: &str, bytes: u64, total: u64) -> Result<()>;
}
