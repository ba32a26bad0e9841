//! What the runs of a comparison come to: one row for each arm and budget.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::late;
use super::design::{Arm, Design};
use super::log_z::{Coverage, References};
use super::result::RunResult;
use crate::cli::experiment::{self, counted};
use crate::cli::statistics::{Interval, mean, over_prompts, quantile};

/// One row: an arm at a budget.
pub struct Row {
    pub arm: String,
    pub budget: String,
    /// The budget as a multiple of the first arm's cost with its own particles.
    pub multiple: f64,
    pub particles: usize,
    /// Cost in the same unit, and in floating point operations of one prompt.
    pub cost: f64,
    pub flops: f64,
    pub runs: usize,
    pub rewards: Vec<RewardCells>,
    /// The median, and the value that 5 % of the runs are below.
    pub roots: Option<(f64, f64)>,
    pub pictures: Option<f64>,
    pub pixel_distance: Option<f64>,
    pub clip_distance: Option<f64>,
    /// Pixel distance of the pictures that the seeds of a prompt returned.
    pub seed_distance: Option<Interval>,
    pub kl: Option<f64>,
    /// Share of the runs that have an error of log Z.
    pub reliable: Option<f64>,
    /// Means of log Z, and of its errors where they are known.
    pub log_z: Option<f64>,
    pub log_z_error: Option<f64>,
    /// Why others have none: the most common reason.
    pub unreliable: Option<String>,
    pub coverage: Option<Coverage>,
    pub seconds: Option<f64>,
}

/// What a row says of one reward.
pub struct RewardCells {
    pub name: String,
    /// Of the returned pictures.
    pub value: Option<Interval>,
    /// Minus that of the arm to which all are compared.
    pub difference: Option<Interval>,
    /// Divergence from the model, and the mean under the law that it is of; of the runs that know both.
    pub against_kl: Option<(Interval, Interval)>,
}

/// The rows, and what stands under them.
pub struct Report {
    pub rows: Vec<Row>,
    /// The arm to which all are compared.
    pub against: String,
    pub prompts: usize,
    pub seeds: usize,
    /// Whether a budget is in seconds.
    pub timed: bool,
    /// Arms whose time is not near their budget in seconds.
    pub late: Vec<String>,
    pub notes: Vec<String>,
    /// Held-out rewards that fall while the target rises.
    pub warnings: Vec<String>,
    pub command: String,
}

impl Report {
    /// Of all runs of `design`; their order does not matter.
    pub fn new(design: &Design, results: &[RunResult], typed: &[String]) -> Report {
        let mut results: Vec<&RunResult> = results.iter().collect();
        results.sort_by(|a, b| {
            let places = [a, b].map(|run| (run.seed, run.index, &run.arm));
            places[0].cmp(&places[1]).then(a.budget.total_cmp(&b.budget))
        });
        let law = |run: &RunResult| {
            let arm = design.arms.iter().find(|arm| arm.label == run.arm);
            arm.and_then(|arm| arm.law.as_deref())
        };
        let references = References::new(results.iter().map(|&run| (run, law(run))));
        let most = results.iter().max_by_key(|run| run.eval_rewards.len());
        let held_out: Vec<&str> =
            most.into_iter().flat_map(|run| run.eval_rewards.keys()).map(String::as_str).collect();
        let (mut rows, mut warnings) = (Vec::new(), Vec::new());
        warnings.extend(lost(&results));
        results.retain(|run| run.lost.is_none());
        for b in 0..design.budgets.len() {
            let of = |arm: &Arm| runs_of(&results, design, arm, b);
            let base = of(&design.arms[design.against]);
            for (place, arm) in design.arms.iter().enumerate() {
                rows.push(row(design, arm, b, &of(arm), &base, &held_out, &references));
                let plain =
                    |(other, base): &(usize, &Arm)| *other == design.against || base.method.is_plain();
                for (other, base) in design.arms.iter().enumerate().filter(plain) {
                    if other != place && !arm.method.is_plain() {
                        let pair =
                            format!("{} against {}, budget {}", arm.label, base.label, design.budgets[b]);
                        warnings.extend(falls(&pair, &of(arm), &of(base)));
                    }
                }
            }
        }
        let seconds = |arm: &Arm, b: usize| {
            let row = rows.iter().find(|row| row.arm == arm.label && row.budget == design.budgets[b].name);
            row.and_then(|row| row.seconds)
        };
        let late = late(design, seconds);
        Report {
            rows,
            against: design.arms[design.against].label.clone(),
            prompts: design.prompts.len(),
            seeds: design.seeds.len(),
            timed: design.clock.is_some(),
            notes: [design.notes(), late.clone()].concat(),
            late,
            warnings,
            command: experiment::command(typed),
        }
    }

