//! `pareto`: what several rewards can be had together. A method is aligned to weighted sums of them, and the
//! best of N is chosen by the same sums at the same cost.

mod design;
mod front;
mod plots;
mod report;
mod result;
mod table;

use std::collections::BTreeSet;

use super::args::Pareto;
use super::compare;
use super::experiment::{self, FRONT, RUNS, claim};
use super::progress::Progress;
use super::{output, signals};
use crate::error::Result;
use crate::reward::Reward;
use crate::run::Lines;
use design::{Front, check, comparison, names};
use report::Report;
use result::Line;

/// What a folder holds.
const WHAT: &str = "front";

/// The command, which was `typed` so.
///
/// # Errors
/// Of the options, the model, the output directory; [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted)
/// after a signal, with everything finished kept.
pub fn run(args: &Pareto, typed: &[String]) -> Result<()> {
    let folder = &args.output;
    signals::listen(format!("stopping; what is finished is kept in {}", folder.display()));
    check(args)?;
    let grid = args.weights.grid(args.rewards.len())?;
    let mut design = compare::design::Design::resolve(&comparison(args)?, "--budget")?;
    let (mut session, _lock) = compare::open(&mut design, folder, FRONT, args.cases.quiet)?;
    let names = names(session.reward().terms().iter().map(|(_, reward)| reward.name()));
    let front = Front { design, grid, names };
    claim(folder, FRONT, WHAT, &front.record(), typed)?;
    let path = folder.join(RUNS);
    let mut lines = experiment::read(&path, WHAT, |line: &Line| line.belongs_to(&front), Line::key)?;
    compare::missing_pictures(folder, lines.iter().filter_map(|line| line.picture.as_deref()));
    let done: BTreeSet<String> = lines.iter().map(Line::key).collect();
    let mut file = Lines::append(&path)?;
    let runs = front.runs();
    let progress = Progress::new(runs.len() as u64, args.cases.quiet);
    for (at, (run, grid)) in runs.iter().enumerate() {
        if front.keys(run, grid).iter().all(|key| done.contains(key)) {
            progress.skip(1);
            continue;
        }
        if signals::requested().is_some() {
            return Err(experiment::stopped(runs.len() - at));
        }
        // The best of N draws for all sums at once, with no gradient.
        if let [weights] = grid {
            session.set_weights(weights)?;
        }
        for line in result::draw(&mut session, &front, run, grid, folder)? {
            if let Some(why) = &line.lost {
                let Line { arm, prompt, seed, .. } = &line;
                output::note(format_args!("warning: {arm}, {prompt:?}, seed {seed} has no numbers: {why}"));
            }
            if !done.contains(&line.key()) {
                file.push(&line)?;
                lines.push(line);
            }
        }
        progress.step(&format!("{}  {}", run.arm.label, front.design.prompts[run.prompt].text));
    }
    drop(progress);
    let report = Report::new(&front, &lines);
    report.late.iter().for_each(|late| output::note(format_args!("warning: not of equal cost: {late}")));
    let plots = compare::write_charts(folder, plots::charts(&front, &report))?;
    let table = table::markdown(&front, &report, &plots, typed);
    let csv = table::csv(&front, &report)?;
    experiment::write_table(folder, &table, &csv, &table::json(&front, &report, typed))?;
    output::line(table.trim_end())?;
    match lines.iter().find(|line| line.lost.is_none()) {
        Some(_) => Ok(()),
        None => Err(compare::all_lost()),
    }
}
