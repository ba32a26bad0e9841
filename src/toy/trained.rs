//! A toy as a target of the sampler, with the score of a trained network.

use super::closed_form::points_of;
use super::finetune::Steering;
use super::network::{time_of, with_time};
use super::{Network, Point, Toy};
use crate::backend::{ParticleId, PointStep, PointValues};
use crate::ddim::Step;
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::method::Need;
use crate::sampler::{Evaluation, FinalScores, Scores, Target};
use crate::tape::Tape;
use crate::tensor::{HostSlice, Shape, Tensor};

/// The network on the device.
pub struct Trained<'a> {
    backend: &'a dyn EngineBackend,
    toy: &'a Toy,
    network: &'a Network,
    /// The network where it is not steered.
    layers: [Tensor; 6],
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
        let layers = network.place(backend)?;
        Ok(Trained { backend, toy, network, layers, steering: None, guidance: None })
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

    fn evaluate_steered(
        &self,
        steering: &Steering,
        x: &Tensor,
        step: &Step,
        gradient: bool,
    ) -> Result<PointValues> {
        let tape = if gradient { Tape::new(self.backend) } else { Tape::off(self.backend) };
        let d = self.toy.dimensions();
        let layers = self.network.upload(&tape, false)?;
        let scale = steering.scale.upload(&tape, false)?;
        let state = tape.watch(x.clone());
        let eps = layers.forward(&tape, &with_time(&tape, &state, step.t)?)?;
        let eps = steering.add(&tape, &scale, self.toy, &state, &eps, step.t)?;
        let x0 = tape.axpby(step.x0.first as f32, &state, step.x0.second as f32, &eps)?;
        let points = self.points(x0.value())?;
        let rewards: Vec<f32> = points.iter().map(|x0| self.toy.reward.value(x0) as f32).collect();
        let reward = self.backend.upload(Shape::rows(points.len(), 1), HostSlice::F32(&rewards))?;
        let (eps, clean) = (eps.into_value(), x0.value().clone());
        if !gradient {
            return Ok(PointValues { eps, x0: clean, reward, grad: None });
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
        Ok(PointValues { eps, x0: clean, reward, grad: Some(grad) })
    }
}

impl Target for Trained<'_> {
    fn latent(&self) -> Shape {
        Shape::vector(self.toy.dimensions())
    }

    fn evaluate(&self, x: &Tensor, _: &[ParticleId], step: &Step, need: Need) -> Result<Evaluation> {
        let gradient = need == Need::Gradient || self.guidance.is_some();
        let PointValues { eps, x0, reward, grad } = match self.steering {
            None => {
                let x0 = [step.x0.first as f32, step.x0.second as f32];
                let asked = PointStep { time: time_of(step.t), x0, reward: self.toy.reward, gradient };
                self.backend.evaluate_points(x, &self.layers, &asked)?
            }
            Some(steering) => self.evaluate_steered(steering, x, step, gradient)?,
        };
        let x0 = match (self.guidance, &grad) {
            (Some(rho), Some(grad)) => self.backend.axpby(1.0, &x0, (rho / step.mean.first) as f32, grad)?,
            _ => x0,
        };
        Ok(Evaluation {
            eps,
            x0,
            reward: (need >= Need::Reward).then_some(Scores::Device(reward)),
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
