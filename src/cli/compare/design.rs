//! What is compared: arms, budgets, prompts and seeds.

use std::fmt;

use serde_json::{Map, Value, json};

use super::arms::{self, Listed};
use crate::cli::args::{Compare, Sample};
use crate::cli::prompts;
use crate::cli::record::object;
use crate::cli::values::{self, Cost, Select};
use crate::error::{Error, Result};
use crate::method::{Conclusion, Method, Plain};
use crate::run::SCHEMA;
use crate::session::{Prompt, SampleOptions, Session, SessionBuilder};

/// One way of sampling.
#[derive(Clone, Debug)]
pub struct Arm {
    pub label: String,
    /// Flags of `sample`, without those that all arms share.
    pub flags: Vec<String>,
    pub options: SampleOptions,
    pub select: Select,
    /// Particles (plain chains of best-of-n) that `sample` would use.
    pub own_particles: usize,
    /// The same at each budget.
    pub particles: Vec<usize>,
    /// The options at each budget, once a session has settled them.
    pub settled: Vec<SampleOptions>,
    /// Floating point operations of `n` particles are `fixed + n each`.
    pub fixed: f64,
    pub each: f64,
    pub method: &'static dyn Method,
    /// What the chain depends on under which it estimates Z, and once a session has settled it alpha too;
    /// `None` where the estimate is biased.
    pub law: Option<String>,
}

impl Arm {
    /// The options with this many particles.
    pub fn with_particles(&self, n: usize) -> SampleOptions {
        match self.method.conclusion() {
            Conclusion::Best => self.options.clone().chain_count(n),
            _ => self.options.clone().particles(n),
        }
    }

    /// Floating point operations with its own particles.
    pub fn own_flops(&self) -> f64 {
        self.fixed + self.own_particles as f64 * self.each
    }

    /// The name of the folder of its pictures.
    pub fn folder(&self) -> String {
        self.label.replace(' ', "_")
    }

    /// Floating point operations at budget `b`.
    pub fn flops(&self, b: usize) -> f64 {
        self.fixed + self.particles[b] as f64 * self.each
    }
}

/// What every arm may cost.
#[derive(Clone, Debug)]
pub struct Budget {
    /// As typed.
    pub name: String,
    /// The same as a multiple of what the first arm costs with its own particles.
    pub multiple: f64,
    cost: Cost,
    /// The option that it comes from.
    pub option: &'static str,
}

impl Budget {
    /// Seconds of a draw, if it was typed as that.
    pub fn seconds(&self) -> Option<f64> {
        if let Cost::Seconds(seconds) = self.cost { Some(seconds) } else { None }
    }

