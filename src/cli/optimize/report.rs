//! What the queries of an optimisation come to: a row for each strategy, and its learning curve.

use std::collections::BTreeMap;
use std::path::Path;

use super::design::{Design, Strategy};
use super::line::{Line, key};
use super::rounds;
use crate::cli::experiment::counted;
use crate::cli::statistics::{Interval, mean, over_seeds};
use crate::error::Result;

/// A round of a strategy, over all seeds.
pub struct Round {
    /// Queries up to its end.
    pub queries: usize,
    /// Mean answer of its pictures.
    pub mean: Option<Interval>,
    /// The largest answer so far.
    pub best: Option<Interval>,
    /// Of the surrogate that has learned from it and what was before: the root mean squared error on the
    /// pairs that validate, and the best epoch; means over seeds and heads.
    pub error: Option<f64>,
    pub best_epoch: Option<f64>,
}

/// A strategy.
pub struct Row {
    pub strategy: Strategy,
    /// Mean answer of the last round, and of all queries.
    pub last: Option<Interval>,
    pub all: Option<Interval>,
    /// The largest answer.
    pub best: Option<Interval>,
    /// Mean answer of the evaluation.
    pub evaluation: Option<Interval>,
    /// Minus those of the strategy that others are compared to, seed by seed.
    pub last_difference: Option<Interval>,
    pub evaluation_difference: Option<Interval>,
    /// Held-out rewards in the last round.
    pub held_out: Vec<(String, Option<Interval>)>,
    /// Of the guided queries: how many there are, the share of answers within twice the uncertainty of what
    /// the surrogate expected, and the mean and the root mean square of what it expected minus the answer.
    pub guided: usize,
    pub coverage: Option<f64>,
    pub bias: Option<f64>,
    pub error: Option<f64>,
    pub rounds: Vec<Round>,
    /// Queries whose pictures are of the largest answers, one of each seed.
    pub pictures: Vec<(u64, f64, String)>,
}

/// All of it.
pub struct Report {
    pub black_box: String,
    /// The strategy that others are compared to: random, or the first.
    pub against: Strategy,
    pub seeds: usize,
    pub queries: usize,
    pub evaluate: usize,
    pub prompts: usize,
    pub rows: Vec<Row>,
}

impl Report {
    /// # Errors
    /// Of a surrogate's file that is there and damaged.
    pub fn new(design: &Design, known: &BTreeMap<String, Line>, folder: &Path) -> Result<Report> {
        let strategies = &design.strategies;
        let random = strategies.iter().find(|strategy| **strategy == Strategy::Random);
        let against = random.or(strategies.first()).copied().unwrap_or(Strategy::Random);
        let of = |strategy: Strategy| -> Vec<Vec<&Line>> {
            let of_seed = |&seed: &u64| {
                let queries = design.queries_of(strategy, seed);
                queries.iter().filter_map(|q| known.get(&key(strategy.name(), seed, q.number))).collect()
            };
            design.seeds.iter().map(of_seed).collect()
        };
        let other = of(against);
        let row = |&strategy: &Strategy| row(design, strategy, &of(strategy), &other, folder);
        Ok(Report {
            black_box: design.black_box.kind.name.into(),
            against,
            seeds: design.seeds.len(),
            queries: design.queries,
            evaluate: design.evaluate,
            prompts: design.prompt_count(),
            rows: strategies.iter().map(row).collect::<Result<_>>()?,
        })
    }

    /// What was drawn, in words.
    pub fn size(&self) -> String {
        let (seeds, prompts) = (counted(self.seeds, "seed"), counted(self.prompts, "prompt"));
        format!("{} queries x {seeds}, {prompts}", self.queries)
    }
}

/// A number of each seed; of those that have none, none.
fn over(seeds: &[Vec<&Line>], value: impl Fn(&[&Line]) -> Option<f64>) -> Option<Interval> {
    over_seeds(&seeds.iter().filter_map(|lines| value(lines)).collect::<Vec<f64>>())
}

fn average<'a>(lines: impl Iterator<Item = &'a Line>) -> Option<f64> {
    let answers: Vec<f64> = lines.map(|line| line.answer).collect();
    (!answers.is_empty()).then(|| mean(&answers))
}

fn largest<'a>(lines: impl Iterator<Item = &'a Line>) -> Option<f64> {
    lines.map(|line| line.answer).reduce(f64::max)
}

