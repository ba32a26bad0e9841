//! What a run tells: a record of every step, and the particles at its end.

use crate::noise::{Key, Purpose, uniforms};
use crate::smc::{Weights, draw};
use crate::tensor::Tensor;

/// One step of all prompts.
#[derive(Clone, Debug)]
pub struct Step {
    /// From 0; the number of transitions for the final event.
    pub step: usize,
    /// Training timestep of the latents looked at; 0 at the end.
    pub t: i64,
    /// In the order of [`Options::prompts`](super::Options::prompts).
    pub prompts: Vec<PromptStep>,
    /// Values that were not finite, with what they cost.
    pub non_finite: Vec<NonFinite>,
    /// What the target had to say, such as that memory ran short.
    pub notes: Vec<String>,
    /// Wall-clock time since the step before was yielded, or since the start, in milliseconds.
    pub ms: f64,
}

/// One step of one prompt. Lists have one entry per slot, before any resampling.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptStep {
    pub prompt: u32,
    /// Factor of the reward in the weights; 0 where nothing is weighed.
    pub lambda: f64,
    /// Factor of the reward in the move that follows.
    pub lambda_next: f64,
    /// Normalised.
    pub log_weights: Vec<f64>,
    /// -inf for dead particles.
    pub log_w_increment: Vec<f64>,
    pub ess: f64,
    pub resampled: bool,
    /// Slot `p` goes on as particle `ancestors[p]`.
    pub ancestors: Vec<u32>,
    /// Plain rewards, not divided by alpha; empty where none were computed.
    pub reward: Vec<f64>,
    /// Lengths of their gradients; empty without gradients.
    pub grad_norm: Vec<f64>,
    pub log_z_increment: f64,
    /// Of the estimate of `Z = E[exp(r / alpha)]` so far; -inf once all particles died.
    pub log_z: f64,
    /// Distinct initial particles that have descendants after this step.
    pub roots_alive: usize,
    /// Every particle was dead and the weights were made equal again.
    pub collapsed: bool,
}

/// Something that was not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFinite {
    pub step: usize,
    pub prompt: u32,
    /// Slot.
    pub particle: u32,
    pub quantity: Quantity,
}

/// What was not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// The latent itself: the particle is dead.
    Latent,
    /// The predicted noise: the particle is dead.
    Noise,
    /// The reward: the particle is dead.
    Reward,
    /// Only the gradient: the particle moves without guidance this once.
    Gradient,
}

impl Quantity {
    /// For messages.
    pub const fn name(self) -> &'static str {
        match self {
            Quantity::Latent => "latent",
            Quantity::Noise => "noise prediction",
            Quantity::Reward => "reward",
            Quantity::Gradient => "gradient",
        }
    }
}

impl std::fmt::Display for NonFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (step, prompt, particle) = (self.step, self.prompt, self.particle);
        write!(
            f,
            "step {step}, prompt {prompt}, particle {particle}: the {} is not finite",
            self.quantity.name()
        )
    }
}

/// One prompt's particles at the end, all of them.
#[derive(Clone, Debug)]
pub struct Population {
    pub seed: u64,
    pub prompt: u32,
    /// Final latents `(P, h, w, c)`.
    pub x: Tensor,
    /// `(P, height, width, 3)` in [0, 1].
    pub images: Tensor,
    /// Plain rewards of the images.
    pub rewards: Vec<f64>,
    /// Terms of the reward by name, unweighted.
    pub parts: Vec<(String, Vec<f64>)>,
    /// Normalised; -inf for dead particles.
    pub log_weights: Vec<f64>,
    pub weights: Vec<f64>,
    /// Log of the estimate of `Z = E[exp(r / alpha)]` under the plain chain.
    pub log_z: f64,
    /// Standard error of `log_z`, which is the relative error of the estimate of Z: of the mean of the final weights where
    /// nothing was resampled (delta method), else by the genealogy (Lee, Whiteley 2018), an estimate that low-variance
    /// resampling does better than. `None` where it is unknown: nearly all weight descends from one initial particle,
    /// every particle was lost on the way, or the method keeps only the best.
    pub log_z_error: Option<f64>,
    /// For each particle its ancestor at every step, first step first.
    pub lineage: Vec<Vec<u32>>,
}

impl Population {
    /// The particle of largest weight, the first of equals: mode-seeking, what the paper reports.
    pub fn best(&self) -> usize {
        Weights::new(&self.log_weights).argmax()
    }

    /// One draw from the weights: an asymptotically exact sample of the target. The same for the same seed.
    pub fn draw(&self) -> usize {
        let key = Key { seed: self.seed, prompt: self.prompt, particle: 0, step: 0, purpose: Purpose::Draw };
        draw(&self.weights, uniforms(key).draw())
    }
}

