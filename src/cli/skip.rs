//! Results that the output directory holds already: found by their records, and reported again from their
//! files.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::one::OnePrompt;
use super::options::Options;
use super::save::{BEST, LATENTS};
use super::values::{Save, Select};
use crate::error::{Error, Result};
use crate::run::{PARTICLES, RECORD};

/// The entries of a particle's line that an answer is made of.
const WANTED: [&str; 7] = ["index", "path", "is_best", "weight", "target", "rewards", "eval_rewards"];

/// Options that decide which files a run leaves.
const LEFT: [&str; 4] = ["save", "save_latents", "grid", "metadata"];

/// Whether a finished run's record is of the same draw: the same options, of the same files.
pub fn is_same(record: &Value, one: &OnePrompt<'_>) -> bool {
    let same = |(key, value): (&String, &Value)| record.get(key) == Some(value);
    one.choices.deciding.iter().chain(left(one)).chain(one.files).all(same)
}

/// The options that decide which files a run leaves.
pub fn left<'a>(one: &'a OnePrompt<'_>) -> impl Iterator<Item = (&'a String, &'a Value)> {
    one.choices.rest.iter().filter(|(key, _)| LEFT.contains(&key.as_str()))
}

/// What goes to standard output for a finished run, as when it was drawn.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) for files that cannot be read any more, or are not
/// as the program wrote them.
pub fn answer(folder: &Path, one: &OnePrompt<'_>) -> Result<Vec<u8>> {
    let (path, record) = (folder.join(PARTICLES), folder.join(RECORD));
    let said: Value =
        serde_json::from_str(&read(&record)?).map_err(|e| damaged(&record, "it is no JSON").because(e))?;
    let Some(result) = said.get("result").and_then(Value::as_object) else {
        return Err(damaged(&record, "it has no result"));
    };
    let particles: Vec<Map<String, Value>> =
        read(&path)?.lines().map(|line| particle(&path, line)).collect::<Result<_>>()?;
    let number = |key: &str| said.get(key).and_then(Value::as_u64);
    let drawn = number("chains").zip(number("populations")).and_then(|(p, m)| p.checked_mul(m));
    if drawn != Some(particles.len() as u64) {
        return Err(damaged(&path, &format!("{} lines, and run.json has another number", particles.len())));
    }
    complete(folder, &particles, one.options)?;
    let all = one.options.select == Select::All;
    let name = |line: &Map<String, Value>| match (one.options.save, all) {
        (Save::None, _) => None,
        (_, true) => line["path"].as_str().map(String::from),
        (_, false) => Some(BEST.to_string()),
    };
    let returned: Vec<_> = particles.into_iter().filter(|line| all || line["is_best"] == true).collect();
    if returned.is_empty() {
        return Err(damaged(&path, "no particle in it was returned"));
    }
    let returned = returned.into_iter().map(|line| (name(&line), line)).collect();
    Ok(one.output_text(folder, result.clone(), returned))
}

/// A line of `particles.jsonl`, with every entry that an answer is made of.
fn particle(path: &Path, line: &str) -> Result<Map<String, Value>> {
    let line: Map<String, Value> =
        serde_json::from_str(line).map_err(|e| damaged(path, "a line is no JSON object").because(e))?;
    match WANTED.iter().find(|&&entry| !line.contains_key(entry)) {
        Some(entry) => Err(damaged(path, &format!("a line has no \"{entry}\""))),
        None => Ok(line),
    }
}

/// Refuses a folder that has lost a picture or the latents that its run left.
fn complete(folder: &Path, particles: &[Map<String, Value>], options: &Options) -> Result<()> {
    let pictures = particles.iter().filter_map(|line| line["path"].as_str());
    let best = (options.save != Save::None).then_some(BEST);
    let latents = options.save_latents.then_some(LATENTS);
    for name in pictures.chain(best).chain(latents) {
        let path = folder.join(name);
        if fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() > 0) {
            continue;
        }
        return Err(damaged(&path, "it is empty or not there, and the run that left it has finished"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| damaged(path, "it cannot be read").because(e))
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::io(format!("{}: {what}", path.display()))
        .advice("move the folder away, or draw the prompt again, without --skip-finished")
}
