//! What an optimisation is of: black box, strategies, rounds, prompts and seeds.

use std::ops::Range;

use serde_json::{Map, Value, json};

use crate::cli::args::Optimize;
use crate::cli::compare::arms;
use crate::cli::record::object;
use crate::cli::values::{Select, typed};
use crate::cli::{downloads, experiment, prompts};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::method::{BestOfN, Method, Plain};
use crate::noise::{Key, Purpose, fill_normals, uniforms};
use crate::reward::{self, Reward, Spec, Sum};
use crate::run::SCHEMA;
use crate::session::{Prompt, SampleOptions, Session, SessionBuilder};
use crate::surrogate::{Optimism, Settings, Shared, Spread, SurrogateReward};

/// A way of spending the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Guided by the upper confidence bound of a surrogate that is learned anew after every round.
    Ucb,
    /// The same by the largest of four heads.
    Bootstrap,
    /// The same without optimism.
    Greedy,
    /// Half of the queries are plain samples, from which a surrogate is learned once.
    OneShot,
    /// As UCB, with the best of plain samples by the surrogate in the place of guided ones, at equal cost.
    BestOfN,
    /// Plain samples.
    Random,
}

impl Strategy {
    pub const ALL: [Strategy; 6] = [
        Strategy::Ucb,
        Strategy::Bootstrap,
        Strategy::Greedy,
        Strategy::OneShot,
        Strategy::BestOfN,
        Strategy::Random,
    ];

    /// As typed.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Ucb => "ucb",
            Strategy::Bootstrap => "bootstrap",
            Strategy::Greedy => "greedy",
            Strategy::OneShot => "one-shot",
            Strategy::BestOfN => "best-of-n",
            Strategy::Random => "random",
        }
    }

    fn find(name: &str) -> Result<Strategy> {
        Strategy::ALL.into_iter().find(|strategy| strategy.name() == name).ok_or_else(|| {
            let all = Strategy::ALL.map(Strategy::name);
            Error::usage(format!("--strategies: unknown strategy \"{name}\""))
                .advice(format!("--strategies takes a list of: {}", all.join(", ")))
        })
    }

    /// Whether it learns at all.
    pub fn learns(self) -> bool {
        self != Strategy::Random
    }
}

/// All that is drawn, and how.
pub struct Design {
    /// With the surrogate as its only reward.
    pub builder: SessionBuilder,
    hub: Hub,
    /// What the surrogate's reward follows.
    pub shared: Shared,
    pub black_box: Spec,
    pub strategies: Vec<Strategy>,
    pub seeds: Vec<u64>,
    /// Of each strategy and seed.
    pub queries: usize,
    batch: usize,
    first: usize,
    /// Pictures of the evaluation.
    pub evaluate: usize,
    prompts: Vec<Prompt>,
    /// With `{prompt}` in it, and the share of the queries that it is put around.
    template: Option<(String, f64)>,
    /// Standard deviation of the noise that is added to answers before they are learned from.
    noise: f64,
    method: &'static dyn Method,
    pub select: Select,
    alpha: Option<f64>,
    settings: Settings,
    spread: Optimism,
    /// Options of guided draws, of the best of n and of plain ones, once a session has settled them.
    guided: SampleOptions,
    best: SampleOptions,
    plain: SampleOptions,
    pub tower: String,
    common: Vec<String>,
}

/// One query of a strategy and seed, or a picture of its evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    pub strategy: Strategy,
    pub seed: u64,
    /// From 0; pictures of the evaluation follow on the queries.
    pub number: usize,
    /// From 0; `None` in the evaluation.
    pub round: Option<usize>,
}

/// Most queries: with the pictures of the evaluation their numbers key the noise.
const MOST_QUERIES: usize = 1_000_000;

/// What stands for the prompt in a template.
const PLACE: &str = "{prompt}";

/// Particles of a guided draw where nothing else is said, as in the authors' online experiments.
const PARTICLES: &str = "4";

