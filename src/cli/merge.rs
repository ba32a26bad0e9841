//! `merge`: one table of all draws in a directory, which several processes may have made in parts, and what
//! is missing of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::args::Merge;
use super::output;
use super::save::BEST;
use crate::cli::experiment::{SUMMARY, TABLE};
use crate::error::{Error, Result};
use crate::run::{Finished, OutDir, RECORD, write_atomic};

/// The table as lines of JSON.
const LINES: &str = "table.jsonl";

/// Entries of `run.json` that a row begins with, besides its folder.
const OF_RECORD: [&str; 9] =
    ["list_sha256", "number", "index", "seed", "prompt", "negative_prompt", "status", "stopped", "seconds"];
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
    let of_directory =
        |e: Error| e.advice("give a directory with runs that can be read, and written for the table");
    let mut found =
        OutDir::new(&args.directory).listing().and_then(|all| all.results()).map_err(of_directory)?;
    // One that has finished has a result.
    let (whole, without): (Vec<_>, Vec<_>) =
        std::mem::take(&mut found.runs).into_iter().partition(|(_, record)| record["result"].is_object());
    found.runs = whole;
    found.damaged.extend(without.into_iter().map(|(folder, _)| folder.join(RECORD)));
    for record in &found.damaged {
        output::note(format_args!(
            "warning: {}: is no record that this program knows, and is left out; move its folder away to draw it again",
            record.display()
        ));
    }
    if found.runs.is_empty() && found.unfinished.is_empty() {
        return Err(Error::usage(format!("{}: there is no run in it", args.directory.display()))
            .advice("give the directory that `das-cuda sample -o` was given"));
    }
    let all = found.runs.iter().chain(&found.unfinished);
    let mut rows: Vec<Map<String, Value>> = all.map(|(folder, record)| row(folder, record)).collect();
    rows.sort_by_key(|row| {
        let name = row["folder"].as_str().unwrap_or_default();
        (name.split('-').next().and_then(|number| number.parse::<u64>().ok()), name.to_string())
    });
    let lines: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
    if args.json {
        lines.iter().try_for_each(output::line)?;
    }
    let text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
    let table = args.directory.join(TABLE);
    if args.directory.join(SUMMARY).exists() {
        return Err(Error::usage(format!(
            "{}: its {TABLE} is the table of another command ({SUMMARY} is beside it)",
            args.directory.display()
        ))
        .advice("move the files of that table elsewhere; `das-cuda eval -o` takes any directory"));
    }
    let written = write_atomic(&args.directory.join(LINES), text.as_bytes());
    written.and_then(|()| write_atomic(&table, &csv(&rows)?)).map_err(of_directory)?;
    if !args.json {
        output::line(table.display())?;
    }
    complete(&args.directory, &lists(&found))
}

/// Says what there is to say of the lists, and refuses what is missing in them.
fn complete(directory: &Path, lists: &[List]) -> Result<()> {
    if lists.len() > 1 {
        output::note(format_args!(
            "note: {} commands with other options, files or seeds have drawn here; column list_sha256 tells their draws \
             apart",
            lists.len()
        ));
    }
    lists.iter().flat_map(List::oddities).for_each(output::note);
    let sum = |of: fn(&List) -> u64| lists.iter().fold(0, |sum: u64, one| sum.saturating_add(of(one)));
    let (all, open) = (sum(|of| of.draws), sum(List::open));
    if open == 0 {
        output::note(format_args!("all draws have finished: {all}"));
        return Ok(());
    }
    let more = if open > NAMED as u64 { ", ..." } else { "" };
    let named: Vec<String> = lists.iter().flat_map(List::named).take(NAMED).collect();
    Err(Error::io(format!(
        "{}: {open} of {all} draws have not finished: {}{more}",
        directory.display(),
        named.join(", ")
    ))
    .advice(
        "the same command with --resume or --shard draws what is missing; why a draw failed is in its run.json. Then \
         merge makes the table again",
    ))
}

/// A run as a row: flat, with what the files of a program have a column for.
fn row(folder: &Path, record: &Value) -> Map<String, Value> {
    let name = name(folder);
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
    let failed = |e: csv::Error| Error::io(format!("{TABLE}: cannot be made")).because(e);
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
    writer.into_inner().map_err(|e| Error::io(format!("{TABLE}: cannot be made: {e}")))
}

/// The draws of one command, or of several that only differ in how many prompts they had.
struct List {
    /// Of the longest.
    draws: u64,
    /// Folders of those that have finished, and their prompts, by number.
    finished: BTreeMap<u64, Vec<(PathBuf, String)>>,
    /// Of those that have begun and not finished, each with its status.
    begun: BTreeMap<u64, (PathBuf, String)>,
}

impl List {
    /// How many have not finished.
    fn open(&self) -> u64 {
        self.draws.saturating_sub(self.finished.len() as u64)
    }

    /// Which, in words.
    fn named(&self) -> impl Iterator<Item = String> {
        (0..self.draws).filter(|number| !self.finished.contains_key(number)).map(|number| {
            match self.begun.get(&number) {
                Some((folder, status)) => format!("{number} ({}: {status})", name(folder)),
                None => format!("{number} (not begun)"),
            }
        })
    }

    /// A note for each number that has finished more than once.
    fn oddities(&self) -> impl Iterator<Item = String> {
        self.finished.iter().filter(|(_, folders)| folders.len() > 1).map(|(number, folders)| {
            let names: Vec<String> = folders.iter().map(|(folder, _)| name(folder)).collect();
            match folders.iter().all(|(_, prompt)| *prompt == folders[0].1) {
                true => format!("note: draw {number} is there more than once: {}", names.join(", ")),
                false => format!(
                    "note: number {number} is of several lists of prompts ({}): what is missing of the shorter ones is \
                     not known",
                    names.join(", ")
                ),
            }
        })
    }
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The lists that draws in a directory belong to.
fn lists(found: &Finished) -> Vec<List> {
    let mut lists: BTreeMap<String, List> = BTreeMap::new();
    let finished = found.runs.iter().map(|run| (run, true));
    for ((folder, record), is_finished) in finished.chain(found.unfinished.iter().map(|run| (run, false))) {
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_string();
        // One whose record does not say it is a list by itself.
        let (number, draws) = (record["number"].as_u64().unwrap_or(0), record["draws"].as_u64().unwrap_or(1));
        let list = lists.entry(text("list_sha256")).or_insert_with(|| List {
            draws: 0,
            finished: BTreeMap::new(),
            begun: BTreeMap::new(),
        });
        list.draws = list.draws.max(draws).max(number.saturating_add(1));
        match is_finished {
            true => list.finished.entry(number).or_default().push((folder.clone(), text("prompt"))),
            false => drop(list.begun.insert(number, (folder.clone(), text("status")))),
        }
    }
    lists.into_values().collect()
}
