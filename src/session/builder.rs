//! What a session is made of.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::device::{Device, Dtype, Machine};
use super::normalise::Normalise;
use super::options::{Preset, SampleOptions, Tuned};
use crate::assets::SHAPES;
use crate::backend::Backend;
use crate::ddim::{Chain, Prediction};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Hub, Missing, Repository};
use crate::model::embedding::{self, Embedding};
use crate::model::files::Source;
use crate::model::folder::ModelFolder;
use crate::model::lora::{self, Lora};
use crate::model::needed;
use crate::model::original::Choices;
use crate::reward::{self, Reward, Spec, Sum};
use crate::target::Gradient;

/// The reward where none is chosen.
pub(super) const DEFAULT_REWARD: &str = "aesthetic";

/// Opens a reward on a backend.
pub(super) type OpenReward = Arc<dyn Fn(&dyn Backend) -> Result<Box<dyn Reward>> + Send + Sync>;

/// Alpha for the aesthetic head of the embedded model, whose ratings spread wider than those of the head that
/// the reward's own default was made for (docs/what-was-tried.md).
const SHAPES_ALPHA: f64 = 0.05;

/// The same in standard deviations, one of which is 0.41 (256 plain pictures of the held-out prompts).
const SHAPES_NORMALISED_ALPHA: f64 = 0.12;

/// Where a model keeps its aesthetic head.
const HEAD: &str = "aesthetic/model.safetensors";

/// For the same head: the gradient at the clean latent is cheap, may be held for a few steps and acts late in
/// the chain, resampling by noisy predictions costs more roots than it gains reward, and a bound of this size
/// takes little from the guidance (docs/what-was-tried.md).
const SHAPES_TUNED: Tuned =
    Tuned { ess_threshold: 0.0, max_shift: 4.0, gradient: Gradient::Clean, gradient_every: 8 };

/// Alpha of the paper's aesthetic experiments.
const PAPER_AESTHETIC: f64 = 0.01;

/// What a [`Session`](super::Session) is made of: device, precision, model, rewards. Whatever is not chosen
/// has a default: the GPU if there is a usable one, the embedded model, its aesthetic reward.
#[derive(Clone, Default)]
#[must_use]
pub struct SessionBuilder {
    pub(super) device: Device,
    pub(super) peers: Vec<Device>,
    pub(super) dtype: Option<Dtype>,
    pub(super) machine: Machine,
    pub(super) model: Option<PathBuf>,
    pub(super) choices: Choices,
    pub(super) loras: Vec<lora::Spec>,
    pub(super) embeddings: Vec<embedding::Spec>,
    pub(super) rewards: Vec<Spec>,
    pub(super) custom: Vec<(f64, OpenReward)>,
    pub(super) eval_rewards: Vec<Spec>,
    pub(super) normalise: Option<Normalise>,
    pub(super) hub: Hub,
    pub(super) hash_files: bool,
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("device", &self.device)
            .field("peers", &self.peers)
            .field("dtype", &self.dtype)
            .field("model", &self.model)
            .field("loras", &self.loras)
            .field("embeddings", &self.embeddings)
            .field("rewards", &self.rewards)
            .field("custom", &self.custom.len())
            .field("eval_rewards", &self.eval_rewards)
            .field("normalise", &self.normalise)
            .finish_non_exhaustive()
    }
}

