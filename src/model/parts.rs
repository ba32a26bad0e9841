//! The parts of a diffusers model, known to be there: their configurations, weights and tokenizers, and the
//! hashes of the files that decide what the model computes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::checkpoint::{self, Checkpoint};
use super::config::{AutoencoderConfig, ClipTextConfig, DecoderConfig, SchedulerFile, UNetConfig};
use super::embedding::{self, Embedding};
use super::files::{FileHash, Source, computed_once, join};
use super::lora::Lora;
use super::tokenizer::{Tokenizer, normalize};
use crate::error::{Error, Result};

/// A part of a pipeline: the name of its folder, and the classes of it that can be run; none listed means
/// any.
#[derive(Clone, Copy, Debug)]
pub struct Component {
    /// Name of the folder, such as `text_encoder`.
    pub name: &'static str,
    /// Names of Python classes.
    pub classes: &'static [&'static str],
}

/// Where the parts of a model are and what `model_index.json` says of them.
pub struct Parts {
    source: Source,
    variant: Option<String>,
    index: Map<String, Value>,
    classes: BTreeMap<String, String>,
    loras: Vec<Arc<Lora>>,
    embeddings: Vec<Embedding>,
    hashes: OnceLock<Vec<FileHash>>,
}

impl Parts {
    /// The components of `index`, the content of `model_index.json`, with their files in `source`. `variant`
    /// chooses weight files such as `fp16`, as in [`Checkpoint::open`].
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the component: left out, of a class that cannot
    /// be run, or without files.
    pub fn new(
        source: Source,
        variant: Option<&str>,
        index: Map<String, Value>,
        components: &[Component],
    ) -> Result<Parts> {
        let file = source.describe("model_index.json");
        let mut classes = BTreeMap::new();
        for Component { name, classes: accepted } in components {
            // An entry is ["library", "Class"]; [null, null] is a component left out.
            let Some(found) = index.get(*name).and_then(|entry| entry[1].as_str()) else {
                return Err(left_out(&file, &index, name));
            };
            if !accepted.is_empty() && !accepted.contains(&found) {
                return Err(Error::model(format!(
                    "{file}: {name} is of class {found}, which cannot be run; supported: {}",
                    accepted.join(", ")
                ))
                .advice("use a model whose components are of the supported classes"));
            }
            if source.list(name).is_empty() {
                return Err(Error::model(format!(
                    "{}: the component {name} ({found}) that {file} names is missing",
                    source.describe(name)
                ))
                .advice("the download is incomplete: fetch the whole folder"));
            }
            classes.insert(name.to_string(), found.to_string());
        }
        let (variant, loras, embeddings) = (variant.map(str::to_string), Vec::new(), Vec::new());
        Ok(Parts { source, variant, index, classes, loras, embeddings, hashes: OnceLock::new() })
    }

    /// Adds LoRA files, which change the weights of components wherever these are read, in this order.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) for one that is made for another family of models.
    pub fn with_loras(mut self, loras: Vec<Lora>) -> Result<Parts> {
        if !loras.is_empty() {
            let context = self.unet_config()?.context_dim();
            loras
                .iter()
                .try_for_each(|lora| lora.check_family(|name| self.class(name).is_some(), context))?;
        }
        self.loras = loras.into_iter().map(Arc::new).collect();
        Ok(self)
    }

    /// The LoRA files that are merged into the weights.
    pub fn loras(&self) -> &[Arc<Lora>] {
        &self.loras
    }

    /// Adds embeddings: words that the tokenizers and text encoders learn.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) for one that is made for another family of models,
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for two of one name.
    pub fn with_embeddings(mut self, embeddings: Vec<Embedding>) -> Result<Parts> {
        embedding::check_distinct(&embeddings, normalize)?;
        if !embeddings.is_empty() {
            let encoders =
                ["text_encoder", "text_encoder_2"].into_iter().filter(|name| self.class(name).is_some());
            let widths =
                encoders.map(|name| Ok(self.text_config(name)?.hidden_size)).collect::<Result<Vec<_>>>()?;
            embeddings.iter().try_for_each(|embedding| embedding.check_family(&widths))?;
        }
        self.embeddings = embeddings;
        Ok(self)
    }

    /// The embeddings that the text encoders learn.
    pub fn embeddings(&self) -> &[Embedding] {
        &self.embeddings
    }

    /// Where the files are.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The class of a component, such as `CLIPTextModel`; `None` where the pipeline has no such component.
    pub fn class(&self, component: &str) -> Option<&str> {
        self.classes.get(component).map(String::as_str)
    }

