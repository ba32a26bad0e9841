//! Rewards that look at bytes on the host: images are downloaded, rounded to 8 bits and judged one by one, on
//! all cores. The scores are constants: they have no gradient.

use rayon::prelude::*;

use super::Reward;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape};

/// Bytes of the largest picture that is judged while a run is only counted.
const TRIED: usize = 3 << 22;

/// A black box as a reward: a function of one 8-bit picture, or of a picture and its prompt. It runs on the
/// host, on several threads at once, and has no gradient, so methods that need one cannot use it.
///
/// ```
/// use das_cuda::pixels::Picture;
/// use das_cuda::reward::{HostReward, Reward};
///
/// let redness = HostReward::new("redness", 0.1, |picture: &Picture| {
///     let red: u64 = picture.rgb.iter().step_by(3).map(|&r| u64::from(r)).sum();
///     Ok(red as f64 / (255 * picture.width * picture.height) as f64)
/// });
/// assert_eq!((redness.name().as_str(), redness.differentiable()), ("redness", false));
/// ```
pub struct HostReward {
    name: String,
    default_alpha: f64,
    reads_prompt: bool,
    /// Those of the run, for a judge that reads them.
    prompts: Vec<String>,
    judge: Judge,
}

/// The score of a picture and its prompt.
type Judge = Box<dyn Fn(&Picture, &str) -> Result<f64> + Send + Sync>;

impl HostReward {
    /// The reward `name`, larger where a picture is better. `default_alpha` is the alpha of `p(x) exp(r(x) /
    /// alpha)` for runs that give none: of the size of a difference in score that matters, or smaller. An
    /// error of `judge` ends the run; a score that is not finite is recorded, and its particle is lost.
    pub fn new(
        name: impl Into<String>,
        default_alpha: f64,
        judge: impl Fn(&Picture) -> Result<f64> + Send + Sync + 'static,
    ) -> HostReward {
        HostReward {
            name: name.into(),
            default_alpha,
            reads_prompt: false,
            prompts: Vec::new(),
            judge: Box::new(move |picture, _| judge(picture)),
        }
    }

    /// As [`HostReward::new`], for a `judge` of a picture and its prompt.
    pub fn with_prompt(
        name: impl Into<String>,
        default_alpha: f64,
        judge: impl Fn(&Picture, &str) -> Result<f64> + Send + Sync + 'static,
    ) -> HostReward {
        HostReward {
            name: name.into(),
            default_alpha,
            reads_prompt: true,
            prompts: Vec::new(),
            judge: Box::new(judge),
        }
    }
}

impl Reward for HostReward {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn differentiable(&self) -> bool {
        false
    }
    fn reads_prompt(&self) -> bool {
        self.reads_prompt
    }
    fn prepare(&mut self, _: &dyn Backend, prompts: &[String]) -> Result<()> {
        if self.reads_prompt {
            self.prompts = prompts.to_vec();
        }
        Ok(())
    }
    /// An image with a value that is not finite scores NaN: bytes would hide it.
    #[track_caller]
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, prompt_of: &[u32]) -> Result<Var> {
        let shape = images.shape();
        assert_eq!(shape.c, 3, "images are (n, h, w, 3), got {shape}");
        assert_eq!(shape.n, prompt_of.len(), "one prompt per image");
        let known = |p: &u32| !self.reads_prompt || (*p as usize) < self.prompts.len();
        assert!(prompt_of.iter().all(known), "reward {}: {prompt_of:?} of {}", self.name, self.prompts.len());
        if !tape.backend().computes() {
            // A size that is refused is told before anything is drawn, unless a picture of it is too large to
            // be made for that.
            if shape.sample() <= TRIED && shape.n > 0 {
                let black = Picture::new(shape.w, shape.h, vec![0; shape.sample()]);
                let prompt = self.prompts.get(prompt_of[0] as usize).map_or("", String::as_str);
                (self.judge)(&black, prompt)?;
            }
            return Ok(Var::from(tape.backend().zeros(Shape::rows(shape.n, 1))?));
        }
        // Computed from the values on the host, so no gradient flows back (see `differentiable`).
        let pixels = tape.backend().download(images.value())?;
        let scores: Vec<f32> = pixels
            .par_chunks(shape.sample().max(1))
            .zip(prompt_of)
            .map(|(image, prompt)| {
                if image.iter().any(|x| !x.is_finite()) {
                    return Ok(f32::NAN);
                }
                let picture = Picture::from_floats(shape.w, shape.h, image);
                let prompt = self.prompts.get(*prompt as usize).map_or("", String::as_str);
                (self.judge)(&picture, prompt).map(|score| score as f32)
            })
            .collect::<Result<_, Error>>()?;
        Ok(Var::from(tape.backend().upload(Shape::rows(shape.n, 1), HostSlice::F32(&scores))?))
    }
    fn default_alpha(&self) -> f64 {
        self.default_alpha
    }
}
