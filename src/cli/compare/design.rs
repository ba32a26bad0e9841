//! What is compared: arms, budgets, prompts and seeds.

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use serde_json::{Map, Value, json};

use crate::cli::args::{Cli, Command, Compare, Sample};
use crate::cli::options::Options;
use crate::cli::prompts;
use crate::cli::record::object;
use crate::cli::values::Select;
use crate::error::{Error, Result};
use crate::method::Conclusion;
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
    /// What it makes of the final rewards.
    pub conclusion: Conclusion,
}

impl Arm {
    /// The options with this many particles.
    pub fn with_particles(&self, n: usize) -> SampleOptions {
        match self.conclusion {
            Conclusion::Best => self.options.clone().chain_count(n),
            _ => self.options.clone().particles(n),
        }
    }

    /// Floating point operations with its own particles.
    pub fn own_flops(&self) -> f64 {
        self.fixed + self.own_particles as f64 * self.each
    }

    /// Floating point operations at budget `b`.
    pub fn flops(&self, b: usize) -> f64 {
        self.fixed + self.particles[b] as f64 * self.each
    }
}

/// The whole comparison.
pub struct Design {
    pub builder: SessionBuilder,
    pub prompts: Vec<Prompt>,
    pub seeds: Vec<u64>,
    /// Multiples of what the first arm costs with its own particles.
    pub budgets: Vec<f64>,
    pub arms: Vec<Arm>,
    /// Place of the arm to which the others are compared.
    pub against: usize,
    /// Flags that all arms share.
    common: Vec<String>,
}

impl Design {
    pub fn resolve(args: &Compare) -> Result<Design> {
        let (prompts, _) = prompts::collect(&args.prompts, args.prompt_file.as_deref(), None)?;
        let seeds = args.seeds.0.clone();
        if let Some(budget) = args.budgets.iter().find(|b| !(b.is_finite() && **b > 0.0)) {
            return Err(Error::usage(format!("--budgets {budget}: no positive number"))
                .advice("give multiples of the first arm's cost, such as 0.25,1,4"));
        }
        let mut different = args.budgets.clone();
        different.sort_by(f64::total_cmp);
        different.dedup();
        if different.len() < args.budgets.len() {
            return Err(Error::usage("--budgets: a budget is there twice").advice("give each budget once"));
        }
        let mut common = Vec::new();
        for (flag, values) in [("--reward", &args.rewards), ("--eval-reward", &args.eval_rewards)] {
            values.iter().for_each(|value| common.extend([flag.to_string(), value.clone()]));
        }
        common.extend(args.common.iter().cloned());
        let mut arms = Vec::new();
        let mut arms_particles = None;
        let mut shared: Option<(Box<Sample>, SessionBuilder)> = None;
        for (label, flags) in listed(args)? {
            let (sample, options) = parse(&label, &flags, &common)?;
            let (first, _) = shared.get_or_insert_with(|| (sample.clone(), options.builder.clone()));
            if of_the_session(first) != of_the_session(&sample) {
                return Err(Error::usage(format!(
                    "arm {label}: another model, reward, device or type than the first arm's"
                ))
                .advice("give those flags once for all arms, after --"));
            }
            if !arms.is_empty() && sample.particles != arms_particles {
                return Err(Error::usage(format!("arm {label}: --particles is decided by the budget"))
                    .advice("give --particles once for all arms, after --: it is the first arm's, which sets the budget"));
            }
            arms_particles = sample.particles;
            if arms.iter().any(|arm: &Arm| arm.label == label) {
                return Err(Error::usage(format!("two arms are called {label}"))
                    .advice("name them: --arm \"LABEL=FLAGS\""));
            }
            let (settled, _) = options.builder.settle(&prompts[0], &options.sample, None)?;
            let mut arm = Arm {
                label,
                flags,
                conclusion: options.proposal.conclusion(),
                options: options.sample,
                select: options.select,
                own_particles: settled.chains(),
                particles: Vec::new(),
                settled: Vec::new(),
                fixed: 0.0,
                each: 0.0,
            };
            let cost = |n: usize| -> Result<f64> {
                Ok(options.builder.plan(&prompts[0], &arm.with_particles(n))?.sampling.flops as f64)
            };
            let (one, two) = (cost(1)?, cost(2)?);
            (arm.fixed, arm.each) = (2.0 * one - two, two - one);
            arms.push(arm);
        }
        let Some((_, builder)) = shared else {
            return Err(Error::usage("no arm to compare").advice("give --methods das,best-of-n"));
        };
        let unit = arms[0].own_flops();
        for (i, arm) in arms.iter_mut().enumerate() {
            let round = if i == 0 { f64::floor } else { f64::ceil };
            let fit = |budget: &f64| at_cost(budget * unit, arm.fixed, arm.each, round);
            arm.particles = args.budgets.iter().map(fit).collect();
        }
        let against = match &args.against {
            None => arms.iter().position(|arm| arm.conclusion == Conclusion::Best).unwrap_or(0),
            Some(label) => arms.iter().position(|arm| arm.label == *label).ok_or_else(|| {
                let labels: Vec<&str> = arms.iter().map(|arm| arm.label.as_str()).collect();
                Error::usage(format!("--against {label}: no such arm"))
                    .advice(format!("give one of: {}", labels.join(", ")))
            })?,
        };
        Ok(Design { builder, prompts, seeds, budgets: args.budgets.clone(), arms, against, common })
    }

