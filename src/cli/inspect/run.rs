//! Runs and comparisons.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::facts::Facts;
use crate::cli::look::{Comparison, Line, Optimisation, Run, Table};

/// A run: what was done, and what came of it.
pub fn facts(run: &Run) -> Facts {
    let of = |key: &str| run.record.get(key).cloned().unwrap_or_default();
    let result = |key: &str| run.result(key).cloned().unwrap_or_default();
    let (first, last) = run.mean_rewards().unzip();
    let evaluations = match run.status() {
        "finished" => "unet_evaluations",
        _ => "unet_evaluations_planned",
    };
    let steps = |is: fn(&Line) -> bool| run.lines().filter(|line| is(line)).count();
    Facts::new("run")
        .with("path", run.folder.to_string_lossy())
        .with("status", run.standing())
        .with("prompt", of("prompt"))
        .with("negative_prompt", of("negative_prompt"))
        .with("model", of("model"))
        .with("proposal", of("proposal"))
        .with("target", run.target())
        .with("alpha", of("alpha"))
        .with("particles", of("chains"))
        .with("populations", of("populations"))
        .with("steps", of("steps"))
        .with("seed", of("seed"))
        .with("device", of("device"))
        .with(evaluations, of("unet_evaluations"))
        .with("seconds", of("seconds"))
        .with("first_mean_reward", first)
        .with("last_mean_reward", last)
        .with("chosen", result("best"))
        .with("reward", result("reward"))
        .with("rewards", result("rewards"))
        .with("eval_rewards", result("eval_rewards"))
        .with("log_z", result("log_z"))
        .with("log_z_error", result("log_z_error"))
        .with("log_z_unreliable", result("log_z_unreliable"))
        .with("ess", result("ess"))
        .with("roots_alive", result("roots_alive"))
        .with("distinct_pictures", result("distinct_pictures"))
        .with("steps_resampled", steps(|line| line.resampled))
        .with("steps_collapsed", steps(|line| line.collapsed))
        .with("steps_not_finite", steps(|line| !line.non_finite.is_empty()))
        .with("warnings", of("warnings"))
        .with("error", of("error"))
        .with("notes", json!(run.notes))
}

/// What a run goes on from.
pub fn checkpoint(path: &Path, about: &Map<String, Value>) -> Facts {
    let of = |key: &str| about.get(key).cloned().unwrap_or_default();
    let of_run = |key: &str| about.get("run").and_then(|run| run.get(key)).cloned().unwrap_or_default();
    Facts::new("checkpoint of a run")
        .with("path", path.to_string_lossy())
        .with("prompt", of_run("prompt"))
        .with("seed", of_run("seed"))
        .with("population", of("population"))
        .with("step", of("step"))
        .with("of_steps", of_run("steps"))
        .with("seconds", of("seconds"))
        .with("version", of("version"))
        .with("warnings", of("warnings"))
}

/// A comparison: its arms, and the means of its table.
pub fn comparison(comparison: &Comparison) -> Facts {
    let rows = comparison.summary.as_ref().and_then(|summary| summary.get("rows")).and_then(Value::as_array);
    let row = |row: &Value| {
        let mut cells = Map::new();
        for key in ["arm", "budget", "particles", "cost"] {
            cells.insert(key.into(), row[key].clone());
        }
        for (name, reward) in row["rewards"].as_object().into_iter().flatten() {
            cells.insert(name.clone(), reward["value"]["mean"].clone());
        }
        Value::Object(cells)
    };
    let against = comparison.summary.as_ref().and_then(|summary| summary.get("against")).cloned();
    let warnings = comparison.summary.as_ref().and_then(|summary| summary.get("warnings")).cloned();
    Facts::new("comparison")
        .with("path", comparison.folder.to_string_lossy())
        .with("prompts", comparison.design("prompts").len())
        .with("seeds", comparison.design("seeds").len())
        .with("budgets", comparison.design("budgets").len())
        .with("runs", comparison.runs.len())
        .with("against", against.unwrap_or_default())
        .with("rows", rows.into_iter().flatten().map(row).collect::<Vec<_>>())
        .with("warnings", warnings.unwrap_or_default())
        .with("notes", json!(comparison.notes))
}

/// An optimisation: its strategies, and the means of its table.
pub fn optimisation(of: &Optimisation) -> Facts {
    let row = |row: &Value| {
        let mut cells = Map::new();
        cells.insert("strategy".into(), row["strategy"].clone());
        for key in ["last", "evaluation", "best"] {
            cells.insert(key.into(), row[key]["mean"].clone());
        }
        for key in ["bias", "error", "coverage"] {
            cells.insert(key.into(), row[key].clone());
        }
        // A strategy that does not learn expects nothing.
        cells.retain(|_, cell| !cell.is_null());
        Value::Object(cells)
    };
    Facts::new("optimisation")
        .with("path", of.folder.to_string_lossy())
        .with("black_box", of.black_box())
        .with("prompts", of.design("prompts").len())
        .with("seeds", of.design("seeds").len())
        .with("queries", of.number("queries"))
        .with("batch", of.number("batch"))
        .with("lines", of.queries.len())
        .with("rows", of.rows().iter().map(row).collect::<Vec<_>>())
        .with("notes", json!(of.notes))
}

/// A folder of `toy`, `pareto` or `eval`: its table, in words.
pub fn table(table: &Table) -> Facts {
    let row = |row: &Vec<String>| {
        let cells = table.header.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
        Value::Object(cells.map(|(name, cell)| (name.clone(), json!(cell))).collect())
    };
    Facts::new(&table.kind.to_lowercase())
        .with("path", table.folder.to_string_lossy())
        .with("command", table.command.clone())
        .with("table", table.rows.iter().map(row).collect::<Vec<_>>())
        .with("notes", json!(table.notes))
}
