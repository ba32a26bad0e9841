//! What an experiment is of, from what was typed.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cli::{args, output};
use crate::ddim::Schedule;
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::method::{self, Conclusion, METHODS, Method, Plain};
use crate::regular;
use crate::run::{SCHEMA, slug};
use crate::session::Device;
use crate::toy::{Bandwidth, Baseline, PointSet, Tilted, Toy, chain};

/// One way of sampling.
#[derive(Clone, Debug)]
pub struct Arm {
    /// As typed.
    pub label: String,
    pub sampling: Sampling,
}

#[derive(Clone, Copy, Debug)]
pub enum Sampling {
    /// Exact draws from the target, as the others should be.
    Target,
    /// A method of the registry.
    Method(&'static dyn Method),
    /// The chain that the reward's gradient guides (docs/spec.md 9), with rho = 1.
    Guidance,
    /// Plain samples of a network that was trained on the reward.
    Baseline(Baseline),
}

/// The label of [`Sampling::Target`], which every experiment has.
pub const TARGET: &str = "target";
/// The label of [`Sampling::Guidance`].
const GUIDANCE: &str = "guidance";

impl Arm {
    fn find(name: &str) -> Result<Arm> {
        let baseline = Baseline::ALL.into_iter().find(|baseline| baseline.name() == name);
        let sampling = match (name, baseline) {
            (GUIDANCE, _) => Sampling::Guidance,
            (_, Some(baseline)) => Sampling::Baseline(baseline),
            _ => Sampling::Method(method::find(name).map_err(|_| {
                let own = [GUIDANCE].into_iter().chain(Baseline::ALL.map(Baseline::name));
                let names: Vec<&str> = METHODS.iter().map(|m| m.name()).chain(own).collect();
                Error::usage(format!("--methods: unknown method \"{name}\""))
                    .advice(format!("--methods takes a list of: {}", names.join(", ")))
            })?),
        };
        if let Sampling::Method(method) = sampling
            && method.corrects()
        {
            return Err(Error::usage(format!(
                "--methods: {method} measures its shift by classifier-free guidance, which no toy has"
            ))
            .advice("leave it out; dps and guidance are shifted by the gradient alone"));
        }
        let label = match sampling {
            Sampling::Method(method) => method.name().into(),
            _ => name.into(),
        };
        Ok(Arm { label, sampling })
    }

    /// The method of the sampler, if it is one that samples.
    pub fn method(&self) -> Option<&'static dyn Method> {
        match self.sampling {
            Sampling::Target => None,
            Sampling::Method(method) => Some(method),
            Sampling::Guidance | Sampling::Baseline(_) => Some(&Plain),
        }
    }

    /// Passes through the network along a chain of so many steps, for a particle: a backward pass counts as a
    /// forward one. A method that chooses evaluates its next states at every step but the last.
    pub fn passes(&self, steps: usize) -> usize {
        match self.sampling {
            Sampling::Target => 0,
            Sampling::Baseline(_) => steps,
            Sampling::Guidance => 2 * steps,
            Sampling::Method(method) => match method.duplicates() {
                Some(duplicates) => 1 + duplicates * (steps - 1),
                None => steps * (1 + usize::from(method.differentiates())),
            },
        }
    }

    /// Whether it trains a network on the reward.
    pub fn tunes(&self) -> bool {
        matches!(self.sampling, Sampling::Baseline(_))
    }

    /// Whether all weight goes to the best of its particles.
    pub fn takes_the_best(&self) -> bool {
        matches!(self.sampling, Sampling::Method(method) if method.conclusion() == Conclusion::Best)
    }
}

/// Where the score comes from.
#[derive(Clone, Copy, Debug)]
pub enum Score {
    /// The law's own.
    Analytic,
    /// That of a network for each seed.
    Trained {
        /// Of the data, of a toy with a name.
        points: usize,
        epochs: usize,
    },
}

impl Score {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Score::Analytic => "analytic",
            Score::Trained { .. } => "trained",
        }
    }
}