fn row(
    design: &Design,
    strategy: Strategy,
    seeds: &[Vec<&Line>],
    other: &[Vec<&Line>],
    folder: &Path,
) -> Result<Row> {
    let rounds = design.rounds(strategy);
    let last = rounds.last().cloned().unwrap_or_default();
    let in_last = |line: &Line| line.round.is_some() && last.contains(&line.query);
    let of_last = |lines: &[&Line]| average(lines.iter().copied().filter(|line| in_last(line)));
    let evaluated = |lines: &[&Line]| average(lines.iter().copied().filter(|line| line.round.is_none()));
    let asked = |line: &&Line| line.round.is_some();
    // Of the same queries, whatever round they were in.
    let difference = |value: &dyn Fn(&[&Line]) -> Option<f64>| {
        let pairs = seeds.iter().zip(other).filter_map(|(a, b)| Some(value(a)? - value(b)?));
        over_seeds(&pairs.collect::<Vec<f64>>())
    };
    let guided: Vec<(f64, f64)> = seeds
        .iter()
        .flatten()
        .filter(|line| asked(line))
        .filter_map(|line| Some((line.mean? - line.answer, line.uncertainty?)))
        .collect();
    let share = |count: usize| (!guided.is_empty()).then(|| count as f64 / guided.len() as f64);
    let offs: Vec<f64> = guided.iter().map(|(off, _)| *off).collect();
    let names =
        seeds.iter().flatten().next().map(|line| line.eval_rewards.keys().cloned().collect::<Vec<_>>());
    let held_out = |name: String| {
        let of_seed = |lines: &[&Line]| {
            let values = lines.iter().filter(|line| in_last(line));
            let values: Vec<f64> = values.filter_map(|line| line.eval_rewards.get(&name)?.as_f64()).collect();
            (!values.is_empty()).then(|| mean(&values))
        };
        let interval = over(seeds, of_seed);
        (name, interval)
    };
    let best_of = |lines: &Vec<&Line>| {
        let best = lines.iter().filter(|line| asked(line)).max_by(|a, b| a.answer.total_cmp(&b.answer))?;
        Some((best.seed, best.answer, best.picture.clone()))
    };
    Ok(Row {
        strategy,
        last: over(seeds, of_last),
        all: over(seeds, |lines| average(lines.iter().copied().filter(|line| line.round.is_some()))),
        best: over(seeds, |lines| largest(lines.iter().copied().filter(|line| line.round.is_some()))),
        evaluation: over(seeds, evaluated),
        last_difference: difference(&of_last),
        evaluation_difference: difference(&evaluated),
        held_out: names.unwrap_or_default().into_iter().map(held_out).collect(),
        guided: guided.len(),
        coverage: share(guided.iter().filter(|(off, sure)| off.abs() <= 2.0 * sure).count()),
        bias: (!offs.is_empty()).then(|| mean(&offs)),
        error: (!offs.is_empty()).then(|| mean(&offs.iter().map(|x| x * x).collect::<Vec<_>>()).sqrt()),
        rounds: rounds
            .iter()
            .enumerate()
            .map(|(at, numbers)| {
                let (error, best_epoch) = learned(design, strategy, at + 1, seeds, folder)?;
                Ok(Round {
                    queries: numbers.end,
                    mean: over(seeds, |lines| {
                        average(lines.iter().copied().filter(|line| line.round == Some(at)))
                    }),
                    best: over(seeds, |lines| {
                        largest(lines.iter().copied().filter(|line| line.query < numbers.end))
                    }),
                    error,
                    best_epoch,
                })
            })
            .collect::<Result<_>>()?,
        pictures: seeds.iter().filter_map(best_of).collect(),
    })
}

/// What the files of the surrogates after so many rounds say, where they are there.
fn learned(
    design: &Design,
    strategy: Strategy,
    rounds: usize,
    seeds: &[Vec<&Line>],
    folder: &Path,
) -> Result<(Option<f64>, Option<f64>)> {
    let (mut errors, mut epochs) = (Vec::new(), Vec::new());
    let pairs = design.pairs(strategy, rounds);
    for (&seed, lines) in design.seeds.iter().zip(seeds) {
        let path = rounds::path(folder, strategy, seed, pairs);
        if !(strategy.learns() && path.exists()) {
            continue;
        }
        let surrogate = rounds::read(&path, design, strategy, &lines[..pairs.min(lines.len())])?;
        let learned = surrogate.learned();
        errors.push(learned.error);
        epochs.extend(learned.best_epochs.iter().map(|epoch| *epoch as f64));
    }
    let known = |list: &[f64]| (!list.is_empty()).then(|| mean(list));
    Ok((known(&errors), known(&epochs)))
}
