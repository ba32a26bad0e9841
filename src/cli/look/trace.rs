//! `trace.jsonl`, by population.

use serde::Deserialize;
use serde_json::Value;

use super::lineage::Lineage;

/// One line (docs/formats.md), of what is looked at.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub step: usize,
    pub t: i64,
    #[serde(default)]
    pub population: usize,
    pub lambda: f64,
    /// Natural logarithms; `None`: the particle is lost.
    pub log_weights: Vec<Option<f64>>,
    pub ess: f64,
    pub resampled: bool,
    pub ancestors: Vec<usize>,
    /// `None` for all: none were computed; for one: not finite.
    pub reward: Option<Vec<Option<f64>>>,
    pub log_z: Option<f64>,
    pub roots_alive: usize,
    pub collapsed: bool,
    pub non_finite: Vec<NonFinite>,
    pub ms: f64,
}

/// A value that was not finite.
#[derive(Clone, Debug, Deserialize)]
pub struct NonFinite {
    pub particle: usize,
    pub quantity: Value,
}

/// The steps of one population, in order.
#[derive(Clone, Debug)]
pub struct Population {
    pub lines: Vec<Line>,
    pub lineage: Lineage,
}

/// The populations of a trace, and what is wrong with it, if anything is: what comes before that is kept.
pub fn populations(lines: Vec<Line>) -> (Vec<Population>, Option<String>) {
    let mut all: Vec<Vec<Line>> = Vec::new();
    let mut note = None;
    for (number, line) in lines.into_iter().enumerate() {
        let before = all.last().and_then(|lines| lines.last());
        let begins = line.population == all.len();
        if !fits(&line, before.filter(|_| !begins)) || !(begins || line.population + 1 == all.len()) {
            note = Some(format!(
                "trace.jsonl: line {} does not go on from the one before, and is left out with what follows",
                number + 1
            ));
            break;
        }
        match all.last_mut().filter(|_| !begins) {
            Some(lines) => lines.push(line),
            None => all.push(vec![line]),
        }
    }
    let population = |lines: Vec<Line>| {
        let ancestors: Vec<&[usize]> = lines.iter().map(|line| line.ancestors.as_slice()).collect();
        let sizes: Vec<usize> = lines.iter().map(|line| line.log_weights.len()).collect();
        Population { lineage: Lineage::new(&ancestors, &sizes), lines }
    };
    (all.into_iter().map(population).collect(), note)
}

/// Whether the lists of a line belong together, and to those of the line before.
fn fits(line: &Line, before: Option<&Line>) -> bool {
    let n = line.log_weights.len();
    let follows = match before {
        Some(before) => before.ancestors.len() == n && before.step < line.step,
        None => true,
    };
    follows
        && n > 0
        && line.ancestors.iter().all(|ancestor| *ancestor < n)
        && line.reward.as_ref().is_none_or(|list| list.len() == n)
}

impl Line {
    /// Rewards that are finite, none where none were computed.
    pub fn rewards(&self) -> impl Iterator<Item = f64> {
        self.reward.iter().flatten().flatten().copied()
    }

    /// Mean of the rewards that are finite.
    pub fn mean_reward(&self) -> Option<f64> {
        let (sum, n) = self.rewards().fold((0.0, 0), |(sum, n), reward| (sum + reward, n + 1));
        (n > 0).then(|| sum / f64::from(n))
    }
}
