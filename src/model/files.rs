//! What every reader of model files stands on: where files are, and the JSON that tools write.

mod assembled;
pub(crate) mod json;
mod source;

pub(crate) use assembled::{Assembled, Origin, Part, Piece, Renamed, Renaming};
pub use source::{AssembledModel, FileHash, Source};
pub(crate) use source::{computed_once, join, sha256_once};
