//! What the trace says, step by step, as charts.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::plot::{self, Plot, figure, series};
use crate::cli::look::{Line, Population, Run};
use crate::cli::words;
use crate::session::NOT_ESTIMATED;

/// All charts of a run along its steps.
pub fn charts(run: &Run) -> Markup {
    if run.lines().next().is_none() {
        return html! {};
    }
    let particles = run.populations.iter().flat_map(|p| &p.lines).map(|line| line.log_weights.len()).max();
    let particles = particles.unwrap_or(1) as f64;
    let share = run.number("ess_threshold").filter(|share| *share > 0.0);
    // Where particles were thinned, a share of them is of fewer.
    let thinned = run.lines().any(|line| line.log_weights.len() as f64 != particles);
    let threshold = share.filter(|_| !thinned).map(|share| share * particles);
    let ess = Curve {
        title: "Effective sample size",
        about: match (threshold, share) {
            (Some(_), _) => {
                "Of the weights before any resampling, which happens below the dashed line.".into()
            }
            (None, Some(share)) => {
                format!(
                    "Of the weights before any resampling, which happens below {share} of the particles there are."
                )
            }
            (None, None) => "Of the weights; it never leads to a resampling here.".into(),
        },
        value: |line| Some(line.ess),
        room: &[0.0, particles],
        level: threshold,
        end: None,
    };
    let lambda = Curve {
        title: "Lambda",
        about: "Factor of the reward in the weights, where something is weighed: 1 is the whole reward."
            .into(),
        // Of a step at which nothing is weighed there is none.
        value: |line| Some(line.lambda).filter(|lambda| *lambda != 0.0),
        room: &[0.0, 1.0],
        level: None,
        end: None,
    };
    let known = |key: &str| run.result(key).and_then(serde_json::Value::as_f64);
    let end = known("log_z").zip(known("log_z_error"));
    let about = match (end, run.result("log_z_unreliable").and_then(|why| why.as_str())) {
        (Some((log_z, error)), _) => {
            format!("Estimate so far; {} \u{b1} {} at the end.", words::number(log_z), words::number(error))
        }
        (None, Some(NOT_ESTIMATED)) => format!("None: {NOT_ESTIMATED}."),
        (None, Some(why)) => format!("Estimate so far. Its error is unreliable: {}.", words::clean(why)),
        _ => "Estimate so far.".into(),
    };
    let log_z = Curve { title: "Log Z", about, value: |line| line.log_z, room: &[], level: None, end };
    let roots = Curve {
        title: "Initial particles with descendants",
        about: "Where few are left, the population has collapsed, and its pictures are alike.".into(),
        value: |line| Some(line.roots_alive as f64),
        room: &[0.0, particles],
        level: None,
        end: None,
    };
    html! {
        (rewards(run))
        @for curve in [ess, lambda, log_z, roots] { (curve.figure(run)) }
    }
}

/// A number of each step, a line for each population.
struct Curve<'a> {
    title: &'a str,
    about: String,
    value: fn(&Line) -> Option<f64>,
    /// Values that have a place whatever the steps say.
    room: &'a [f64],
    /// A dashed line.
    level: Option<f64>,
    /// The last value with its error.
    end: Option<(f64, f64)>,
}

impl Curve<'_> {
    fn figure(&self, run: &Run) -> Markup {
        let values = run.lines().filter_map(self.value).chain(self.room.iter().copied());
        let ends = self.end.into_iter().flat_map(|(mean, error)| [mean - error, mean + error]);
        let Some(plot) = Plot::new(steps(run), values.chain(ends), false, "step") else { return html! {} };
        let reading = reading(run, |lines| join(lines, |line| words::maybe((self.value)(line))));
        let last = run.lines().map(|line| line.step).max().unwrap_or(0);
        let first = run.lines().find_map(self.value);
        let inner = html! {
            @if let Some(level) = self.level { path.level d=(plot.level(level)) {} }
            @for (m, population) in run.populations.iter().enumerate() {
                path class={"curve " (series(m))} d=(plot.line(points(population, self.value))) {}
                @for line in population.lines.iter().filter(|line| line.resampled || line.collapsed) {
                    @if let Some(value) = (self.value)(line) {
                        @let (x, y) = plot.at(line.step as f64, value);
                        @let class = if line.collapsed { "collapse" } else { "event" };
                        circle class=(class) cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="3.2" {}
                    }
                }
            }
            @if let Some((mean, error)) = self.end {
                @let (x, low) = plot.at(last as f64, mean - error);
                @let (_, high) = plot.at(last as f64, mean + error);
                @let left = x - 4.0;
                path.error d=(format!("M{x:.1} {low:.1}V{high:.1}M{left:.1} {low:.1}h8M{left:.1} {high:.1}h8")) {}
            }
        };
        let at_end =
            run.populations.last().and_then(|population| population.lines.iter().rev().find_map(self.value));
        let label = format!(
            "{} by step: {} at first, {} at the end",
            self.title,
            words::maybe(first),
            words::maybe(at_end)
        );
        let about = html! { (self.about) (populations(run)) };
        figure(self.title, &about, Some(&reading), &plot.svg(&label, ends_of(run), &inner))
    }
}

