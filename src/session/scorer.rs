//! Rewards of existing images, without the rest of a model.

use std::path::Path;

use super::builder::SessionBuilder;
use super::device::Opened;
use crate::engine::EngineBackend;
use crate::error::{Error, Result};
use crate::model::files::Source;
use crate::model::lpips::{Lpips, Range};
use crate::pixels::Picture;
use crate::reward::{Reward, Spec, Sum, uploaded};

/// Rewards on a device, ready to score images.
pub struct Scorer {
    // Tensors go before the device that they are on.
    reward: Sum,
    backend: Box<dyn EngineBackend>,
    model: Source,
}

/// What images are worth.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scores {
    /// The weighted sum of all rewards, one number per image.
    pub target: Vec<f64>,
    /// Every reward by name, unweighted.
    pub rewards: Vec<(String, Vec<f32>)>,
    /// What the user should know, such as words of the prompt that no encoder reads, or a scorer that was
    /// started again.
    pub warnings: Vec<String>,
}

impl SessionBuilder {
    /// Opens the device and loads the rewards alone.
    ///
    /// # Errors
    /// As [`SessionBuilder::open`].
    pub fn open_scorer(self) -> Result<Scorer> {
        let (builder, _) = self.resolve_device();
        let Opened { backend, .. } = builder.device.open(builder.resolved_dtype(), builder.machine)?;
        let model = builder.folder()?.source().clone();
        let reward = builder.open_rewards(&model, &*backend)?;
        Ok(Scorer { reward, backend, model })
    }
}

impl SessionBuilder {
    /// Why the files of `reward` cannot be found, where they are looked for and may be downloaded; `None`
    /// where they are there, or the reward reads none. Nothing is opened.
    ///
    /// # Errors
    /// Of the model.
    pub fn missing(&self, reward: &Spec) -> Result<Option<Error>> {
        let model = self.folder()?;
        Ok(reward.find(model.source(), &self.hub).err())
    }
}

impl Scorer {
    /// The rewards.
    pub fn reward(&self) -> &Sum {
        &self.reward
    }

    /// The model whose towers judge where a reward names no path.
    pub fn model(&self) -> &Source {
        &self.model
    }

    /// Pictures, which may have any sizes, as unit vectors, by the CLIP model of the first reward that has
    /// one; `None` where none has.
    ///
    /// # Errors
    /// Of the rewards and the device.
    pub fn embed(&self, pictures: &[Picture]) -> Result<Option<Vec<Vec<f32>>>> {
        self.reward.embeddings(&*self.backend, pictures)
    }

    /// The network of LPIPS on this device, by `network` and the weights of its channels, `linear`.
    ///
    /// # Errors
    /// As [`Lpips::open`].
    pub fn open_lpips(&self, network: &Path, linear: &Path, range: Range) -> Result<Lpips> {
        Lpips::open(&*self.backend, network, linear, range)
    }

    /// A vector for a picture of any size: the squared distance of two is their LPIPS.
    ///
    /// # Errors
    /// Of the device.
    pub fn perceive(&self, lpips: &Lpips, picture: &Picture) -> Result<Vec<f32>> {
        let image = uploaded(&*self.backend, std::slice::from_ref(picture))?;
        Ok(lpips.vectors(&*self.backend, &image)?.swap_remove(0))
    }

    /// Scores pictures, which may have any sizes, of one prompt.
    ///
    /// # Errors
    /// Of the rewards and the device.
    pub fn score(&mut self, pictures: &[Picture], prompt: &str) -> Result<Scores> {
        self.reward.prepare(&*self.backend, &[prompt.to_string()])?;
        let rewards = self.reward.picture_scores(&*self.backend, pictures, &vec![0; pictures.len()])?;
        let weights: Vec<f64> = self.reward.parts().map(|(weight, _)| weight).collect();
        let target = |i: usize| weights.iter().zip(&rewards).map(|(w, (_, v))| w * f64::from(v[i])).sum();
        let target = (0..pictures.len()).map(target).collect();
        let warnings = [self.reward.warnings(), self.reward.notes()].concat();
        Ok(Scores { target, rewards, warnings })
    }
}
