//! What one run of a front came to: its lines in `runs.jsonl`.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::design::{Front, PLAIN, is_guided, key};
use crate::cli::compare::design::RunPlan;
use crate::cli::compare::result::{mean, write};
use crate::error::{ErrorKind, Result};
use crate::session::{Samples, Session};
use crate::smc::Weights;

/// One line of `runs.jsonl` (docs/formats.md).
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    pub arm: String,
    /// Of the rewards, in their order; of plain samples empty.
    pub weights: Vec<f64>,
    pub index: usize,
    pub prompt: String,
    pub seed: u64,
    pub particles: usize,
    /// The particle that was chosen; `None` of plain samples, whose numbers are means over all.
    pub particle: Option<usize>,
    /// Unweighted, in the order of the rewards.
    pub rewards: Vec<Option<f64>>,
    pub eval_rewards: Map<String, Value>,
    pub flops: f64,
    pub seconds: f64,
    /// Relative to the folder of the experiment.
    pub picture: Option<String>,
    /// Why there are no numbers: every particle was lost.
    #[serde(default)]
    pub lost: Option<String>,
}

impl Line {
    /// Tells a line from all others.
    pub fn key(&self) -> String {
        key(&self.arm, &self.weights, self.index, self.seed)
    }

    /// Whether it is of this experiment.
    pub fn belongs_to(&self, front: &Front) -> bool {
        let design = &front.design;
        let arm = design.arms.iter().any(|arm| arm.label == self.arm);
        let is_plain = self.arm == PLAIN && self.weights.is_empty();
        let prompt = design.prompts.get(self.index).is_some_and(|prompt| prompt.text == self.prompt);
        (is_plain || arm && front.grid.contains(&self.weights))
            && prompt
            && design.seeds.contains(&self.seed)
            && self.rewards.len() == front.names.len()
    }
}

/// One line for each of the weights of one population: of the guided arm it was drawn for the only one, of
/// the best of N they choose among the same pictures.
/// A population that loses every particle has its lines too, without numbers.
pub fn draw(
    session: &mut Session,
    front: &Front,
    run: &RunPlan<'_>,
    grid: &[Vec<f64>],
    folder: &Path,
) -> Result<Vec<Line>> {
    match draw_whole(session, front, run, grid, folder) {
        Err(e) if e.kind() == ErrorKind::Numerical => {
            let line = |arm: &str, weights: &[f64]| Line {
                lost: Some(e.message().to_string()),
                ..planned(front, run, arm, weights)
            };
            let own = grid.iter().map(|weights| line(&run.arm.label, weights));
            Ok(own.chain((!is_guided(run)).then(|| line(PLAIN, &[]))).collect())
        }
        lines => lines,
    }
}

/// What is known of a line before its population is drawn.
fn planned(front: &Front, run: &RunPlan<'_>, arm: &str, weights: &[f64]) -> Line {
    Line {
        arm: arm.into(),
        weights: weights.to_vec(),
        index: run.prompt,
        prompt: front.design.prompts[run.prompt].text.clone(),
        seed: run.seed,
        particles: run.arm.particles[run.budget],
        particle: None,
        rewards: vec![None; front.names.len()],
        eval_rewards: Map::new(),
        flops: run.arm.flops(run.budget),
        seconds: 0.0,
        picture: None,
        lost: None,
    }
}

fn draw_whole(
    session: &mut Session,
    front: &Front,
    run: &RunPlan<'_>,
    grid: &[Vec<f64>],
    folder: &Path,
) -> Result<Vec<Line>> {
    let began = Instant::now();
    let options = run.options();
    let prompt = &front.design.prompts[run.prompt];
    let samples = session.sample(prompt, &options)?.conclude()?.swap_remove(0);
    let held_out = session.judge(&samples, 0, &options)?.held_out;
    let seconds = began.elapsed().as_secs_f64();
    let guided = is_guided(run);
    let line = |arm: &str, weights: &[f64], of: &dyn Fn(&[f64]) -> Option<f64>| Line {
        rewards: samples.population.parts.iter().map(|(_, list)| of(list)).collect(),
        eval_rewards: held_out
            .iter()
            .map(|(name, list)| {
                let list: Vec<f64> = list.iter().map(|&x| f64::from(x)).collect();
                (name.clone(), json!(of(&list)))
            })
            .collect(),
        seconds,
        ..planned(front, run, arm, weights)
    };
    let mut lines = Vec::new();
    for weights in grid {
        let particle = match guided {
            true => run.arm.select.particle(&samples.population),
            false => best(&samples, weights, session.scales()),
        };
        let place = weights.iter().map(f64::to_string).collect::<Vec<_>>().join("_");
        let picture = format!("pictures/{}/{place}/{:04}-{}.png", run.arm.folder(), run.prompt, run.seed);
        write(&folder.join(&picture), &samples.pictures[particle])?;
        let of = |list: &[f64]| Some(list[particle]).filter(|x| x.is_finite());
        let own = line(&run.arm.label, weights, &of);
        lines.push(Line { particle: Some(particle), picture: Some(picture), ..own });
    }
    if !guided {
        lines.push(line(PLAIN, &[], &|list| mean(list.iter().copied())));
    }
    Ok(lines)
}

/// The particle of the largest weighted sum; one whose sum is no number is never chosen before others.
fn best(samples: &Samples, weights: &[f64], scales: Option<&[f64]>) -> usize {
    let of = |p: usize| {
        let terms = samples.population.parts.iter().zip(weights).enumerate();
        terms.map(|(k, ((_, list), weight))| weight / scales.map_or(1.0, |s| s[k]) * list[p]).sum::<f64>()
    };
    Weights::new(&(0..samples.pictures.len()).map(of).collect::<Vec<f64>>()).argmax()
}
