//! The weighted sum of several rewards, itself a reward.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::{Reward, term_scores};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::files::{FileHash, Source, computed_once};
use crate::pixels::Picture;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// `sum_k weight_k reward_k`, at least one term.
pub struct Sum {
    parts: Vec<(f64, Box<dyn Reward>)>,
    /// What each term is divided by before its weight counts.
    scales: Option<Vec<f64>>,
    files: Vec<(Source, String)>,
    hashes: OnceLock<Vec<FileHash>>,
}

impl Sum {
    /// `parts` are `(weight, reward)`.
    #[track_caller]
    pub fn new(parts: Vec<(f64, Box<dyn Reward>)>) -> Sum {
        assert!(!parts.is_empty(), "a sum of no rewards");
        Sum { parts, scales: None, files: Vec::new(), hashes: OnceLock::new() }
    }

    /// One more term.
    #[must_use]
    pub fn with(mut self, weight: f64, reward: Box<dyn Reward>) -> Sum {
        self.parts.push((weight, reward));
        self
    }

    /// Divides each term by its scale before its weight counts: standard deviations make weights of terms
    /// comparable whose units are not. Replaces scales that were given before.
    ///
    /// # Panics
    /// Where there is not one scale for each term, or one is not a finite number above 0.
    #[track_caller]
    pub fn normalise(&mut self, scales: &[f64]) {
        assert_eq!(scales.len(), self.parts.len(), "one scale for each term");
        assert!(scales.iter().all(|s| s.is_finite() && *s > 0.0), "scales {scales:?}");
        self.scales = Some(scales.to_vec());
    }

    /// What [`Sum::normalise`] was given.
    pub fn scales(&self) -> Option<&[f64]> {
        self.scales.as_deref()
    }

    /// Replaces the weights of the terms. A term of weight 0 is computed all the same.
    ///
    /// # Panics
    /// Where there is not one for each term, or one is not finite.
    #[track_caller]
    pub fn reweigh(&mut self, weights: &[f64]) {
        assert_eq!(weights.len(), self.parts.len(), "one weight for each term");
        assert!(weights.iter().all(|w| w.is_finite()), "weights {weights:?}");
        self.parts.iter_mut().zip(weights).for_each(|((weight, _), new)| *weight = *new);
    }

    /// Names the weight files that the terms were read from.
    pub(super) fn with_files(self, files: Vec<(Source, String)>) -> Sum {
        Sum { files, ..self }
    }

    /// The weight files of all terms and their hashes, for the record of a run. Computed when first asked
    /// for; all of the files are read then.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming a file that cannot be read any more.
    pub fn hashes(&self) -> Result<&[FileHash]> {
        let hash_all = || self.files.par_iter().map(|(source, rel)| source.hash(rel)).collect();
        Ok(computed_once(&self.hashes, hash_all)?)
    }

    /// The terms, in the order given, each with what its score is multiplied by: its weight over its scale.
    pub fn parts(&self) -> impl Iterator<Item = (f64, &dyn Reward)> {
        self.parts.iter().enumerate().map(|(i, (weight, reward))| {
            let scale = self.scales.as_ref().map_or(1.0, |scales| scales[i]);
            (weight / scale, reward.as_ref())
        })
    }

    /// Unweighted scores of each term for the records: name and one number per image.
    ///
    /// # Errors
    /// Of the backend.
    pub fn part_scores(
        &self,
        backend: &dyn Backend,
        images: &Tensor,
        prompt_of: &[u32],
    ) -> Result<Vec<(String, Vec<f32>)>> {
        term_scores(self, backend, images, prompt_of)
    }

    /// [`Sum::part_scores`] of 8-bit pictures, of any sizes, as a file would be read back.
    ///
    /// # Errors
    /// Of the backend.
    pub fn picture_scores(
        &self,
        backend: &dyn Backend,
        pictures: &[Picture],
        prompt_of: &[u32],
    ) -> Result<Vec<(String, Vec<f32>)>> {
        let mut all: Vec<(String, Vec<f32>)> =
            self.parts.iter().map(|(_, r)| (r.name(), Vec::with_capacity(pictures.len()))).collect();
        let mut from = 0;
        for batch in batches(pictures) {
            let images = uploaded(backend, batch)?;
            let scores = self.part_scores(backend, &images, &prompt_of[from..from + batch.len()])?;
            all.iter_mut().zip(scores).for_each(|((_, all), (_, new))| all.extend(new));
            from += batch.len();
        }
        Ok(all)
    }