impl Design {
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming what was typed; of the model's files.
    pub fn resolve(args: &Optimize) -> Result<Design> {
        let cases = &args.cases;
        let (prompts, _) = prompts::collect(&cases.prompts, cases.prompt_file.as_deref(), None)?;
        let (queries, batch) = (counted("--queries", args.queries)?, counted("--batch", args.batch)?);
        let first = counted("--first", args.first.unwrap_or(batch))?;
        let mut strategies = Vec::new();
        for name in args.strategies.iter().map(|name| name.trim()) {
            let strategy = Strategy::find(name)?;
            if strategies.contains(&strategy) {
                return Err(Error::usage(format!("--strategies: {name} is there twice"))
                    .advice("give each strategy once"));
            }
            strategies.push(strategy);
        }
        if queries <= first && strategies.iter().any(|strategy| strategy.learns()) {
            return Err(Error::usage(format!(
                "--queries {queries}: the first round takes {first}, and none are left to guide"
            ))
            .advice("give --queries a larger number, or --batch (or --first) a smaller one"));
        }
        if queries.max(args.evaluate) > MOST_QUERIES {
            return Err(Error::usage(format!(
                "{} pictures are more than {MOST_QUERIES} queries",
                queries.max(args.evaluate)
            ))
            .advice("give --queries or --evaluate a smaller number"));
        }
        let black_box = named("--black-box", &args.black_box)?;
        let tower = named("--tower", &args.tower)?;
        let spread = Optimism::Ucb(args.spread.into());
        let own = Settings::new(spread);
        let settings = Settings {
            bonus: args.bonus.unwrap_or(own.bonus),
            rate: args.learning_rate.unwrap_or(own.rate),
            batch: args.surrogate_batch.unwrap_or(own.batch),
            epochs: args.epochs.unwrap_or(own.epochs),
            langevin: args.langevin,
            optimism: spread,
        };
        settings.check()?;
        let hopes = strategies.iter().any(|s| matches!(s, Strategy::Ucb | Strategy::BestOfN));
        let learns = strategies.iter().any(|strategy| strategy.learns());
        for (flag, given, acts, whose) in [
            ("--bonus", args.bonus.is_some(), hopes, "ucb and best-of-n"),
            ("--spread", spread != Optimism::Ucb(Spread::Sum), hopes, "ucb and best-of-n"),
            ("--epochs", args.epochs.is_some(), learns, "strategies that learn"),
            ("--learning-rate", args.learning_rate.is_some(), learns, "strategies that learn"),
            ("--surrogate-batch", args.surrogate_batch.is_some(), learns, "strategies that learn"),
            ("--langevin", args.langevin != 0.0, learns, "strategies that learn"),
        ] {
            if given && !acts {
                return Err(Error::usage(format!("{flag} is of {whose}, and --strategies has none"))
                    .advice(format!("leave out {flag}, or add ucb to --strategies")));
            }
        }
        if !(args.noise.is_finite() && args.noise >= 0.0) {
            return Err(Error::usage(format!("--noise {} is no finite number of at least 0", args.noise))
                .advice("give --noise a standard deviation in the units of the answers, or leave it out"));
        }
        let template = template(args)?;
        let method = experiment::method(&args.method)?;
        if method.has_plain_chains() {
            return Err(Error::usage(format!("--method {method} is not guided by a surrogate"))
                .advice("give --method das or another that is; random and best-of-n are --strategies"));
        }
        if arms::given("flags after --", &cases.common, "proposal")? {
            return Err(Error::usage("flags after --: --proposal is that of --method")
                .advice("give --method das, or another method"));
        }
        let mut common = vec!["--particles".to_string(), PARTICLES.to_string()];
        common.extend(cases.eval_rewards.iter().flat_map(|r| ["--eval-reward".to_string(), r.clone()]));
        common.extend(cases.common.iter().cloned());
        let own = ["--proposal".to_string(), args.method.clone()];
        let (sample, options) = arms::parse("flags after --", &own, &common)?;
        for (flag, given, instead) in [
            ("--reward", !sample.rewards.is_empty(), "what is aligned to is the surrogate of --black-box"),
            (
                "--normalise",
                sample.normalise.is_some(),
                "there is one reward, and it learns the answers' scale",
            ),
            (
                "--populations",
                sample.populations > 1,
                "a query has one picture; --particles makes more of it",
            ),
        ] {
            if given {
                return Err(Error::usage(format!("flags after --: {flag} has no meaning here: {instead}"))
                    .advice(format!("leave out {flag}")));
            }
        }
        if options.select == Select::All {
            return Err(Error::usage(
                "flags after --: --select all has no meaning here: a query has one picture",
            )
            .advice("leave out --select, or give argmax, reward or draw"));
        }
        let hub = downloads::hub(sample.offline, cases.quiet);
        let shared = Shared::default();
        let builder = with_surrogate(options.builder, &tower, &hub, &shared, black_box.kind.default_alpha)?;
        let guided = options.sample;
        Ok(Design {
            builder,
            hub,
            shared,
            black_box,
            strategies,
            seeds: cases.seeds.0.clone(),
            queries,
            batch,
            first,
            evaluate: args.evaluate,
            prompts,
            template,
            noise: args.noise,
            method,
            select: options.select,
            alpha: sample.kl,
            settings,
            spread,
            best: guided.clone().without_candidates().method(&BestOfN),
            plain: guided.clone().without_candidates().method(&Plain).particles(1),
            guided,
            tower: args.tower.clone(),
            common,
        })
    }

