//! What the runs of a front come to: a row for each arm and weights, and the volume of each arm's front.

use std::collections::BTreeMap;

use super::design::{Front, PLAIN};
use super::front::{hypervolume, on_front};
use super::result::Line;
use crate::cli::compare::clock::late;
use crate::cli::compare::design::Arm;
use crate::cli::compare::result;
use crate::cli::statistics::{Interval, RESAMPLES, bootstrap, mean, over_prompts};

/// An arm at given weights.
pub struct Row {
    pub arm: String,
    pub weights: Vec<f64>,
    pub particles: usize,
    /// Floating point operations of one prompt.
    pub flops: f64,
    pub runs: usize,
    /// Mean of a population.
    pub seconds: Option<f64>,
    pub rewards: Vec<Option<Interval>>,
    pub held_out: Vec<(String, Option<Interval>)>,
    /// Whether no other weights of the arm are as good in every reward and better in one.
    pub on_front: bool,
}

/// The volume that an arm's front dominates above the means of plain samples.
pub struct Volume {
    pub arm: String,
    pub value: Interval,
    /// Minus that of the best of N.
    pub difference: Option<Interval>,
}

/// The whole experiment.
pub struct Report {
    pub rows: Vec<Row>,
    /// Empty where a prompt lacks a reward everywhere.
    pub volumes: Vec<Volume>,
    /// Prompts whose rewards are not all known, and which the volumes are without.
    pub left_out: usize,
    /// Arms whose time is not near their budget in seconds.
    pub late: Vec<String>,
    /// These, and arms whose cost is not near their budget.
    pub notes: Vec<String>,
}

/// Of more rewards a volume takes long, so that fewer resamples are drawn.
const FEW_REWARDS: usize = 3;

impl Report {
    pub fn new(front: &Front, lines: &[Line]) -> Report {
        let mut rows = Vec::new();
        let plain = rows_of(front, lines, PLAIN, &[vec![]]);
        rows.extend(plain);
        for arm in &front.design.arms {
            rows.extend(rows_of(front, lines, &arm.label, &front.grid));
        }
        let (volumes, left_out) = volumes(front, lines);
        let seconds = |arm: &Arm, _| mean_seconds(lines.iter().filter(|line| line.arm == arm.label));
        let late = late(&front.design, seconds);
        let notes = [front.design.notes(), late.clone()].concat();
        Report { rows, volumes, left_out, late, notes }
    }
}

fn mean_seconds<'a>(lines: impl Iterator<Item = &'a Line>) -> Option<f64> {
    result::mean(lines.filter(|line| line.lost.is_none()).map(|line| line.seconds))
}

/// The rows of an arm, with its own front.
fn rows_of(front: &Front, lines: &[Line], arm: &str, grid: &[Vec<f64>]) -> Vec<Row> {
    let row = |weights: &Vec<f64>| {
        let own: Vec<&Line> =
            lines.iter().filter(|line| line.arm == arm && line.weights == *weights).collect();
        let over = |value: &dyn Fn(&Line) -> Option<f64>| {
            over_prompts(own.iter().filter_map(|line| Some((line.index, value(line)?))))
        };
        let most = own.iter().max_by_key(|line| line.eval_rewards.len());
        let names = most.into_iter().flat_map(|line| line.eval_rewards.keys());
        Row {
            arm: arm.into(),
            weights: weights.clone(),
            particles: own.first().map_or(0, |line| line.particles),
            flops: own.first().map_or(0.0, |line| line.flops),
            runs: own.len(),
            seconds: mean_seconds(own.iter().copied()),
            rewards: (0..front.names.len()).map(|k| over(&|line| line.rewards[k])).collect(),
            held_out: names
                .map(|name| (name.clone(), over(&|line| line.eval_rewards.get(name)?.as_f64())))
                .collect(),
            on_front: false,
        }
    };
    let mut rows: Vec<Row> = grid.iter().map(row).collect();
    let known = |row: &Row| row.rewards.iter().map(|of| of.map(|of| of.mean)).collect::<Option<Vec<f64>>>();
    let (places, points): (Vec<usize>, Vec<Vec<f64>>) =
        rows.iter().enumerate().filter_map(|(at, row)| Some((at, known(row)?))).unzip();
    // Plain samples have no weights, and no front.
    for (at, best) in places.into_iter().zip(on_front(&points)).filter(|_| arm != PLAIN) {
        rows[at].on_front = best;
    }
    rows
}

