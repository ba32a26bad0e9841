//! What one run of an experiment comes to: its line in `runs.jsonl`.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::design::{Arm, Design, Sampling};
use super::learn::Learned;
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::method::Method;
use crate::noise::{Key, Purpose, uniforms};
use crate::sampler::{Options, Population, Sampler, Target};
use crate::session::combine;
use crate::smc;
use crate::toy::{ClosedForm, Point, Trained, Tuned, transport};

/// One line of `runs.jsonl` (docs/formats.md).
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RunResult {
    pub method: String,
    pub seed: u64,
    pub samples: usize,
    /// Samples that are not finite, which count nowhere below.
    pub lost: usize,
    pub reward: Option<f64>,
    /// Earth mover's distance to the target.
    pub emd: Option<f64>,
    /// Share of the samples that is nearest to each mode.
    pub masses: Option<Vec<f64>>,
    pub log_z: Option<f64>,
    pub log_z_error: Option<f64>,
    /// Effective sample size of the final weights, the mean over populations.
    pub ess: Option<f64>,
    /// Of a population, the mean.
    pub resamplings: Option<f64>,
    /// Of the network, at the end of its training.
    pub loss: Option<f64>,
    pub seconds: f64,
    /// The samples that the distance is of.
    pub points: Vec<Vec<f64>>,
}

impl RunResult {
    /// Tells a run from all others of its experiment.
    pub fn key(&self) -> String {
        key(&self.method, self.seed)
    }

    /// Whether it is of one of the design's runs.
    pub fn belongs_to(&self, design: &Design) -> bool {
        design.arms.iter().any(|arm| arm.label == self.method)
            && design.seeds.contains(&self.seed)
            && self.points.iter().all(|point| point.len() == design.toy.dimensions())
            && self.masses.as_ref().map_or(0, Vec::len) == design.toy.modes()
    }
}

/// Tells a run from all others.
pub fn key(label: &str, seed: u64) -> String {
    format!("{seed} {label}")
}

/// Most points that the distance is of, on either side (docs/spec.md 9).
const MOST_POINTS: usize = 500;
/// Streams of the target's points: those that all are compared to, and those of the arm `target`.
const REFERENCE: u32 = 0;
const FRESH: u32 = 1;
/// Stream of the choice of points.
const CHOICE: u32 = 2;

/// What a sampler gave.
#[derive(Default)]
struct Drawn {
    samples: Vec<Point>,
    log_z: Option<(f64, Option<f64>)>,
    ess: Option<f64>,
    resamplings: Option<f64>,
}

/// Draws and measures.
pub fn draw(
    backend: &dyn EngineBackend,
    design: &Design,
    arm: &Arm,
    learned: Option<&Learned>,
    tuned: Option<&Tuned>,
    seed: u64,
) -> Result<RunResult> {
    let began = Instant::now();
    let drawn = match (arm.method(), arm.sampling) {
        (Some(method), sampling) => {
            let guidance = matches!(sampling, Sampling::Guidance).then_some(1.0);
            let toy = &design.toy;
            match learned {
                None => sample(backend, &ClosedForm { backend, toy, guidance }, design, arm, method, seed)?,
                Some(Learned { network, .. }) => {
                    let network = tuned.map_or(network, |tuned| &tuned.network);
                    let steering = tuned.and_then(|tuned| tuned.steering.as_ref());
                    let target = Trained::new(backend, toy, network)?.steered(steering).guided(guidance);
                    sample(backend, &target, design, arm, method, seed)?
                }
            }
        }
        (None, _) => {
            let count = (design.populations * design.draws) as u32;
            let samples = (0..count).map(|i| design.target.draw(seed, FRESH, i)).collect();
            Drawn { samples, ..Drawn::default() }
        }
    };
    let (toy, all) = (&design.toy, drawn.samples.len());
    let finite: Vec<Point> = drawn.samples.into_iter().filter(|x| x.iter().all(|v| v.is_finite())).collect();
    let n = finite.len() as f64;
    let rewards = finite.iter().map(|x| toy.reward.value(x)).sum::<f64>();
    let mut counts = vec![0.0; toy.modes()];
    finite.iter().filter_map(|x| toy.mode(x)).for_each(|mode| counts[mode] += 1.0);
    let chosen = choose(&finite, seed);
    let reference: Vec<Point> =
        (0..chosen.len() as u32).map(|i| design.target.draw(seed, REFERENCE, i)).collect();
    let some = |x: f64| (n > 0.0).then_some(x);
    Ok(RunResult {
        method: arm.label.clone(),
        seed,
        samples: all,
        lost: all - finite.len(),
        reward: some(rewards / n),
        emd: (!chosen.is_empty()).then(|| transport::distance(&chosen, &reference)),
        masses: (!counts.is_empty())
            .then(|| counts.iter().map(|c| if n > 0.0 { c / n } else { 0.0 }).collect()),
        log_z: drawn.log_z.map(|z| z.0).filter(|z| z.is_finite()),
        log_z_error: drawn.log_z.and_then(|z| z.1),
        ess: drawn.ess,
        resamplings: drawn.resamplings,
        loss: arm.method().and(learned).map(|learned| learned.loss).filter(|loss| loss.is_finite()),
        seconds: began.elapsed().as_secs_f64(),
        points: chosen.iter().map(|x| x[..toy.dimensions()].to_vec()).collect(),
    })
}