    /// How much was drawn, in words.
    pub fn size(&self) -> String {
        format!("{} x {}", counted(self.prompts, "prompt"), counted(self.seeds, "seed"))
    }
}

/// What is said of runs that lost every particle.
fn lost(results: &[&RunResult]) -> Option<String> {
    let lost: Vec<&&RunResult> = results.iter().filter(|run| run.lost.is_some()).collect();
    let first = lost.first()?;
    Some(format!(
        "{} of {} runs lost every particle, and are left out; the first is {}, {:?}, seed {}: {}",
        lost.len(),
        results.len(),
        first.arm,
        first.prompt,
        first.seed,
        first.lost.as_deref().unwrap_or_default()
    ))
}

fn runs_of<'a>(results: &[&'a RunResult], design: &Design, arm: &Arm, b: usize) -> Vec<&'a RunResult> {
    let multiple = design.budgets[b].multiple;
    results.iter().copied().filter(|run| run.arm == arm.label && run.budget == multiple).collect()
}

/// How far the pictures that the seeds of a prompt returned are from each other; `None` of one seed.
fn seed_distance(own: &[&RunResult]) -> Option<Interval> {
    let mut by_prompt: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for run in own {
        by_prompt.entry(run.index).or_default().extend(&run.seed_distances);
    }
    let known = by_prompt.into_iter().filter(|(_, distances)| !distances.is_empty());
    over_prompts(known.map(|(index, distances)| (index, mean(&distances))))
}

/// Means of `own` minus those of `base`, paired by prompt and seed.
fn difference(name: &str, own: &[&RunResult], base: &[&RunResult]) -> Option<Interval> {
    over_prompts(own.iter().filter_map(|run| {
        let other = base.iter().find(|other| (other.index, other.seed) == (run.index, run.seed))?;
        Some((run.index, run.value(name)? - other.value(name)?))
    }))
}

/// Of fewer prompts the bootstrap's intervals are too narrow to warn by.
pub const FEWEST_PROMPTS: usize = 8;

/// The held-out rewards that are lower in `own` than in `base` where the target is higher, both by more than
/// their intervals; of fewer than [`FEWEST_PROMPTS`] nothing is said.
fn falls(pair: &str, own: &[&RunResult], base: &[&RunResult]) -> Vec<String> {
    if own.iter().map(|run| run.index).collect::<BTreeSet<_>>().len() < FEWEST_PROMPTS {
        return Vec::new();
    }
    let between = |name: &str| {
        let interval = difference(name, own, base)?;
        Some((interval, interval.ends?))
    };
    let text = |(Interval { mean, .. }, (low, high)): (Interval, (f64, f64))| {
        format!("{mean:+.3} [{low:+.3}, {high:+.3}]")
    };
    let Some(target) = between("target").filter(|(_, (low, _))| *low > 0.0) else { return Vec::new() };
    let names = own.first().into_iter().flat_map(|run| run.eval_rewards.keys());
    let fallen = names.filter_map(|name| {
        let held_out = between(name).filter(|(_, (_, high))| *high < 0.0)?;
        Some(format!(
            "{pair}: the held-out reward {name} falls, {}, while the target rises, {}",
            text(held_out),
            text(target)
        ))
    });
    fallen.collect()
}

