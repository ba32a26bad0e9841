//! The weighted sum of several rewards, itself a reward.

use super::Reward;
use crate::backend::Backend;
use crate::error::Result;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `sum_k weight_k reward_k`, at least one term.
pub struct Sum {
    parts: Vec<(f64, Box<dyn Reward>)>,
}

impl Sum {
    /// `parts` are `(weight, reward)`.
    #[track_caller]
    pub fn new(parts: Vec<(f64, Box<dyn Reward>)>) -> Sum {
        assert!(!parts.is_empty(), "a sum of no rewards");
        Sum { parts }
    }

    /// The terms, in the order given.
    pub fn parts(&self) -> impl Iterator<Item = (f64, &dyn Reward)> {
        self.parts.iter().map(|(w, r)| (*w, r.as_ref()))
    }

    /// Unweighted scores of each term for the records: name and one number per image.
    pub fn part_scores(
        &self,
        backend: &dyn Backend,
        images: &Tensor,
        prompt_of: &[u32],
    ) -> Result<Vec<(String, Vec<f32>)>> {
        let images = Var::from(images.clone());
        self.parts
            .iter()
            .map(|(_, r)| {
                let score = r.score(&Tape::off(backend), &images, prompt_of)?;
                Ok((r.name(), backend.download(score.value())?))
            })
            .collect()
    }
}

impl Reward for Sum {
    /// `aesthetic`, or `aesthetic + 0.5 clip`.
    fn name(&self) -> String {
        let term = |(w, r): &(f64, Box<dyn Reward>)| match *w {
            1.0 => r.name(),
            w => format!("{w} {}", r.name()),
        };
        self.parts.iter().map(term).collect::<Vec<_>>().join(" + ")
    }

    fn differentiable(&self) -> bool {
        self.parts.iter().all(|(_, r)| r.differentiable())
    }

    fn prepare(&mut self, backend: &dyn Backend, prompts: &[String]) -> Result<()> {
        self.parts.iter_mut().try_for_each(|(_, r)| r.prepare(backend, prompts))
    }

    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, prompt_of: &[u32]) -> Result<Var> {
        let [first, rest @ ..] = self.parts.as_slice() else { unreachable!("held by `new`") };
        let score = first.1.score(tape, images, prompt_of)?;
        let mut sum = if first.0 == 1.0 { score } else { tape.scale(first.0 as f32, &score)? };
        for (weight, reward) in rest {
            let score = reward.score(tape, images, prompt_of)?;
            sum = tape.axpby(1.0, &sum, *weight as f32, &score)?;
        }
        Ok(sum)
    }

    /// A single term's own; 0.005 for a true sum (das-spec 7.7).
    fn default_kl(&self) -> f64 {
        match self.parts.as_slice() {
            [(_, only)] => only.default_kl(),
            _ => 0.005,
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut all: Vec<String> = self.parts.iter().flat_map(|(_, r)| r.warnings()).collect();
        all.dedup();
        all
    }
}
