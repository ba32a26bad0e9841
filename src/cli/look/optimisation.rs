//! An optimisation of a black box: its design, its table, the queries that are done.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::{self, Left};
use crate::cli::experiment::OPTIMISATION;
use crate::error::Result;

/// A query, a line of its `runs.jsonl` (docs/formats.md).
#[derive(Clone, Debug, Deserialize)]
pub struct Query {
    pub strategy: String,
    pub seed: u64,
    pub query: usize,
    pub round: Option<usize>,
    pub prompt: String,
    pub answer: f64,
    pub mean: Option<f64>,
    pub picture: String,
}

/// An optimisation as it was left.
#[derive(Clone, Debug)]
pub struct Optimisation {
    pub folder: PathBuf,
    /// `optimize.json`.
    pub record: Map<String, Value>,
    /// `summary.json`, once all queries are done.
    pub summary: Option<Map<String, Value>>,
    pub queries: Vec<Query>,
    /// What could not be read, or is not there yet.
    pub notes: Vec<String>,
}

fn planned(record: &Map<String, Value>) -> usize {
    let lists = ["strategies", "seeds"].map(|key| files::list(record, key).len());
    let each = number(record, "queries").saturating_add(number(record, "evaluate"));
    lists.iter().fold(each, |all, list| all.saturating_mul(*list))
}

/// A number of the design.
fn number(record: &Map<String, Value>, key: &str) -> usize {
    let number = files::design(record, key).and_then(Value::as_u64);
    number.and_then(|number| usize::try_from(number).ok()).unwrap_or_default()
}

impl Optimisation {
    /// Reads the optimisation in `folder`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where `optimize.json` is damaged or of another layout, or
    /// `summary.json` is.
    pub fn read(folder: &Path) -> Result<Optimisation> {
        let Left { record, summary, lines: queries, notes } =
            files::left(folder, OPTIMISATION, ("optimisation", "queries"), planned)?;
        Ok(Optimisation { folder: folder.into(), record, summary, queries, notes })
    }

    /// A list of the design.
    pub fn design(&self, key: &str) -> &[Value] {
        files::list(&self.record, key)
    }

    /// A number of the design.
    pub fn number(&self, key: &str) -> usize {
        number(&self.record, key)
    }

    /// The name of the black box.
    pub fn black_box(&self) -> &str {
        files::design(&self.record, "black_box").and_then(|of| of["name"].as_str()).unwrap_or_default()
    }

    /// The rows of the table, a strategy each.
    pub fn rows(&self) -> &[Value] {
        let rows = self.summary.as_ref().and_then(|summary| summary.get("rows")).and_then(Value::as_array);
        rows.map(Vec::as_slice).unwrap_or_default()
    }

    /// The queries of the last round, of strategies in their order; pictures of the evaluation where there
    /// are some.
    pub fn last(&self) -> Vec<&Query> {
        let evaluated = self.queries.iter().any(|query| query.round.is_none());
        let last = |strategy: &str| {
            self.queries
                .iter()
                .filter(|query| query.strategy == strategy)
                .filter_map(|query| query.round)
                .max()
        };
        let names: Vec<&str> = self.design("strategies").iter().filter_map(Value::as_str).collect();
        let of = |name: &&str| {
            let round = if evaluated { None } else { last(name) };
            self.queries.iter().filter(move |query| query.round == round).filter({
                let name = name.to_string();
                move |query| query.strategy == name
            })
        };
        names.iter().flat_map(of).collect()
    }

    /// The name of its folder.
    pub fn name(&self) -> String {
        files::name(&self.folder)
    }
}