    pub fn record(&self) -> Value {
        if matches!(self.cost, Cost::Multiple(_)) { json!(self.multiple) } else { json!(self.name) }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The whole comparison.
pub struct Design {
    pub builder: SessionBuilder,
    pub prompts: Vec<Prompt>,
    pub seeds: Vec<u64>,
    pub budgets: Vec<Budget>,
    pub arms: Vec<Arm>,
    /// Place of the arm to which the others are compared.
    pub against: usize,
    /// Places of arms that differ in one flag of a sweep, in its order.
    pub sweeps: Vec<Vec<usize>>,
    /// The scales of the rewards as `--normalise` takes them, once they are known; `None`: they have none.
    pub normalise: Option<String>,
    /// Seconds of a draw of the first arm with its own particles, once a budget in seconds has asked for it.
    pub clock: Option<f64>,
    /// Flags that all arms share.
    common: Vec<String>,
}

/// An arm whose cost is further than this factor from the budget is named.
const NEAR: f64 = 1.1;

impl Design {
    /// `option` is the one that budgets come from.
    pub fn resolve(args: &Compare, option: &'static str) -> Result<Design> {
        let cases = &args.cases;
        let (prompts, _) = prompts::collect(&cases.prompts, cases.prompt_file.as_deref(), None)?;
        let seeds = cases.seeds.0.clone();
        let mut common = Vec::new();
        for (flag, values) in [("--reward", &args.rewards), ("--eval-reward", &cases.eval_rewards)] {
            values.iter().for_each(|value| common.extend([flag.to_string(), value.clone()]));
        }
        common.extend(cases.common.iter().cloned());
        let mut arms = Vec::new();
        let mut arms_particles = None;
        let mut shared: Option<(Box<Sample>, SessionBuilder)> = None;
        let Listed { arms: listed, sweeps } = arms::listed(args)?;
        arms::check_common(args, &common)?;
        for (label, flags) in listed {
            let (sample, options) = arms::parse(&format!("arm {label}"), &flags, &common)?;
            let (first, _) = shared.get_or_insert_with(|| (sample.clone(), options.builder.clone()));
            if arms::of_the_session(first) != arms::of_the_session(&sample) {
                return Err(Error::usage(format!(
                    "arm {label}: another model, scheduler, LoRA, embedding, reward, scale, device or type than the \
                     first arm's"
                ))
                .advice("give those flags once for all arms, after --"));
            }
            if !arms.is_empty() && sample.particles != arms_particles {
                return Err(Error::usage(format!("arm {label}: --particles is decided by the budget"))
                    .advice("give --particles once for all arms, after --: it is the first arm's, which sets the budget"));
            }
            arms_particles = sample.particles;
            let law = arms::law(&sample, &options);
            let (settled, _) = options.builder.settle(&prompts[0], &options.sample, None)?;
            let mut arm = Arm {
                label,
                flags,
                method: options.proposal,
                options: options.sample,
                select: options.select,
                own_particles: settled.chains(),
                particles: Vec::new(),
                settled: Vec::new(),
                fixed: 0.0,
                each: 0.0,
                law,
            };
            if let Some(other) = arms.iter().find(|other: &&Arm| other.folder() == arm.folder()) {
                return Err(Error::usage(format!("two arms are called {} and {}", other.label, arm.label))
                    .advice("name them: --arm \"LABEL=FLAGS\"; blanks and underscores are the same"));
            }
            let cost = |n: usize| -> Result<f64> {
                Ok(options.builder.plan(&prompts[0], &arm.with_particles(n))?.sampling.flops as f64)
            };
            // Candidates are a whole number, so that of one particle they may be rounded far.
            let (ten, twenty) = (cost(10)?, cost(20)?);
            (arm.fixed, arm.each) = (2.0 * ten - twenty, (twenty - ten) / 10.0);
            arms.push(arm);
        }
        let Some((_, builder)) = shared else {
            return Err(Error::usage("no arm to compare").advice("give --methods das,best-of-n"));
        };
        let unit = arms[0].own_flops();
        let budgets = budgets(&args.budgets, option, unit, || {
            // One step more of the model's own chain of one particle is evaluations of the UNet, and nothing
            // else.
            let plain = |steps: usize| {
                let options = arms[0].options.clone().method(&Plain).particles(1).steps(steps);
                builder.plan(&prompts[0], &options.without_candidates())
            };
            let (one, two) = (plain(1)?, plain(2)?);
            let flops = two.sampling.flops - one.sampling.flops;
            Ok(flops as f64 / (two.evaluations - one.evaluations) as f64)
        })?;
        let first = (arms[0].fixed, arms[0].each);
        for arm in &mut arms {
            let fit = |budget: &Budget| {
                if budget.seconds().is_some() {
                    return arm.own_particles;
                }
                let guided = most_below(budget.multiple, unit, first);
                let cost = (budget.multiple * unit).max(first.0 + guided as f64 * first.1);
                let (fixed, each) = (arm.fixed, arm.each);
                if (fixed, each) == first { guided } else { fewest_above(cost, fixed, each) }
            };
            arm.particles = budgets.iter().map(fit).collect();
            for (budget, &n) in budgets.iter().zip(&arm.particles) {
                check_particles(arm, budget, n)?;
            }
        }
        let against = match &args.against {
            None => arms.iter().position(|arm| arm.method.conclusion() == Conclusion::Best).unwrap_or(0),
            Some(label) => arms.iter().position(|arm| arm.label == *label).ok_or_else(|| {
                let labels: Vec<&str> = arms.iter().map(|arm| arm.label.as_str()).collect();
                Error::usage(format!("--against {label}: no such arm"))
                    .advice(format!("give one of: {}", labels.join(", ")))
            })?,
        };
        let (normalise, clock) = (None, None);
        Ok(Design { builder, prompts, seeds, budgets, arms, against, sweeps, normalise, clock, common })
    }

    /// Takes the seconds of a draw of the first arm with its own particles, of which budgets in seconds are
    /// multiples.
    pub fn set_clock(&mut self, clock: f64) {
        self.clock = Some(clock);
        for budget in &mut self.budgets {
            budget.multiple = budget.seconds().map_or(budget.multiple, |seconds| seconds / clock);
        }
    }

    /// Decides once what the options leave to the cost and the memory; every run would do it again.
    ///
    /// # Errors
    /// As [`Session::settle`].
    pub fn settle(&mut self, session: &Session) -> Result<()> {
        for arm in &mut self.arms {
            let settle = |&n: &usize| Ok(session.settle(&self.prompts[0], &arm.with_particles(n))?.0);
            arm.settled = arm.particles.iter().map(settle).collect::<Result<_>>()?;
            let alpha = session.alpha(&arm.options);
            arm.law = arm.law.take().map(|law| format!("{law} alpha {alpha}"));
        }
        Ok(())
    }

    /// What the user should know of costs that are not equal.
    pub fn notes(&self) -> Vec<String> {
        let unit = self.arms[0].own_flops();
        let mut notes = Vec::new();
        let counted = |(_, budget): &(usize, &Budget)| budget.seconds().is_none();
        for (b, budget) in self.budgets.iter().enumerate().filter(counted) {
            // Arms that cost the same, as those of one sweep do, in the order of the first of them.
            let mut alike: Vec<(Vec<&str>, String)> = Vec::new();
            for arm in &self.arms {
                let factor = arm.flops(b) / (budget.multiple * unit);
                if (1.0 / NEAR..=NEAR).contains(&factor) {
                    continue;
                }
                let particles = particles(arm.particles[b]);
                let cost = format!("{particles}, cost {factor:.2} times the budget");
                match alike.iter_mut().find(|(_, of)| *of == cost) {
                    Some((labels, _)) => labels.push(&arm.label),
                    None => alike.push((vec![&arm.label], cost)),
                }
            }
            let notes_of = |(labels, cost): (Vec<&str>, String)| {
                format!("{}, budget {budget}: {cost}", labels.join(", "))
            };
            notes.extend(alike.into_iter().map(notes_of));
        }
        notes
    }

    /// All runs; those that are compared follow one another, so that a comparison that is stopped is paired.
    pub fn runs(&self) -> Vec<RunPlan<'_>> {
        let mut runs = Vec::new();
        for &seed in &self.seeds {
            for prompt in 0..self.prompts.len() {
                for budget in 0..self.budgets.len() {
                    runs.extend(self.arms.iter().map(|arm| RunPlan { arm, budget, prompt, seed }));
                }
            }
        }
        runs
    }

    /// Tells a run from all others.
    pub fn key(&self, run: &RunPlan<'_>) -> String {
        key(&run.arm.label, self.budgets[run.budget].multiple, run.prompt, run.seed)
    }

    /// Everything that decides the results.
    pub fn record(&self) -> Map<String, Value> {
        let arms = self.arms.iter().map(|arm| {
            json!({
                "label": arm.label,
                "flags": arm.flags,
                "particles": arm.particles,
                "flops": (0..self.budgets.len()).map(|b| arm.flops(b)).collect::<Vec<_>>(),
            })
        });
        let mut record = object(json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "prompts": self.prompts.iter().map(|p| json!([p.text, p.negative])).collect::<Vec<_>>(),
            "seeds": self.seeds,
            "budgets": self.budgets.iter().map(Budget::record).collect::<Vec<_>>(),
            "flags": self.common,
            "normalise": self.normalise,
            "arms": arms.collect::<Vec<_>>(),
        }));
        if let Some(clock) = self.clock {
            record.insert("clock".into(), json!(clock));
        }
        record
    }
}

