//! Rewards that are the cosine of image and prompt.

use std::sync::Arc;

use super::Reward;
use super::preprocess::Fit;
use super::tower::Tower;
use crate::backend::Backend;
use crate::error::Result;
use crate::tape::{Tape, Var};
use crate::tensor::{Shape, Tensor};

/// `factor` times the cosine of image and prompt.
pub(super) struct Cosine {
    name: String,
    factor: f32,
    fit: Fit,
    default_alpha: f64,
    tower: Arc<Tower>,
    /// `(prompts, 1, 1, d)`, times `factor`.
    prompts: Option<Tensor>,
    warnings: Vec<String>,
}

impl Cosine {
    pub fn new(name: &str, factor: f32, fit: Fit, default_alpha: f64, tower: Arc<Tower>) -> Cosine {
        let (name, warnings) = (name.to_string(), Vec::new());
        Cosine { name, factor, fit, default_alpha, tower, prompts: None, warnings }
    }
}

impl Reward for Cosine {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn differentiable(&self) -> bool {
        true
    }
    fn reads_prompt(&self) -> bool {
        true
    }
    fn prepare(&mut self, backend: &dyn Backend, prompts: &[String]) -> Result<()> {
        let (embedded, warnings) = self.tower.prompts(backend, prompts, &self.name)?;
        self.prompts = Some(backend.scale(self.factor, &embedded)?);
        self.warnings = warnings;
        Ok(())
    }
    /// The products with every prompt, of which each image's own is taken.
    #[track_caller]
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, prompt_of: &[u32]) -> Result<Var> {
        let Some(prompts) = &self.prompts else { panic!("reward {}: score before prepare", self.name) };
        let (n, m) = (images.shape().n, prompts.shape().n);
        assert!(prompt_of.len() == n && prompt_of.iter().all(|p| (*p as usize) < m), "{prompt_of:?} of {m}");
        let all = tape.linear(&self.tower.images(tape, images, self.fit)?, prompts, None, None)?;
        tape.take_token(&all.reshape(Shape::new(n, 1, m, 1)), prompt_of)
    }
    fn embed<'a>(&'a self, tape: &Tape<'a>, images: &Var) -> Result<Option<Var>> {
        self.tower.images(tape, images, self.fit).map(Some)
    }
    fn default_alpha(&self) -> f64 {
        self.default_alpha
    }
    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}
