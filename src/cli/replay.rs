//! `replay`: draws again what a picture or a `run.json` says, and compares.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::again::{difference, known_layout};
use super::args::Replay;
use super::options::Options;
use super::record::HASHES;
use super::save::{BEST, GRID};
use super::{output, rebuild, sample, signals, threads};
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::run::{PARTICLES, RECORD, RunDir, Status, read_texts};

/// Flags of `sample` that a replay does not follow, by clap's names.
const WITHOUT_MEANING: [(&str, &str); 7] = [
    ("overwrite", "--overwrite"),
    ("count", "--count"),
    ("prompt_file", "--prompts"),
    ("json", "--json"),
    ("skip_finished", "--skip-finished"),
    ("resume", "--resume"),
    ("shard", "--shard"),
];

/// Entries of `run.json` that are of the run and not of what it draws.
const OF_THE_RUN: [&str; 3] = ["save", "quiet", "offline"];

/// How a file of the replay compares with the one before.
enum Outcome {
    Bytes,
    /// The same pixels, and other texts beside them.
    Pixels,
    /// The same particles, whose pictures are in other files, or in none.
    Particles,
    Differs(String),
}

/// The command, which was `typed` so.
///
/// # Errors
/// Of the record; those of `sample`; [`ErrorKind::Model`](crate::ErrorKind::Model) where a file has changed;
/// [`ErrorKind::Numerical`](crate::ErrorKind::Numerical) where nothing was changed and the result differs.
pub fn run(args: &Replay, typed: Vec<String>) -> Result<()> {
    for (id, flag) in WITHOUT_MEANING {
        if rebuild::given(&args.changes, id) {
            return Err(Error::usage(format!(
                "{flag} has no meaning with replay, which draws one picture's run beside it"
            ))
            .advice(format!("leave out {flag}; -o says where the replay goes")));
        }
    }
    let source = if args.source.is_dir() { args.source.join(RECORD) } else { args.source.clone() };
    let (mut record, of_picture) = read(&source)?;
    let unfinished = record.get("status").filter(|status| **status != json!(Status::Finished));
    if let Some(status) = unfinished {
        return Err(not_finished(&source, &format!("the run is {status}")));
    }
    if let Some(limit) = record.get("stopped") {
        return Err(not_finished(&source, &format!("the limit {limit} had ended the run early")));
    }
    let pairs = pairs(&source, &record, of_picture);
    if pairs.is_empty() {
        return Err(Error::io(format!("{}: none of the run's files is beside it", source.display()))
            .advice("give the run.json in the folder of the run, or one of its pictures"));
    }
    OF_THE_RUN.iter().for_each(|key| drop(record.shift_remove(*key)));
    let mut flags = rebuild::sample(&record, &args.changes).map_err(|e| e.context(source.display()))?;
    if !rebuild::given(&args.changes, "output") {
        flags.output = "replay".into();
    }
    threads::start(flags.threads)?;
    let there = record.get("directory").and_then(Value::as_str).map(Path::new);
    let here = std::env::current_dir().unwrap_or_default();
    if let Some(there) = there.filter(|there| *there != here) {
        output::note(format_args!(
            "note: the run began in {}; relative paths in its record are taken from here",
            there.display()
        ));
    }
    signals::listen("stopping; what is finished is kept".into());
    // Where to write and how to talk are no changes.
    let mut changed = false;
    let folder = sample::draw_again(Options::resolve(&flags)?, &typed, |one| {
        let now = &one.choices.deciding;
        // The same files in other places are no change.
        let same_model = record.get("model_files") == one.files.get("model_files");
        changed = now.iter().filter(|(key, _)| *key != "model" || !same_model).any(|(key, value)| {
            record.get(key).is_some_and(|before| what_it_does(before) != what_it_does(value))
        });
        same_files(&record, one.files, changed)?;
        same_files(&merged(&record), &merged(now), changed)
    })?;
    let (mut differ, mut compared) = (0, 0);
    for (before, now) in pairs.into_iter().map(|(before, now)| (before, folder.join(now))) {
        // Where the user changed which files are written.
        if !now.exists() {
            output::note(format_args!("note: {}: not among what the replay wrote", before.display()));
            continue;
        }
        compared += 1;
        let said = match compare(&before, &now)? {
            Outcome::Bytes => "the bytes agree".into(),
            Outcome::Pixels => "the pixels agree, and the texts beside them differ".into(),
            Outcome::Particles => "the particles agree; their pictures were not written both times".into(),
            Outcome::Differs(how) => {
                differ += 1;
                how
            }
        };
        output::line(format!("{}: {said}", before.display()))?;
    }
    if compared == 0 {
        return Err(Error::usage(format!("{}: nothing of it was compared", source.display()))
            .advice("leave out the flags that change which files are written"));
    }
    if differ == 0 || changed {
        return Ok(());
    }
    let version = record.get("version").and_then(Value::as_str).unwrap_or("unknown");
    Err(Error::numerical(format!("the replay in {} is another result", folder.display())).advice(format!(
        "bits are the same for the same version ({version} then, {} now), device and type; on a GPU with \
         --no-cublas",
        env!("CARGO_PKG_VERSION")
    )))
}

fn not_finished(source: &Path, what: &str) -> Error {
    Error::usage(format!("{}: {what}, and there is no whole result to compare", source.display()))
        .advice("let it finish first: `das-cuda resume` goes on with it")
}