/// One run of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct RunPlan<'a> {
    pub arm: &'a Arm,
    /// Place in the list of budgets.
    pub budget: usize,
    /// Place in the list of prompts.
    pub prompt: usize,
    pub seed: u64,
}

impl RunPlan<'_> {
    /// The options of this run.
    pub fn options(&self) -> SampleOptions {
        self.arm.settled[self.budget].clone().seed(self.seed).first_index(self.prompt as u32)
    }
}

/// Tells a run from all others of its comparison.
pub fn key(arm: &str, budget: f64, index: usize, seed: u64) -> String {
    format!("{budget} {index} {seed} {arm}")
}

/// A number of particles in words.
pub fn particles(n: usize) -> String {
    match n {
        1 => "1 particle, the fewest".into(),
        n => format!("{n} particles"),
    }
}

/// Whether an arm may have so many particles as a budget gives it.
///
/// # Errors
/// That it may not, naming both.
pub fn check_particles(arm: &Arm, budget: &Budget, n: usize) -> Result<()> {
    arm.with_particles(n).check().map_err(|e| {
        let option = budget.option;
        Error::usage(format!("{option} {budget}, arm {}: {}", arm.label, e.message()))
            .advice(format!("give {option} a smaller number"))
    })
}

/// Most particles, at least one, that cost no more than a `multiple` of `unit`: of the first arm, and of arms
/// that cost the same. What a comparison is about gets no more than what it is compared to. Of a part of the
/// unit only that part of the `fixed` cost counts, so that half of it is half of the particles.
fn most_below(multiple: f64, unit: f64, (fixed, each): (f64, f64)) -> usize {
    let n = (multiple * unit - multiple.min(1.0) * fixed) / each;
    (n + 1e-9 * n.abs()).floor().max(1.0) as usize
}

