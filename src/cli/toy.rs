//! `toy`: the paper's experiments on the plane and in space, over several seeds, with a table and a picture.
//! Every run is recorded as it ends, and the same command goes on where it was stopped.

mod design;
mod draw;
mod figure;
mod learn;
mod table;

use std::collections::BTreeSet;
use std::fs;

use super::args::Toy;
use super::experiment::{self, RUNS, TOY, claim, unusable};
use super::progress::Progress;
use super::{output, signals};
use crate::error::Result;
use crate::run::{Lines, lock, write_atomic};
use design::Design;
use draw::RunResult;
use learn::Learned;
use table::Report;

/// What a folder holds.
const WHAT: &str = "experiment";

/// The command, which was `typed` so.
///
/// # Errors
/// Of the options, the file of points, the output directory;
/// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) after a signal, with everything finished kept.
pub fn run(args: &Toy, typed: &[String]) -> Result<()> {
    let design = Design::resolve(args)?;
    let folder = &design.folder;
    let backend = design.device.bare()?;
    signals::listen(format!("stopping; what is finished is kept in {}", folder.display()));
    // Nothing is made of what is refused.
    fs::create_dir_all(folder).map_err(|e| unusable(folder, e))?;
    let _lock = lock(folder)?;
    claim(folder, TOY, WHAT, &design.record(), typed)?;
    let path = folder.join(RUNS);
    let mut results =
        experiment::read(&path, WHAT, |run: &RunResult| run.belongs_to(&design), RunResult::key)?;
    let done: BTreeSet<String> = results.iter().map(RunResult::key).collect();
    let mut lines = Lines::append(&path)?;
    let runs = design.runs();
    let total = runs.len();
    let progress = Progress::new(total as u64, args.quiet);
    let mut learned: Option<Learned> = None;
    for (seed, arm) in runs {
        if done.contains(&draw::key(&arm.label, seed)) {
            progress.skip(1);
            continue;
        }
        if signals::requested().is_some() {
            return Err(experiment::stopped(total - results.len()));
        }
        if learned.as_ref().is_none_or(|learned| learned.seed != seed) {
            learned = learn::network(&*backend, &design, seed, total - results.len(), &progress)?;
        }
        let left = total - results.len();
        let tuned = learn::tuned(&*backend, &design, arm, learned.as_ref(), left, &progress)?;
        let result = draw::draw(&*backend, &design, arm, learned.as_ref(), tuned.as_ref(), seed)?;
        lines.push(&result)?;
        progress.step(&format!("seed {seed}  {}", arm.label));
        results.push(result);
    }
    drop(progress);
    let report = Report::new(&design, &results, typed);
    let scene = figure::scene(&design, &report, &results);
    write_atomic(&folder.join("figure.svg"), scene.svg().as_bytes())?;
    write_atomic(&folder.join("figure.png"), &scene.picture().png()?)?;
    let (table, summary) = (report.markdown(), report.json());
    experiment::write_table(folder, &table, report.csv().as_bytes(), &summary)?;
    output::line(if args.json { &summary } else { table.trim_end() })
}