fn row(
    design: &Design,
    arm: &Arm,
    b: usize,
    own: &[&RunResult],
    base: &[&RunResult],
    held_out: &[&str],
    references: &References,
) -> Row {
    let reward = |name: &str| {
        let known: Vec<(usize, f64, f64)> =
            own.iter().filter_map(|run| Some((run.index, run.kl?, run.weighted(name)?))).collect();
        let kl = over_prompts(known.iter().map(|&(index, kl, _)| (index, kl)));
        let weighted = over_prompts(known.iter().map(|&(index, _, value)| (index, value)));
        RewardCells {
            name: name.to_string(),
            value: over_prompts(own.iter().filter_map(|run| Some((run.index, run.value(name)?)))),
            difference: difference(name, own, base)
                .filter(|_| arm.label != design.arms[design.against].label),
            against_kl: kl.zip(weighted),
        }
    };
    let list =
        |f: &dyn Fn(&RunResult) -> Option<f64>| -> Vec<f64> { own.iter().filter_map(|run| f(run)).collect() };
    let mean_of =
        |f: &dyn Fn(&RunResult) -> Option<f64>| Some(mean(&list(f))).filter(|mean| mean.is_finite());
    let roots = list(&|run| Some(run.roots_alive as f64));
    let budget = &design.budgets[b];
    Row {
        arm: arm.label.clone(),
        budget: budget.name.clone(),
        multiple: budget.multiple,
        particles: arm.particles[b],
        cost: arm.flops(b) / design.arms[0].own_flops(),
        flops: arm.flops(b),
        runs: own.len(),
        rewards: std::iter::once("target").chain(held_out.iter().copied()).map(reward).collect(),
        roots: quantile(&roots, 0.5).zip(quantile(&roots, 0.05)),
        pictures: quantile(&list(&|run| Some(run.distinct_pictures as f64)), 0.5),
        pixel_distance: mean_of(&|run| run.pixel_distance),
        clip_distance: mean_of(&|run| run.clip_distance),
        seed_distance: seed_distance(own),
        kl: mean_of(&|run| run.kl),
        reliable: mean_of(&|run| Some(f64::from(u8::from(run.log_z_error.is_some())))),
        log_z: mean_of(&|run| run.log_z),
        log_z_error: mean_of(&|run| run.log_z_error),
        unreliable: most_common(own.iter().filter_map(|run| run.log_z_unreliable.as_deref())),
        coverage: arm.law.as_deref().and_then(|law| references.coverage(law, own)),
        seconds: mean_of(&|run| Some(run.seconds)),
    }
}

/// The text that is there most often; of several the first by the alphabet.
fn most_common<'a>(texts: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    texts.for_each(|text| *counts.entry(text).or_default() += 1);
    let most = counts.into_iter().min_by_key(|(_, count)| std::cmp::Reverse(*count));
    most.map(|(text, _)| text.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Runs of so many prompts; target and held-out reward of prompt `i` are `target + i` and `gold + i`.
    fn runs(prompts: usize, target: f64, gold: f64) -> Vec<RunResult> {
        let run = |index: usize| {
            let eval_rewards = [("gold".to_string(), json!(gold + index as f64))].into_iter().collect();
            RunResult { index, target: Some(target + index as f64), eval_rewards, ..RunResult::default() }
        };
        (0..prompts).map(run).collect()
    }

    #[test]
    fn a_held_out_reward_that_falls_is_told_where_it_is_known() {
        let said = |prompts: usize, target: f64, gold: f64| {
            let (own, base) = (runs(prompts, target, gold), runs(prompts, 0.0, 0.0));
            falls("das against none", &own.iter().collect::<Vec<_>>(), &base.iter().collect::<Vec<_>>())
        };
        let [warning] = &said(8, 2.0, -0.5)[..] else { panic!("no warning") };
        let expected = "das against none: the held-out reward gold falls, -0.500 [-0.500, -0.500], while the \
                        target rises, +2.000 [+2.000, +2.000]";
        assert_eq!(warning, expected);
        for (prompts, target, gold) in [(8, 2.0, 0.5), (8, -2.0, -0.5), (8, 2.0, 0.0), (7, 2.0, -0.5)] {
            assert!(said(prompts, target, gold).is_empty(), "{prompts} {target} {gold}");
        }
    }
}
