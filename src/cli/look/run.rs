//! One run: its record, its trace, its particles.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::files;
use super::trace::{self, Line, Population};
use crate::error::{Error, Result};
use crate::run::{PARTICLES, RECORD, TRACE, lock};

/// A final particle, a line of `particles.jsonl` (docs/formats.md).
#[derive(Clone, Debug, Deserialize)]
pub struct Particle {
    pub index: usize,
    #[serde(default)]
    pub population: usize,
    pub path: Option<String>,
    pub weight: f64,
    pub target: Option<f64>,
    pub rewards: Map<String, Value>,
    pub eval_rewards: Map<String, Value>,
    pub is_best: bool,
    #[serde(default)]
    pub lineage: Vec<usize>,
    pub sha256: Option<String>,
}

/// A run as it was left.
#[derive(Clone, Debug)]
pub struct Run {
    pub folder: PathBuf,
    /// `run.json`.
    pub record: Map<String, Value>,
    /// The trace, as far as it goes.
    pub populations: Vec<Population>,
    /// Those of `particles.jsonl`; none before a run has finished.
    pub particles: Vec<Particle>,
    /// What could not be read, or is not there yet.
    pub notes: Vec<String>,
}

impl Run {
    /// Reads the run in `folder`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where `run.json` is missing, damaged, of another layout, or no
    /// record of a run.
    pub fn read(folder: &Path) -> Result<Run> {
        let path = folder.join(RECORD);
        let fix = "draw the prompt again with `das-cuda sample`, or move the folder away";
        let record = files::object(&path, fix)?;
        if !record.get("prompt").is_some_and(Value::is_string)
            || !record.get("status").is_some_and(Value::is_string)
        {
            return Err(Error::io(format!("{}: is damaged: no record of a run", path.display())).advice(fix));
        }
        let (lines, cut): (Vec<Line>, _) = files::lines(&folder.join(TRACE));
        let (populations, broken) = trace::populations(lines);
        let mut run =
            Run { folder: folder.into(), record, populations, particles: Vec::new(), notes: Vec::new() };
        let (particles, missing) = files::lines(&folder.join(PARTICLES));
        run.particles = particles;
        // What is not written before the end of a run is not missing before it.
        let ended = run.status() == "finished";
        let whole = cut.is_none() && broken.is_none();
        run.notes.extend(cut.into_iter().chain(broken));
        // A population has a line for each step, and one for its end.
        let expected = run.number("populations").zip(run.number("steps")).map(|(m, steps)| m * (steps + 1.0));
        let there = run.lines().count();
        if let Some(expected) = expected.filter(|expected| ended && whole && *expected > there as f64) {
            run.notes.push(format!("trace.jsonl has {there} of its {expected:.0} lines"));
        }
        let lacks = missing.is_some();
        run.notes.extend(missing.filter(|_| ended || !run.particles.is_empty()));
        let expected = run.number("populations").zip(run.number("chains")).map(|(m, chains)| m * chains);
        let there = run.particles.len();
        if let Some(expected) = expected.filter(|expected| ended && !lacks && *expected != there as f64) {
            run.notes.push(format!("particles.jsonl has {there} of its {expected:.0} lines"));
        }
        Ok(run)
    }

    /// A text of the record, empty where there is none.
    pub fn text(&self, key: &str) -> &str {
        self.record.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of the record.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.record.get(key).and_then(Value::as_f64)
    }

    /// An entry of the result.
    pub fn result(&self, key: &str) -> Option<&Value> {
        self.record.get("result").and_then(|result| result.get(key)).filter(|value| !value.is_null())
    }

    /// `running`, `finished`, `interrupted` or `failed`.
    pub fn status(&self) -> &str {
        self.text("status")
    }

    /// The name of its folder.
    pub fn name(&self) -> String {
        files::name(&self.folder)
    }

    /// As [`Run::status`], and of one that has not ended whether a process works on it.
    pub fn standing(&self) -> &str {
        match self.status() {
            "running" if lock(&self.folder).is_ok() => "killed",
            status => status,
        }
    }

    /// Mean reward over all populations, where the first was computed in each, and the last.
    pub fn mean_rewards(&self) -> Option<(f64, f64)> {
        let mean = |rewards: Vec<f64>| {
            (!rewards.is_empty()).then(|| rewards.iter().sum::<f64>() / rewards.len() as f64)
        };
        let has = |line: &&Line| line.rewards().next().is_some();
        let of_each = |line: &dyn Fn(&Population) -> Option<Vec<f64>>| {
            mean(self.populations.iter().filter_map(line).flatten().collect())
        };
        let first = of_each(&|p| Some(p.lines.iter().find(has)?.rewards().collect()))?;
        let last = of_each(&|p| Some(p.lines.iter().rev().find(has)?.rewards().collect()))?;
        Some((first, last))
    }

    /// Particles that the populations began with.
    pub fn initial(&self) -> Option<usize> {
        let sizes = self.populations.iter().filter_map(|population| population.lines.first());
        let all: usize = sizes.map(|line| line.log_weights.len()).sum();
        (all > 0).then_some(all)
    }

    /// All lines of the trace, population after population.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.populations.iter().flat_map(|population| &population.lines)
    }

    /// Names of the held-out rewards that particles have.
    pub fn held_out(&self) -> Vec<&str> {
        self.particles
            .first()
            .map(|p| p.eval_rewards.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }

    /// The reward that is aligned to, in words.
    pub fn target(&self) -> String {
        let terms = self.record.get("rewards").and_then(Value::as_array).into_iter().flatten();
        let term = |term: &Value| {
            let name = term["name"].as_str().unwrap_or("?").to_string();
            match term["weight"].as_f64() {
                Some(weight) if weight != 1.0 => format!("{weight} {name}"),
                _ => name,
            }
        };
        terms.map(term).collect::<Vec<_>>().join(" + ")
    }
}
