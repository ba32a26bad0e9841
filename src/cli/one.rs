//! One draw of a prompt: what is known of it before it begins.

use std::path::Path;

use serde_json::{Map, Value};

use super::options::Options;
use super::record::{Choices, Draw};
use crate::session::{PlainScores, Prompt};

/// One draw of a prompt.
pub struct OnePrompt<'a> {
    pub options: &'a Options,
    pub typed: &'a [String],
    /// Hashes.
    pub files: &'a Map<String, Value>,
    pub choices: Choices,
    pub prompt: &'a Prompt,
    pub draw: Draw,
    /// SHA-256 of what decides all draws of the command, besides their prompts.
    pub list: &'a str,
    /// What plain pictures of this prompt are worth, where that was measured.
    pub plain: Option<&'a PlainScores>,
}

/// A path for records, where what is no UTF-8 is shown as well as it can be.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