    /// Decides once what the options leave to the cost and the memory; every run would do it again.
    ///
    /// # Errors
    /// As [`Session::settle`].
    pub fn settle(&mut self, session: &Session) -> Result<()> {
        for arm in &mut self.arms {
            let settle = |&n: &usize| Ok(session.settle(&self.prompts[0], &arm.with_particles(n))?.0);
            arm.settled = arm.particles.iter().map(settle).collect::<Result<_>>()?;
        }
        Ok(())
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
        key(&run.arm.label, self.budgets[run.budget], run.prompt, run.seed)
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
        object(json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "prompts": self.prompts.iter().map(|p| json!([p.text, p.negative])).collect::<Vec<_>>(),
            "seeds": self.seeds,
            "budgets": self.budgets,
            "flags": self.common,
            "arms": arms.collect::<Vec<_>>(),
        }))
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

/// Particles that cost `budget`. The first arm's are rounded down and all others' up: what a comparison is
/// about gets no more than what it is compared to. A number that is whole up to rounding is whole.
fn at_cost(budget: f64, fixed: f64, each: f64, round: fn(f64) -> f64) -> usize {
    let n = (budget - fixed) / each;
    let whole = n.round();
    let n = if (n - whole).abs() < 1e-9 * whole.abs() { whole } else { round(n) };
    n.max(1.0) as usize
}

/// The flags that decide the session, which all arms share.
fn of_the_session(sample: &Sample) -> impl PartialEq + '_ {
    (&sample.model, &sample.rewards, &sample.eval_rewards, sample.device, sample.dtype, &sample.machine)
}