impl SessionBuilder {
    /// Where to compute.
    pub fn device(mut self, device: Device) -> SessionBuilder {
        self.device = device;
        self
    }
    /// Further devices of the same kind, over which the particles of a prompt are spread. Each gets a copy of
    /// the model and the rewards.
    pub fn spread_over(mut self, peers: Vec<Device>) -> SessionBuilder {
        self.peers = peers;
        self
    }
    /// The type of weights and intermediate results; else that which suits the device.
    pub fn dtype(mut self, dtype: Dtype) -> SessionBuilder {
        self.dtype = Some(dtype);
        self
    }
    /// Most bytes of the GPU's memory to take. They decide an open micro-batch and automatic checkpointing.
    pub fn max_memory(mut self, bytes: u64) -> SessionBuilder {
        self.machine.max_memory = Some(bytes);
        self
    }
    /// Launches every kernel by itself instead of recorded CUDA graphs, for profilers and debugging.
    pub fn no_graph(mut self) -> SessionBuilder {
        self.machine.no_graph = true;
        self
    }
    /// Leaves every matrix product to the program's own kernels, also where cuBLASLt is found and is faster.
    pub fn no_cublas(mut self) -> SessionBuilder {
        self.machine.no_cublas = true;
        self
    }
    /// A model folder in diffusers layout, or a checkpoint in a single file; where there is none of this
    /// name, `owner/name[@revision]` of a repository on the hub ([`Hub`]) or `owner/name[@revision]/file` of
    /// a file in one; else the embedded model.
    pub fn model(mut self, path: impl Into<PathBuf>) -> SessionBuilder {
        self.model = Some(path.into());
        self
    }
    /// Another autoencoder for the model: the folder of one, a single file, or a name as of
    /// [`SessionBuilder::model`].
    pub fn vae(mut self, path: impl Into<PathBuf>) -> SessionBuilder {
        self.choices.vae = Some(path.into());
        self
    }
    /// A folder in diffusers layout, or the name of a repository, whose configurations and tokenizers are
    /// taken for a model in a single file.
    pub fn model_config(mut self, folder: impl Into<PathBuf>) -> SessionBuilder {
        self.choices.config = Some(folder.into());
        self
    }
    /// What the model's UNet predicts; else what its files say.
    pub fn prediction(mut self, prediction: Prediction) -> SessionBuilder {
        self.choices.prediction = Some(prediction);
        self
    }
    /// Samples by this chain; else by that of the model's files.
    pub fn scheduler(mut self, chain: Chain) -> SessionBuilder {
        self.choices.scheduler = Some(chain);
        self
    }
    /// Merges a LoRA file into the model, `weight` times, behind those that were added before.
    pub fn lora(mut self, path: impl Into<PathBuf>, weight: f64) -> SessionBuilder {
        self.loras.push(lora::Spec { path: path.into(), weight });
        self
    }
    /// Computes the hashes of all files of model and rewards, which the record of a run names, while the
    /// files are loaded; else they are computed when they are asked for.
    pub fn hash_files(mut self) -> SessionBuilder {
        self.hash_files = true;
        self
    }
    /// Teaches the text encoders a word: a file of textual inversion, such as
    /// `"<cat>=cat.safetensors".parse()?`.
    pub fn embedding(mut self, embedding: embedding::Spec) -> SessionBuilder {
        self.embeddings.push(embedding);
        self
    }
    /// Adds a reward to align to, such as `"clip=0.5".parse()?`; the sum of all counts.
    pub fn reward(mut self, reward: Spec) -> SessionBuilder {
        self.rewards.push(reward);
        self
    }
    /// Adds a reward of your own to align to, with its weight. `open` makes it on a backend: on the device,
    /// and once more where the cost of a run is counted.
    pub fn custom_reward<R: Reward + 'static>(
        mut self,
        weight: f64,
        open: impl Fn(&dyn Backend) -> Result<R> + Send + Sync + 'static,
    ) -> SessionBuilder {
        let open = move |backend: &dyn Backend| Ok(Box::new(open(backend)?) as Box<dyn Reward>);
        self.custom.push((weight, Arc::new(open)));
        self
    }
    /// Adds a held-out reward: reported, never optimised.
    pub fn eval_reward(mut self, reward: Spec) -> SessionBuilder {
        self.eval_rewards.push(reward);
        self
    }

    /// Divides each reward that is aligned to by a scale before its weight counts. Alpha is then in these
    /// units, and so are the weighted sums of records.
    pub fn normalise(mut self, normalise: Normalise) -> SessionBuilder {
        self.normalise = Some(normalise);
        self
    }

    /// Where repositories are found that the model or a reward names; else as the environment says
    /// ([`Settings::from_env`](crate::hub::Settings::from_env)), and downloads are silent.
    pub fn hub(mut self, hub: Hub) -> SessionBuilder {
        self.hub = hub;
        self
    }

    /// The repositories that the model and the rewards were read from so far.
    pub fn repositories(&self) -> Vec<Repository> {
        self.hub.used()
    }

    /// Where to compute.
    pub fn device_choice(&self) -> Device {
        self.device
    }

    /// Decides what [`Device::Auto`] means on this machine; also returns a line that says so.
    pub fn resolve_device(mut self) -> (SessionBuilder, Option<String>) {
        let (device, note) = self.device.resolve();
        self.device = device;
        (self, note)
    }

    /// The options that suit this model and reward. The embedded model's fit a minute on two cores: 50 steps
    /// and 16 particles; elsewhere those of [`SampleOptions::new`] hold. For the aesthetic head of the
    /// embedded model, wherever its file is, an alpha, the gradient, a bound on the shift and no resampling
    /// (docs/what-was-tried.md).
    pub fn defaults(&self) -> SampleOptions {
        let options = match self.model {
            Some(_) => SampleOptions::new(),
            None => SampleOptions::new().steps(50).particles(16),
        };
        let by_default = self.rewards.is_empty() && self.custom.is_empty();
        let default: Option<Spec> = DEFAULT_REWARD.parse().ok().filter(|_| by_default);
        if !self.rewards.iter().chain(&default).any(|spec| self.is_shapes_head(spec)) {
            return options;
        }
        let alpha = if self.normalise.is_some() { SHAPES_NORMALISED_ALPHA } else { SHAPES_ALPHA };
        SampleOptions { tuned: Some(SHAPES_TUNED), suited_alpha: Some(alpha), ..options }
    }

    /// Whether a reward is the embedded model's aesthetic head: where nothing else is named, or a file of the
    /// same bytes is.
    fn is_shapes_head(&self, spec: &Spec) -> bool {
        if spec.kind.name != DEFAULT_REWARD {
            return false;
        }
        let file = match (&spec.path, &self.model) {
            (None, None) => return true,
            (None, Some(model)) => Some(model.join(HEAD)),
            (Some(_), _) => spec.head(),
        };
        let same = |file: PathBuf, bytes: &[u8]| {
            fs::metadata(&file).is_ok_and(|of| of.is_file() && of.len() == bytes.len() as u64)
                && fs::read(&file).is_ok_and(|content| content == bytes)
        };
        file.zip(embedded_head()).is_some_and(|(file, bytes)| same(file, bytes))
    }

    /// The options of a preset for this model and reward.
    pub fn preset(&self, preset: Preset) -> SampleOptions {
        match preset {
            Preset::Model => self.defaults(),
            Preset::Paper => self.paper(),
            Preset::Reference => SampleOptions::new(),
        }
    }

    /// The paper's settings (docs/spec.md 13): alpha 0.01 for the aesthetic reward, 0.005 for several
    /// rewards, and each other reward's own. The paper does not normalise.
    fn paper(&self) -> SampleOptions {
        let options = SampleOptions::new().particles(16);
        match self.rewards.as_slice() {
            _ if self.normalise.is_some() => options,
            [] if !self.custom.is_empty() => options,
            [] => SampleOptions { suited_alpha: Some(PAPER_AESTHETIC), ..options },
            [one] if one.kind.name == DEFAULT_REWARD => {
                SampleOptions { suited_alpha: Some(PAPER_AESTHETIC), ..options }
            }
            _ => options,
        }
    }

    /// Whether opening the device will first compile the kernels, which takes a minute or more; see
    /// [`Device::compiles_kernels`].
    pub fn compiles_kernels(&self) -> bool {
        self.device.compiles_kernels()
    }

    /// `shapes` for the embedded model, else the path of its folder.
    pub fn model_name(&self) -> String {
        self.model.as_deref().map_or(SHAPES.to_string(), |path| path.display().to_string())
    }

    /// The rewards to align to, besides custom ones.
    ///
    /// # Errors
    /// None in practice: the name of the default reward is known.
    pub fn reward_specs(&self) -> Result<Vec<Spec>> {
        match self.rewards.is_empty() && self.custom.is_empty() {
            true => Ok(vec![DEFAULT_REWARD.parse()?]),
            false => Ok(self.rewards.clone()),
        }
    }

    /// Refuses scales that do not fit the rewards.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the option.
    pub fn check_normalise(&self) -> Result<()> {
        let named = self.reward_specs()?;
        let weights: Vec<f64> = named
            .iter()
            .map(|spec| spec.weight)
            .chain(self.custom.iter().map(|(weight, _)| *weight))
            .collect();
        self.normalise.as_ref().map_or(Ok(()), |normalise| normalise.check(&weights))
    }

    pub(super) fn resolved_dtype(&self) -> Dtype {
        self.dtype.unwrap_or(self.device.default_dtype())
    }

    /// The model's folder, or the embedded one, with the LoRA files and the embeddings. No weights are read.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model): no model of a family that can be run, or parts that are
    /// missing.
    pub fn folder(&self) -> Result<ModelFolder> {
        let folder = match &self.model {
            Some(path) => {
                let (path, choices) = self.located(path)?;
                ModelFolder::open_with(&path, None, &choices)?
            }
            None if self.choices != Choices::default() => {
                let Choices { vae, config, prediction, scheduler: _ } = &self.choices;
                let option = match (vae, config, prediction) {
                    (Some(_), ..) => "vae",
                    (None, Some(_), _) => "model_config",
                    (None, None, Some(_)) => "prediction",
                    (None, None, None) => "scheduler",
                };
                return Err(Error::usage("the model inside the program has its own parts")
                    .option(option)
                    .advice(format!("give `model`, or leave out `{option}`")));
            }
            None => ModelFolder::from_source(embedded()?, None)?,
        };
        let open = |spec: &lora::Spec| {
            let path = self.hub.locate(&spec.path, &needed::of_lora).map_err(|e| e.option("lora"))?;
            Lora::open(&lora::Spec { path, weight: spec.weight })
        };
        let folder = folder.with_loras(self.loras.iter().map(open).collect::<Result<_>>()?)?;
        let open = |spec: &embedding::Spec| {
            let found = self.hub.locate(&spec.path, &needed::of_embedding);
            let path = found.map_err(|e| e.option("embedding"))?;
            Embedding::open(&embedding::Spec { name: spec.name.clone(), path })
        };
        folder.with_embeddings(self.embeddings.iter().map(open).collect::<Result<_>>()?)
    }

    /// Where the model at `path` and what was chosen for it are on disk; repositories are downloaded.
    fn located(&self, path: &Path) -> Result<(PathBuf, Choices)> {
        let find = |option, path: &Path, missing: Missing<'_>| {
            self.hub.locate(path, missing).map_err(|e| e.option(option))
        };
        let Choices { vae, config, prediction, scheduler } = self.choices.clone();
        let vae = vae.as_deref().map(|path| find("vae", path, &needed::of_autoencoder)).transpose()?;
        let config = config
            .as_deref()
            .map(|path| find("model_config", path, &needed::of_configurations))
            .transpose()?;
        let path = find("model", path, &needed::of_pipeline)?;
        Ok((path, Choices { vae, config, prediction, scheduler }))
    }

    /// The rewards to align to, on a backend.
    pub(super) fn open_rewards(&self, model: &Source, backend: &dyn Backend) -> Result<Sum> {
        let specs = self.reward_specs()?;
        if self.custom.is_empty() {
            return reward::open_named(&specs, model, backend, &self.hub).map_err(|e| match e.kind() {
                ErrorKind::Usage | ErrorKind::Model if self.rewards.is_empty() => without_default(e),
                _ => e,
            });
        }
        let custom = self.custom.iter().map(|(weight, open)| Ok((*weight, open(backend)?)));
        let custom: Vec<(f64, Box<dyn Reward>)> = custom.collect::<Result<_>>()?;
        if specs.is_empty() {
            return Ok(Sum::new(custom));
        }
        let named = reward::open_named(&specs, model, backend, &self.hub)?;
        Ok(custom.into_iter().fold(named, |sum, (weight, reward)| sum.with(weight, reward)))
    }
}

