//! `resume`: goes on with runs that were stopped. The options are those of their records.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::args::Resume;
use super::limits::Limits;
use super::options::Options;
use super::{again, flags, output, rebuild, sample, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{RECORD, Status};

/// # Errors
/// Of the folders, their records and checkpoints; those of `sample`.
pub fn run(args: &Resume) -> Result<()> {
    let mut folders = Vec::new();
    for run in &args.runs {
        folders.extend(folders_in(run)?);
    }
    signals::listen("stopping; what is finished is kept, and so is what to go on from".into());
    let began = std::env::current_dir();
    let limits = Limits::new(args.max_seconds, args.max_nfe);
    let mut failed = None;
    for folder in &folders {
        // Where a run began may have been left for that of the one before.
        if let Ok(directory) = &began {
            enter(directory)?;
        }
        match one(args, folder, &limits) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::Limit) => return Err(e),
            // One that cannot go on keeps none of the others from it. The first error is that of the command.
            Err(e) if failed.is_none() => failed = Some(e),
            Err(e) => output::note(format_args!("error: {}", flags::report(&e))),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn one(args: &Resume, folder: &Path, limits: &Limits) -> Result<()> {
    let path = folder.join(RECORD);
    let damaged = |e: Error| e.context(path.display());
    let record = read(&path)?;
    if !record.contains_key("proposal") {
        return Err(Error::io(format!("{}: no record of a run", path.display()))
            .advice("move the folder away, or name the folders of the runs one by one"));
    }
    again::known_layout(&record).map_err(damaged)?;
    if record.get("status") == Some(&json!(Status::Finished)) {
        again::conclude(folder, &Value::Object(record))?;
        if !args.quiet {
            output::note(format_args!("{}: has finished, nothing is left to do", folder.display()));
        }
        return Ok(());
    }
    // Relative paths of a record are of the directory that its run began in, while that is there.
    match record.get("directory").and_then(Value::as_str).map(Path::new) {
        Some(directory) if directory.is_dir() => enter(directory)?,
        _ => {}
    }
    let mut given = rebuild::sample(&record, &[]).map_err(damaged)?;
    given.output = folder.parent().unwrap_or(Path::new(".")).into();
    given.json = args.json;
    given.quiet = args.quiet;
    given.max_seconds = args.max_seconds;
    given.max_nfe = args.max_nfe;
    let every = |key: &str| {
        let steps = record.get(key).and_then(Value::as_u64);
        steps.map(|steps| usize::try_from(steps).unwrap_or(usize::MAX))
    };
    given.checkpoint_every = every("checkpoint_every");
    given.preview = every("preview");
    given.preview_decoder = record.get("preview_decoder").and_then(Value::as_bool).unwrap_or_default();
    let mut options = Options::resolve(&given).map_err(damaged)?;
    options.image = record.get("image").and_then(Value::as_str).map(PathBuf::from);
    sample::go_on(options, folder, limits)
}

/// The folder of a run, or those in a directory, also the hidden ones that wait to replace another; by name,
/// absolute.
fn folders_in(path: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |e: std::io::Error| {
        Error::io(format!("{}: cannot be read", path.display()))
            .because(e)
            .advice("give the folder of a run, which has a run.json, or the directory that it is in")
    };
    // As the user names it, for messages and answers, where that is absolute.
    let path = std::path::absolute(path).map_err(unreadable)?;
    if path.join(RECORD).is_file() {
        return Ok(vec![path]);
    }
    if path.file_name().is_some_and(|name| name == RECORD) && path.is_file() {
        return Ok(path.parent().map(Path::to_path_buf).into_iter().collect());
    }
    let mut folders = Vec::new();
    for entry in fs::read_dir(&path).map_err(unreadable)? {
        let folder = entry.map_err(unreadable)?.path();
        if folder.join(RECORD).is_file() {
            folders.push(folder);
        }
    }
    if folders.is_empty() {
        return Err(Error::usage(format!("{}: there is no run in it", path.display()))
            .advice("give the folder of a run, which has a run.json, or the directory that it is in"));
    }
    folders.sort();
    Ok(folders)
}

/// The record of a run.
fn read(path: &Path) -> Result<Map<String, Value>> {
    let refused = || {
        Error::io(format!("{}: cannot be read as the record of a run", path.display()))
            .advice("draw the prompt again with `das-cuda sample`")
    };
    let text = fs::read(path).map_err(|e| refused().because(e))?;
    serde_json::from_slice(&text).map_err(|e| refused().because(e))
}

fn enter(directory: &Path) -> Result<()> {
    std::env::set_current_dir(directory).map_err(|e| {
        Error::io(format!("{}: cannot be entered", directory.display()))
            .because(e)
            .advice("check the permissions of the directory that the run began in")
    })
}
