//! A toy as a target of the sampler, with the score of its law.

use rayon::prelude::*;

use super::{Point, Seen, Toy};
use crate::backend::{ParticleId, widened};
use crate::ddim::Step;
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::method::Need;
use crate::sampler::{Evaluation, FinalScores, Scores, Target};
use crate::tensor::{HostSlice, Shape, Tensor};

/// States in f32, everything between them in f64, on the host.
pub struct ClosedForm<'a> {
    /// Has the particles.
    pub backend: &'a dyn EngineBackend,
    /// Law and reward.
    pub toy: &'a Toy,
    /// Guidance of the chain itself, `x' = mu + sqrt(v) z + rho grad r(x0(x))` (docs/spec.md 9): not
    /// multiplied by `v`, and without weights. With rho the mean is shifted by as much as a clean point that
    /// is `rho grad / sqrt(abar_next)` further, so the chain of the method `none` is that of guidance.
    pub guidance: Option<f64>,
}

impl ClosedForm<'_> {
    fn states(&self, x: &Tensor) -> Result<Vec<Point>> {
        Ok(points_of(&self.backend.download(x)?, self.toy.dimensions()))
    }

    fn tensor(&self, points: &[Seen], of: impl Fn(&Seen) -> Point) -> Result<Tensor> {
        let d = self.toy.dimensions();
        let flat: Vec<f32> =
            points.iter().flat_map(|seen| of(seen).into_iter().take(d)).map(|v| v as f32).collect();
        self.backend.upload(Shape::rows(points.len(), d), HostSlice::F32(&flat))
    }
}

/// Rows of `d` numbers as points.
pub(super) fn points_of(flat: &[f32], d: usize) -> Vec<Point> {
    flat.chunks_exact(d).map(widened).collect()
}

impl Target for ClosedForm<'_> {
    fn latent(&self) -> Shape {
        Shape::vector(self.toy.dimensions())
    }

    fn evaluate(&self, x: &Tensor, _: &[ParticleId], step: &Step, need: Need) -> Result<Evaluation> {
        let states = self.states(x)?;
        let (toy, alpha_bar) = (self.toy, step.alpha_bar);
        let shift = self.guidance.map_or(0.0, |rho| rho / step.mean.first);
        let seen: Vec<Seen> = states
            .par_iter()
            .map_init(Vec::new, |room, x| {
                let mut seen = toy.law.see(&toy.reward, x, alpha_bar, room);
                seen.x0.iter_mut().zip(seen.grad).for_each(|(x0, g)| *x0 += shift * g);
                seen
            })
            .collect();
        Ok(Evaluation {
            eps: self.tensor(&seen, |seen| seen.eps)?,
            x0: self.tensor(&seen, |seen| seen.x0)?,
            reward: (need >= Need::Reward).then(|| Scores::Host(seen.iter().map(|s| s.reward).collect())),
            grad: match need {
                Need::Gradient => Some(self.tensor(&seen, |seen| seen.grad)?),
                _ => None,
            },
            // There is no classifier-free guidance.
            correction: None,
        })
    }

    fn finish(&self, x: &Tensor, _: &[ParticleId]) -> Result<FinalScores> {
        let reward = self.states(x)?.iter().map(|x| self.toy.reward.value(x)).collect();
        Ok(FinalScores { images: x.clone(), reward, parts: Vec::new() })
    }
}
