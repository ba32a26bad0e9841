//! Experiments of many runs in one folder. A folder serves one design; every run is a line that is written
//! when it ends, and the same command goes on with what is there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use clap::{Arg, CommandFactory};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::args::Cli;
use super::{flags, words};
use crate::error::{Error, ErrorKind, Result};
use crate::method::{self, METHODS, Method};
use crate::regular;
use crate::run::{PARTICLES, RECORD, SCHEMA, TRACE, write_atomic};

/// Most bytes that are read of a file.
const MOST_BYTES: u64 = 1 << 30;

/// One line per run.
pub const RUNS: &str = "runs.jsonl";

/// The table as CSV, and as JSON.
pub const TABLE: &str = "table.csv";
pub const SUMMARY: &str = "summary.json";
/// What an experiment is of, by its command. A folder serves one.
pub const COMPARISON: &str = "compare.json";
pub const EVALUATION: &str = "eval.json";
pub const OPTIMISATION: &str = "optimize.json";
pub const FRONT: &str = "pareto.json";
pub const TOY: &str = "toy.json";
/// What `eval` says of each picture.
pub const SCORES: &str = "scores.jsonl";
/// Files and folders that experiments write, besides charts.
#[rustfmt::skip]
const OF_EXPERIMENTS: [&str; 13] = [
    COMPARISON, EVALUATION, OPTIMISATION, FRONT, TOY, RUNS, TABLE, "table.md", SUMMARY, SCORES, "figure.png",
    "pictures", "surrogates",
];
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
/// [`ErrorKind::Usage`] for a folder of another design, which names the first entry that differs, and for a
/// new one with files in it that would be written over; [`ErrorKind::Io`] where it cannot be read or written.
pub fn claim(
    folder: &Path,
    name: &str,
    what: &str,
    own: &Map<String, Value>,
    typed: &[String],
) -> Result<()> {
    let Some(there) = began(folder, name)? else {
        let whole = json!({"schema": SCHEMA, "command": typed, "design": own});
        return write_atomic(&folder.join(name), whole.to_string().as_bytes());
    };
    let began = &there["design"];
    let Some((entry, now)) = own.iter().find(|(entry, value)| began.get(*entry) != Some(value)) else {
        return Ok(());
    };
    let then = began.get(entry).unwrap_or(&Value::Null);
    let name = option(name, entry, then, now);
    let fix = "give another directory with --output, or the options that it began with";
    let words: Option<Vec<String>> = serde_json::from_value(there["command"].clone()).ok();
    Err(Error::usage(format!(
        "{} holds another {what}: {name} differs ({})",
        folder.display(),
        difference(then, now)
    ))
    .advice(words.map_or(fix.into(), |words| format!("{fix}: {}", command(&words)))))
}

/// The file `name`, with a design, with which an earlier call began in a folder; `None` where none did.
///
/// # Errors
/// [`ErrorKind::Usage`] for files that would be written over; [`ErrorKind::Io`] where the file cannot be read
/// or is damaged.
pub fn began(folder: &Path, name: &str) -> Result<Option<Value>> {
    let path = folder.join(name);
    let text = match regular::read(&path, MOST_BYTES) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return match in_the_way(folder).map_err(|e| unusable(folder, e))? {
                None => Ok(None),
                Some(other) => Err(Error::usage(format!(
                    "{} holds {other}, and no {name} that says what it is of",
                    folder.display()
                ))
                .advice("give another directory with --output: nothing there is written over")),
            };
        }
        text => text.map_err(|e| unusable(&path, e))?,
    };
    let there: Value =
        serde_json::from_slice(&text).map_err(|e| damaged(folder, name, "no JSON").because(e))?;
    match there["design"].is_object() {
        true => Ok(Some(there)),
        false => Err(damaged(folder, name, "is damaged: it has no design")),
    }
}

/// The error of a file with which an experiment began, and which cannot be gone on with.
pub fn damaged(folder: &Path, name: &str, what: &str) -> Error {
    Error::io(format!("{}: {what}", folder.join(name).display()))
        .advice("give another directory with --output")
}

/// What an experiment would write over in a folder that is not its own: the first of such files by name.
fn in_the_way(folder: &Path) -> io::Result<Option<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Charts have names of their own.
        if name.ends_with(".svg") || OF_RUNS.iter().chain(&OF_EXPERIMENTS).any(|known| *known == name) {
            found.push(name);
        }
    }
    Ok(found.into_iter().min())
}

/// The option that an entry of the design in the file `name` comes from, where there is one.
fn option(name: &str, entry: &str, then: &Value, now: &Value) -> String {
    const OF_OTHERS: [(&str, &str); 4] = [
        ("arms", "the list of arms"),
        ("budgets", "--budget"),
        ("optimism", "--spread"),
        ("score", "--analytic"),
    ];
    let all = Cli::command();
    let command = name.strip_suffix(".json").and_then(|name| all.find_subcommand(name));
    // Arms come from several options.
    let own = command
        .filter(|_| entry != "arms")
        .and_then(|command| command.get_arguments().find(|arg| arg.get_id() == entry));
    let other = OF_OTHERS.iter().find(|(known, _)| *known == entry);
    match (own.and_then(Arg::get_long), other) {
        (Some(long), _) => format!("--{long}"),
        (None, Some((_, flag))) => (*flag).to_string(),
        (None, None) if entry == "flags" => flag_at(then, now).unwrap_or_else(|| "what follows --".into()),
        // Of what follows `--`.
        (None, None) => flags::flag(entry).unwrap_or_else(|| entry.to_string()),
    }
}

/// Of two lists of words the flag that the first difference is of.
fn flag_at(then: &Value, now: &Value) -> Option<String> {
    let [then, now] = [then, now].map(|list| list.as_array().map_or(&[][..], Vec::as_slice));
    let at = then.iter().zip(now).take_while(|(a, b)| a == b).count();
    let flag = |words: &[Value]| {
        let before = words.get(..=at).unwrap_or(words).iter().rev().filter_map(Value::as_str);
        before.map(String::from).find(|word| word.starts_with("--"))
    };
    // Of what one of them lacks, the flag that the other has.
    if then.len() > now.len() { flag(then) } else { flag(now) }
}

/// How an entry of a design differs, in words: of lists and objects the first place that does.
fn difference(then: &Value, now: &Value) -> String {
    const MOST: usize = 120;
    let short = |value: &Value| words::short(&value.to_string(), MOST);
    let within = |place: String, then: &Value, now: &Value| format!("{place}: {}", difference(then, now));
    match (then, now) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && then.to_string().len() > MOST => {
            let other = a.iter().zip(b).enumerate().find(|(_, (a, b))| a != b);
            other.map_or(String::new(), |(at, (a, b))| within(format!("entry {}", at + 1), a, b))
        }
        (Value::Array(a), Value::Array(b)) if then.to_string().len().max(now.to_string().len()) > MOST => {
            let of = |n: usize| if n == 1 { "1 entry".into() } else { format!("{n} entries") };
            format!("{} there, {} now", of(a.len()), of(b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let other = b.iter().find(|(key, value)| a.get(*key) != Some(value));
            other.map_or(String::new(), |(key, value)| {
                within(key.clone(), a.get(key).unwrap_or(&Value::Null), value)
            })
        }
        _ => format!("{} there, {} now", short(then), short(now)),
    }
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
    let text = match regular::read(path, MOST_BYTES) {
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