    /// Opens the black box on the session's device, refuses what the model cannot serve, and decides what the
    /// options leave to the cost.
    ///
    /// # Errors
    /// Of the black box; as [`Session::settle`]; [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a tower
    /// that is none.
    pub fn settle(&mut self, session: &Session) -> Result<Sum> {
        session.check(&self.prompts, &self.guided)?;
        let specs = [self.black_box.clone()];
        let black_box = reward::open_named(&specs, session.folder().source(), session.backend(), &self.hub)
            .map_err(|e| e.context("--black-box"))?;
        let alpha = self.alpha.unwrap_or_else(|| black_box.default_alpha());
        for options in [&mut self.guided, &mut self.best, &mut self.plain] {
            let own = options.clone();
            // The best of n costs what a guided draw does.
            *options = session.settle(&self.prompts[0], &own.alpha(alpha))?.0;
        }
        Ok(black_box)
    }

    /// Alpha of guided draws, once it is settled.
    pub fn alpha(&self) -> f64 {
        self.alpha.or(self.guided.alpha_choice()).unwrap_or_default()
    }

    /// How the surrogates of a strategy learn.
    pub fn settings(&self, strategy: Strategy) -> Settings {
        let optimism = match strategy {
            Strategy::Ucb | Strategy::BestOfN => self.spread,
            Strategy::Bootstrap => Optimism::Bootstrap,
            Strategy::Greedy | Strategy::OneShot | Strategy::Random => Optimism::Greedy,
        };
        let bonus = if matches!(optimism, Optimism::Ucb(_)) { self.settings.bonus } else { 0.0 };
        Settings { optimism, bonus, ..self.settings.clone() }
    }

    /// The numbers of the queries of each round.
    pub fn rounds(&self, strategy: Strategy) -> Vec<Range<usize>> {
        let first = match strategy {
            // Half of the queries, in whole batches behind the first round.
            Strategy::OneShot => {
                let more = (self.queries / 2).saturating_sub(self.first) / self.batch;
                self.first + more * self.batch
            }
            _ => self.first,
        };
        let (mut rounds, mut at) = (Vec::new(), 0);
        while at < self.queries {
            let size = if at == 0 { first } else { self.batch };
            let end = (at + size).min(self.queries);
            rounds.push(at..end);
            at = end;
        }
        rounds
    }

    /// How many queries a round's surrogate has learned from: of a strategy that learns once those of its
    /// first round. `rounds` counts those that have been drawn.
    pub fn pairs(&self, strategy: Strategy, rounds: usize) -> usize {
        let all = self.rounds(strategy);
        let last = if strategy == Strategy::OneShot { 1 } else { rounds };
        all.get(last.wrapping_sub(1)).map_or(0, |round| round.end)
    }

    /// All queries of a strategy and seed, in order, round after round, and the pictures of the evaluation.
    pub fn queries_of(&self, strategy: Strategy, seed: u64) -> Vec<Query> {
        let rounds = self.rounds(strategy);
        (0..self.queries + self.evaluate)
            .map(|number| Query { strategy, seed, number, round: round_of(&rounds, number) })
            .collect()
    }

    /// The query of this number, if there is one.
    pub fn query(&self, strategy: Strategy, seed: u64, number: usize) -> Option<Query> {
        let round = round_of(&self.rounds(strategy), number);
        (number < self.queries + self.evaluate).then_some(Query { strategy, seed, number, round })
    }

