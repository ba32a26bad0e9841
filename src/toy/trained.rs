//! A toy as a target of the sampler, with the score of a trained network.

use super::closed_form::points_of;
use super::finetune::Steering;
use super::network::{time_of, with_time};
use super::{Layers, Network, Point, Toy};
use crate::backend::{ParticleId, PointStep, judge_points};
use crate::ddim::Step;
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::method::Need;
use crate::sampler::{Evaluation, FinalScores, Scores, Target};
use crate::tape::Tape;
use crate::tensor::{Shape, Tensor};

/// The network on the device.
pub struct Trained<'a> {
    backend: &'a dyn EngineBackend,
    toy: &'a Toy,
    /// What predicts the noise, as [`Network::place`] makes it.
    network: [Tensor; 6],
    steering: Option<&'a Steering>,
    guidance: Option<f64>,
}

impl<'a> Trained<'a> {
    /// A target of `toy`'s reward and dimensions whose noise `network` predicts, on the backend that has the
    /// particles.
    ///
    /// # Errors
    /// From the device.
    pub fn new(backend: &'a dyn EngineBackend, toy: &'a Toy, network: &'a Network) -> Result<Trained<'a>> {
        Ok(Trained { backend, toy, network: network.place(backend)?, steering: None, guidance: None })
    }

    /// Of a denoising diffusion sampler (DDS): with the score of the target, multiplied and added.
    #[must_use]
    pub fn steered(self, steering: Option<&'a Steering>) -> Trained<'a> {
        Trained { steering, ..self }
    }

    /// With guidance as that of [`ClosedForm::guidance`](super::ClosedForm::guidance).
    #[must_use]
    pub fn guided(self, guidance: Option<f64>) -> Trained<'a> {
        Trained { guidance, ..self }
    }
}

impl Trained<'_> {
    fn points(&self, x: &Tensor) -> Result<Vec<Point>> {
        Ok(points_of(&self.backend.download(x)?, self.toy.dimensions()))
    }

    /// Noise, clean points, and where they are asked for rewards and gradients.
    fn evaluate_steered(
        &self,
        steering: &Steering,
        x: &Tensor,
        step: &Step,
        (rewards, gradient): (bool, bool),
    ) -> Result<(Tensor, Tensor, Option<Tensor>, Option<Tensor>)> {
        let tape = if gradient { Tape::new(self.backend) } else { Tape::off(self.backend) };
        let scale = steering.scale.upload(&tape, false)?;
        let state = tape.watch(x.clone());
        let eps = Layers::placed(&self.network).forward(&tape, &with_time(&tape, &state, step.t)?)?;
        let eps = steering.add(&tape, &scale, self.toy, &state, &eps, step.t)?;
        let x0 = tape.axpby(step.x0.first as f32, &state, step.x0.second as f32, &eps)?;
        let (eps, clean) = (eps.into_value(), x0.value().clone());
        if !rewards && !gradient {
            return Ok((eps, clean, None, None));
        }
        let (reward, towards) = judge_points(self.backend, &clean, &self.toy.reward, gradient)?;
        let back = |towards| match tape.gradient(&x0, towards, &state)? {
            Some(grad) => Ok(grad),
            None => self.backend.zeros(x.shape()),
        };
        Ok((eps, clean, Some(reward), towards.map(back).transpose()?))
    }
}

impl Target for Trained<'_> {
    fn latent(&self) -> Shape {
        Shape::vector(self.toy.dimensions())
    }

    fn evaluate(&self, x: &Tensor, _: &[ParticleId], step: &Step, need: Need) -> Result<Evaluation> {
        let gradient = need == Need::Gradient || self.guidance.is_some();
        let (eps, x0, reward, grad) = match self.steering {
            None => {
                let x0 = [step.x0.first as f32, step.x0.second as f32];
                let asked = PointStep { time: time_of(step.t), x0, reward: self.toy.reward, gradient };
                let seen = self.backend.evaluate_points(x, &self.network, &asked)?;
                (seen.eps, seen.x0, Some(seen.reward), seen.grad)
            }
            Some(steering) => self.evaluate_steered(steering, x, step, (need >= Need::Reward, gradient))?,
        };
        let x0 = match (self.guidance, &grad) {
            (Some(rho), Some(grad)) => self.backend.axpby(1.0, &x0, (rho / step.mean.first) as f32, grad)?,
            _ => x0,
        };
        Ok(Evaluation {
            eps,
            x0,
            reward: reward.filter(|_| need >= Need::Reward).map(Scores::Device),
            grad: grad.filter(|_| need == Need::Gradient),
            // There is no classifier-free guidance.
            correction: None,
        })
    }

    fn finish(&self, x: &Tensor, _: &[ParticleId]) -> Result<FinalScores> {
        let reward = self.points(x)?.iter().map(|x| self.toy.reward.value(x)).collect();
        Ok(FinalScores { images: x.clone(), reward, parts: Vec::new() })
    }
}