    /// The components in use, sorted by name.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.classes.keys().map(String::as_str)
    }

    /// A setting of the pipeline in `model_index.json`; `default` where the file does not state it.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) for a value that is neither true nor false.
    pub fn setting(&self, key: &str, default: bool) -> Result<bool> {
        match self.index.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(v) => v.as_bool().ok_or_else(|| {
                let file = self.source.describe("model_index.json");
                Error::model(format!("{file}: {key} is {v}, expected true or false"))
                    .advice("correct this key")
            }),
        }
    }

    /// Opens the weights of `unet`, `vae`, `text_encoder` or `text_encoder_2`, changed by the LoRA files.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; and for a LoRA that does not fit.
    pub fn checkpoint(&self, component: &str) -> Result<Checkpoint> {
        let mut checkpoint = self.source.checkpoint(component, self.variant.as_deref())?;
        self.loras.iter().try_for_each(|lora| lora.adapt(component, &mut checkpoint))?;
        Ok(checkpoint)
    }

    /// The configuration of `unet`.
    ///
    /// # Errors
    /// As all readers in [`super::config`].
    pub fn unet_config(&self) -> Result<UNetConfig> {
        UNetConfig::open(&self.source, "unet")
    }

    /// The configuration of the decoder of `vae`, whose class its own file states.
    ///
    /// # Errors
    /// As all readers in [`super::config`].
    pub fn decoder_config(&self) -> Result<DecoderConfig> {
        DecoderConfig::open(&self.source, "vae")
    }

    /// The configuration of `vae`, an AutoencoderKL.
    ///
    /// # Errors
    /// As all readers in [`super::config`].
    pub fn vae_config(&self) -> Result<AutoencoderConfig> {
        AutoencoderConfig::open(&self.source, "vae")
    }

    /// The configuration of `text_encoder` or `text_encoder_2`.
    ///
    /// # Errors
    /// As all readers in [`super::config`].
    pub fn text_config(&self, component: &str) -> Result<ClipTextConfig> {
        ClipTextConfig::open(&self.source, component)
    }

    /// The noise schedule and what else its file says.
    ///
    /// # Errors
    /// As [`SchedulerFile::open`].
    pub fn scheduler(&self) -> Result<SchedulerFile> {
        SchedulerFile::open(&self.source, "scheduler", self.class("scheduler").unwrap_or("DDIMScheduler"))
    }

    /// The tokenizer `tokenizer` or `tokenizer_2` for a text model that takes `max_positions` tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn tokenizer(&self, component: &str, max_positions: usize) -> Result<Tokenizer> {
        Tokenizer::open(&self.source, component, max_positions)
    }

    /// The files that decide what the model computes: the index, and per component its JSON files, its merges
    /// and the weights in use, with their SHA-256. Computed when first asked for; all of the weights are read
    /// then.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming a file that cannot be read.
    pub fn hashes(&self) -> Result<&[FileHash]> {
        Ok(computed_once(&self.hashes, || self.hash_files())?)
    }

    fn hash_files(&self) -> Result<Vec<FileHash>> {
        let mut files = vec!["model_index.json".to_string()];
        for component in self.components() {
            let names = self.source.list(component);
            let text =
                names.iter().filter(|n| n.ends_with(".json") && !n.contains(".index.") || *n == "merges.txt");
            files.extend(text.map(|n| join(component, n)));
            if let Some(name) = checkpoint::choose(&names, self.variant.as_deref()) {
                files.push(join(component, name));
                if name.ends_with(".json") && !matches!(self.source, Source::Embedded(_)) {
                    let opened = self.checkpoint(component)?;
                    let shards = opened
                        .paths()
                        .filter_map(|p| p.file_name())
                        .map(|n| n.to_string_lossy().into_owned());
                    files.extend(shards.map(|n| join(component, &n)));
                }
            }
        }
        // Each file once, however many components are in it.
        let files: BTreeMap<String, String> =
            files.into_iter().map(|rel| (self.source.recorded(&rel), rel)).collect();
        let files: Vec<String> = files.into_values().collect();
        files.into_par_iter().map(|rel| self.source.hash(&rel)).collect()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parts({:?})", self.source)
    }
}

/// A pipeline whose index leaves out a component that it cannot do without.
fn left_out(file: &str, index: &Map<String, Value>, component: &str) -> Error {
    let class = index.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    refiner(file, index).unwrap_or_else(|| {
        Error::model(format!("{file}: {class} without {component}"))
            .advice("use a complete model; refiners and prior stages cannot be run alone")
    })
}

/// That the model is a refiner, if its index says so: without the first text encoder, but with the second.
pub(super) fn refiner(file: &str, index: &Map<String, Value>) -> Option<Error> {
    let class = index.get("_class_name").and_then(Value::as_str)?;
    let left = |name: &str| index.get(name).is_none_or(|entry| entry[1].is_null());
    (left("text_encoder") && !left("text_encoder_2")).then(|| {
        Error::model(format!(
            "{file}: {class} without text_encoder: this is a refiner, which improves the latents of another model and \
             makes none from a text alone"
        ))
        .advice("use the base model that the refiner belongs to")
    })
}
