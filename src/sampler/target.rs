//! What the sampler asks of models and rewards.

use std::ops::Deref;

use crate::backend::ParticleId;
use crate::ddim;
use crate::engine::Scores;
use crate::error::Result;
use crate::method::Need;
use crate::tensor::{Shape, Tensor};

/// The networks' and the reward's answer for the states before one transition. Rewards and gradients are of
/// the plain reward r, not of r / alpha.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Predicted noise `(n, h, w, c)`, after classifier-free guidance.
    pub eps: Tensor,
    /// Predicted clean latent `(n, h, w, c)`, clamped where the scheduler says so.
    pub x0: Tensor,
    /// Reward of each decoded clean latent; `Some` if the need was [`Need::Reward`] or more.
    pub reward: Option<Scores>,
    /// Its gradient with respect to the state, `(n, h, w, c)`; `Some` if the need was [`Need::Gradient`] or
    /// more.
    pub grad: Option<Tensor>,
    /// What classifier-free guidance adds to the noise predicted without a prompt, `s (eps_c - eps_u)`, `(n,
    /// h, w, c)`; `Some` if the need was [`Need::Correction`].
    pub correction: Option<Tensor>,
}

/// The images and rewards of the final latents.
#[derive(Clone, Debug)]
pub struct FinalScores {
    /// `(n, height, width, 3)` in [0, 1].
    pub images: Tensor,
    /// Plain reward of each image, n.
    pub reward: Vec<f64>,
    /// Terms of the reward by name, unweighted, n each.
    pub parts: Vec<(String, Vec<f64>)>,
}

/// What the sampler knows of models and rewards. Each particle's answer must depend on that particle alone.
pub trait Target: Send + Sync {
    /// Shape of one latent, `n = 1`.
    fn latent(&self) -> Shape;

    /// Evaluates the states `x` `(n, h, w, c)` before the transition `step`; sample `i` is particle `ids[i]`.
    ///
    /// # Errors
    /// From the device, or of [`ErrorKind::Memory`](crate::ErrorKind::Memory).
    fn evaluate(&self, x: &Tensor, ids: &[ParticleId], step: &ddim::Step, need: Need) -> Result<Evaluation>;

    /// Decodes and scores the final latents `x` `(n, h, w, c)`.
    ///
    /// # Errors
    /// As [`evaluate`](Target::evaluate).
    fn finish(&self, x: &Tensor, ids: &[ParticleId]) -> Result<FinalScores>;

    /// What the user should know of the last evaluations; each note is given once.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Name of a reward that has no gradient, if there is one.
    fn without_gradient(&self) -> Option<String> {
        None
    }

    /// Why classifier-free guidance corrects no noise: then nobody asks for [`Need::Correction`]. `None`
    /// where it does.
    fn without_correction(&self) -> Option<String> {
        Some("the target knows of none".into())
    }
}

/// Whatever points to a target: a reference, or an `Arc` that samplers share which run one after another.
impl<P: Deref<Target: Target> + Send + Sync> Target for P {
    fn latent(&self) -> Shape {
        (**self).latent()
    }
    fn evaluate(&self, x: &Tensor, ids: &[ParticleId], step: &ddim::Step, need: Need) -> Result<Evaluation> {
        (**self).evaluate(x, ids, step, need)
    }
    fn finish(&self, x: &Tensor, ids: &[ParticleId]) -> Result<FinalScores> {
        (**self).finish(x, ids)
    }
    fn notes(&self) -> Vec<String> {
        (**self).notes()
    }
    fn without_gradient(&self) -> Option<String> {
        (**self).without_gradient()
    }
    fn without_correction(&self) -> Option<String> {
        (**self).without_correction()
    }
}
