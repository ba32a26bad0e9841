//! What to load: a diffusers folder, read through its `model_index.json`, on disk or inside the program.
//! Knows which pipelines and classes this program can run, and says what is wrong with any other folder.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::checkpoint::{self, Checkpoint};
use super::config::{AutoencoderConfig, ClipTextConfig, UNetConfig};
use super::tokenizer::Tokenizer;
use crate::ddim::SchedulerConfig;
use crate::error::{Error, Result};

/// Where the files of a model are: a folder, or a table of (path relative to the model, content) in the program.
#[derive(Clone)]
pub enum Source {
    Dir(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl Source {
    /// The content of the file at `rel`, with `/` between its parts.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file that is missing or unreadable.
    pub fn read(&self, rel: &str) -> Result<Cow<'static, [u8]>> {
        let found = match self {
            Source::Dir(dir) => fs::read(dir.join(rel)).map(Cow::Owned),
            Source::Embedded(files) => files
                .iter()
                .find(|(name, _)| *name == rel)
                .map(|(_, bytes)| Cow::Borrowed(*bytes))
                .ok_or_else(|| std::io::ErrorKind::NotFound.into()),
        };
        found.map_err(|e| {
            Error::model(format!("{}: cannot be read", self.describe(rel)))
                .because(e)
                .fix("the download is incomplete: fetch this file, or correct the path of the model")
        })
    }

    /// Whether there is a file at `rel`.
    pub fn exists(&self, rel: &str) -> bool {
        match self {
            Source::Dir(dir) => dir.join(rel).is_file(),
            Source::Embedded(files) => files.iter().any(|(name, _)| *name == rel),
        }
    }

    /// The path of `rel` for people to read.
    pub fn describe(&self, rel: &str) -> String {
        match self {
            Source::Dir(dir) => dir.join(rel).display().to_string(),
            Source::Embedded(_) => format!("built-in:{rel}"),
        }
    }

    /// Opens the weights in the folder `component` (`""` is the top); `variant` as in [`Checkpoint::open`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn checkpoint(&self, component: &str, variant: Option<&str>) -> Result<Checkpoint> {
        match self {
            Source::Dir(dir) => Checkpoint::open(&dir.join(component), variant),
            Source::Embedded(files) => {
                let names = self.list(component);
                let rel = checkpoint::choose(&names, variant).map(|name| join(component, name));
                match rel.as_ref().and_then(|rel| files.iter().find(|(name, _)| name == rel)) {
                    Some((name, bytes)) => Checkpoint::embedded(&self.describe(name), bytes),
                    None => Err(checkpoint::nothing_chosen(&self.describe(component), &names, variant)),
                }
            }
        }
    }

    /// Names of the files in the folder `component`, sorted; empty where there is no such folder.
    pub fn list(&self, component: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Source::Dir(dir) => fs::read_dir(dir.join(component))
                .map(|listing| {
                    listing
                        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
                        .collect()
                })
                .unwrap_or_default(),
            Source::Embedded(files) => {
                let prefix = join(component, "");
                let below = files.iter().filter_map(|(name, _)| name.strip_prefix(prefix.as_str()));
                below.filter(|rest| !rest.contains('/')).map(str::to_string).collect()
            }
        };
        names.sort();
        names
    }

    /// Size and SHA-256 of the file at `rel`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file.
    pub fn hash(&self, rel: &str) -> Result<FileHash> {
        let mut hash = Sha256::new();
        let mut bytes = 0;
        match self {
            Source::Dir(dir) => {
                let failed = |e| {
                    Error::model(format!("{}: cannot be read", self.describe(rel)))
                        .because(e)
                        .fix("fetch this file again, and leave the model in place while it is in use")
                };
                let mut file = fs::File::open(dir.join(rel)).map_err(failed)?;
                let mut block = vec![0; 1 << 20];
                loop {
                    match file.read(&mut block).map_err(failed)? {
                        0 => break,
                        n => {
                            hash.update(&block[..n]);
                            bytes += n as u64;
                        }
                    }
                }
            }
            Source::Embedded(_) => {
                let content = self.read(rel)?;
                hash.update(&content);
                bytes = content.len() as u64;
            }
        }
        let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Ok(FileHash { path: rel.to_string(), bytes, sha256 })
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Dir(dir) => write!(f, "Source({})", dir.display()),
            Source::Embedded(files) => write!(f, "Source(built-in, {} files)", files.len()),
        }
    }
}

/// The component folder and a file in it.
pub(super) fn join(component: &str, file: &str) -> String {
    if component.is_empty() { file.to_string() } else { format!("{component}/{file}") }
}

/// The pipelines that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    /// Stable Diffusion 1.x and 2.x: one text encoder.
    StableDiffusion,
    /// Stable Diffusion XL: two text encoders, pooled text and sizes as added conditions.
    StableDiffusionXl,
    /// Stable Diffusion distilled to few steps, guidance scale as an embedding.
    LatentConsistency,
}

