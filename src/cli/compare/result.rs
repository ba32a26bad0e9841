//! What one run of a comparison came to: its line in `runs.jsonl`.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::design::{Design, RunPlan, key};
use crate::cli::experiment::unusable;
use crate::cli::statistics;
use crate::error::{ErrorKind, Result};
use crate::method::{Conclusion, Method};
use crate::pixels::Picture;
use crate::run::{encode_png, write_atomic};
use crate::session::{Samples, Session};

/// One line of `runs.jsonl` (docs/formats.md).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RunResult {
    pub arm: String,
    pub budget: f64,
    pub particles: usize,
    pub index: usize,
    pub prompt: String,
    pub seed: u64,
    /// The particle that was chosen, its reward, and its held-out rewards by name.
    pub particle: usize,
    pub target: Option<f64>,
    pub eval_rewards: Map<String, Value>,
    /// The same, the mean over all particles whose reward is finite.
    pub mean_target: Option<f64>,
    pub mean_eval_rewards: Map<String, Value>,
    /// The same, the mean under the final weights: of the law that `kl` speaks of. Lines of an earlier
    /// program lack this and some of what follows.
    #[serde(default)]
    pub weighted_target: Option<f64>,
    #[serde(default)]
    pub weighted_eval_rewards: Map<String, Value>,
    pub ess: f64,
    pub roots_alive: usize,
    pub distinct_pictures: usize,
    /// Root of the mean squared difference of two pictures' values in [0, 1], the mean over all pairs.
    pub pixel_distance: Option<f64>,
    /// One minus the cosine of two pictures' CLIP embeddings, the mean over all pairs.
    #[serde(default)]
    pub clip_distance: Option<f64>,
    /// The same of the picture that was returned and those that the seeds before it in the list returned.
    #[serde(default)]
    pub seed_distances: Vec<f64>,
    pub log_z: Option<f64>,
    pub log_z_error: Option<f64>,
    /// Why there is no error of log Z, or no log Z.
    #[serde(default)]
    pub log_z_unreliable: Option<String>,
    /// An estimate of the divergence from the model's own samples, in nats, or a bound on it.
    pub kl: Option<f64>,
    pub flops: f64,
    pub seconds: f64,
    /// Relative to the folder of the comparison; empty where there is none.
    pub picture: String,
    /// Why there are no numbers: every particle was lost.
    #[serde(default)]
    pub lost: Option<String>,
}

impl RunResult {
    /// Tells a run from all others of its comparison.
    pub fn key(&self) -> String {
        key(&self.arm, self.budget, self.index, self.seed)
    }

    /// Whether it is of one of the design's runs.
    pub fn belongs_to(&self, design: &Design) -> bool {
        let arm = design.arms.iter().find(|arm| arm.label == self.arm);
        let budget = design.budgets.iter().position(|budget| budget.multiple == self.budget);
        let particles = arm.zip(budget).map(|(arm, budget)| arm.particles[budget]);
        let prompt = design.prompts.get(self.index).map(|prompt| &prompt.text);
        (particles, prompt) == (Some(self.particles), Some(&self.prompt)) && design.seeds.contains(&self.seed)
    }

    /// A number by its name: `target`, a held-out reward, or another column of the table.
    pub fn value(&self, name: &str) -> Option<f64> {
        match name {
            "target" => self.target,
            _ => self.eval_rewards.get(name).and_then(Value::as_f64),
        }
    }

    /// The same under the final weights.
    pub fn weighted(&self, name: &str) -> Option<f64> {
        match name {
            "target" => self.weighted_target,
            _ => self.weighted_eval_rewards.get(name).and_then(Value::as_f64),
        }
    }
}

/// Draws, judges, and writes the picture that was chosen. A run that loses every particle is a result too,
/// and does not keep the others from being drawn.
pub fn draw(session: &mut Session, design: &Design, run: &RunPlan<'_>, folder: &Path) -> Result<RunResult> {
    match draw_whole(session, design, run, folder) {
        Err(e) if e.kind() == ErrorKind::Numerical => {
            Ok(RunResult { lost: Some(e.message().to_string()), ..planned(design, run) })
        }
        result => result,
    }
}

/// What is known of a run before it is drawn.
fn planned(design: &Design, run: &RunPlan<'_>) -> RunResult {
    RunResult {
        arm: run.arm.label.clone(),
        budget: design.budgets[run.budget].multiple,
        particles: run.arm.particles[run.budget],
        index: run.prompt,
        prompt: design.prompts[run.prompt].text.clone(),
        seed: run.seed,
        flops: run.arm.flops(run.budget),
        ..RunResult::default()
    }
}

