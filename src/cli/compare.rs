//! `compare`: ways of sampling side by side at equal network cost, on the same prompts and seeds, with
//! intervals. Every run is recorded as it ends, and the same command goes on where it was stopped.

pub mod arms;
pub mod chart;
mod clock;
pub mod design;
mod log_z;
pub mod plots;
mod report;
pub mod result;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::args::Compare;
use super::experiment::{self, COMPARISON, claim, unusable};
use super::limits::Limits;
use super::progress::Progress;
use super::values::Scales;
use super::{meaning, normalise, output, signals};
use crate::error::{Error, Result};
use crate::run::{Lines, lock, write_atomic};
use crate::session::Session;
use chart::Chart;
use design::Design;
use report::Report;
use result::RunResult;

pub use super::experiment::RUNS;

/// What a folder holds.
const WHAT: &str = "comparison";

/// The command, which was `typed` so.
///
/// # Errors
/// Of the options, the model, the output directory; [`ErrorKind::Interrupted`] after a signal, with
/// everything finished kept.
pub fn run(args: &Compare, typed: &[String]) -> Result<()> {
    let folder = &args.output;
    signals::listen(format!("stopping; what is finished is kept in {}", folder.display()));
    let mut design = Design::resolve(args)?;
    let mut session = open(&mut design, &folder.join(COMPARISON), args.cases.quiet)?;
    // Nothing is made of what is refused.
    fs::create_dir_all(folder).map_err(|e| unusable(folder, e))?;
    let _lock = lock(folder)?;
    claim(folder, COMPARISON, WHAT, &design.record(), typed)?;
    let path = folder.join(RUNS);
    let belongs = |run: &RunResult| run.belongs_to(&design);
    let mut results = experiment::read(&path, WHAT, belongs, RunResult::key)?;
    missing_pictures(folder, results.iter().filter(|run| run.lost.is_none()).map(|run| &*run.picture));
    let done: BTreeSet<String> = results.iter().map(RunResult::key).collect();
    let mut lines = Lines::append(&path)?;
    let runs = design.runs();
    let total = runs.len();
    let progress = Progress::new(total as u64, args.cases.quiet);
    for run in runs {
        if done.contains(&design.key(&run)) {
            progress.skip(1);
            continue;
        }
        if signals::requested().is_some() {
            return Err(experiment::stopped(total - results.len()));
        }
        let result = result::draw(&mut session, &design, &run, folder)?;
        lines.push(&result)?;
        progress.step(&format!("{}  {}", result.arm, result.prompt.chars().take(32).collect::<String>()));
        results.push(result);
    }
    drop(progress);
    let report = Report::new(&design, &results, typed);
    report.warnings.iter().for_each(|warning| output::note(format_args!("warning: {warning}")));
    let plots = write_charts(folder, plots::charts(&design, &report))?;
    let table = table::markdown(&report, &plots);
    experiment::write_table(folder, &table, table::csv(&report).as_bytes(), &table::json(&report))?;
    output::line(table.trim_end())?;
    match results.iter().find(|run| run.lost.is_none()) {
        Some(_) => Ok(()),
        None => Err(all_lost()),
    }
}

/// The error of an experiment without one number.
pub fn all_lost() -> Error {
    Error::numerical("every run lost every particle").advice(
        "see why the reward gives no number for these prompts; `checker`, for one, has none for a prompt that states \
         nothing",
    )
}

/// Writes charts under their names; returns the names of those in which there is a point.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
pub fn write_charts(folder: &Path, charts: Vec<(String, Chart)>) -> Result<Vec<String>> {
    let mut written = Vec::new();
    for (name, chart) in charts {
        let path = folder.join(&name);
        match chart.svg()? {
            Some(svg) => {
                write_atomic(&path, svg.as_bytes())?;
                written.push(name);
            }
            // One of an earlier table.
            None if path.exists() => fs::remove_file(&path)
                .map_err(|e| Error::io(format!("{}: cannot be removed", path.display())).because(e))?,
            None => {}
        }
    }
    Ok(written)
}

/// Opens model and rewards, and settles the design, whose file is or will be `path`.
///
/// # Errors
/// Of the model and the rewards; those of [`Design::settle`].
pub fn open(design: &mut Design, path: &Path, quiet: bool) -> Result<Session> {
    let mut session = design.builder.clone().open()?;
    let options = &design.arms[0].options;
    session.check(&design.prompts, options)?;
    meaning::unused_embeddings(&session, &design.prompts).iter().for_each(output::note);
    let there = began(path);
    adopt_scales(path, there.as_ref(), design, &mut session)?;
    normalise::measure(&mut session, &design.prompts, options, &Limits::new(None, None), quiet)?;
    design.normalise = normalise::written(&session);
    clock::settle(design, &mut session, there.as_ref(), quiet)?;
    design.settle(&session)?;
    design.notes().iter().for_each(|note| output::note(format!("warning: not of equal cost: {note}")));
    Ok(session)
}

/// The design with which an earlier call began, if there was one; what cannot be read is refused later.
fn began(path: &Path) -> Option<Value> {
    let mut there: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(there["design"].take()).filter(Value::is_object)
}

/// Takes the scales of rewards that an earlier call with the same design measured.
fn adopt_scales(path: &Path, there: Option<&Value>, design: &Design, session: &mut Session) -> Result<()> {
    let own = design.record();
    let Some(there) = there.filter(|there| there["flags"] == own["flags"]) else { return Ok(()) };
    match there["normalise"].as_str().map(str::parse) {
        Some(Ok(Scales(Some(scales)))) => session.set_scales(&scales).map_err(|e| e.context(path.display())),
        _ => Ok(()),
    }
}

/// Says which pictures of lines that are done are gone. They are not drawn again unasked: that costs as much
/// as the runs.
pub fn missing_pictures<'a>(folder: &Path, pictures: impl Iterator<Item = &'a str>) {
    let (missing, there): (Vec<&str>, Vec<&str>) = pictures.partition(|name| !folder.join(name).exists());
    let Some(first) = missing.first() else { return };
    output::note(format!(
        "warning: {} of {} pictures are gone from {}, {first} first; to draw them again, remove their lines from \
         {RUNS}",
        missing.len(),
        missing.len() + there.len(),
        folder.display()
    ));
}
