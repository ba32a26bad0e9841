//! Models by the name that they have on the Hugging Face Hub: `owner/name[@revision][/file]`.
//!
//! The cache that diffusers, transformers and `hf download` write is read first, in the same layout and by
//! the same variables of the environment. What is whole there is used without asking anybody. What is missing
//! is downloaded into it, so that those programs find it too; that is the feature `hub`.

mod cache;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod http;
mod name;
mod settings;
mod snapshot;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use cache::Cache;
pub use cache::hash_of;
pub use name::Name;
pub(crate) use name::is_weights;
pub use settings::{Settings, Token};
pub use snapshot::{Missing, Progress, Snapshot};

use crate::error::{Error, ErrorKind, Result};

/// A repository that something was read from, for the record of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Repository {
    /// `owner/name`.
    pub name: String,
    /// As asked for: a branch, a tag or a commit.
    pub revision: String,
    /// What the revision was when it was read.
    pub commit: String,
}

/// Finds repositories: in the cache, and then on the hub.
#[derive(Clone)]
pub struct Hub {
    settings: Arc<Settings>,
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    progress: Option<Arc<dyn Progress>>,
    used: Arc<Mutex<BTreeSet<Repository>>>,
}

impl Hub {
    /// A hub of these settings.
    pub fn new(settings: Settings) -> Hub {
        Hub { settings: Arc::new(settings), progress: None, used: Arc::default() }
    }

    /// The same, and `progress` hears of downloads.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Progress + 'static) -> Hub {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// The repositories that something was found in so far.
    pub fn used(&self) -> Vec<Repository> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Where `given` is on disk. What exists under this path is meant before any repository of this name; a
    /// path that can be no such name is returned as it is. Of a repository the result is the folder of its
    /// revision, or the one file where the name has one; then `missing` is not asked.
    ///
    /// # Errors
    /// [`ErrorKind::Model`], naming the repository, the file and what helps: files that are neither in the
    /// cache nor can be downloaded. Those of `missing` and of the listener.
    pub fn locate(&self, given: &Path, missing: Missing<'_>) -> Result<PathBuf> {
        let Some(name) = Name::of(given) else { return Ok(given.to_path_buf()) };
        self.find(&name, missing).map_err(|e| e.context(&name))
    }

    fn find(&self, name: &Name, missing: Missing<'_>) -> Result<PathBuf> {
        let the_file = |snapshot: Snapshot<'_>| match &name.file {
            Some(file) if !snapshot.folder.join(file).is_file() => Ok(vec![file.clone()]),
            _ => Ok(Vec::new()),
        };
        let missing: Missing<'_> = if name.file.is_some() { &the_file } else { missing };
        let cache = Cache::new(&self.settings.cache, name);
        let known = cache.commit();
        let mut lacks = None;
        if let Some(commit) = &known {
            let folder = cache.snapshot(commit);
            let lacking = missing(Snapshot { folder: &folder, listing: None })?;
            if lacking.is_empty() {
                return Ok(self.found(name, commit, folder));
            }
            if self.settings.offline {
                return Err(incomplete(&folder, &lacking).advice(OFFLINE));
            }
            lacks = Some(incomplete(&folder, &lacking));
        } else if self.settings.offline {
            return Err(cache.absent().advice(OFFLINE));
        }
        let (commit, folder) = self.fetch(name, &cache, known, missing).map_err(|e| match lacks {
            Some(lacks) if e.kind() == ErrorKind::Model => e.addition(lacks.message()),
            _ => e,
        })?;
        Ok(self.found(name, &commit, folder))
    }

    fn found(&self, name: &Name, commit: &str, folder: PathBuf) -> PathBuf {
        let repository = Repository {
            name: name.repository.clone(),
            revision: name.revision.clone(),
            commit: commit.to_string(),
        };
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(repository);
        match &name.file {
            Some(file) => folder.join(file),
            None => folder,
        }
    }

    #[cfg(feature = "hub")]
    fn fetch(
        &self,
        name: &Name,
        cache: &Cache,
        known: Option<String>,
        missing: Missing<'_>,
    ) -> Result<(String, PathBuf)> {
        let client = http::Client::new(&self.settings, name)?;
        download::fetch(&client, cache, known, missing, self.progress.as_deref())
    }

    /// Without the feature `hub`.
    #[cfg(not(feature = "hub"))]
    fn fetch(
        &self,
        name: &Name,
        cache: &Cache,
        known: Option<String>,
        _: Missing<'_>,
    ) -> Result<(String, PathBuf)> {
        let lacks = match &known {
            Some(_) => Error::model("not whole in the cache"),
            None => cache.absent(),
        };
        Err(lacks.advice(format!(
            "this program was built without downloads: fetch it first, hf download {}",
            name.repository
        )))
    }
}

/// The hub that the environment describes, silent.
impl Default for Hub {
    fn default() -> Hub {
        Hub::new(Settings::from_env())
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

const OFFLINE: &str = "leave out `offline` and unset HF_HUB_OFFLINE, so that it can be downloaded; or fetch it \
                       on another machine and copy the cache, or set HF_HUB_CACHE to the folder that has it";

/// A snapshot that lacks files.
fn incomplete(folder: &Path, lacking: &[String]) -> Error {
    const SHOWN: usize = 8;
    let shown = lacking.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = match lacking.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::model(format!("the cache has only a part of it: {shown}{more} not in {}", folder.display()))
}