/// Where particles came from.
#[derive(Clone, Debug)]
pub(super) struct Genealogy {
    /// Ancestors chosen at each step.
    ancestors: Vec<Vec<u32>>,
    /// Initial particle of each slot.
    roots: Vec<u32>,
    resamplings: i32,
}

impl Genealogy {
    pub fn new(particles: usize) -> Genealogy {
        Genealogy { ancestors: Vec::new(), roots: (0..particles as u32).collect(), resamplings: 0 }
    }

    pub fn push(&mut self, ancestors: &[u32], resampled: bool) {
        self.roots = ancestors.iter().map(|&a| self.roots[a as usize]).collect();
        self.ancestors.push(ancestors.to_vec());
        self.resamplings += i32::from(resampled);
    }

    pub fn roots_alive(&self) -> usize {
        let mut roots = self.roots.clone();
        roots.sort_unstable();
        roots.dedup();
        roots.len()
    }

    pub fn lineages(&self) -> Vec<Vec<u32>> {
        let line = |slot: usize| {
            let mut at = slot as u32;
            let mut line: Vec<u32> = self
                .ancestors
                .iter()
                .rev()
                .map(|ancestors| {
                    at = ancestors[at as usize];
                    at
                })
                .collect();
            line.reverse();
            line
        };
        (0..self.roots.len()).map(line).collect()
    }

    /// Relative standard error of the estimate of Z from one run (Lee, Whiteley 2018, equation 8, with the number of
    /// actual resamplings), the root of `1 - (N / (N - 1))^(m + 1) (1 - sum over roots of (their descendants' weight)^2)`.
    /// Without resampling (m = 0) that is the error of a mean of weights.
    ///
    /// `None` where it is no error bar: fewer than two roots, as counted by their weight, or a square below 0.
    pub fn log_z_error(&self, weights: &[f64]) -> Option<f64> {
        let n = weights.len() as f64;
        let mut of_root = vec![0.0; weights.len()];
        for (&root, w) in self.roots.iter().zip(weights) {
            of_root[root as usize] += w;
        }
        let alike: f64 = of_root.iter().map(|w| w * w).sum();
        // Not a number where all weights are zero.
        let known = alike * 2.0 <= 1.0 + ROUNDING;
        let square = 1.0 - (n / (n - 1.0)).powi(self.resamplings + 1) * (1.0 - alike);
        (known && square >= -ROUNDING).then(|| square.max(0.0).sqrt())
    }
}

/// Of sums of weights.
const ROUNDING: f64 = 1e-12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lineages_name_the_ancestor_of_every_step() {
        let mut family = Genealogy::new(4);
        family.push(&[0, 0, 2, 3], true);
        family.push(&[1, 2, 2, 2], true);
        family.push(&[0, 1, 2, 3], false);
        assert_eq!(family.roots, [0, 2, 2, 2]);
        assert_eq!(family.roots_alive(), 2);
        assert_eq!(family.lineages(), [[0, 1, 0], [2, 2, 1], [2, 2, 2], [2, 2, 3]]);
    }

    /// Without resampling the estimate is the usual error of a mean.
    #[test]
    fn without_resampling_the_error_of_log_z_is_that_of_a_mean() {
        let raw = [0.3, 1.2, 0.7, 2.2, 0.1_f64];
        let n = raw.len() as f64;
        let mean = raw.iter().sum::<f64>() / n;
        let var = raw.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let weights: Vec<f64> = raw.iter().map(|w| w / (n * mean)).collect();
        let error = Genealogy::new(5).log_z_error(&weights).expect("known");
        assert!((error - (var / n).sqrt() / mean).abs() < 1e-14, "{error}");
    }

    #[test]
    fn an_error_that_is_not_known_is_not_told() {
        assert_eq!(Genealogy::new(1).log_z_error(&[1.0]), None, "one particle");
        assert_eq!(Genealogy::new(3).log_z_error(&[1.0, 0.0, 0.0]), None, "one weight");
        assert_eq!(Genealogy::new(2).log_z_error(&[f64::NAN, f64::NAN]), None, "no weight");
        assert_eq!(Genealogy::new(4).log_z_error(&[0.25; 4]), Some(0.0), "weights that do not scatter");
        let mut family = Genealogy::new(4);
        family.push(&[2, 2, 2, 2], true);
        assert_eq!(family.log_z_error(&[0.25; 4]), None, "one root");
        // Equal offspring many times over: the estimate of the square is below 0.
        let mut family = Genealogy::new(4);
        (0..9).for_each(|_| family.push(&[0, 1, 2, 3], true));
        assert_eq!(family.log_z_error(&[0.25; 4]), None, "a negative square");
    }
}
