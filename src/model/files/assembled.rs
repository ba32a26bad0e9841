//! A model whose files come from several places: a checkpoint in a single file presented under the names of a
//! folder, or a folder with some of its parts replaced.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A model put together from pieces.
pub struct Assembled {
    /// What the user gave, for messages.
    pub name: String,
    /// The folder that holds the components without pieces.
    pub base: Option<PathBuf>,
    /// By path inside the model, `/` between its parts. A component with a piece has its pieces only.
    pub pieces: BTreeMap<String, Piece>,
}

/// One file of an assembled model.
pub enum Piece {
    /// Made by this program.
    Made(Cow<'static, [u8]>),
    /// A file on disk as this program changes it.
    Changed {
        /// The file.
        from: PathBuf,
        /// What is read in its place.
        content: Vec<u8>,
    },
    /// As it is on disk.
    File(PathBuf),
    /// Tensors of another file under new names.
    Weights(Renaming),
}

/// Tensors of one file under new names.
#[derive(Clone)]
pub struct Renaming {
    /// The file.
    pub path: PathBuf,
    /// Its path in records.
    pub recorded: String,
    /// Those that are used.
    pub tensors: Vec<Renamed>,
    /// Where all of the model should be, for messages about what is not there.
    pub origins: Vec<Origin>,
}

/// A layer or a tensor of a model, and its name in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// In the model.
    pub name: String,
    /// In the file.
    pub stored: String,
}

/// A tensor under a new name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// In the model.
    pub name: String,
    /// In the file.
    pub stored: String,
    /// Which part of the stored one.
    pub part: Part,
}

/// What of a stored tensor becomes a tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first, second or third of three equal blocks of rows: query, key or value.
    Third(usize),
    /// The transpose of a matrix.
    Transposed,
}

impl Assembled {
    /// The piece at `rel`.
    pub fn piece(&self, rel: &str) -> Option<&Piece> {
        self.pieces.get(rel)
    }

    /// Whether `component` consists of pieces.
    pub fn has_component(&self, component: &str) -> bool {
        self.pieces.keys().any(|rel| rel.rsplit_once('/').map_or("", |(folder, _)| folder) == component)
    }

    /// The path on disk of `rel` in the folder, where its component is not replaced.
    pub fn in_base(&self, rel: &str) -> Option<PathBuf> {
        let component = rel.rsplit_once('/').map_or("", |(folder, _)| folder);
        match self.has_component(component) {
            true => None,
            false => self.base.as_ref().map(|base| base.join(rel)),
        }
    }

    /// Adds a file that this program makes.
    pub fn make(&mut self, rel: &str, content: impl Into<Cow<'static, [u8]>>) {
        self.pieces.insert(rel.to_string(), Piece::Made(content.into()));
    }
}