/// The record in a picture, or a file of JSON; and whether it was a picture.
fn read(path: &Path) -> Result<(Map<String, Value>, bool)> {
    let refused = |what: &str| {
        Error::io(format!("{}: {what}", path.display()))
            .advice("give a picture that the program drew (without --no-metadata), or a run.json")
    };
    let texts = read_texts(path)?;
    let of_picture = texts.record.is_some();
    let record = match texts.record {
        Some(record) => record,
        None if Picture::read(path).is_ok() => return Err(refused("no record is in this picture")),
        None => {
            let text = fs::read(path).map_err(|e| refused("cannot be read").because(e))?;
            serde_json::from_slice(&text).map_err(|e| refused("no record of a run").because(e))?
        }
    };
    match record {
        Value::Object(record) if record.contains_key("proposal") => {
            known_layout(&record).map_err(|e| e.context(path.display()))?;
            Ok((record, of_picture))
        }
        _ => Err(refused("no record of a run")),
    }
}

/// Entries of a record that list files which are merged into the model, each with its hash; and what one is.
const MERGED: [(&str, &str); 2] = [("loras", "LoRA"), ("embeddings", "embedding")];

/// An entry without the paths and hashes of the files that it lists, if it lists files with hashes.
fn what_it_does(entry: &Value) -> Value {
    let mut entry = entry.clone();
    for file in entry.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if file.shift_remove("sha256").is_some() {
            file.shift_remove("path");
        }
    }
    entry
}

/// The hashes of the files that are merged into the model, by their place among them.
fn merged(record: &Map<String, Value>) -> Map<String, Value> {
    let of = |key: &str| {
        let files = record.get(key).and_then(Value::as_array).into_iter().flatten();
        let hashes = files.enumerate().map(|(i, file)| (format!("number {}", i + 1), file["sha256"].clone()));
        Value::Object(hashes.collect())
    };
    MERGED.iter().map(|(key, one)| (one.to_string(), of(key))).collect()
}

/// Refuses files that have changed since, by their hashes of then and of now; where the user changed what is
/// drawn, that is a warning.
fn same_files(then: &Map<String, Value>, now: &Map<String, Value>, changed: bool) -> Result<()> {
    for key in HASHES.into_iter().chain(MERGED.map(|(_, one)| one)) {
        let (Some(before), Some(now)) = (then.get(key), now.get(key)) else { continue };
        if before == now {
            continue;
        }
        let what = difference(key, before, now);
        if !changed {
            return Err(Error::model(format!("this is not what was drawn with: {what}"))
                .advice("give the files of then, by changed flags (-m, --reward, --lora, --embedding) where they are elsewhere"));
        }
        output::note(format_args!("warning: not what was drawn with: {what}"));
    }
    Ok(())
}

/// Files of before that are there, each with the name of that of the replay.
fn pairs(source: &Path, record: &Map<String, Value>, of_picture: bool) -> Vec<(PathBuf, String)> {
    if of_picture {
        let particle = record.get("result").and_then(|result| result["particle"].as_u64());
        let name = match particle {
            None => GRID.to_string(),
            Some(particle) => RunDir::particle_name(usize::try_from(particle).unwrap_or(usize::MAX)),
        };
        return vec![(source.to_path_buf(), name)];
    }
    let before = source.parent().unwrap_or(Path::new("."));
    let particles = (0..).map(RunDir::particle_name).take_while(|name| before.join(name).exists());
    let names = [BEST, GRID, PARTICLES].into_iter().map(String::from).chain(particles);
    let both = names.map(|name| (before.join(&name), name));
    both.filter(|(before, _)| before.exists()).collect()
}

/// Lines of particles without their pictures, which another choice of files to write leaves out.
fn without_pictures(text: &[u8]) -> Option<Vec<Map<String, Value>>> {
    let line = |line: &[u8]| {
        let mut line: Map<String, Value> = serde_json::from_slice(line).ok()?;
        ["path", "sha256"].iter().for_each(|key| drop(line.shift_remove(*key)));
        Some(line)
    };
    text.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()).map(line).collect()
}

fn compare(before: &Path, now: &Path) -> Result<Outcome> {
    let read = |path: &Path| {
        fs::read(path).map_err(|e| {
            Error::io(format!("{}: cannot be read", path.display())).because(e).advice("check its rights")
        })
    };
    let (old, new) = (read(before)?, read(now)?);
    if old == new {
        return Ok(Outcome::Bytes);
    }
    if before.file_name().is_some_and(|name| name == PARTICLES) {
        let particles =
            without_pictures(&old).filter(|particles| without_pictures(&new).as_ref() == Some(particles));
        return Ok(particles.map_or(Outcome::Differs("differs".into()), |_| Outcome::Particles));
    }
    let (before, now) = (Picture::read(before)?, Picture::read(now)?);
    if (before.width, before.height) != (now.width, now.height) {
        return Ok(Outcome::Differs("a picture of another size".into()));
    }
    let differences = || before.rgb.iter().zip(&now.rgb).map(|(a, b)| a.abs_diff(*b)).filter(|d| *d > 0);
    Ok(match differences().max() {
        None => Outcome::Pixels,
        Some(most) => Outcome::Differs(format!(
            "the pictures differ, in {} of {} values by at most {most} of 255",
            differences().count(),
            before.rgb.len()
        )),
    })
}
