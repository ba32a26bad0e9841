//! What a run reports: a record of every step, and the particles at its end. Logarithms are natural.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use crate::noise::{Key, Purpose, uniforms};
use crate::smc::{Weights, draw};
use crate::tensor::Tensor;

/// One step of all prompts.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// From 0; their number for the final event. One for every pass through a transition of the chain, of
    /// which time travel takes some several times.
    pub step: usize,
    /// Training timestep of the latents that were evaluated; 0 at the end.
    pub t: i64,
    /// The pass through the transition, from 0, the first. After it the latents are at `t` again where
    /// another pass follows.
    pub pass: u32,
    /// In the order of [`Options::prompts`](super::Options::prompts), B.
    pub prompts: Vec<PromptStep>,
    /// Values that were not finite, of all prompts.
    pub non_finite: Vec<NonFinite>,
    /// What the target had to say, such as that memory ran short.
    pub notes: Vec<String>,
    /// Wall-clock time since the step before was yielded, or since the start, in milliseconds.
    pub ms: f64,
}

/// One step of one prompt of P particles. Lists have one entry per slot, before any resampling. Written as
/// JSON, a number that is not finite and a list that is empty are `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PromptStep {
    /// Number of the prompt.
    pub prompt: u32,
    /// Factor of the reward in the weights, in [0, 1]; 0 where nothing is weighed.
    pub lambda: f64,
    /// Factor of the reward's gradient in the move that follows, in [0, 1].
    pub lambda_next: f64,
    /// Normalised log-weights, P; -inf for dead particles.
    pub log_weights: Vec<f64>,
    /// What this step added to the log-weights before they were normalised, P; -inf for dead particles.
    pub log_w_increment: Vec<f64>,
    /// Effective sample size of the weights, in [1, P].
    pub ess: f64,
    /// Whether ancestors were chosen by weight, in resampling or thinning.
    pub resampled: bool,
    /// Slot `p` goes on as particle `ancestors[p]`; the identity without resampling. As many as particles go
    /// on: fewer than P where candidates were thinned.
    pub ancestors: Vec<u32>,
    /// Plain rewards, not divided by alpha, P; NaN for dead particles. Empty where none were computed.
    #[serde(serialize_with = "null_if_empty")]
    pub reward: Vec<f64>,
    /// Euclidean lengths of the gradients that guide the move that follows, P; empty without gradients.
    /// Where a method that weighs weighs nothing, they are held from an earlier step.
    #[serde(serialize_with = "null_if_empty")]
    pub grad_norm: Vec<f64>,
    /// Which of several next states each particle took, from 0, P; empty where there was one.
    #[serde(serialize_with = "null_if_empty")]
    pub chosen: Vec<u32>,
    /// How far the move of each particle diverges from the model's own, in nats, P: of a shift `d` that is
    /// not weighed `|d|^2 / 2 v`, infinite where the move has no noise; of a choice among `M` next states
    /// `log M` minus the entropy of the choice. Their sum over the steps, the mean over particles, is at
    /// least the divergence of what is drawn. Empty for methods that weigh, and for plain moves.
    #[serde(serialize_with = "null_if_empty")]
    pub divergence: Vec<f64>,
    /// What this step added to `log_z`; not a number where the method does not estimate Z.
    pub log_z_increment: f64,
    /// Log of the estimate of `Z = E[exp(r / alpha)]` so far; -inf once all particles died. Not a number
    /// where the method does not estimate Z.
    pub log_z: f64,
    /// Distinct initial particles that have descendants after this step, in [1, P].
    pub roots_alive: usize,
    /// Every particle was dead and the weights were made equal again.
    pub collapsed: bool,
}

fn null_if_empty<T: Serialize, S: Serializer>(list: &[T], to: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { to.serialize_none() } else { list.serialize(to) }
}

/// Something that was not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NonFinite {
    /// Step of the chain, from 0.
    pub step: usize,
    /// Number of the prompt.
    pub prompt: u32,
    /// Slot, from 0.
    pub particle: u32,
    /// What it was.
    pub quantity: Quantity,
}

/// What was not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
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

/// One prompt's particles at the end, all P of them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Population {
    /// The run's seed.
    pub seed: u64,
    /// Number of the prompt.
    pub prompt: u32,
    /// Particles at the start: P, or the candidates for them.
    pub initial: usize,
    /// Final latents `(P, h, w, c)`.
    pub x: Tensor,
    /// `(P, height, width, 3)` in [0, 1].
    pub images: Tensor,
    /// Plain rewards of the images, P; NaN for dead particles.
    pub rewards: Vec<f64>,
    /// Terms of the reward by name, unweighted, P each.
    pub parts: Vec<(String, Vec<f64>)>,
    /// Normalised log-weights, P; -inf for dead particles.
    pub log_weights: Vec<f64>,
    /// The same, not in logarithms: they sum to 1.
    pub weights: Vec<f64>,
    /// Log of the estimate of `Z = E[exp(r / alpha)]` under the plain chain. Not a number where the method
    /// does not estimate Z: its moves have no density that is weighed.
    pub log_z: f64,
    /// Half of a 95 % error bar of `log_z`: twice this reaches from the estimate to the truth in about 95 %
    /// of runs, as far as one run can know. From the mean of the final weights where nothing was resampled
    /// (delta method), else the larger of the genealogy's (Lee, Whiteley 2018) and the sum over the
    /// resamplings, and wider the fewer particles carry the weight (Student's t). `None` where it is unknown:
    /// fewer than three do at some resampling, at the thinning or at the end, or every particle was lost on
    /// the way.
    pub log_z_error: Option<f64>,
    /// For each particle its ancestor at every step, first step first.
    pub lineage: Vec<Vec<u32>>,
}

impl Population {
    /// The particle of largest weight, the first of equals: mode-seeking, what the paper reports.
    pub fn best(&self) -> usize {
        Weights::new(&self.log_weights).argmax()
    }

    /// The particle of largest final reward, the first of equals, whatever its weight. That is no sample of
    /// the target; all of a population serve as candidates for it, as in best-of-n.
    pub fn best_reward(&self) -> usize {
        Weights::new(&self.rewards).argmax()
    }

    /// Effective sample size of the final weights, in [1, P].
    pub fn ess(&self) -> f64 {
        Weights::new(&self.log_weights).ess()
    }

    /// Distinct initial particles that the final ones descend from, in [1, P].
    pub fn roots_alive(&self) -> usize {
        let first = |(slot, line): (usize, &Vec<u32>)| line.first().copied().unwrap_or(slot as u32);
        self.lineage.iter().enumerate().map(first).collect::<BTreeSet<u32>>().len()
    }

    /// One draw from the weights: an asymptotically exact sample of the target. The same for the same seed.
    pub fn draw(&self) -> usize {
        let key = Key { seed: self.seed, prompt: self.prompt, particle: 0, step: 0, purpose: Purpose::Draw };
        draw(&self.weights, uniforms(key).draw())
    }
}