    /// Whether a query is a plain sample of the model: in the first round, and all of `random`.
    pub fn is_plain(&self, query: &Query) -> bool {
        !query.strategy.learns() || query.round == Some(0)
    }

    /// The options that a query is drawn with.
    pub fn options(&self, query: &Query) -> SampleOptions {
        let options = match query.strategy {
            _ if self.is_plain(query) => &self.plain,
            Strategy::BestOfN => &self.best,
            _ => &self.guided,
        };
        options.clone().seed(query.seed).first_index(query.number as u32)
    }

    /// The prompt of a query and its place in the list: by chance, every one as likely, the same for all
    /// strategies; in the evaluation without a template.
    pub fn prompt(&self, query: &Query) -> (usize, Prompt) {
        let mut uniform = uniforms(self.key(query, 0));
        let index = ((uniform.draw() * self.prompts.len() as f64) as usize).min(self.prompts.len() - 1);
        let mut prompt = self.prompts[index].clone();
        let share = uniform.draw();
        if let Some((template, of)) = self.template.as_ref().filter(|_| query.round.is_some())
            && share < *of
        {
            prompt.text = template.replace(PLACE, &prompt.text);
        }
        (index, prompt)
    }

    /// What is learned from an answer: the answer with its noise.
    pub fn label(&self, query: &Query, answer: f64) -> f64 {
        let mut noise = [0.0];
        fill_normals(&self.key(query, 1), &mut noise);
        if self.noise > 0.0 { answer + self.noise * f64::from(noise[0]) } else { answer }
    }

    fn key(&self, query: &Query, stream: u32) -> Key {
        let prompt = query.number as u32;
        Key { seed: query.seed, prompt, particle: stream, step: 0, purpose: Purpose::Data }
    }

    /// Prompts of the list.
    pub fn prompt_count(&self) -> usize {
        self.prompts.len()
    }

    /// A prompt of the list as it was given.
    pub fn given(&self, index: usize) -> Option<&Prompt> {
        self.prompts.get(index)
    }

    /// Everything that decides the results.
    pub fn record(&self) -> Map<String, Value> {
        let settings = &self.settings;
        object(json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "black_box": spec(&self.black_box),
            "tower": self.tower,
            "prompts": self.prompts.iter().map(|p| json!([p.text, p.negative])).collect::<Vec<_>>(),
            "template": self.template.as_ref().map(|(text, _)| text),
            "template_share": self.template.as_ref().map(|(_, share)| share),
            "seeds": self.seeds,
            "strategies": self.strategies.iter().map(|strategy| strategy.name()).collect::<Vec<_>>(),
            "queries": self.queries,
            "batch": self.batch,
            "first": self.first,
            "evaluate": self.evaluate,
            "noise": self.noise,
            "method": self.method.name(),
            "select": typed(self.select),
            "alpha": self.alpha(),
            "optimism": settings.optimism.name(),
            "bonus": settings.bonus,
            "learning_rate": settings.rate,
            "surrogate_batch": settings.batch,
            "epochs": settings.epochs,
            "langevin": settings.langevin,
            "flags": self.common,
        }))
    }
}

/// The round that a query is in; `None` behind the last.
fn round_of(rounds: &[Range<usize>], number: usize) -> Option<usize> {
    let round = rounds.partition_point(|round| round.end <= number);
    (round < rounds.len()).then_some(round)
}

fn spec(spec: &Spec) -> Value {
    json!({"name": spec.kind.name, "path": spec.path.as_ref().map(|path| path.to_string_lossy())})
}

fn counted(flag: &str, value: usize) -> Result<usize> {
    match value {
        0 => Err(Error::usage(format!("{flag} 0: nothing could be asked"))
            .advice(format!("give {flag} at least 1"))),
        value => Ok(value),
    }
}

/// A reward without a weight.
fn named(flag: &str, text: &str) -> Result<Spec> {
    let spec: Spec = text.parse().map_err(|e: Error| e.context(flag))?;
    match spec.weight {
        1.0 => Ok(spec),
        _ => Err(Error::usage(format!("{flag} {text}: a weight has no meaning here"))
            .advice(format!("give {flag} {} without one", spec.kind.name))),
    }
}

