//! What every reader of model files stands on: where files are, and the JSON that tools write.

pub(crate) mod json;
mod source;

pub(crate) use source::join;
pub use source::{FileHash, Source};
