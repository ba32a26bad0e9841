//! What the program knows of a reward before it is opened.

use std::path::Path;

use super::Reward;
use super::towers::Towers;
use crate::error::Result;

/// Opens a reward: the towers it may share, its name for messages, and its path where one is given.
pub(super) type Open = fn(&mut Towers<'_>, &str, Option<&Path>) -> Result<Box<dyn Reward>>;

/// A kind of reward: one file each, registered in [`REWARDS`](super::REWARDS).
#[derive(Debug)]
pub struct RewardKind {
    /// As the user types it.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// What it needs and gives.
    pub needs: Needs,
    /// The alpha of `p(x) exp(r(x) / alpha)` that suits its scale.
    pub default_alpha: f64,
    /// Where its definition and `default_alpha` are from.
    pub source: &'static str,
    /// Opens it under the name given, from the path given or, without one, from the model's own folders.
    pub(super) open: Open,
}

/// What a reward needs, and whether it has a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// What PATH names; `None` for a reward that reads no file.
    pub files: Option<&'static str>,
    /// Whether the score depends on the prompt.
    pub prompt: bool,
    /// Whether it has a gradient, which some methods need.
    pub gradient: bool,
}

impl RewardKind {
    /// One line for lists of choices: what it measures, needs and lacks.
    pub fn line(&self) -> String {
        let files = match self.needs.files {
            Some(path) => format!("PATH is {path}"),
            None => "needs no file".to_string(),
        };
        let gradient = if self.needs.gradient { "" } else { ", gives no gradient" };
        format!("{}; {files}{gradient}", self.about)
    }
}

/// Kinds are told apart by their names.
impl PartialEq for RewardKind {
    fn eq(&self, other: &RewardKind) -> bool {
        self.name == other.name
    }
}