/// Labels and flags of the arms, in order: the methods, the arms given by their flags, and the first of all
/// once more for every combination of the sweeps' values.
fn listed(args: &Compare) -> Result<Vec<(String, Vec<String>)>> {
    let method = |name: &String| (name.clone(), vec!["--proposal".to_string(), name.clone()]);
    let methods = args.methods.iter().filter(|name| !name.is_empty());
    let mut arms: Vec<(String, Vec<String>)> = methods.map(method).collect();
    for text in &args.arms {
        let Some((label, flags)) = text.split_once('=') else {
            return Err(Error::usage(format!("--arm \"{text}\": no LABEL=FLAGS"))
                .advice("write for example --arm \"gentle=--proposal das --kl 0.5\""));
        };
        // A label is a cell of a table and the name of a folder.
        let odd = |c: char| c.is_control() || matches!(c, '/' | '|');
        if label.trim().is_empty() || label.starts_with(['-', '.']) || label.contains(odd) {
            return Err(Error::usage(format!("--arm {text:?}: no label before the equals sign")).advice(
                "begin it with a letter or a digit, and leave out slashes, bars and control characters",
            ));
        }
        arms.push((label.to_string(), flags.split_whitespace().map(String::from).collect()));
    }
    let Some(first) = arms.first().cloned() else { return Ok(arms) };
    let mut swept = vec![first.clone()];
    for text in &args.sweeps {
        let wrong = || {
            Error::usage(format!("--sweep \"{text}\": no FLAG=VALUE,VALUE"))
                .advice("write for example --sweep kl=0.1,0.2,0.5")
        };
        let (flag, values) = text.split_once('=').ok_or_else(wrong)?;
        let flag = flag.trim_start_matches('-');
        if flag.is_empty() || values.is_empty() {
            return Err(wrong());
        }
        let with = |(label, flags): &(String, Vec<String>), value: &str| {
            let more = [format!("--{flag}"), value.to_string()];
            (format!("{label} {flag}={value}"), flags.iter().cloned().chain(more).collect::<Vec<_>>())
        };
        swept = swept
            .iter()
            .flat_map(|arm| values.split(',').map(|value| with(arm, value)).collect::<Vec<_>>())
            .collect();
    }
    if !args.sweeps.is_empty() {
        arms.splice(0..1, swept);
    }
    Ok(arms)
}

/// The flags of an arm as `sample` understands them.
fn parse(label: &str, flags: &[String], common: &[String]) -> Result<(Box<Sample>, Options)> {
    let typed = ["das-cuda", "sample", "--prompt", "-"].map(String::from);
    let all = typed.iter().chain(common).chain(flags);
    let refused = |e: clap::Error| {
        let text = e.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Error::usage(format!("arm {label}: {line}")).advice("give flags of `das-cuda sample`; see its --help")
    };
    let matches = Cli::command().try_get_matches_from(all).map_err(refused)?;
    let given = matches.subcommand_matches("sample");
    if let Some(flag) = given.and_then(of_the_whole) {
        return Err(Error::usage(format!("arm {label}: {flag} is decided for all runs together"))
            .advice(format!("leave out {flag}; `das-cuda compare --help` lists what compare has instead")));
    }
    let Command::Sample(sample) = Cli::from_arg_matches(&matches).map_err(refused)?.command else {
        return Err(Error::usage(format!("arm {label}: no flags of sample")));
    };
    let options = Options::resolve(&sample).map_err(|e| e.context(format!("arm {label}")))?;
    Ok((sample, options))
}

/// Options of `sample` that a comparison decides by itself, by clap's names; the prompt is its own.
const OF_THE_WHOLE: [&str; 18] = [
    "prompt_file",
    "negative_prompt",
    "seed",
    "count",
    "first_index",
    "latents",
    "output",
    "save",
    "save_latents",
    "no_grid",
    "no_metadata",
    "overwrite",
    "skip_finished",
    "json",
    "quiet",
    "threads",
    "help",
    "version",
];

/// The flag of an option that is decided for all runs together, if one was given.
fn of_the_whole(given: &ArgMatches) -> Option<String> {
    let typed = |name: &&&str| {
        given.try_contains_id(name).is_ok_and(|there| there)
            && given.value_source(name) == Some(ValueSource::CommandLine)
    };
    if given.get_many::<String>("prompts").is_some_and(|prompts| prompts.len() > 1) {
        return Some("--prompt".into());
    }
    OF_THE_WHOLE.iter().find(typed).map(|name| match *name {
        "prompt_file" => "--prompts".into(),
        name => format!("--{}", name.replace('_', "-")),
    })
}
