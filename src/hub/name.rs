//! `owner/name[@revision][/file]`.

use std::fmt;
use std::path::Path;

/// Endings of files with weights.
const WEIGHTS: [&str; 5] = [".safetensors", ".ckpt", ".pth", ".pt", ".bin"];

/// The branch that is meant where none is named.
const MAIN: &str = "main";

/// A repository of the hub, or a file in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `owner/name`.
    pub repository: String,
    /// A branch, a tag, a commit or a reference such as `refs/pr/1`; `main` unless given.
    pub revision: String,
    /// A file with weights, `/` between the parts of its path.
    pub file: Option<String>,
}

impl Name {
    /// The name that `given` is, unless something exists under this path.
    pub fn of(given: &Path) -> Option<Name> {
        if given.exists() { None } else { Name::parse(given.to_str()?) }
    }

    /// The name that is written `text`; `None` where it is written as none is. Three parts and more are a
    /// name only with the ending of a file of weights, and `folder/file.safetensors` is the path of a file.
    pub fn parse(text: &str) -> Option<Name> {
        let (owner, rest) = text.split_once('/')?;
        let name_end = rest.find(['/', '@']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(name_end);
        let (revision, file) = match rest.strip_prefix('@') {
            None => (MAIN, rest.strip_prefix('/')),
            Some(rest) => revision_and_file(rest),
        };
        let good = is_part(owner)
            && is_part(name)
            && !is_weights(name)
            && is_path(revision)
            && file.is_none_or(|file| is_path(file) && is_weights(file));
        good.then(|| Name {
            repository: format!("{owner}/{name}"),
            revision: revision.to_string(),
            file: file.map(str::to_string),
        })
    }
}

/// A revision `refs/...` has three parts, every other has one here.
fn revision_and_file(text: &str) -> (&str, Option<&str>) {
    let parts = if text.starts_with("refs/") { 3 } else { 1 };
    match text.match_indices('/').nth(parts - 1) {
        Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Whether a file's name is that of weights.
pub fn is_weights(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    WEIGHTS.iter().any(|end| path.ends_with(end))
}

/// Whether `part` can be an owner, a name or a file's: it leads to no other folder and hides nothing.
pub fn is_part(part: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    // The cache writes `--` for the slash between owner and name.
    let clear = !part.starts_with(['.', '-']) && !part.contains("--") && !part.contains("..");
    !part.is_empty() && part.len() <= 96 && clear && part.chars().all(good)
}

/// Whether `path` is one below the folder that it is relative to, on any system.
pub fn is_path(path: &str) -> bool {
    let bad = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
    !path.is_empty()
        && path.len() <= 512
        && !path.contains(bad)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, "/{file}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_an_owner_and_may_have_a_revision_and_a_file() {
        for (text, repository, revision, file) in [
            ("owner/name", "owner/name", "main", None),
            ("o.w-n_er/na.me@v1.0", "o.w-n_er/na.me", "v1.0", None),
            ("o/n@refs/pr/7", "o/n", "refs/pr/7", None),
            ("o/n/a/b.safetensors", "o/n", "main", Some("a/b.safetensors")),
            ("o/n@refs/pr/7/b.PTH", "o/n", "refs/pr/7", Some("b.PTH")),
            ("o/n@abc/b.ckpt", "o/n", "abc", Some("b.ckpt")),
        ] {
            let name = Name::parse(text).expect(text);
            assert_eq!((&*name.repository, &*name.revision), (repository, revision), "{text}");
            assert_eq!(name.file.as_deref(), file, "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn paths_are_no_names() {
        for text in [
            "",
            "model",
            "/owner/name",
            "./name",
            "../name",
            "~/name",
            "owner/",
            "owner/name/",
            "a/b/c",
            "folder/file.safetensors",
            "o/n@",
            "o/n@../x",
            "o/n@a/../b.pt",
            "o/n/../b.pt",
            "o\\n",
            "C:/n",
            "o/n/b.pt/",
            "o/n@v1/dir",
            "o w/n",
            "o/n@a?b",
            "-o/n",
            "o/.n",
            "o/N--M",
            "O--N/m",
            "o/n..m",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_exists_is_no_name() {
        let here = Path::new("src/hub");
        assert!(here.exists() && Name::parse("src/hub").is_some());
        assert_eq!(Name::of(here), None);
        assert!(Name::of(Path::new("src/absent")).is_some());
    }
}
