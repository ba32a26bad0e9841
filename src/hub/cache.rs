//! The cache on disk, in the layout of `huggingface_hub`:
//!
//! ```text
//! models--OWNER--NAME/refs/main             the commit that the branch was
//! models--OWNER--NAME/snapshots/COMMIT/...  the files, links to
//! models--OWNER--NAME/blobs/HASH            their contents
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::name::Name;
use crate::error::Error;
use crate::hash::is_hex;

/// The part of the cache that belongs to a repository.
pub struct Cache {
    /// Of all repositories.
    #[cfg(feature = "hub")]
    pub root: PathBuf,
    /// Of this one.
    pub folder: PathBuf,
    /// As asked for.
    pub revision: String,
}

impl Cache {
    pub fn new(root: &Path, name: &Name) -> Cache {
        let folder = root.join(format!("models--{}", name.repository.replace('/', "--")));
        Cache {
            #[cfg(feature = "hub")]
            root: root.to_path_buf(),
            folder,
            revision: name.revision.clone(),
        }
    }

    /// The commit that the revision is, as far as the cache knows.
    pub fn commit(&self) -> Option<String> {
        if is_commit(&self.revision) {
            let known = self.snapshot(&self.revision).is_dir();
            return known.then(|| self.revision.clone());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(&self.revision)).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_string())
    }

    /// The folder of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Says that the cache knows nothing of the revision, and what it knows instead.
    pub fn absent(&self) -> Error {
        let names = |below: &str| -> Vec<String> {
            let listing = fs::read_dir(self.folder.join(below)).into_iter().flatten();
            let mut names: Vec<String> =
                listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
            names.sort();
            names
        };
        let (refs, commits) = (names("refs"), names("snapshots"));
        let others = match (refs.is_empty(), commits.is_empty()) {
            (true, true) => String::new(),
            (false, _) => format!(", which has of this repository {}", refs.join(", ")),
            (true, false) => format!(", which has of this repository {}", commits.join(", ")),
        };
        Error::model(format!(
            "there is no such file or folder here, and the cache has no revision {} ({}{others})",
            self.revision,
            self.folder.display()
        ))
    }
}

/// Whether `text` is the full hash of a commit.
pub fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// The SHA-256 of a file of a snapshot, by the name of its content: large files are kept under their hash, so
/// that gigabytes need not be read to know it. `None` for every other file: of another folder, not a link, or
/// kept under the shorter hash that git gives to small ones.
///
/// Downloads of this program are checked against that name. What changed in the cache afterwards is not
/// noticed.
pub fn hash_of(file: &Path) -> Option<String> {
    // Only a link that the cache itself has: models--X/snapshots/COMMIT/.../file -> models--X/blobs/HASH.
    let target = fs::read_link(file).ok()?;
    let name = target.file_name()?.to_str()?;
    let blobs = target.parent()?;
    if !is_hex(name, 64) || blobs.file_name()? != "blobs" {
        return None;
    }
    let parent = file.parent()?;
    let snapshot = parent.ancestors().find(|folder| {
        folder.parent().and_then(Path::file_name).is_some_and(|above| above == "snapshots")
            && folder.file_name().and_then(|n| n.to_str()).is_some_and(is_commit)
    })?;
    let repository = snapshot.parent()?.parent()?;
    let of_cache = repository.file_name()?.to_str()?.starts_with("models--");
    let same = parent.join(blobs).canonicalize().ok()? == repository.join("blobs").canonicalize().ok()?;
    (of_cache && same).then(|| name.to_string())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_hash_is_taken_from_a_link_of_the_cache_and_from_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let hash = "ab".repeat(32);
        let tree = |repository: &str| {
            let folder = dir.path().join(repository);
            let snapshot = folder.join("snapshots").join("c0".repeat(20)).join("unet");
            fs::create_dir_all(&snapshot).unwrap();
            fs::create_dir_all(folder.join("blobs")).unwrap();
            fs::write(folder.join("blobs").join(&hash), "x").unwrap();
            snapshot
        };
        let good = tree("models--O--N");
        let link = |folder: &Path, name: &str, target: String| {
            symlink(target, folder.join(name)).unwrap();
            hash_of(&folder.join(name))
        };
        assert_eq!(link(&good, "large", format!("../../../blobs/{hash}")), Some(hash.clone()));
        assert_eq!(link(&good, "small", format!("../../../blobs/{}", &hash[..40])), None);
        assert_eq!(link(&good, "upper", format!("../../../blobs/{}", hash.to_uppercase())), None);
        fs::write(good.join("plain"), "x").unwrap();
        assert_eq!(hash_of(&good.join("plain")), None);
        // The same link where no cache is.
        assert_eq!(link(&tree("other"), "large", format!("../../../blobs/{hash}")), None);
        // To the blobs of another folder.
        let elsewhere = dir.path().join("other/blobs").join(&hash);
        assert_eq!(link(&good, "foreign", elsewhere.display().to_string()), None);
    }
}