fn template(args: &Optimize) -> Result<Option<(String, f64)>> {
    match (&args.template, args.template_share) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Error::usage("--template-share: there is no template")
            .advice("give --template \"A painting of {prompt}\", or leave out --template-share")),
        (Some(text), _) if !text.contains(PLACE) => {
            Err(Error::usage(format!("--template {text:?} has no {PLACE} in it"))
                .advice("write for example --template \"A painting of {prompt}, golden hour light.\""))
        }
        (Some(_), Some(share)) if !(0.0..=1.0).contains(&share) => {
            Err(Error::usage(format!("--template-share {share} is not from 0 to 1"))
                .advice("give the share of the queries that the template is put around, such as 0.25"))
        }
        (Some(text), share) => Ok(Some((text.clone(), share.unwrap_or(SHARE)))),
    }
}

/// Share of the queries that a template is put around, as in the authors' experiments.
const SHARE: f64 = 0.25;

/// The surrogate's reward, seen through the tower, in the place of others.
fn with_surrogate(
    builder: SessionBuilder,
    tower: &Spec,
    hub: &Hub,
    shared: &Shared,
    alpha: f64,
) -> Result<SessionBuilder> {
    let model = builder.folder()?.source().clone();
    let (tower, hub, shared) = (tower.clone(), hub.clone(), shared.clone());
    Ok(builder.custom_reward(1.0, move |backend| {
        let tower = reward::open_named(std::slice::from_ref(&tower), &model, backend, &hub)
            .map_err(|e| e.context("--tower"))?;
        Ok(SurrogateReward::new(Box::new(tower), shared.clone(), alpha))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn design(more: &[&str]) -> Result<Design> {
        let words = ["das-cuda", "optimize", "--black-box", "gold", "-p", "a star", "-p", "a ring"];
        match Cli::try_parse_from(words.iter().chain(more)).expect("options").command {
            Command::Optimize(args) => Design::resolve(&args),
            _ => unreachable!("as typed"),
        }
    }

    #[test]
    fn rounds_use_up_the_queries_and_no_more() {
        let design = design(&["--queries", "70", "--batch", "16", "--evaluate", "3"]).expect("a design");
        assert_eq!(design.rounds(Strategy::Ucb), [0..16, 16..32, 32..48, 48..64, 64..70]);
        assert_eq!(design.rounds(Strategy::OneShot), [0..32, 32..48, 48..64, 64..70]);
        assert_eq!([0, 1, 2, 5].map(|n| design.pairs(Strategy::Ucb, n)), [0, 16, 32, 70]);
        assert_eq!([1, 2, 4].map(|n| design.pairs(Strategy::OneShot, n)), [32; 3]);
        let all = design.queries_of(Strategy::Greedy, 3);
        assert_eq!(all.len(), 73);
        assert!(design.is_plain(&all[15]) && !design.is_plain(&all[16]));
        assert_eq!((all[72].number, all[72].round), (72, None));
        // Both prompts are drawn, the same for every strategy.
        let of = |strategy| -> Vec<usize> {
            design.queries_of(strategy, 3).iter().map(|query| design.prompt(query).0).collect()
        };
        assert_eq!(of(Strategy::Ucb), of(Strategy::Random));
        let second: usize = of(Strategy::Ucb).iter().sum();
        assert!((20..53).contains(&second), "{second} of 73");
    }

    #[test]
    fn a_template_is_put_around_its_share_and_noise_is_added_to_labels_alone() {
        let more = ["--queries", "400", "--template", "<{prompt}>", "--noise", "0.5"];
        let design = design(&more).expect("a design");
        let all = design.queries_of(Strategy::Random, 1);
        let around = all.iter().filter(|query| design.prompt(query).1.text.starts_with('<')).count();
        assert!((70..130).contains(&around), "{around} of 400");
        let off: Vec<f64> = all.iter().map(|query| design.label(query, 5.0) - 5.0).collect();
        let deviation = (off.iter().map(|x| x * x).sum::<f64>() / 400.0).sqrt();
        assert!((deviation - 0.5).abs() < 0.06, "{deviation}");
        let evaluation = Query { round: None, ..all[0] };
        assert!(!design.prompt(&evaluation).1.text.starts_with('<'));
    }
}