impl Pipeline {
    const ALL: [(&str, Pipeline); 3] = [
        ("StableDiffusionPipeline", Pipeline::StableDiffusion),
        ("StableDiffusionXLPipeline", Pipeline::StableDiffusionXl),
        ("LatentConsistencyModelPipeline", Pipeline::LatentConsistency),
    ];

    /// The class name in `model_index.json`.
    pub fn class(self) -> &'static str {
        Pipeline::ALL[self as usize].0
    }

    /// The components it needs, and the classes of them that can be run; none listed means any.
    fn components(self) -> &'static [(&'static str, &'static [&'static str])] {
        const TOKENIZERS: &[&str] = &["CLIPTokenizer", "CLIPTokenizerFast"];
        const ALL: &[(&str, &[&str])] = &[
            ("unet", &["UNet2DConditionModel"]),
            ("vae", &["AutoencoderKL"]),
            ("scheduler", &[]),
            ("text_encoder", &["CLIPTextModel", "CLIPTextModelWithProjection"]),
            ("tokenizer", TOKENIZERS),
            ("text_encoder_2", &["CLIPTextModelWithProjection"]),
            ("tokenizer_2", TOKENIZERS),
        ];
        if self == Pipeline::StableDiffusionXl { ALL } else { &ALL[..5] }
    }
}

/// One file of a model and its hash, for the record of a run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FileHash {
    /// Relative to the model folder, `/` between parts.
    pub path: String,
    pub bytes: u64,
    /// Lower-case hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
}

/// A diffusers model whose parts are known to be there.
pub struct ModelFolder {
    source: Source,
    variant: Option<String>,
    pipeline: Pipeline,
    classes: BTreeMap<String, String>,
    zeros_for_empty_prompt: bool,
    hashes: OnceLock<Vec<FileHash>>,
}

impl ModelFolder {
    /// Opens the diffusers folder at `path`. `variant` chooses weight files such as `fp16`, as in [`Checkpoint::open`].
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model): not a diffusers folder, a pipeline or a component that cannot be
    /// run, a component that is missing. Always with what was expected.
    pub fn open(path: &Path, variant: Option<&str>) -> Result<ModelFolder> {
        if !path.join("model_index.json").is_file() {
            return Err(not_a_model(path));
        }
        ModelFolder::from_source(Source::Dir(path.to_path_buf()), variant)
    }

    /// As [`ModelFolder::open`], for any source.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn from_source(source: Source, variant: Option<&str>) -> Result<ModelFolder> {
        let file = source.describe("model_index.json");
        let index: Value = serde_json::from_slice(&source.read("model_index.json")?).map_err(|e| {
            Error::model(format!("{file}: not valid JSON")).because(e).fix("download the file again")
        })?;
        let class = index["_class_name"].as_str().ok_or_else(|| {
            Error::model(format!("{file}: _class_name is {}, expected a string", index["_class_name"]))
                .fix("this is no index of a diffusers pipeline: download the file again")
        })?;
        let Some((_, pipeline)) = Pipeline::ALL.iter().find(|(name, _)| *name == class) else {
            let known: Vec<&str> = Pipeline::ALL.iter().map(|(name, _)| *name).collect();
            return Err(Error::model(format!("{file}: {} cannot be run", family(class)))
                .fix(format!("use a model of one of these pipelines: {}", known.join(", "))));
        };
        let mut classes = BTreeMap::new();
        for (component, accepted) in pipeline.components() {
            // An entry is ["library", "Class"]; [null, null] is a component left out.
            let Some(found) = index[component][1].as_str() else {
                return Err(Error::model(format!("{file}: {class} without {component}"))
                    .fix("use a complete model; refiners and prior stages cannot be run alone"));
            };
            if !accepted.is_empty() && !accepted.contains(&found) {
                return Err(Error::model(format!(
                    "{file}: {component} is of class {found}, which cannot be run; supported: {}",
                    accepted.join(", ")
                ))
                .fix("use a model whose components are of the supported classes"));
            }
            if source.list(component).is_empty() {
                return Err(Error::model(format!(
                    "{}: the component {component} ({found}) that {file} names is missing",
                    source.describe(component)
                ))
                .fix("the download is incomplete: fetch the whole folder"));
            }
            classes.insert(component.to_string(), found.to_string());
        }
        // The default is diffusers' own for XL, and the other pipelines do not have it.
        let zeros = index["force_zeros_for_empty_prompt"].as_bool().unwrap_or(true);
        Ok(ModelFolder {
            zeros_for_empty_prompt: zeros && *pipeline == Pipeline::StableDiffusionXl,
            pipeline: *pipeline,
            variant: variant.map(str::to_string),
            source,
            classes,
            hashes: OnceLock::new(),
        })
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn pipeline(&self) -> Pipeline {
        self.pipeline
    }

    /// Whether an absent negative prompt is embedded as zeros rather than as the empty text (a rule of XL).
    pub fn zeros_for_empty_prompt(&self) -> bool {
        self.zeros_for_empty_prompt
    }

    /// The class of a component, such as `CLIPTextModel`; `None` where the pipeline has no such component.
    pub fn class(&self, component: &str) -> Option<&str> {
        self.classes.get(component).map(String::as_str)
    }

    /// The components in use, sorted by name.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.classes.keys().map(String::as_str)
    }

    /// Opens the weights of `unet`, `vae`, `text_encoder` or `text_encoder_2`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn checkpoint(&self, component: &str) -> Result<Checkpoint> {
        self.source.checkpoint(component, self.variant.as_deref())
    }

    /// # Errors
    /// As all readers in [`super::config`].
    pub fn unet_config(&self) -> Result<UNetConfig> {
        UNetConfig::open(&self.source, "unet")
    }

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

    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file: missing, or a scheduler that is not supported.
    pub fn scheduler_config(&self) -> Result<SchedulerConfig> {
        let rel = "scheduler/scheduler_config.json";
        let text = String::from_utf8_lossy(&self.source.read(rel)?).into_owned();
        SchedulerConfig::from_json(&text).map_err(|e| e.context(self.source.describe(rel)))
    }

    /// The tokenizer `tokenizer` or `tokenizer_2` for a text model that takes `max_positions` tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn tokenizer(&self, component: &str, max_positions: usize) -> Result<Tokenizer> {
        Tokenizer::open(&self.source, component, max_positions)
    }

    /// The files that decide what the model computes: the index, and per component its JSON files, its merges and the
    /// weights in use, with their SHA-256. Computed when first asked for; all of the weights are read then.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming a file that cannot be read.
    pub fn hashes(&self) -> Result<&[FileHash]> {
        if let Some(hashes) = self.hashes.get() {
            return Ok(hashes);
        }
        let mut files = vec!["model_index.json".to_string()];
        for component in self.components() {
            let names = self.source.list(component);
            let text =
                names.iter().filter(|n| n.ends_with(".json") && !n.contains(".index.") || *n == "merges.txt");
            files.extend(text.map(|n| join(component, n)));
            if let Some(name) = checkpoint::choose(&names, self.variant.as_deref()) {
                files.push(join(component, name));
                if let (true, Source::Dir(_)) = (name.ends_with(".json"), &self.source) {
                    let opened = self.checkpoint(component)?;
                    let shards = opened
                        .paths()
                        .filter_map(|p| p.file_name())
                        .map(|n| n.to_string_lossy().into_owned());
                    files.extend(shards.map(|n| join(component, &n)));
                }
            }
        }
        files.sort();
        let hashes = files.into_par_iter().map(|path| self.source.hash(&path)).collect::<Result<Vec<_>>>()?;
        Ok(self.hashes.get_or_init(|| hashes))
    }
}

