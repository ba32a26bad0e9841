//! Rewards that see an image through a CLIP tower: `aesthetic` (a head on the image embedding,
//! docs/spec.md 7.1), `clip` and `pickscore` (cosine of image and prompt, docs/spec.md 7.2 and 7.3).
//! Embeddings are divided by their length.

use std::sync::Arc;

use super::Reward;
use super::head::Head;
use super::preprocess::Preprocess;
use crate::backend::Backend;
use crate::error::Result;
use crate::model::clip::{ClipText, ClipVision};
use crate::model::tokenizer::Tokenizer;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// A CLIP folder: images, and where a reward asks for it prompts, to unit vectors.
pub(super) struct Tower {
    pub preprocess: Preprocess,
    pub vision: ClipVision,
    pub text: Option<(Tokenizer, ClipText)>,
}

impl Tower {
    /// `(n, h, w, 3)` in [0, 1] to `(n, 1, 1, d)`.
    fn images<'a>(&'a self, tape: &Tape<'a>, images: &Var) -> Result<Var> {
        let pixels = self.preprocess.apply(tape, images)?;
        tape.l2_norm(&self.vision.embed(tape, &pixels)?)
    }

    /// `(prompts, 1, 1, d)`, and a warning for each prompt that did not fit, spoken by `who`.
    #[track_caller]
    fn prompts(&self, backend: &dyn Backend, prompts: &[String], who: &str) -> Result<(Tensor, Vec<String>)> {
        let Some((tokenizer, text)) = &self.text else { panic!("reward {who}: opened without a text tower") };
        let mut warnings = Vec::new();
        let mut ids = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let tokens = tokenizer.encode(prompt);
            if let Some(dropped) = &tokens.dropped {
                let context = tokenizer.context();
                warnings.push(format!(
                    "reward {who} reads only {context} tokens of a prompt; not read: {:?}",
                    dropped.text
                ));
            }
            ids.push(tokens.ids);
        }
        let embedded = text.run(backend, &ids)?.projected(backend)?;
        Ok((backend.l2_norm(&embedded)?, warnings))
    }
}

/// An affine map of the image embedding.
pub(super) struct Aesthetic {
    name: String,
    tower: Arc<Tower>,
    weight: Tensor,
    bias: Tensor,
}

impl Aesthetic {
    pub fn new(name: String, tower: Arc<Tower>, head: &Head, backend: &dyn Backend) -> Result<Aesthetic> {
        let weight: Vec<f32> = head.weight.iter().map(|w| *w as f32).collect();
        Ok(Aesthetic {
            name,
            tower,
            weight: backend.upload(Shape::vector(weight.len()), HostSlice::F32(&weight))?,
            bias: backend.upload(Shape::vector(1), HostSlice::F32(&[head.bias as f32]))?,
        })
    }
}

impl Reward for Aesthetic {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn differentiable(&self) -> bool {
        true
    }
    fn prepare(&mut self, _: &dyn Backend, _: &[String]) -> Result<()> {
        Ok(())
    }
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
        let embedding = self.tower.images(tape, images)?;
        tape.linear(&embedding, &self.weight, Some(&self.bias), None)
    }
    fn default_kl(&self) -> f64 {
        0.005
    }
}

/// `factor` times the cosine of image and prompt.
pub(super) struct Cosine {
    name: String,
    factor: f32,
    default_kl: f64,
    tower: Arc<Tower>,
    /// `(prompts, 1, 1, d)`, times `factor`.
    prompts: Option<Tensor>,
    warnings: Vec<String>,
}

impl Cosine {
    pub fn new(name: String, factor: f32, default_kl: f64, tower: Arc<Tower>) -> Cosine {
        Cosine { name, factor, default_kl, tower, prompts: None, warnings: Vec::new() }
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
        let all = tape.linear(&self.tower.images(tape, images)?, prompts, None, None)?;
        tape.take_token(&all.reshape(Shape::new(n, 1, m, 1)), prompt_of)
    }
    fn default_kl(&self) -> f64 {
        self.default_kl
    }
    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}