    /// Pictures, of any sizes, as unit vectors, by the CLIP model of the first term that has one; `None`
    /// where none has.
    ///
    /// # Errors
    /// Of the backend.
    pub fn embeddings(&self, backend: &dyn Backend, pictures: &[Picture]) -> Result<Option<Vec<Vec<f32>>>> {
        let mut vectors = Vec::new();
        for batch in batches(pictures) {
            let images = uploaded(backend, batch)?.into();
            let Some(new) = self.embed(&Tape::off(backend), &images)? else { return Ok(None) };
            let values = backend.download(new.value())?;
            vectors.extend(values.chunks(new.shape().sample()).map(<[f32]>::to_vec));
        }
        Ok(Some(vectors))
    }
}

/// Neighbours of one size, so many that they are taken at once.
fn batches(pictures: &[Picture]) -> impl Iterator<Item = &[Picture]> {
    let same = pictures.chunk_by(|a, b| (a.width, a.height) == (b.width, b.height));
    same.flat_map(|same| same.chunks(BATCH))
}

/// Pictures of one size as images `(n, h, w, 3)` in [0, 1].
///
/// # Errors
/// Of the backend.
pub(crate) fn uploaded(backend: &dyn Backend, batch: &[Picture]) -> Result<Tensor> {
    let shape = Shape::new(batch.len(), batch[0].height, batch[0].width, 3);
    if !backend.computes() {
        return backend.zeros(shape);
    }
    let pixels: Vec<f32> = batch.iter().flat_map(Picture::to_floats).collect();
    backend.upload(shape, HostSlice::F32(&pixels))
}

/// The default alpha of a sum of more than one reward (docs/spec.md 7.7).
pub const SUM_ALPHA: f64 = 0.005;

/// The default alpha in standard deviations: one of them is then worth 100, as of the aesthetic score at its
/// own default.
const NORMALISED_ALPHA: f64 = 0.01;

/// Pictures scored at once: enough to fill a processor, few enough for the memory of the largest towers.
const BATCH: usize = 8;

impl Reward for Sum {
    /// `aesthetic`, or `aesthetic + 0.5 clip`.
    fn name(&self) -> String {
        let term = |(w, r): &(f64, Box<dyn Reward>)| match *w {
            1.0 => r.name(),
            w => format!("{w} {}", r.name()),
        };
        self.parts.iter().map(term).collect::<Vec<_>>().join(" + ")
    }

    fn terms(&self) -> Vec<(f64, &dyn Reward)> {
        self.parts().collect()
    }

    fn differentiable(&self) -> bool {
        self.parts.iter().all(|(_, r)| r.differentiable())
    }

    fn reads_prompt(&self) -> bool {
        self.parts.iter().any(|(_, r)| r.reads_prompt())
    }

    fn prepare(&mut self, backend: &dyn Backend, prompts: &[String]) -> Result<()> {
        self.parts.iter_mut().try_for_each(|(_, r)| r.prepare(backend, prompts))
    }

    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, prompt_of: &[u32]) -> Result<Var> {
        let mut parts = self.parts();
        let Some((weight, first)) = parts.next() else { unreachable!("as Sum::new asserts") };
        let score = first.score(tape, images, prompt_of)?;
        let mut sum = if weight == 1.0 { score } else { tape.scale(weight as f32, &score)? };
        for (weight, reward) in parts {
            let score = reward.score(tape, images, prompt_of)?;
            sum = tape.axpby(1.0, &sum, weight as f32, &score)?;
        }
        Ok(sum)
    }

    /// Through the first term that has a CLIP model.
    fn embed<'a>(&'a self, tape: &Tape<'a>, images: &Var) -> Result<Option<Var>> {
        for (_, reward) in self.parts() {
            let embedded = reward.embed(tape, images)?;
            if embedded.is_some() {
                return Ok(embedded);
            }
        }
        Ok(None)
    }

    /// A single term's own; 0.005 for a true sum, and 0.01 where standard deviations are the unit
    /// (docs/spec.md 7.7).
    fn default_alpha(&self) -> f64 {
        match self.parts.as_slice() {
            _ if self.scales.is_some() => NORMALISED_ALPHA,
            [(_, only)] => only.default_alpha(),
            _ => SUM_ALPHA,
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.parts.iter().flat_map(|(_, r)| r.warnings()).collect()
    }

    fn notes(&self) -> Vec<String> {
        self.parts.iter().flat_map(|(_, r)| r.notes()).collect()
    }
}