/// The error of the default reward, which nobody asked for: with a method that only records rewards any other
/// will do.
fn without_default(e: Error) -> Error {
    const OTHER: &str = "no `reward` was given, and this is the default; `reward` jpeg needs no file, and with \
                         `proposal` none it changes no picture";
    let fix = e.advice_text().map_or(OTHER.to_string(), |fix| format!("{fix}; {OTHER}"));
    e.advice(fix)
}

/// The bytes of the embedded model's aesthetic head.
fn embedded_head() -> Option<&'static [u8]> {
    #[cfg(feature = "shapes")]
    let files = crate::assets::SHAPES_FILES;
    #[cfg(not(feature = "shapes"))]
    let files: &[(&str, &'static [u8])] = &[];
    files.iter().find(|(name, _)| *name == HEAD).map(|(_, bytes)| *bytes)
}

/// The embedded model.
#[cfg(feature = "shapes")]
fn embedded() -> Result<Source> {
    Ok(Source::Embedded(crate::assets::SHAPES_FILES))
}

#[cfg(not(feature = "shapes"))]
fn embedded() -> Result<Source> {
    Err(Error::usage("no model is given, and this program was built without the embedded one")
        .option("model")
        .advice("give `model` a folder in diffusers layout or the name of a repository, or build with the feature shapes"))
}
