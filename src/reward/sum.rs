//! The weighted sum of several rewards, itself a reward.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::{Reward, term_scores};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::files::{FileHash, Source};
use crate::pixels::Picture;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// `sum_k weight_k reward_k`, at least one term.
pub struct Sum {
    parts: Vec<(f64, Box<dyn Reward>)>,
    files: Vec<(Source, String)>,
    hashes: OnceLock<Vec<FileHash>>,
}

impl Sum {
    /// `parts` are `(weight, reward)`.
    #[track_caller]
    pub fn new(parts: Vec<(f64, Box<dyn Reward>)>) -> Sum {
        assert!(!parts.is_empty(), "a sum of no rewards");
        Sum { parts, files: Vec::new(), hashes: OnceLock::new() }
    }

    /// One more term.
    #[must_use]
    pub fn with(mut self, weight: f64, reward: Box<dyn Reward>) -> Sum {
        self.parts.push((weight, reward));
        self
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
        if let Some(hashes) = self.hashes.get() {
            return Ok(hashes);
        }
        let hashes =
            self.files.par_iter().map(|(source, rel)| source.hash(rel)).collect::<Result<Vec<_>>>()?;
        Ok(self.hashes.get_or_init(|| hashes))
    }

    /// The terms, in the order given.
    pub fn parts(&self) -> impl Iterator<Item = (f64, &dyn Reward)> {
        self.parts.iter().map(|(w, r)| (*w, r.as_ref()))
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
        for same in pictures.chunk_by(|a, b| (a.width, a.height) == (b.width, b.height)) {
            for batch in same.chunks(BATCH) {
                let pixels: Vec<f32> = batch.iter().flat_map(Picture::to_floats).collect();
                let shape = Shape::new(batch.len(), batch[0].height, batch[0].width, 3);
                let images = backend.upload(shape, HostSlice::F32(&pixels))?;
                let scores = self.part_scores(backend, &images, &prompt_of[from..from + batch.len()])?;
                all.iter_mut().zip(scores).for_each(|((_, all), (_, new))| all.extend(new));
                from += batch.len();
            }
        }
        Ok(all)
    }
}

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
        let [first, rest @ ..] = self.parts.as_slice() else { unreachable!("as Sum::new asserts") };
        let score = first.1.score(tape, images, prompt_of)?;
        let mut sum = if first.0 == 1.0 { score } else { tape.scale(first.0 as f32, &score)? };
        for (weight, reward) in rest {
            let score = reward.score(tape, images, prompt_of)?;
            sum = tape.axpby(1.0, &sum, *weight as f32, &score)?;
        }
        Ok(sum)
    }

    /// A single term's own; 0.005 for a true sum (docs/spec.md 7.7).
    fn default_alpha(&self) -> f64 {
        match self.parts.as_slice() {
            [(_, only)] => only.default_alpha(),
            _ => 0.005,
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.parts.iter().flat_map(|(_, r)| r.warnings()).collect()
    }

    fn notes(&self) -> Vec<String> {
        self.parts.iter().flat_map(|(_, r)| r.notes()).collect()
    }
}
