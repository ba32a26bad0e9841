//! A toy as a target of the sampler, with the score of a trained network.

use super::closed_form::points_of;
use super::finetune::Steering;
use super::network::with_time;
use super::{Network, Point, Toy};
use crate::backend::ParticleId;
use crate::ddim::Step;
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::method::Need;
use crate::sampler::{Evaluation, FinalScores, Scores, Target};
use crate::tape::Tape;
use crate::tensor::{HostSlice, Shape, Tensor};

/// The network on the device; rewards on the host, in f64.
pub struct Trained<'a> {
    /// Has the particles and runs the network.
    pub backend: &'a dyn EngineBackend,
    /// Reward and dimensions.
    pub toy: &'a Toy,
    /// What predicts the noise.
    pub network: &'a Network,
    /// Of a denoising diffusion sampler (DDS): what the score of the target is multiplied by and added.
    pub steering: Option<&'a Steering>,
    /// As of [`ClosedForm::guidance`](super::ClosedForm::guidance).
    pub guidance: Option<f64>,
}

impl Trained<'_> {
    fn points(&self, x: &Tensor) -> Result<Vec<Point>> {
        Ok(points_of(&self.backend.download(x)?, self.toy.dimensions()))
    }
}

impl Target for Trained<'_> {
    fn latent(&self) -> Shape {
        Shape::vector(self.toy.dimensions())
    }

    fn evaluate(&self, x: &Tensor, _: &[ParticleId], step: &Step, need: Need) -> Result<Evaluation> {
        let differentiates = need == Need::Gradient || self.guidance.is_some();
        let tape = if differentiates { Tape::new(self.backend) } else { Tape::off(self.backend) };
        let d = self.toy.dimensions();
        let layers = self.network.upload(&tape, false)?;
        let state = tape.watch(x.clone());
        let mut eps = layers.forward(&tape, &with_time(&tape, &state, step.t)?)?;
        if let Some(steering) = self.steering {
            let scale = steering.scale.upload(&tape, false)?;
            eps = steering.add(&tape, &scale, self.toy, &state, &eps, step.t)?;
        }
        let x0 = tape.axpby(step.x0.first as f32, &state, step.x0.second as f32, &eps)?;
        let (eps, clean) = (eps.into_value(), x0.value().clone());
        if need == Need::Noise && !differentiates {
            return Ok(Evaluation { eps, x0: clean, reward: None, grad: None, correction: None });
        }
        let points = self.points(&clean)?;
        let reward = (need >= Need::Reward)
            .then(|| Scores::Host(points.iter().map(|x0| self.toy.reward.value(x0)).collect()));
        if !differentiates {
            return Ok(Evaluation { eps, x0: clean, reward, grad: None, correction: None });
        }
        let towards: Vec<f32> = points
            .iter()
            .flat_map(|x0| self.toy.reward.gradient(x0).into_iter().take(d))
            .map(|g| g as f32)
            .collect();
        let seed = self.backend.upload(x.shape(), HostSlice::F32(&towards))?;
        let grad = match tape.gradient(&x0, seed, &state)? {
            Some(grad) => grad,
            None => self.backend.zeros(x.shape())?,
        };
        let x0 = match self.guidance {
            Some(rho) => self.backend.axpby(1.0, &clean, (rho / step.mean.first) as f32, &grad)?,
            None => clean,
        };
        Ok(Evaluation { eps, x0, reward, grad: (need == Need::Gradient).then_some(grad), correction: None })
    }

    fn finish(&self, x: &Tensor, _: &[ParticleId]) -> Result<FinalScores> {
        let reward = self.points(x)?.iter().map(|x| self.toy.reward.value(x)).collect();
        Ok(FinalScores { images: x.clone(), reward, parts: Vec::new() })
    }
}
