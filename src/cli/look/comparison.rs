//! A comparison: its design, its table, the runs that are done.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::{self, Left};
use crate::cli::experiment::COMPARISON;
use crate::error::Result;

/// A run of a comparison, a line of its `runs.jsonl` (docs/formats.md).
#[derive(Clone, Debug, Deserialize)]
pub struct Drawn {
    pub arm: String,
    pub budget: f64,
    pub index: usize,
    pub prompt: String,
    pub seed: u64,
    pub target: Option<f64>,
    pub eval_rewards: Map<String, Value>,
    pub picture: String,
}

/// A comparison as it was left.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub folder: PathBuf,
    /// `compare.json`.
    pub record: Map<String, Value>,
    /// `summary.json`, once all runs are done.
    pub summary: Option<Map<String, Value>>,
    pub runs: Vec<Drawn>,
    /// What could not be read, or is not there yet.
    pub notes: Vec<String>,
}

fn planned(record: &Map<String, Value>) -> usize {
    ["prompts", "seeds", "budgets", "arms"].map(|key| files::list(record, key).len()).iter().product()
}

impl Comparison {
    /// Reads the comparison in `folder`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where `compare.json` is damaged or of another layout, or
    /// `summary.json` is.
    pub fn read(folder: &Path) -> Result<Comparison> {
        let Left { record, summary, lines: runs, notes } =
            files::left(folder, COMPARISON, ("comparison", "runs"), planned)?;
        Ok(Comparison { folder: folder.into(), record, summary, runs, notes })
    }

    /// An entry of the design.
    pub fn design(&self, key: &str) -> &[Value] {
        files::list(&self.record, key)
    }

    /// The name of its folder.
    pub fn name(&self) -> String {
        files::name(&self.folder)
    }
}
