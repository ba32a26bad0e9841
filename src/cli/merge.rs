//! `merge`: one table of all draws in a directory, which several processes may have made in parts, and what
//! is missing of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::args::Merge;
use super::output;
use super::save::BEST;
use crate::error::{Error, Result};
use crate::run::{Finished, OutDir, write_atomic};

/// Names of the tables.
const CSV: &str = "table.csv";
const LINES: &str = "table.jsonl";

/// Entries of `run.json` that a row begins with, besides its folder.
const OF_RECORD: [&str; 8] =
    ["list_sha256", "number", "index", "seed", "prompt", "negative_prompt", "status", "seconds"];
/// Entries of its `result` that follow; those that are objects become a column for each of their entries.
const OF_RESULT: [&str; 9] = [
    "reward",
    "rewards",
    "eval_rewards",
    "weight",
    "log_z",
    "log_z_error",
    "ess",
    "roots_alive",
    "distinct_pictures",
];

/// Rows at most that are named where they are missing.
const NAMED: usize = 10;

/// The command.
///
/// # Errors
/// Of the directory; [`ErrorKind::Io`](crate::ErrorKind::Io) where draws are missing or have not finished:
/// the table is then of those that there are.
pub fn run(args: &Merge) -> Result<()> {
    let found = OutDir::new(&args.directory).listing()?.results()?;
    let Finished { runs, unfinished, damaged } = &found;
    if runs.is_empty() && unfinished.is_empty() {
        return Err(Error::usage(format!("{}: there is no run in it", args.directory.display()))
            .advice("give the directory that `das-cuda sample -o` was given"));
    }
    let mut rows: Vec<Map<String, Value>> =
        runs.iter().chain(unfinished).map(|(folder, record)| row(folder, record)).collect();
    rows.sort_by_key(|row| {
        let name = row["folder"].as_str().unwrap_or_default();
        (name.split('-').next().and_then(|number| number.parse::<u64>().ok()), name.to_string())
    });
    let lines: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
    let text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
    write_atomic(&args.directory.join(LINES), text.as_bytes())?;
    write_atomic(&args.directory.join(CSV), &csv(&rows)?)?;
    let missing = missing(&found);
    if missing.len() > 1 {
        output::note(format_args!(
            "note: draws of {} commands with other options, files or prompts are in it; column list_sha256 tells them \
             apart",
            missing.len()
        ));
    }
    match args.json {
        true => lines.iter().try_for_each(output::line)?,
        false => output::line(args.directory.join(CSV).display())?,
    }
    for record in damaged {
        output::note(format_args!("warning: {}: cannot be read as JSON", record.display()));
    }
    let sum = |of: fn(&Missing) -> u64| missing.iter().fold(0, |sum: u64, one| sum.saturating_add(of(one)));
    let (all, open) = (sum(|of| of.draws), sum(Missing::open));
    if open == 0 {
        output::note(format_args!("all {all} draws have finished"));
        return Ok(());
    }
    let more = if open > NAMED as u64 { ", ..." } else { "" };
    let named: Vec<String> = missing.iter().flat_map(Missing::named).take(NAMED).collect();
    Err(Error::io(format!(
        "{}: {open} of {all} draws have not finished: {}{more}",
        args.directory.display(),
        named.join(", ")
    ))
    .advice(
        "the same command with --resume or --shard draws what is missing, and merge makes the table again",
    ))
}

/// A run as a row: flat, with what the files of a program have a column for.
fn row(folder: &Path, record: &Value) -> Map<String, Value> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut row = Map::from_iter([("folder".to_string(), json!(name))]);
    let entry = |value: &Value, key: &str| value.get(key).cloned().unwrap_or_default();
    row.extend(OF_RECORD.iter().map(|key| (key.to_string(), entry(record, key))));
    let result = entry(record, "result");
    for key in OF_RESULT {
        match entry(&result, key) {
            Value::Object(parts) => {
                row.extend(parts.into_iter().map(|(part, value)| (format!("{key}.{part}"), value)));
            }
            // Of a run without a result nothing is known of its parts.
            Value::Null if ["rewards", "eval_rewards"].contains(&key) => {}
            value => drop(row.insert(key.into(), value)),
        }
    }
    let picture = folder.join(BEST);
    row.insert("picture".into(), json!(picture.exists().then(|| format!("{name}/{BEST}"))));
    row
}

/// All rows under the columns that any of them has.
fn csv(rows: &[Map<String, Value>]) -> Result<Vec<u8>> {
    let mut columns: Vec<&String> = Vec::new();
    for row in rows {
        // A column comes behind the one that it follows in the row.
        let mut behind = 0;
        for column in row.keys() {
            match columns.iter().position(|known| *known == column) {
                Some(at) => behind = at + 1,
                None => {
                    columns.insert(behind, column);
                    behind += 1;
                }
            }
        }
    }
    let failed = |e: csv::Error| Error::io(format!("{CSV}: cannot be made")).because(e);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&columns).map_err(failed)?;
    for row in rows {
        let cell = |column: &&String| match row.get(*column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        writer.write_record(columns.iter().map(cell)).map_err(failed)?;
    }
    writer.into_inner().map_err(|e| Error::io(format!("{CSV}: cannot be made: {e}")))
}

/// What is missing of the draws of one command.
struct Missing {
    draws: u64,
    /// Numbers in its list that have finished.
    finished: BTreeSet<u64>,
    /// Folders of those that have begun.
    begun: BTreeMap<u64, PathBuf>,
}

impl Missing {
    /// How many have not finished.
    fn open(&self) -> u64 {
        self.draws.saturating_sub(self.finished.len() as u64)
    }

    /// Which, in words.
    fn named(&self) -> impl Iterator<Item = String> {
        (0..self.draws).filter(|number| !self.finished.contains(number)).map(|number| {
            match self.begun.get(&number) {
                Some(folder) => {
                    format!("{number} ({})", folder.file_name().unwrap_or_default().to_string_lossy())
                }
                None => format!("{number} (not begun)"),
            }
        })
    }
}

/// Of each command, told by its list of draws.
fn missing(found: &Finished) -> Vec<Missing> {
    let mut of_lists: BTreeMap<(String, u64), Missing> = BTreeMap::new();
    let both = [(&found.unfinished, false), (&found.runs, true)];
    for (folder, record, is_finished) in
        both.into_iter().flat_map(|(runs, is)| runs.iter().map(move |(folder, record)| (folder, record, is)))
    {
        let list = record["list_sha256"].as_str().unwrap_or_default();
        // Records of a program that did not say it are of one draw each.
        let draws = record["draws"].as_u64().unwrap_or(1);
        let of = of_lists.entry((list.to_string(), draws)).or_insert_with(|| Missing {
            draws,
            finished: BTreeSet::new(),
            begun: BTreeMap::new(),
        });
        let Some(number) = record["number"].as_u64().or(Some(0)).filter(|number| *number < draws) else {
            continue;
        };
        match is_finished {
            true => drop(of.finished.insert(number)),
            false => drop(of.begun.insert(number, folder.clone())),
        }
    }
    of_lists.into_values().collect()
}
