//! `compare`: ways of sampling side by side at equal network cost, on the same prompts and seeds, with
//! intervals. Every run is recorded as it ends, and the same command goes on where it was stopped.

pub mod arms;
pub mod chart;
pub mod clock;
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
use crate::run::{Lines, Lock, lock, write_atomic};
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
    let mut design = Design::resolve(args, "--budgets")?;
    let (mut session, _lock) = open(&mut design, folder, COMPARISON, args.cases.quiet)?;
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
    report.late.iter().for_each(|late| output::note(format_args!("warning: not of equal cost: {late}")));
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

/// Opens model and rewards, takes the folder, in which an earlier call may have begun with the file `name`,
/// and settles the design.
///
/// # Errors
/// Of the model and the rewards; of the folder, before anything is drawn; of what is measured; those of
/// [`Design::settle`].
pub fn open(design: &mut Design, folder: &Path, name: &str, quiet: bool) -> Result<(Session, Lock)> {
    let mut session = design.builder.clone().open()?;
    session.check(&design.prompts, &design.arms[0].options)?;
    meaning::unused_embeddings(&session, &design.prompts).iter().for_each(output::note);
    let is_new = !folder.exists();
    fs::create_dir_all(folder).map_err(|e| unusable(folder, e))?;
    let lock = lock(folder)?;
    let settled = settle(design, &mut session, folder, name, quiet);
    if is_new && settled.is_err() {
        // Nothing is made of what is refused. What another program has put there stays.
        let _ = fs::remove_dir(folder);
    }
    settled?;
    design.notes().iter().for_each(|note| output::note(format!("warning: not of equal cost: {note}")));
    Ok((session, lock))
}

/// Measures what the design leaves to that, or takes it from the file `name` of an earlier call, and settles
/// the options of all arms.
fn settle(design: &mut Design, session: &mut Session, folder: &Path, name: &str, quiet: bool) -> Result<()> {
    let there = experiment::began(folder, name)?;
    let there = there.as_ref().map(|there| &there["design"]);
    adopt_scales(there, design, session).map_err(|e| e.context(folder.join(name).display()))?;
    let options = &design.arms[0].options;
    normalise::measure(session, &design.prompts, options, &Limits::new(None, None), quiet)?;
    design.normalise = normalise::written(session);
    match there {
        None => clock::measure(design, session, quiet)?,
        Some(there) => {
            clock::adopt(design, there).map_err(|what| experiment::damaged(folder, name, &what))?
        }
    }
    design.settle(session)
}

/// Takes the scales of rewards that an earlier call with the same design measured.
fn adopt_scales(there: Option<&Value>, design: &Design, session: &mut Session) -> Result<()> {
    let own = design.record();
    let Some(there) = there.filter(|there| there["flags"] == own["flags"]) else { return Ok(()) };
    match there["normalise"].as_str().map(str::parse) {
        Some(Ok(Scales(Some(scales)))) => session.set_scales(&scales),
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
