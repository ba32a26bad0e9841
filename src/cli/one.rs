//! One draw of a prompt: what is known of it before it begins.

use std::path::Path;

use serde_json::{Map, Value};

use super::options::Options;
use super::record::Choices;
use crate::session::Prompt;

/// What keys the random numbers of one draw of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The prompt's.
    pub index: usize,
    pub seed: u64,
}

/// One draw of a prompt.
pub struct OnePrompt<'a> {
    pub options: &'a Options,
    pub typed: &'a [String],
    /// Hashes.
    pub files: &'a Map<String, Value>,
    pub choices: Choices,
    pub prompt: &'a Prompt,
    pub draw: Draw,
}

/// A path for records and for standard output.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
