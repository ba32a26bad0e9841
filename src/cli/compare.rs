//! `compare`: ways of sampling side by side at equal network cost, on the same prompts and seeds, with
//! intervals. Every run is recorded as it ends, and the same command goes on where it was stopped.

mod arms;
mod chart;
mod design;
mod files;
mod log_z;
mod plots;
mod report;
mod result;
mod statistics;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::args::Compare;
use super::limits::Limits;
use super::progress::Progress;
use super::values::Scales;
use super::{meaning, normalise, output, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Lines, SCHEMA, lock, write_atomic};
use crate::session::Session;
use design::Design;
use files::unusable;
use report::Report;
use result::RunResult;

/// What a comparison is of. A folder serves one.
pub const DESIGN: &str = "compare.json";
/// One line per run.
pub const RUNS: &str = "runs.jsonl";

/// The command, which was `typed` so.
///
/// # Errors
/// Of the options, the model, the output directory; [`ErrorKind::Interrupted`] after a signal, with
/// everything finished kept.
pub fn run(args: &Compare, typed: &[String]) -> Result<()> {
    let folder = &args.output;
    signals::listen(format!("stopping; what is finished is kept in {}", folder.display()));
    let mut design = Design::resolve(args)?;
    let mut session = design.builder.clone().open()?;
    session.check(&design.prompts, &design.arms[0].options)?;
    meaning::unused_embeddings(&session, &design.prompts).iter().for_each(output::note);
    adopt_scales(folder, &design, &mut session)?;
    normalise::measure(
        &mut session,
        &design.prompts,
        &design.arms[0].options,
        &Limits::new(None, None),
        args.quiet,
    )?;
    design.normalise = normalise::written(&session);
    design.settle(&session)?;
    design.notes().iter().for_each(|note| output::note(format!("warning: not of equal cost: {note}")));
    // Nothing is made of what is refused.
    fs::create_dir_all(folder).map_err(|e| unusable(folder, e))?;
    let _lock = lock(folder)?;
    claim(folder, &design, typed)?;
    let path = folder.join(RUNS);
    let mut results = read(&path, &design)?;
    missing_pictures(folder, &results);
    let done: BTreeSet<String> = results.iter().map(RunResult::key).collect();
    let mut lines = Lines::append(&path)?;
    let runs = design.runs();
    let total = runs.len();
    let progress = Progress::new(total as u64, args.quiet);
    for run in runs {
        if done.contains(&design.key(&run)) {
            progress.skip(1);
            continue;
        }
        if signals::requested().is_some() {
            let left = total - results.len();
            return Err(Error::new(
                ErrorKind::Interrupted,
                format!("stopped; {left} runs are left, and the same command goes on with them"),
            ));
        }
        let result = result::draw(&mut session, &design, &run, folder)?;
        lines.push(&result)?;
        progress.step(&format!("{}  {}", result.arm, result.prompt.chars().take(32).collect::<String>()));
        results.push(result);
    }
    drop(progress);
    let report = Report::new(&design, &results, typed);
    report.warnings.iter().for_each(|warning| output::note(format_args!("warning: {warning}")));
    let mut plots = Vec::new();
    for (name, chart) in plots::charts(&design, &report) {
        let path = folder.join(&name);
        match chart.svg()? {
            Some(svg) => {
                write_atomic(&path, svg.as_bytes())?;
                plots.push(name);
            }
            // One of an earlier table.
            None if path.exists() => fs::remove_file(&path)
                .map_err(|e| Error::io(format!("{}: cannot be removed", path.display())).because(e))?,
            None => {}
        }
    }
    let table = table::markdown(&report, &plots);
    write_atomic(&folder.join("table.md"), table.as_bytes())?;
    write_atomic(&folder.join("table.csv"), table::csv(&report).as_bytes())?;
    write_atomic(&folder.join("summary.json"), table::json(&report).as_bytes())?;
    output::line(table.trim_end())
}

/// Takes the scales of rewards that an earlier call of the same comparison measured.
fn adopt_scales(folder: &Path, design: &Design, session: &mut Session) -> Result<()> {
    let path = folder.join(DESIGN);
    let there = fs::read(&path).ok();
    let there: Option<Value> = there.and_then(|text| serde_json::from_slice(&text).ok());
    let own = design.record();
    let Some(there) = there.filter(|there| there["design"]["flags"] == own["flags"]) else { return Ok(()) };
    match there["design"]["normalise"].as_str().map(str::parse) {
        Some(Ok(Scales(Some(scales)))) => session.set_scales(&scales).map_err(|e| e.context(path.display())),
        _ => Ok(()),
    }
}

/// Takes a folder for this design: a new one, or one that began with the same.
fn claim(folder: &Path, design: &Design, typed: &[String]) -> Result<()> {
    let path = folder.join(DESIGN);
    let own = design.record();
    let text = match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if folder.join(RUNS).exists() {
                return Err(Error::usage(format!("{} holds runs without their {DESIGN}", folder.display()))
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
    let Some((name, _)) = own.iter().find(|(name, value)| there["design"].get(name) != Some(value)) else {
        return Ok(());
    };
    Err(Error::usage(format!("{} holds another comparison: {name} differs", folder.display()))
        .advice("give another directory with --output, or the options that it began with"))
}

/// The results of an earlier call, each of another run of `design`. A last line that was cut off is drawn
/// again.
fn read(path: &Path, design: &Design) -> Result<Vec<RunResult>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
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
        let result: RunResult =
            serde_json::from_value(value).map_err(|e| damaged("is damaged").because(e))?;
        if !result.belongs_to(design) {
            return Err(damaged("is of another comparison"));
        }
        if !known.insert(result.key()) {
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

/// Says which pictures of runs that are done are gone. They are not drawn again unasked: that costs as much
/// as the runs.
fn missing_pictures(folder: &Path, results: &[RunResult]) {
    let missing: Vec<&str> =
        results.iter().map(|run| run.picture.as_str()).filter(|name| !folder.join(name).exists()).collect();
    let Some(first) = missing.first() else { return };
    output::note(format!(
        "warning: {} of {} pictures are gone from {}, {first} first; to draw them again, remove their lines from \
         {RUNS}",
        missing.len(),
        results.len(),
        folder.display()
    ));
}
