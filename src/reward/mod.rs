//! Rewards: what an image is worth. One file per reward; here the trait and what all of them share. A reward
//! sees images `(n, h, w, 3)` in [0, 1] on a backend and answers one number per image; a differentiable one
//! does so on the tape, so that its gradient reaches the latents.

mod clip;
mod gold;
mod head;
mod host;
mod jpeg;
mod open;
mod preprocess;
mod spec;
mod sum;

pub use gold::{gold, gold_score};
pub use head::Head;
pub use host::HostReward;
pub use jpeg::{compressibility, incompressibility, jpeg_size};
pub use open::open;
pub use preprocess::Preprocess;
pub use spec::{Kind, Spec};
pub use sum::Sum;

use crate::backend::Backend;
use crate::error::Result;
use crate::tape::{Tape, Var};

/// A scalar judgement of images.
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
    fn prepare(&mut self, backend: &dyn Backend, prompts: &[String]) -> Result<()>;

    /// Scores of `images` `(n, h, w, 3)` in [0, 1], shaped `(n, 1, 1, 1)`; larger is better. Image `i` belongs
    /// to prompt `prompt_of[i]` of the list given to `prepare`.
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, prompt_of: &[u32]) -> Result<Var>;

    /// The alpha of `p(x) exp(r(x) / alpha)` that suits this reward's scale.
    fn default_kl(&self) -> f64;

    /// What the user should know after `prepare`, such as prompts cut at the text tower's length.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
