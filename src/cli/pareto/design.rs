//! What is drawn for a front: rewards, sums, and what both arms may cost.

use serde_json::{Map, Value, json};

use crate::cli::args::{Compare, Pareto};
use crate::cli::compare::arms;
use crate::cli::compare::design::{Design, RunPlan};
use crate::cli::experiment::{self, counted};
use crate::error::{Error, Result};
use crate::method::{BestOfN, Conclusion, Method};
use crate::reward::Spec;

/// The arm of plain samples: the population that the best of N is chosen from, without the choice.
pub const PLAIN: &str = "none";

/// All that is drawn.
pub struct Front {
    /// The guided arm, then the best of N; one budget.
    pub design: Design,
    /// Of the rewards, in their order, for each sum.
    pub grid: Vec<Vec<f64>>,
    /// Of the rewards, each its own.
    pub names: Vec<String>,
}

/// Refuses what is no experiment.
pub fn check(args: &Pareto) -> Result<()> {
    if args.rewards.len() < 2 {
        return Err(Error::usage("one reward has no front")
            .advice("give two or more: --reward aesthetic --reward clip"));
    }
    for text in &args.rewards {
        let spec: Spec = text.parse()?;
        if spec.weight != 1.0 {
            return Err(Error::usage(format!("--reward {text}: the weights are those of --weights"))
                .advice("leave the weight out; -- --normalise std brings rewards to one unit"));
        }
    }
    let (name, _) = own(&args.method)?;
    let method = experiment::method(&name)?;
    if method.has_plain_chains() {
        return Err(Error::usage(format!("--method {method} is not aligned to a sum of rewards")).advice(
            "give --method das or another that is; the best of N and plain samples stand beside it",
        ));
    }
    for (name, flag, fix) in [
        ("rewards", "--reward", "give all rewards of the front before --"),
        ("proposal", "--proposal", "give --method, before --"),
    ] {
        if arms::given("flags after --", &args.cases.common, name)? {
            return Err(Error::usage(format!("{flag} stands after --, which is for all runs")).advice(fix));
        }
    }
    Ok(())
}

/// The name of the method, and flags of `sample` for it alone.
fn own(typed: &str) -> Result<(String, String)> {
    let (name, flags) = typed.trim().split_once(char::is_whitespace).unwrap_or((typed.trim(), ""));
    match name.is_empty() || name.starts_with('-') {
        true => Err(Error::usage(format!("--method \"{typed}\" begins with no method"))
            .advice("write for example --method \"dps --guidance-strength 0.5\"")),
        false => Ok((name.into(), flags.into())),
    }
}

/// The comparison of the method with the best of N that sets both costs.
///
/// # Errors
/// As [`check`].
pub fn comparison(args: &Pareto) -> Result<Compare> {
    let (name, flags) = own(&args.method)?;
    let best = BestOfN.name();
    Ok(Compare {
        methods: Vec::new(),
        arms: vec![format!("{name}=--proposal {name} {flags}"), format!("{best}=--proposal {best}")],
        sweeps: Vec::new(),
        budgets: vec![args.budget.clone()],
        against: None,
        rewards: args.rewards.clone(),
        output: args.output.clone(),
        cases: args.cases.clone(),
    })
}

/// Names of rewards; those that are called alike are numbered.
pub fn names(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in all {
        let numbered = (2..).map(|number| format!("{name} {number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !names.contains(name));
        names.extend(free);
    }
    names
}

impl Front {
    /// All populations, each with the sums that it serves; those that are compared follow one another.
    pub fn runs(&self) -> Vec<(RunPlan<'_>, &[Vec<f64>])> {
        let [guided, best] = &self.design.arms[..] else { return Vec::new() };
        let mut runs = Vec::new();
        for &seed in &self.design.seeds {
            for prompt in 0..self.design.prompts.len() {
                let plan = |arm| RunPlan { arm, budget: 0, prompt, seed };
                runs.extend(self.grid.chunks(1).map(|weights| (plan(guided), weights)));
                runs.push((plan(best), &self.grid[..]));
            }
        }
        runs
    }

    /// How much is drawn, in words.
    pub fn size(&self) -> String {
        let Design { prompts, seeds, .. } = &self.design;
        format!("{} x {}", counted(prompts.len(), "prompt"), counted(seeds.len(), "seed"))
    }

    /// The keys of the lines that a population makes.
    pub fn keys(&self, run: &RunPlan<'_>, grid: &[Vec<f64>]) -> Vec<String> {
        let label = &run.arm.label;
        let plain = (!is_guided(run)).then_some((PLAIN, &[][..]));
        let own = grid.iter().map(|weights| (label.as_str(), &weights[..]));
        own.chain(plain).map(|(arm, weights)| key(arm, weights, run.prompt, run.seed)).collect()
    }

    /// Everything that decides the results.
    pub fn record(&self) -> Map<String, Value> {
        let mut record = self.design.record();
        record.insert("rewards".into(), json!(self.names));
        record.insert("weights".into(), json!(self.grid));
        record
    }
}

/// Whether a population is of the guided arm, and not of the best of N.
pub fn is_guided(run: &RunPlan<'_>) -> bool {
    run.arm.method.conclusion() != Conclusion::Best
}

/// Tells a line from all others.
pub fn key(arm: &str, weights: &[f64], index: usize, seed: u64) -> String {
    format!("{index} {seed} {weights:?} {arm}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_that_are_called_alike_are_told_apart() {
        let all = ["clip", "gold", "clip", "clip", "clip 2"].map(String::from);
        assert_eq!(names(all.into_iter()), ["clip", "gold", "clip 2", "clip 3", "clip 2 2"]);
    }
}