impl fmt::Debug for ModelFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelFolder({}, {:?})", self.pipeline.class(), self.source)
    }
}

/// A pipeline class with the name people know it by.
fn family(class: &str) -> String {
    let known = [
        ("StableDiffusion3", "Stable Diffusion 3"),
        ("Flux", "Flux"),
        ("PixArt", "PixArt"),
        ("Sana", "Sana"),
        ("Kandinsky", "Kandinsky"),
        ("StableCascade", "Stable Cascade"),
        ("Wuerstchen", "Wuerstchen"),
        ("QwenImage", "Qwen-Image"),
    ];
    match known.iter().find(|(start, _)| class.starts_with(start)) {
        Some((_, name)) => format!("{name} ({class})"),
        None => class.to_string(),
    }
}

/// Why `path` is no diffusers folder, and what to do about it.
fn not_a_model(path: &Path) -> Error {
    let shown = path.display();
    let single = |file: &Path| {
        Error::model(format!("{}: a single-file checkpoint; a diffusers folder is expected", file.display())).fix(
            "convert it: load it with from_single_file in diffusers and write it with save_pretrained, then give that folder",
        )
    };
    if path.is_file() {
        return single(path);
    }
    let Ok(listing) = fs::read_dir(path) else {
        return Error::model(format!("{shown}: there is no such folder")).fix(
            "give the folder that contains model_index.json; models are not downloaded: fetch one first",
        );
    };
    let files: Vec<PathBuf> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let called = |name: &str| files.iter().any(|f| f.file_name().is_some_and(|n| n == name));
    if called("snapshots") {
        return Error::model(format!("{shown}: a download cache, not a model; model_index.json is expected"))
            .fix("give the folder below snapshots/ in it");
    }
    if called("config.json") {
        return Error::model(format!("{shown}: one component of a model; model_index.json is expected"))
            .fix("give the folder above it");
    }
    let weights: Vec<&PathBuf> =
        files.iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors" || e == "ckpt")).collect();
    if let [file] = weights.as_slice() {
        return single(file);
    }
    Error::model(format!("{shown}: not a diffusers folder: model_index.json is missing")).fix(
        "give a folder that contains model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/",
    )
}

#[cfg(test)]
mod tests;