/// The reward of every particle, along its line of descent.
fn rewards(run: &Run) -> Markup {
    let all = run.lines().flat_map(Line::rewards);
    let finals = run.particles.iter().filter_map(|particle| particle.target);
    let Some(plot) = Plot::new(steps(run), all.chain(finals), false, "step") else { return html! {} };
    let chosen = run.particles.iter().find(|p| p.is_best).map(|p| p.index);
    let mut first = 0;
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut dead = String::new();
    for population in &run.populations {
        for (slot, slots) in population.lineage.paths.iter().enumerate() {
            let known = population.lines.iter().zip(slots).filter_map(|(line, at)| {
                let reward = line.reward.as_ref()?.get(*at).copied()?;
                Some((line.step as f64, reward))
            });
            lines.push((first + slot, plot.line(known)));
        }
        for (k, line) in population.lines.iter().enumerate() {
            let alive: BTreeSet<usize> = population.lineage.paths.iter().map(|slots| slots[k]).collect();
            let lost = line.reward.iter().flatten().enumerate().filter(|(slot, _)| !alive.contains(slot));
            for reward in lost.filter_map(|(_, reward)| reward.filter(|reward| plot::drawable(*reward))) {
                // A line of no length has round ends.
                dead += &format!("M{}h0", plot::place(plot.at(line.step as f64, reward)));
            }
        }
        first += population.lineage.paths.len();
    }
    // The chosen one above the others.
    lines.sort_by_key(|(index, _)| Some(*index) == chosen);
    let inner = html! {
        path.lost-reward d=(dead) {}
        @for (index, path) in &lines {
            g data-p=(index) class=[(Some(*index) == chosen).then_some("chosen")] {
                path.hit d=(path) {}
                path.line d=(path) {}
            }
        }
    };
    let reading = reading(run, |lines| {
        join(lines, |line| match line.mean_reward() {
            Some(mean) => {
                let best = line.rewards().fold(f64::NEG_INFINITY, f64::max);
                format!("mean {}, best {}", words::number(mean), words::number(best))
            }
            None => "no reward computed".into(),
        })
    });
    let (begin, end) = run.mean_rewards().unzip();
    let label = format!(
        "Reward of every particle by step: mean {} at first, {} at the end",
        words::maybe(begin),
        words::maybe(end)
    );
    let about = html! {
        "Of the predicted pictures, along each line of descent"
        @if chosen.is_some() { "; the chosen one in colour" }
        @if !dead.is_empty() { "; dots have no descendants" }
        "."
    };
    figure("Rewards", &about, Some(&reading), &plot.svg(&label, ends_of(run), &inner))
}

/// Curves of several runs, by step.
pub fn together(runs: &[&Run], names: &[String]) -> Markup {
    let share = |line: &Line| Some(line.ess / line.log_weights.len() as f64);
    html! {
        (plot::legend(names))
        div.charts {
            (overlaid(runs, "Mean reward", "Over the particles of each run.", &[], Line::mean_reward))
            (overlaid(runs, "Effective sample size", "As a share of the particles.", &[0.0, 1.0], share))
        }
    }
}

/// One number of each step of several runs; `room`: values that have a place whatever it is.
fn overlaid(
    runs: &[&Run],
    title: &str,
    about: &str,
    room: &[f64],
    value: fn(&Line) -> Option<f64>,
) -> Markup {
    let values = runs.iter().flat_map(|run| run.lines().filter_map(value)).chain(room.iter().copied());
    let every = runs.iter().flat_map(|run| run.lines().map(|line| line.step as f64));
    let Some(plot) = Plot::new(every, values, false, "step") else { return html! {} };
    let inner = html! {
        @for (i, run) in runs.iter().enumerate() { @for population in &run.populations {
            path class={"curve " (series(i))} d=(plot.line(points(population, value))) {}
            @if let Some((x, Some(y))) = points(population, value).last() {
                path class={"mark " (series(i))} d=(plot::mark(i, plot.at(x, y), 5.0)) {}
            }
        } }
    };
    let label = format!("{title} of {} runs by step", runs.len());
    figure(title, &html! { (about) }, None, &plot.svg(&label, None, &inner))
}

fn steps(run: &Run) -> impl Iterator<Item = f64> {
    run.lines().map(|line| line.step as f64)
}

fn points(
    population: &Population,
    value: fn(&Line) -> Option<f64>,
) -> impl Iterator<Item = (f64, Option<f64>)> {
    population.lines.iter().filter_map(move |line| Some((line.step as f64, Some(value(line)?))))
}

/// The first and the last step, and how many there are.
fn ends_of(run: &Run) -> Option<(f64, f64, usize)> {
    let lines = &run.populations.iter().max_by_key(|population| population.lines.len())?.lines;
    Some((lines.first()?.step as f64, lines.last()?.step as f64, lines.len()))
}

/// What is said of each step, where it is pointed at.
fn reading(run: &Run, say: impl Fn(&[&Line]) -> String) -> Vec<String> {
    let longest = run.populations.iter().map(|population| population.lines.len()).max().unwrap_or(0);
    let of_step = |k: usize| {
        let lines: Vec<&Line> =
            run.populations.iter().filter_map(|population| population.lines.get(k)).collect();
        let step = lines.first().map_or(k, |line| line.step);
        format!("step {step}: {}", say(&lines))
    };
    (0..longest).map(of_step).collect()
}

fn join(lines: &[&Line], say: impl Fn(&Line) -> String) -> String {
    lines.iter().map(|line| say(line)).collect::<Vec<_>>().join(" | ")
}

/// That lines are those of populations.
fn populations(run: &Run) -> &'static str {
    if run.populations.len() > 1 { " A line for each population." } else { "" }
}
