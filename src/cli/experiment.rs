//! Experiments of many runs in one folder. A folder serves one design; every run is a line that is written
//! when it ends, and the same command goes on with what is there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::method::{self, METHODS, Method};
use crate::regular;
use crate::run::{PARTICLES, RECORD, SCHEMA, TRACE, write_atomic};

/// One line per run.
pub const RUNS: &str = "runs.jsonl";

/// The table as CSV, and as JSON.
pub const TABLE: &str = "table.csv";
pub const SUMMARY: &str = "summary.json";
/// What `eval` says of each picture.
pub const SCORES: &str = "scores.jsonl";
/// Files of a run.
pub const OF_RUNS: [&str; 3] = [RECORD, TRACE, PARTICLES];

/// For a file or folder that cannot be read or written.
pub fn unusable(path: &Path, e: io::Error) -> Error {
    if e.kind() == io::ErrorKind::AlreadyExists && path.is_file() {
        return Error::io(format!("{}: is a file", path.display()))
            .because(e)
            .advice("give a directory with --output");
    }
    let fix = regular::fix(&e, "give a directory that can be written with --output");
    Error::io(format!("{}: cannot be read or written", path.display())).because(e).advice(fix)
}

/// The error of a signal, with so many runs `left`.
pub fn stopped(left: usize) -> Error {
    Error::new(
        ErrorKind::Interrupted,
        format!("stopped; {left} runs are left, and the same command goes on with them"),
    )
}

/// Takes a folder for the design `own`, which is kept in its file `name`: a new folder, or one that began
/// with the same. `what` is what the folder holds: `comparison`.
///
/// # Errors
/// [`ErrorKind::Usage`] for a folder of another design, which names the first entry that differs;
/// [`ErrorKind::Io`] where it cannot be read or written.
pub fn claim(
    folder: &Path,
    name: &str,
    what: &str,
    own: &Map<String, Value>,
    typed: &[String],
) -> Result<()> {
    let path = folder.join(name);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if folder.join(RUNS).exists() {
                return Err(Error::usage(format!("{} holds runs without their {name}", folder.display()))
                    .advice("give another directory with --output"));
            }
            let of_others = || OF_RUNS.iter().chain(&[SUMMARY, TABLE, SCORES]);
            if let Some(other) = of_others().find(|other| folder.join(other).exists()) {
                return Err(Error::usage(format!("{} holds a run or tables ({other})", folder.display()))
                    .advice("give another directory with --output"));
            }
            let whole = json!({"schema": SCHEMA, "command": typed, "design": own});
            return write_atomic(&path, whole.to_string().as_bytes());
        }
        text => text.map_err(|e| unusable(&path, e))?,
    };
    let there: Value = serde_json::from_slice(&text).map_err(|e| {
        Error::io(format!("{}: no JSON", path.display()))
            .because(e)
            .advice("give another directory with --output")
    })?;
    let began = &there["design"];
    let Some((entry, now)) = own.iter().find(|(entry, value)| began.get(entry) != Some(value)) else {
        return Ok(());
    };
    // Lists and objects may be long.
    let shown = match began.get(entry) {
        Some(then) if !then.is_array() && !then.is_object() && !now.is_array() && !now.is_object() => {
            format!(" ({then} there, {now} now)")
        }
        _ => String::new(),
    };
    Err(Error::usage(format!("{} holds another {what}: {entry} differs{shown}", folder.display()))
        .advice("give another directory with --output, or the options that it began with"))
}

/// The results of an earlier call, each of another run of the design; `key` tells them apart. A last line
/// that was cut off is drawn again.
///
/// # Errors
/// [`ErrorKind::Io`] for a file that cannot be read, and for a line that is damaged, of another design, or
/// there twice.
pub fn read<R: DeserializeOwned>(
    path: &Path,
    what: &str,
    belongs: impl Fn(&R) -> bool,
    key: impl Fn(&R) -> String,
) -> Result<Vec<R>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|e| unusable(path, e))?,
    };
    let (mut results, mut known, mut whole) = (Vec::new(), BTreeSet::new(), 0);
    for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if !line.ends_with(b"\n") {
            break;
        }
        let damaged = |what: &str| {
            Error::io(format!("{}: line {} {what}", path.display(), number + 1))
                .advice("remove that line; a run that is missing is drawn again")
        };
        let value: Value = serde_json::from_slice(line).map_err(|e| damaged("is damaged").because(e))?;
        if value["schema"] != SCHEMA {
            return Err(damaged("is of another layout"));
        }
        let result: R = serde_json::from_value(value).map_err(|e| damaged("is damaged").because(e))?;
        if !belongs(&result) {
            return Err(damaged(&format!("is of another {what}")));
        }
        if !known.insert(key(&result)) {
            return Err(damaged("is of a run that is there already"));
        }
        results.push(result);
        whole += line.len();
    }
    if whole < text.len() {
        write_atomic(path, &text[..whole])?;
    }
    Ok(results)
}

/// Writes a table as Markdown, CSV and JSON: table.md, table.csv, summary.json.
///
/// # Errors
/// [`ErrorKind::Io`], naming the file.
pub fn write_table(folder: &Path, markdown: &str, csv: &[u8], json: &str) -> Result<()> {
    write_atomic(&folder.join("table.md"), markdown.as_bytes())?;
    write_atomic(&folder.join(TABLE), csv)?;
    write_atomic(&folder.join(SUMMARY), json.as_bytes())
}

/// A number of things in words: `1 seed`, `2 seeds`.
pub fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// The method that `--method` names, of an experiment that guides.
///
/// # Errors
/// [`ErrorKind::Usage`] for one that does not exist.
pub fn method(name: &str) -> Result<&'static dyn Method> {
    method::find(name).map_err(|e| {
        let guided = METHODS.iter().filter(|method| !method.has_plain_chains());
        let names: Vec<&str> = guided.map(|method| method.name()).collect();
        Error::usage(format!("--method: {}", e.message()))
            .advice(format!("--method takes one of: {}", names.join(", ")))
    })
}

/// A command as a shell takes it.
pub fn command(typed: &[String]) -> String {
    typed.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word of a command as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
