//! The tensors of a part of a checkpoint, taken out one layer after another and given the names of a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::model::checkpoint::Checkpoint;
use crate::model::files::{Origin, Part, Renamed, Renaming};

/// Tensors whose names begin with a prefix, without it, and what was made of those taken so far.
pub struct Pool {
    prefix: String,
    left: BTreeMap<String, Vec<usize>>,
    taken: Vec<Renamed>,
    origins: Vec<Origin>,
}

impl Pool {
    /// The tensors of `file` below `prefix`.
    pub fn new(file: &Checkpoint, prefix: &str) -> Pool {
        let root = file.root();
        let below = file.names().filter_map(|name| {
            let rest = name.strip_prefix(prefix)?;
            Some((rest.to_string(), root.dims(name)?.to_vec()))
        });
        let (taken, origins) = (Vec::new(), Vec::new());
        Pool { prefix: prefix.to_string(), left: below.collect(), taken, origins }
    }

    /// The sizes of a tensor that is not taken yet.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.left.get(name).map(Vec::as_slice)
    }

    /// One size of a tensor that is not taken yet.
    pub fn dim(&self, name: &str, at: usize) -> Option<usize> {
        self.dims(name)?.get(at).copied()
    }

    /// Whether a name that is not taken yet begins with `start`.
    pub fn any(&self, start: &str) -> bool {
        self.left.range(start.to_string()..).next().is_some_and(|(name, _)| name.starts_with(start))
    }

    /// Takes the layer `from` as `to`: all tensors `from.*`.
    pub fn layer(&mut self, from: &str, to: &str) {
        self.origin(from, to);
        let start = format!("{from}.");
        let names: Vec<String> = self
            .left
            .range(start.clone()..)
            .map(|(name, _)| name.clone())
            .take_while(|name| name.starts_with(&start))
            .collect();
        for name in names {
            let leaf = &name[start.len()..];
            self.take(&name, &format!("{to}.{leaf}"), Part::Whole);
        }
    }

    fn origin(&mut self, from: &str, to: &str) {
        self.origins.push(Origin { name: to.to_string(), stored: format!("{}{from}", self.prefix) });
    }

    /// Takes layers of the block `from`, each under its new name in the block `to`.
    pub fn layers(&mut self, from: &str, to: &str, parts: &[(&str, &str)]) {
        for (part, name) in parts {
            self.layer(&format!("{from}.{part}"), &format!("{to}.{name}"));
        }
    }

    /// Takes a part of the tensor `from` as `to`. A tensor may be taken in parts, one right after another.
    pub fn tensor(&mut self, from: &str, to: &str, part: Part) {
        self.origin(from, to);
        self.take(from, to, part);
    }

    fn take(&mut self, from: &str, to: &str, part: Part) {
        let known = self.left.remove(from).is_some();
        let last = self.taken.last().and_then(|t| t.stored.strip_prefix(&self.prefix));
        if known || last == Some(from) {
            let stored = format!("{}{from}", self.prefix);
            self.taken.push(Renamed { name: to.to_string(), stored, part });
        }
    }

    /// Leaves out what `ignored` says.
    pub fn discard(&mut self, ignored: impl Fn(&str) -> bool) {
        self.left.retain(|name, _| !ignored(name));
    }

    /// All that was taken of the file at `path`, which records call `recorded`; and what was not, under its
    /// own name: the networks say what they do not know.
    pub fn finish(mut self, path: &Path, recorded: String) -> Renaming {
        // Where names are kept below the prefix, the first parts say where.
        if self.origins.is_empty() {
            let first = |name: &String| name.split('.').next().unwrap_or_default().to_string();
            let first: BTreeSet<String> = self.left.keys().map(first).collect();
            first.iter().for_each(|part| self.origin(part, part));
        }
        let left = self.left.into_keys().map(|name| {
            let stored = format!("{}{name}", self.prefix);
            Renamed { name, stored, part: Part::Whole }
        });
        self.taken.extend(left);
        Renaming { path: path.to_path_buf(), recorded, tensors: self.taken, origins: self.origins }
    }
}