/// Means over seeds: of each prompt, each weights, each reward.
type Means = Vec<Vec<Vec<f64>>>;

/// The means of an arm by prompt; a prompt without one of them has no entry.
fn means(front: &Front, lines: &[Line], arm: &str, grid: &[Vec<f64>]) -> BTreeMap<usize, Vec<Vec<f64>>> {
    let of = |prompt: usize| -> Option<Vec<Vec<f64>>> {
        grid.iter()
            .map(|weights| {
                let own = |line: &&Line| line.arm == arm && line.index == prompt && line.weights == *weights;
                let own: Vec<&Line> = lines.iter().filter(own).collect();
                let known = |k: usize| own.iter().filter_map(|line| line.rewards[k]).collect::<Vec<f64>>();
                let means: Vec<f64> = (0..front.names.len()).map(|k| mean(&known(k))).collect();
                means.iter().all(|mean| mean.is_finite()).then_some(means)
            })
            .collect()
    };
    (0..front.design.prompts.len()).filter_map(|prompt| Some((prompt, of(prompt)?))).collect()
}

/// The volumes of all arms with their intervals, paired over prompts; and how many prompts are left out.
fn volumes(front: &Front, lines: &[Line]) -> (Vec<Volume>, usize) {
    let arms: Vec<&str> = front.design.arms.iter().map(|arm| arm.label.as_str()).collect();
    let plain = means(front, lines, PLAIN, &[vec![]]);
    let all: Vec<_> = arms.iter().map(|arm| means(front, lines, arm, &front.grid)).collect();
    let whole: Vec<usize> =
        plain.keys().copied().filter(|prompt| all.iter().all(|of| of.contains_key(prompt))).collect();
    let left_out = front.design.prompts.len() - whole.len();
    if whole.is_empty() {
        return (Vec::new(), left_out);
    }
    let chosen = |of: &BTreeMap<usize, Vec<Vec<f64>>>| -> Means {
        whole.iter().filter_map(|prompt| of.get(prompt).cloned()).collect()
    };
    let plain = chosen(&plain);
    let all: Vec<Means> = all.iter().map(chosen).collect();
    let own = |of: &Means, drawn: &[usize]| hypervolume(&over(of, drawn), &over(&plain, drawn)[0]);
    let resamples = if front.names.len() <= FEW_REWARDS { RESAMPLES } else { RESAMPLES / 10 };
    let once: Vec<usize> = (0..whole.len()).collect();
    let interval = |value: &dyn Fn(&[usize]) -> f64| Interval {
        mean: value(&once),
        ends: (whole.len() > 1).then(|| bootstrap(whole.len(), resamples, value)),
    };
    let against = all.len() - 1;
    let volumes = arms.iter().zip(&all).enumerate().map(|(at, (arm, of))| Volume {
        arm: (*arm).into(),
        value: interval(&|drawn| own(of, drawn)),
        difference: (at != against).then(|| interval(&|drawn| own(of, drawn) - own(&all[against], drawn))),
    });
    (volumes.collect(), left_out)
}

/// The point of each weights: means over the prompts that are drawn.
fn over(of: &Means, drawn: &[usize]) -> Vec<Vec<f64>> {
    let (points, rewards) = (of[0].len(), of[0][0].len());
    let one = |w: usize, k: usize| drawn.iter().map(|&p| of[p][w][k]).sum::<f64>() / drawn.len() as f64;
    (0..points).map(|w| (0..rewards).map(|k| one(w, k)).collect()).collect()
}
