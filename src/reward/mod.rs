//! Rewards: what an image is worth. One file per reward, registered in [`REWARDS`]; here the trait and what
//! all of them share. A reward sees images `(n, h, w, 3)` in [0, 1] on a backend and answers one number per
//! image; a differentiable one does so on the tape, so that its gradient reaches the latents.
//!
//! A reward of one's own implements [`Reward`]; a black box is a [`HostReward`].

mod aesthetic;
mod checker;
mod clip;
mod cosine;
mod exec;
mod external;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gold;
mod head;
mod host;
mod hpsv2;
mod http;
mod imagereward;
mod incompressibility;
mod jpeg;
mod jpeg_proxy;
mod jpeg_size;
mod kind;
mod locate;
mod open;
mod pickscore;
mod preprocess;
mod registry;
mod spec;
mod sum;
mod tower;
mod towers;
mod two_paths;

pub use checker::checker_score;
pub use external::end_scorers;
pub use gold::gold_score;
pub use head::Head;
pub use host::HostReward;
pub use jpeg_size::jpeg_size;
pub use kind::{Needs, RewardKind};
pub use open::{open, open_named};
pub use preprocess::{Fit, Preprocess};
pub use registry::REWARDS;
pub use spec::Spec;
pub(crate) use sum::uploaded;
pub use sum::{SUM_ALPHA, Sum};
#[cfg(feature = "cli")]
pub(crate) use two_paths::two_paths;

use crate::backend::Backend;
use crate::error::Result;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// A scalar judgement of images.
///
/// ```
/// use das_cuda::Result;
/// use das_cuda::backend::Backend;
/// use das_cuda::cpu::Cpu;
/// use das_cuda::reward::Reward;
/// use das_cuda::tape::{Tape, Var};
/// use das_cuda::tensor::{HostSlice, Shape, Tensor};
///
/// /// The mean of the red channel of images of one size.
/// struct Redness {
///     /// `(1, 1, 1, h w 3)`.
///     weights: Tensor,
/// }
///
/// impl Reward for Redness {
///     fn name(&self) -> String {
///         "redness".into()
///     }
///     fn differentiable(&self) -> bool {
///         true
///     }
///     fn prepare(&mut self, _: &dyn Backend, _: &[String]) -> Result<()> {
///         Ok(())
///     }
///     fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
///         let shape = images.shape();
///         tape.linear(&images.reshape(Shape::rows(shape.n, shape.sample())), &self.weights, None, None)
///     }
///     fn default_alpha(&self) -> f64 {
///         0.1
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let cpu = Cpu::new();
/// let weights = cpu.upload(Shape::vector(6), HostSlice::F32(&[0.5, 0.0, 0.0, 0.5, 0.0, 0.0]))?;
/// let images = cpu.upload(Shape::new(1, 1, 2, 3), HostSlice::F32(&[1.0, 0.0, 0.0, 0.5, 1.0, 1.0]))?;
/// let score = Redness { weights }.score(&Tape::off(&cpu), &images.into(), &[0])?.into_value();
/// assert_eq!(cpu.download(&score)?, [0.75]);
/// # Ok(())
/// # }
/// ```
pub trait Reward: Send + Sync {
    /// As the user types it, such as `aesthetic`.
    fn name(&self) -> String;

    /// Whether [`Reward::score`] leaves a trace on the tape. If not, the result is a constant.
    fn differentiable(&self) -> bool;

    /// Whether the score depends on the prompt.
    fn reads_prompt(&self) -> bool {
        false
    }

    /// Everything that depends on the prompts alone, such as text embeddings. Call before `score`; a second
    /// call replaces the prompts of the first.
    ///
    /// # Errors
    /// Of the backend.
    fn prepare(&mut self, backend: &dyn Backend, prompts: &[String]) -> Result<()>;

    /// Scores of `images` `(n, h, w, 3)` in [0, 1], shaped `(n, 1, 1, 1)`; larger is better. Image `i`
    /// belongs to prompt `prompt_of[i]` of the list given to `prepare`.
    ///
    /// # Errors
    /// Of the backend, and for images that this reward cannot judge.
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, prompt_of: &[u32]) -> Result<Var>;

    /// Images `(n, h, w, 3)` in [0, 1] as unit vectors `(n, 1, 1, d)`, where the reward sees them through a
    /// CLIP model: how far they are apart says how diverse the images are, and a surrogate of another reward
    /// is learned on them ([`surrogate`](crate::surrogate)).
    ///
    /// # Errors
    /// Of the backend.
    fn embed<'a>(&'a self, _tape: &Tape<'a>, _images: &Var) -> Result<Option<Var>> {
        Ok(None)
    }

    /// The alpha of `p(x) exp(r(x) / alpha)` that suits this reward's scale.
    fn default_alpha(&self) -> f64;

    /// The weighted terms of a sum; none where this is no sum.
    fn terms(&self) -> Vec<(f64, &dyn Reward)> {
        Vec::new()
    }

    /// What the user should know after `prepare`, such as prompts cut at the text tower's length.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What happened since the last call that the user should know, such as a scorer that was started again.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The weighted terms of `reward`: itself with weight 1 where it is no sum.
pub fn terms(reward: &dyn Reward) -> Vec<(f64, &dyn Reward)> {
    let terms = reward.terms();
    if terms.is_empty() { vec![(1.0, reward)] } else { terms }
}

/// Unweighted scores of each term of `reward`, for the records: its name and a number for each of `images`
/// `(n, h, w, 3)`.
///
/// # Errors
/// Of the rewards.
pub fn term_scores(
    reward: &dyn Reward,
    backend: &dyn Backend,
    images: &Tensor,
    prompt_of: &[u32],
) -> Result<Vec<(String, Vec<f32>)>> {
    let images = Var::from(images.clone());
    let scored = |(_, term): (f64, &dyn Reward)| {
        let score = term.score(&Tape::off(backend), &images, prompt_of)?;
        Ok((term.name(), backend.download(score.value())?))
    };
    terms(reward).into_iter().map(scored).collect()
}
