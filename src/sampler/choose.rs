//! One of several next states of each particle goes on, by the softmax of their values (docs/spec.md 10.3).

use super::{Evaluation, Sampler, Scores};
use crate::backend::{Advance, ParticleId, Particles};
use crate::error::Result;
use crate::method::Need;
use crate::noise::{Key, Purpose, uniforms};
use crate::smc::{Weights, draw};
use crate::tensor::Tensor;

/// Next state `m` of particle `p` has the noise of particle `p + m MOST_PARTICLES`: no run has more.
const MOST_PARTICLES: u32 = 1 << 20;

/// The next states of a step that chooses, one of each particle.
pub(super) struct Choice {
    pub states: Tensor,
    /// Which of the particle's next states it is, from 0.
    pub which: Vec<u32>,
    /// What is known of the states.
    pub seen: Option<Evaluation>,
    /// From the model's move, nats.
    pub divergence: Vec<f64>,
}

impl Sampler<'_> {
    /// Draws the other next states of the particles that `seen` describes, beside `first`, evaluates all, and
    /// chooses. `advance` is the move that made `first`, out of step `k`. Returns the chosen states, which
    /// they are, what is known of them (nothing at the end of the chain), and how far each choice diverges
    /// from the model's move.
    pub(super) fn choose(
        &self,
        k: usize,
        first: &Tensor,
        seen: &Evaluation,
        advance: Advance<'_>,
    ) -> Result<Choice> {
        let n = self.ids.len();
        let stay: Vec<u32> = (0..n as u32).collect();
        let (mut states, mut evaluations, mut rewards) = (Vec::new(), Vec::new(), Vec::new());
        for m in 0..self.options.duplicates as u32 {
            let x = if m == 0 {
                first.clone()
            } else {
                let renamed =
                    |id: &ParticleId| ParticleId { particle: id.particle + m * MOST_PARTICLES, ..*id };
                let ids: Vec<ParticleId> = self.ids.iter().map(renamed).collect();
                let particles = Particles { x0: &seen.x0, eps: &seen.eps, grad: None };
                self.backend.advance(particles, &stay, &vec![0.0; n], Advance { ids: &ids, ..advance })?.0
            };
            match self.schedule.steps.get(k + 1) {
                Some(step) => {
                    let mut evaluation = self.target.evaluate(&x, &self.ids, step, Need::Reward)?;
                    let scores = evaluation.reward.take();
                    let Some(scores) = scores else { panic!("a reward was asked for") };
                    rewards.push(scores.download(self.backend)?);
                    evaluations.push(evaluation);
                }
                None => rewards.push(self.target.finish(&x, &self.ids)?.reward),
            }
            states.push(x);
        }
        let (which, divergence): (Vec<u32>, Vec<f64>) = (0..n)
            .map(|slot| self.choice(k, slot, &rewards.iter().map(|r| r[slot]).collect::<Vec<_>>()))
            .unzip();
        let rows: Vec<u32> = (0..).zip(&which).map(|(slot, m)| m * n as u32 + slot).collect();
        let chosen = |of: Vec<&Tensor>| self.backend.gather(&self.backend.stack(&of)?, &rows);
        let seen = match evaluations.is_empty() {
            true => None,
            false => Some(Evaluation {
                eps: chosen(evaluations.iter().map(|e| &e.eps).collect())?,
                x0: chosen(evaluations.iter().map(|e| &e.x0).collect())?,
                reward: Some(Scores::Host((0..n).map(|slot| rewards[which[slot] as usize][slot]).collect())),
                grad: None,
                correction: None,
            }),
        };
        Ok(Choice { states: chosen(states.iter().collect())?, which, seen, divergence })
    }

    /// The next state of a slot, of these rewards: a draw from their softmax, or with alpha 0 the largest,
    /// the first of equals. One whose reward is not finite is chosen only where none is. And the divergence
    /// of the choice from one that is blind: the logarithm of their number minus the entropy.
    fn choice(&self, k: usize, slot: usize, rewards: &[f64]) -> (u32, f64) {
        let (alpha, blind) = (self.options.alpha, (rewards.len() as f64).ln());
        if alpha == 0.0 {
            return (Weights::new(rewards).argmax() as u32, blind);
        }
        let weights = Weights::new(&rewards.iter().map(|r| r / alpha).collect::<Vec<f64>>());
        let ParticleId { prompt, particle } = self.ids[slot];
        let key = Key { seed: self.options.seed, prompt, particle, step: k as u32, purpose: Purpose::Choose };
        let of = |(w, log_w): (&f64, &f64)| if *w > 0.0 { w * log_w } else { 0.0 };
        let negentropy: f64 = weights.weights().iter().zip(weights.log_weights()).map(of).sum();
        (draw(weights.weights(), uniforms(key).draw()) as u32, blind + negentropy)
    }
}
