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

impl Sampler<'_> {
    /// Draws the other next states of the particles that `seen` describes, beside `first`, evaluates all, and
    /// chooses. `advance` is the move that made `first`, out of step `k`. Returns the chosen states, which
    /// they are, and what is known of them: nothing at the end of the chain.
    pub(super) fn choose(
        &self,
        k: usize,
        first: &Tensor,
        seen: &Evaluation,
        advance: Advance<'_>,
    ) -> Result<(Tensor, Vec<u32>, Option<Evaluation>)> {
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
        let which: Vec<u32> = (0..n)
            .map(|slot| self.choice(k, slot, &rewards.iter().map(|r| r[slot]).collect::<Vec<_>>()))
            .collect();
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
        Ok((chosen(states.iter().collect())?, which, seen))
    }

    /// The next state of a slot, of these rewards: a draw from their softmax, or with alpha 0 the largest,
    /// the first of equals. One whose reward is not finite is chosen only where none is.
    fn choice(&self, k: usize, slot: usize, rewards: &[f64]) -> u32 {
        let alpha = self.options.alpha;
        if alpha == 0.0 {
            return Weights::new(rewards).argmax() as u32;
        }
        let weights = Weights::new(&rewards.iter().map(|r| r / alpha).collect::<Vec<f64>>());
        let ParticleId { prompt, particle } = self.ids[slot];
        let key = Key { seed: self.options.seed, prompt, particle, step: k as u32, purpose: Purpose::Choose };
        draw(weights.weights(), uniforms(key).draw()) as u32
    }
}