/// Runs the sampler, all populations as prompts of one run, and draws from their weights.
fn sample(
    backend: &dyn EngineBackend,
    target: &dyn Target,
    design: &Design,
    arm: &Arm,
    method: &'static dyn Method,
    seed: u64,
) -> Result<Drawn> {
    // Another chain, whose Z is not that of the target.
    let other = matches!(arm.sampling, Sampling::Guidance | Sampling::Baseline(_));
    let (populations, particles, draws) = design.sizes(arm);
    let steps = design.schedule.len();
    let options = Options {
        prompts: (0..populations as u32).collect(),
        particles,
        alpha: design.alpha,
        ..Options::new(seed, steps).by_method(method, steps)
    };
    let mut sampler = Sampler::new(backend, target, &design.schedule, options)?;
    let mut resamplings = 0;
    for step in &mut sampler {
        resamplings += step?.prompts.iter().filter(|prompt| prompt.resampled).count();
    }
    let ends = sampler.populations()?;
    let mut samples = Vec::with_capacity(populations * draws);
    for end in &ends {
        let states = backend.download(&end.x)?;
        let mut uniform =
            uniforms(Key { seed, prompt: end.prompt, particle: 0, step: 0, purpose: Purpose::Draw });
        for _ in 0..draws {
            let chosen = smc::draw(&end.weights, uniform.draw());
            let mut point = Point::default();
            let d = design.toy.dimensions();
            point.iter_mut().zip(&states[chosen * d..][..d]).for_each(|(x, v)| *x = f64::from(*v));
            samples.push(point);
        }
    }
    let mean = |of: &dyn Fn(&Population) -> f64| ends.iter().map(of).sum::<f64>() / ends.len() as f64;
    let together = combine(&ends.iter().map(|end| end.log_z).collect::<Vec<f64>>());
    Ok(Drawn {
        samples,
        log_z: (!other && method.estimates_z()).then_some((together.log_z, together.log_z_error)),
        ess: method.weighs().then(|| mean(&Population::ess)),
        resamplings: method.weighs().then(|| resamplings as f64 / populations as f64),
    })
}

/// At most 500 different ones of the samples, every choice as likely.
fn choose(samples: &[Point], seed: u64) -> Vec<Point> {
    let mut left = samples.to_vec();
    let mut uniform = uniforms(Key { seed, prompt: CHOICE, particle: 0, step: 0, purpose: Purpose::Data });
    let count = left.len().min(MOST_POINTS);
    for i in 0..count {
        let other = i + (uniform.draw() * (left.len() - i) as f64) as usize;
        let last = left.len() - 1;
        left.swap(i, other.min(last));
    }
    left.truncate(count);
    left
}