/// Fewest particles, at least one, that cost no less than `budget`. A number that is whole up to rounding is
/// whole.
fn fewest_above(budget: f64, fixed: f64, each: f64) -> usize {
    let n = (budget - fixed) / each;
    (n - 1e-9 * n.abs()).ceil().max(1.0) as usize
}

/// Budgets as multiples of `unit`, the operations of the first arm; `evaluation` counts those of one
/// evaluation of the UNet. What a second is, is not known yet.
fn budgets(
    typed: &[values::Budget],
    option: &'static str,
    unit: f64,
    evaluation: impl Fn() -> Result<f64>,
) -> Result<Vec<Budget>> {
    let mut budgets: Vec<Budget> = Vec::new();
    for values::Budget { cost, name } in typed {
        let multiple = match cost {
            Cost::Multiple(multiple) => *multiple,
            Cost::Flops(flops) => flops / unit,
            Cost::Evaluations(number) => number * evaluation()? / unit,
            Cost::Seconds(seconds) => *seconds,
        };
        let budget = Budget { name: name.clone(), multiple, cost: *cost, option };
        let same = |other: &Budget| (other.multiple, other.seconds()) == (multiple, budget.seconds());
        if budgets.iter().any(same) {
            return Err(
                Error::usage(format!("{option}: {name} is there twice")).advice("give each budget once")
            );
        }
        budgets.push(budget);
    }
    Ok(budgets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_budget_are_parts_of_the_particles() {
        // Sixteen particles of cost 10, and 1 besides them.
        let at = |multiple: f64| most_below(multiple, 161.0, (1.0, 10.0));
        assert_eq!([0.0, 0.24, 0.25, 0.5, 1.0, 4.0].map(at), [1, 3, 4, 8, 16, 64]);
        let above = |budget: f64| fewest_above(budget, 1.0, 4.0);
        assert_eq!([0.0, 5.0, 9.0, 9.1, 401.0].map(above), [1, 1, 2, 3, 100]);
        assert_eq!(fewest_above(0.3, 0.0, 0.1), 3, "whole up to rounding");
    }
}