/// An experiment.
pub struct Design {
    pub toy: Toy,
    /// Bandwidth of the points, and the hash of their file.
    points: Option<(f64, String)>,
    /// The first is the target.
    pub arms: Vec<Arm>,
    pub seeds: Vec<u64>,
    pub score: Score,
    /// Of each baseline, in place of the reference's own numbers.
    pub tuning_epochs: Option<usize>,
    pub populations: usize,
    pub particles: usize,
    pub draws: usize,
    pub alpha: f64,
    pub device: Device,
    pub schedule: Schedule,
    pub target: Tilted,
    pub folder: PathBuf,
}

/// Points of a law that a network learns from, unless told otherwise.
const LEARNED: usize = 10_000;
/// Most bytes of a file of points.
const MOST_BYTES: u64 = 16 << 20;
/// Most particles of all populations: their numbers key the noise, and all are in memory.
const MOST_PARTICLES: usize = 10_000_000;
/// Most epochs of any training: each keys its own noise, and the losses of all are in memory.
const MOST_EPOCHS: usize = 10_000_000;

impl Design {
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming what was typed; where the file of points cannot
    /// be read.
    pub fn resolve(args: &args::Toy) -> Result<Design> {
        let (toy, points) = find(&args.toy, args.bandwidth)?;
        if let (Some(learn), true) = (args.learn, points.is_some()) {
            return Err(Error::usage(format!("--learn {learn}: of a file all points are learned from"))
                .advice("leave out --learn"));
        }
        let count = |name: &str, value: usize| match value {
            0 => Err(Error::usage(format!("{name} 0 leaves nothing to measure"))
                .advice(format!("give {name} at least 1"))),
            value => Ok(value),
        };
        let at_most = |most: usize, name: &str, value: usize| match count(name, value)? {
            value if value <= most => Ok(value),
            value => Err(Error::usage(format!("{name} {value} is more than {most}"))
                .advice(format!("give {name} a smaller number"))),
        };
        let (populations, particles) =
            (count("--populations", args.populations)?, count("--particles", args.particles)?);
        let draws = count("--draws", args.draws)?;
        let score = match args.analytic {
            true => Score::Analytic,
            false => Score::Trained {
                points: at_most(MOST_PARTICLES, "--learn", args.learn.unwrap_or(LEARNED))?,
                epochs: at_most(MOST_EPOCHS, "--epochs", args.epochs)?,
            },
        };
        for (name, noun, each) in [("--particles", "particles", particles), ("--draws", "draws", draws)] {
            if populations.saturating_mul(each) > MOST_PARTICLES {
                return Err(Error::usage(format!(
                    "{populations} populations of {each} {noun} are more than {MOST_PARTICLES} together"
                ))
                .advice(format!("give --populations or {name} a smaller number")));
            }
        }
        if !(args.alpha.is_finite() && args.alpha > 0.0) {
            return Err(Error::usage(format!("--kl {} is not a positive number", args.alpha))
                .advice("give --kl a positive number; smaller follows the reward more"));
        }
        let mut arms = vec![Arm { label: TARGET.into(), sampling: Sampling::Target }];
        for name in args.methods.iter().map(|name| name.trim()) {
            let arm = Arm::find(name)?;
            if arms.iter().any(|other| other.label == arm.label) {
                return Err(
                    Error::usage(format!("--methods: {name} is there twice")).advice("give each method once")
                );
            }
            if arm.tunes() && matches!(score, Score::Analytic) {
                return Err(Error::usage(format!(
                    "--methods: {name} trains a network, and --analytic has none"
                ))
                .advice("leave out --analytic, or that method"));
            }
            arms.push(arm);
        }
        if let (Some(epochs), false) = (args.tuning_epochs, arms.iter().any(Arm::tunes)) {
            let names = Baseline::ALL.map(Baseline::name).join(", ");
            return Err(Error::usage(format!("--tuning-epochs {epochs}: no method trains on the reward"))
                .advice(format!("leave it out, or add one of these to --methods: {names}")));
        }
        let (device, note) = args.device.resolve();
        note.iter().for_each(|note| output::note(format_args!("note: {note}")));
        let folder = args.output.clone().unwrap_or_else(|| format!("toy-{}", slug(&toy.name)).into());
        Ok(Design {
            target: toy.target(args.alpha),
            toy,
            points,
            arms,
            seeds: args.seeds.0.clone(),
            score,
            tuning_epochs: args
                .tuning_epochs
                .map(|n| at_most(MOST_EPOCHS, "--tuning-epochs", n))
                .transpose()?,
            populations,
            particles,
            draws,
            alpha: args.alpha,
            device,
            schedule: chain()?,
            folder,
        })
    }

