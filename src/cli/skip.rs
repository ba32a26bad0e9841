//! Results that the output directory holds already: found by their records, and reported again from their
//! files.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::one::OnePrompt;
use super::save::BEST;
use super::values::{Save, Select};
use crate::error::{Error, Result};

/// Options that decide which files a run leaves.
const LEFT: [&str; 4] = ["save", "save_latents", "grid", "metadata"];

/// Whether a finished run's record is of the same draw: the same options, of the same files.
pub fn is_same(record: &Value, one: &OnePrompt<'_>) -> bool {
    let same = |(key, value): (&String, &Value)| record.get(key) == Some(value);
    let left = one.choices.rest.iter().filter(|(key, _)| LEFT.contains(&key.as_str()));
    one.choices.deciding.iter().chain(left).chain(one.files).all(same)
}

/// What goes to standard output for a finished run, as when it was drawn.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) for files that cannot be read any more.
pub fn answer(folder: &Path, one: &OnePrompt<'_>) -> Result<String> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|e| {
            Error::io(format!("{}: cannot be read", path.display()))
                .because(e)
                .advice("draw it again, without --skip-finished")
        })
    };
    let particles: Vec<Map<String, Value>> =
        read("particles.jsonl")?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let all = one.options.select == Select::All;
    let name = |line: &Map<String, Value>| match (one.options.save, all) {
        (Save::None, _) => None,
        (_, true) => line["path"].as_str().map(String::from),
        (_, false) => Some(BEST.to_string()),
    };
    let returned = particles.into_iter().filter(|line| all || line["is_best"] == true);
    let returned = returned.map(|line| (name(&line), line)).collect();
    let record: Value = serde_json::from_str(&read("run.json")?).unwrap_or_default();
    Ok(one.output_text(folder, record["result"].as_object().cloned().unwrap_or_default(), returned))
}