fn draw_whole(session: &mut Session, design: &Design, run: &RunPlan<'_>, folder: &Path) -> Result<RunResult> {
    let began = Instant::now();
    let options = run.options();
    let prompt = &design.prompts[run.prompt];
    let mut drawing = session.sample(prompt, &options)?;
    let mut moves = Vec::new();
    for step in &mut drawing {
        let divergence = &step?.prompts[0].divergence;
        if !divergence.is_empty() {
            moves.push(statistics::mean(divergence));
        }
    }
    let populations = drawing.populations() as f64;
    let samples = drawing.conclude()?.swap_remove(0);
    let seconds = began.elapsed().as_secs_f64();
    let judgement = session.judge(&samples, 0, &options)?;
    let embeddings = session.embed(&samples, MOST_PICTURES, &options)?;
    let population = &samples.population;
    let particle = run.arm.select.particle(population);
    let finite = |x: f64| x.is_finite().then_some(x);
    let held_out = |value: &dyn Fn(&[f32]) -> Option<f64>| -> Map<String, Value> {
        judgement.held_out.iter().map(|(name, list)| (name.clone(), json!(value(list)))).collect()
    };
    let weighted = |values: &mut dyn Iterator<Item = f64>| {
        let pairs = population.weights.iter().zip(values).filter(|(weight, _)| **weight > 0.0);
        finite(pairs.map(|(weight, value)| weight * value).sum())
    };
    let weighted_target = weighted(&mut population.rewards.iter().copied());
    let (budget, folder_of_arm) = (&design.budgets[run.budget], run.arm.folder());
    let path = |seed: u64| format!("pictures/{folder_of_arm}/{budget}/{:04}-{seed}.png", run.prompt);
    let (picture, shown) = (path(run.seed), &samples.pictures[particle]);
    write(&folder.join(&picture), shown)?;
    let before = design.seeds.iter().take_while(|seed| **seed != run.seed);
    let before = before.filter_map(|&seed| Picture::read(&folder.join(path(seed))).ok());
    Ok(RunResult {
        particle,
        target: finite(population.rewards[particle]),
        eval_rewards: held_out(&|list| finite(f64::from(list[particle]))),
        mean_target: mean(population.rewards.iter().copied()),
        mean_eval_rewards: held_out(&|list| mean(list.iter().map(|&x| f64::from(x)))),
        weighted_target,
        weighted_eval_rewards: held_out(&|list| weighted(&mut list.iter().map(|&x| f64::from(x)))),
        ess: population.ess(),
        roots_alive: population.roots_alive(),
        distinct_pictures: samples.distinct_pictures(),
        pixel_distance: pixel_distance(&samples.pictures),
        clip_distance: embeddings.as_deref().and_then(cosine_distance),
        seed_distances: before.map(|other| distance(shown, &other)).collect(),
        log_z: finite(population.log_z),
        log_z_error: population.log_z_error,
        log_z_unreliable: samples.unreliable().map(String::from),
        kl: divergence(&samples, run.arm.method, session.alpha(&options), weighted_target)
            .or_else(|| sum_of_moves(&moves, populations)),
        seconds,
        picture,
        ..planned(design, run)
    })
}

/// Writes a picture without a record.
///
/// # Errors
/// Of the file or its folder.
pub fn write(path: &Path, picture: &Picture) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| unusable(parent, e))?;
    }
    write_atomic(path, &encode_png(picture, None)?)
}

/// Of those that are finite.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let finite: Vec<f64> = values.filter(|x| x.is_finite()).collect();
    Some(statistics::mean(&finite)).filter(|mean| mean.is_finite())
}

/// Of more pictures the first so many stand for all: there are many pairs.
const MOST_PICTURES: usize = 64;

/// See [`RunResult::pixel_distance`]; of two pictures.
fn distance(a: &Picture, b: &Picture) -> f64 {
    let squares = a.rgb.iter().zip(&b.rgb).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    (squares.sum::<f64>() / a.rgb.len() as f64).sqrt() / 255.0
}

/// See [`RunResult::pixel_distance`].
fn pixel_distance(pictures: &[Picture]) -> Option<f64> {
    let pictures = &pictures[..pictures.len().min(MOST_PICTURES)];
    mean(pairs(pictures).map(|(a, b)| distance(a, b)))
}

/// See [`RunResult::clip_distance`]; of unit vectors.
fn cosine_distance(vectors: &[Vec<f32>]) -> Option<f64> {
    let cosine =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    mean(pairs(vectors).map(|(a, b)| 1.0 - cosine(a, b)))
}

fn pairs<T>(list: &[T]) -> impl Iterator<Item = (&T, &T)> {
    list.iter().enumerate().flat_map(|(i, a)| list[i + 1..].iter().map(move |b| (a, b)))
}

/// What the divergence of all moves, means over particles, of so many populations adds up to for one: a bound
/// on the divergence of what is drawn. Moves that have no noise, as the last of some chains, are left out:
/// shifts of them have no finite divergence. `None` where no move has one.
fn sum_of_moves(moves: &[f64], populations: f64) -> Option<f64> {
    let finite: Vec<f64> = moves.iter().copied().filter(|x| x.is_finite()).collect();
    (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / populations)
}

/// The divergence of what is drawn from the model's own samples. Of the target it is `E[r] / alpha - log Z`
/// under the target, with the mean under the weights `weighted_target`; of the best of N, at most `log N - (N
/// - 1) / N`; of plain samples 0. `None` where log Z is unreliable, and for moves that are not weighed.
fn divergence(
    samples: &Samples,
    method: &'static dyn Method,
    alpha: f64,
    weighted_target: Option<f64>,
) -> Option<f64> {
    let population = &samples.population;
    let n = population.rewards.len() as f64;
    match method.conclusion() {
        Conclusion::Keep => method.is_plain().then_some(0.0),
        Conclusion::Best => Some(n.ln() - (n - 1.0) / n),
        Conclusion::Weigh => {
            population.log_z_error?;
            Some(weighted_target? / alpha - population.log_z).filter(|kl| kl.is_finite())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_values_in_0_to_1() {
        let flat = |value: u8| Picture::new(2, 1, vec![value; 6]);
        assert_eq!(pixel_distance(&[flat(0)]), None);
        assert_eq!(pixel_distance(&[flat(0), flat(255)]), Some(1.0));
        let three = pixel_distance(&[flat(0), flat(0), flat(51)]).expect("pairs");
        assert!((three - 0.4 / 3.0).abs() < 1e-15, "{three}");
        let (right, up) = (vec![1.0, 0.0], vec![0.0, 1.0]);
        assert_eq!(cosine_distance(std::slice::from_ref(&up)), None);
        assert_eq!(cosine_distance(&[right.clone(), up.clone()]), Some(1.0));
        assert_eq!(cosine_distance(&[right.clone(), right, up]), Some(2.0 / 3.0));
    }
}