    /// All runs: seed after seed, so that an experiment that is stopped is paired.
    pub fn runs(&self) -> Vec<(u64, &Arm)> {
        self.seeds.iter().flat_map(|&seed| self.arms.iter().map(move |arm| (seed, arm))).collect()
    }

    /// Populations, their particles, and draws from each for an arm. Best-of-n has a population for every
    /// draw, of as many chains as cost what the particles of a method with gradients do: rounded up.
    pub fn sizes(&self, arm: &Arm) -> (usize, usize, usize) {
        if arm.takes_the_best() {
            let steps = self.schedule.len();
            let chains = (2 * steps * self.particles).div_ceil(self.draws * arm.passes(steps));
            return (self.populations * self.draws, chains, 1);
        }
        (self.populations, self.particles, self.draws)
    }

    /// Passes through the network that a draw takes.
    pub fn cost(&self, arm: &Arm) -> f64 {
        let (_, particles, draws) = self.sizes(arm);
        (arm.passes(self.schedule.len()) * particles) as f64 / draws as f64
    }

    /// Everything that decides the results.
    pub fn record(&self) -> Map<String, Value> {
        let learned = match self.score {
            Score::Analytic => None,
            // Of a file all points are learned from, whatever was asked for.
            Score::Trained { points, epochs } => Some((self.points.is_none().then_some(points), epochs)),
        };
        let record = json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "toy": self.toy.name,
            "points_sha256": self.points.as_ref().map(|points| &points.1),
            "bandwidth": self.points.as_ref().map(|points| points.0),
            "score": self.score.name(),
            "learn": learned.map(|(points, _)| points),
            "epochs": learned.map(|(_, epochs)| epochs),
            "methods": self.arms.iter().map(|arm| &arm.label).collect::<Vec<_>>(),
            "seeds": self.seeds,
            "tuning_epochs": self.tuning_epochs,
            "populations": self.populations,
            "particles": self.particles,
            "draws": self.draws,
            "alpha": self.alpha,
            "device": if self.device == Device::Cpu { "cpu" } else { "cuda" },
        });
        match record {
            Value::Object(record) => record,
            _ => Map::new(),
        }
    }
}

/// The toy of this name, or of the points of a file, with their bandwidth and hash.
fn find(name: &Path, bandwidth: Option<f64>) -> Result<(Toy, Option<(f64, String)>)> {
    if let Some(toy) = Toy::named().into_iter().find(|toy| Path::new(&toy.name) == name) {
        return match bandwidth {
            Some(_) => {
                Err(Error::usage(format!("--bandwidth is of points in a file, and {} has a law", toy.name))
                    .advice("leave out --bandwidth"))
            }
            None => Ok((toy, None)),
        };
    }
    let shown = name.display().to_string();
    if !name.exists() {
        return Err(Error::usage(format!("{shown}: neither a toy nor a file")).advice(
            "give gmm1, gmm2, swiss-roll or a file of points: comma-separated, two or three numbers a line",
        ));
    }
    let bytes = regular::read(name, MOST_BYTES).map_err(|e| {
        let fix = regular::fix(&e, "give a file of comma-separated numbers that can be read");
        Error::io(format!("{shown}: cannot be read")).because(e).advice(fix)
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        Error::usage(format!("{shown}: is no text"))
            .because(e)
            .advice("give a file of comma-separated numbers, two or three in every line")
    })?;
    let bandwidth = bandwidth.map_or(Bandwidth::Chosen, Bandwidth::Given);
    let set = PointSet::parse(&shown, text, bandwidth)?;
    let stem = name.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let about = (set.bandwidth, sha256(&bytes));
    Ok((Toy::of_points(&stem, set), Some(about)))
}
