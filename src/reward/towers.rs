//! The CLIP models of rewards, each loaded once, however many rewards look through it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::preprocess::Preprocess;
use super::tower::Tower;
use super::two_paths::two_paths;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::checkpoint::{Checkpoint, unusable};
use crate::model::clip::{Clip, ClipVision};
use crate::model::config::{ClipConfig, ClipTextConfig, OpenClipConfig};
use crate::model::files::Source;
use crate::model::original::tokenizer;
use crate::model::tokenizer::Tokenizer;

/// The folder of a model that holds towers of its own, where it has some.
const CLIP: &str = "clip";
const TOKENIZER: &str = "tokenizer";

/// Files of the OpenCLIP package in a folder.
pub(super) const OPEN_CLIP: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];
const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";

/// Opens CLIP models for rewards.
pub(super) struct Towers<'a> {
    model: &'a Source,
    backend: &'a dyn Backend,
    /// The folders whose text tower a reward reads.
    reading: Vec<Option<PathBuf>>,
    /// By folder or OpenCLIP file; the model's own is `None`.
    open: HashMap<Option<PathBuf>, Arc<Tower>>,
    /// What was read, for the hashes.
    files: Vec<(Source, String)>,
}

/// A CLIP folder: where, and which component there.
struct Place {
    source: Source,
    /// Where its tokenizer and the statistics of its images are, if not there.
    processor: Option<Source>,
    component: &'static str,
    key: Option<PathBuf>,
}

impl<'a> Towers<'a> {
    /// `model` has towers of its own, or at least a tokenizer. `reading` are the folders of the rewards that
    /// read prompts; `None` is the model's own.
    pub fn new(model: &'a Source, backend: &'a dyn Backend, reading: &[Option<&Path>]) -> Towers<'a> {
        let reading = reading.iter().map(|path| path.and_then(key)).collect();
        Towers { model, backend, reading, open: HashMap::new(), files: Vec::new() }
    }

    /// The backend that everything is loaded on.
    pub fn backend(&self) -> &'a dyn Backend {
        self.backend
    }

    /// The model whose rewards these are.
    pub fn model(&self) -> &'a Source {
        self.model
    }

    /// The weight files that were read: where they are, and their paths there.
    pub fn into_files(self) -> Vec<(Source, String)> {
        self.files
    }

    /// Whether there are towers: in the folder `path`, or without one in the model.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), without a path where the model has none.
    pub fn check(&self, path: Option<&Path>) -> Result<()> {
        self.place(path).map(|_| ())
    }

    /// The towers in the folder `path`, or without one the model's own.
    ///
    /// # Errors
    /// As [`Towers::check`]; [`ErrorKind::Model`](crate::ErrorKind::Model) for files that are missing or
    /// damaged.
    pub fn clip(&mut self, path: Option<&Path>) -> Result<Arc<Tower>> {
        if let Some(file) = path.and_then(open_clip_file) {
            let config = open_clip_config(&file)?.ok_or_else(|| no_config(&file))?;
            return self.open_clip(&file, &config);
        }
        let place = self.place(path)?;
        self.tower(&place)
    }

    /// The towers in the folder `path`, for a reward with weights of its own, for which no model's towers
    /// stand in.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) without a path; else as
    /// [`Towers::clip`].
    pub fn named(&mut self, path: Option<&Path>) -> Result<Arc<Tower>> {
        match path {
            Some(_) => self.clip(path),
            None => Err(Error::usage("no path is given")),
        }
    }

    /// The towers of HPSv2 in the file `path`, or in the folder `path` under the published name `stem` or
    /// OpenCLIP's.
    ///
    /// # Errors
    /// As [`Towers::named`].
    pub fn hps(&mut self, path: Option<&Path>, stem: &str) -> Result<Arc<Tower>> {
        let Some(path) = path else { return Err(Error::usage("no path is given")) };
        let published = ["safetensors", "pt"].map(|ending| path.join(format!("{stem}.{ending}")));
        let found = published.into_iter().find(|file| file.is_file()).or_else(|| open_clip_file(path));
        if let Some(other) = found.as_deref().and_then(|file| other_hps(file, stem)) {
            return Err(Error::model(format!(
                "{}: the weights of {other}, by the name of the file; their scores cannot be compared with those of this \
                 reward",
                found.unwrap_or_default().display()
            ))
            .advice(format!("write {other}:PATH for this file, or give {stem}.pt of the repository xswu/HPSv2")));
        }
        let Some(file) = found else {
            if let Some(e) = unusable(path) {
                return Err(e);
            }
            let what = match path.join("config.json").exists() {
                true => {
                    "a folder of transformers (config.json), where an OpenCLIP file is expected".to_string()
                }
                false => format!("no {stem}.pt here"),
            };
            return Err(Error::model(format!("{}: {what}", path.display()))
                .advice(format!("give {stem}.pt of the repository xswu/HPSv2, or its folder")));
        };
        let config = match open_clip_config(&file)? {
            Some(config) => config,
            // What the published files are.
            None => OpenClipConfig::parse("ViT-H-14", OpenClipConfig::VIT_H_14.as_bytes())?,
        };
        self.open_clip(&file, &config)
    }

    /// The towers in an OpenCLIP file.
    fn open_clip(&mut self, path: &Path, config: &OpenClipConfig) -> Result<Arc<Tower>> {
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        // A reward names the file or its folder.
        let reads = self.reading.contains(&key(path)) || self.reading.contains(&key(&folder));
        let place = Place { source: Source::Dir(folder), processor: None, component: "", key: key(path) };
        if let Some(tower) = self.open.get(&place.key) {
            return Ok(tower.clone());
        }
        let file = Checkpoint::open(path, None)?;
        let (vision, text) = if reads {
            let tokenizer = self.tokenizer(&place, &config.clip.text)?;
            let (ids, vocabulary) = (tokenizer.largest_id() as usize + 1, config.clip.text.vocab_size);
            if ids != vocabulary {
                return Err(Error::model(format!(
                    "{}: a vocabulary of {vocabulary}, and a tokenizer of {ids}",
                    file.label()
                ))
                .advice("take the vocab.json and merges.txt beside this file away, or put those there that belong to it"));
            }
            let Clip { vision, text } = Clip::load_open_clip(self.backend, &file, &config.clip)?;
            (vision, Some((tokenizer, text)))
        } else {
            (ClipVision::load_open_clip(self.backend, &file, &config.clip.vision)?, None)
        };
        self.remember(&file, "");
        let side = config.clip.vision.image_size;
        let preprocess = Preprocess::with(side, config.mean, config.std, self.backend)?;
        let tower = Arc::new(Tower { preprocess, vision, text });
        self.open.insert(place.key, tower.clone());
        Ok(tower)
    }

    fn place(&self, path: Option<&Path>) -> Result<Place> {
        if let Some(path) = path {
            let (folder, processor) =
                two_paths(path).map_or((path, None), |(folder, other)| (folder, Some(other)));
            if let Some(e) = unusable(folder) {
                return Err(e);
            }
            if let Some(other) = processor.filter(|other| !PROCESSOR.iter().any(|n| other.join(n).is_file()))
            {
                return Err(Error::model(format!(
                    "{}: none of {} is here, and the path behind the comma is where they are",
                    other.display(),
                    PROCESSOR.join(", ")
                ))
                .advice("give FOLDER,PROCESSOR with the folder of tokenizer and image statistics second, or FOLDER alone"));
            }
            let source = |path: &Path| Source::Dir(path.to_path_buf());
            let processor = processor.map(source);
            return Ok(Place { key: key(path), source: source(folder), processor, component: "" });
        }
        if !self.model.exists(&format!("{CLIP}/config.json")) {
            let folder = self.model.describe(CLIP);
            let why = format!("no path is given, and the model brings no CLIP of its own ({folder})");
            return Err(Error::usage(why));
        }
        Ok(Place { source: self.model.clone(), processor: None, component: CLIP, key: None })
    }

    fn tower(&mut self, place: &Place) -> Result<Arc<Tower>> {
        if let Some(tower) = self.open.get(&place.key) {
            return Ok(tower.clone());
        }
        let Place { source, processor, component, key: folder } = place;
        let config = ClipConfig::open(source, component)?;
        let file = source.checkpoint(component, None)?;
        let (vision, text) = if self.reading.contains(folder) {
            let tokenizer = self.tokenizer(place, &config.text)?;
            if tokenizer.largest_id() as usize >= config.text.vocab_size {
                return Err(Error::model(format!(
                    "{}: a vocabulary of {} does not hold the tokenizer's id {}",
                    file.label(),
                    config.text.vocab_size,
                    tokenizer.largest_id()
                ))
                .advice("put the vocab.json and merges.txt that belong to these towers into their folder"));
            }
            let Clip { vision, text } = Clip::load(self.backend, &file, &config)?;
            (vision, Some((tokenizer, text)))
        } else {
            (ClipVision::load(self.backend, &file, &config.vision)?, None)
        };
        self.remember(&file, component);
        let preprocess = Preprocess::open(
            processor.as_ref().unwrap_or(source),
            component,
            config.vision.image_size,
            self.backend,
        )?;
        let tower = Arc::new(Tower { preprocess, vision, text });
        self.open.insert(folder.clone(), tower.clone());
        Ok(tower)
    }

    /// Keeps the weight files of `file`; if it is embedded, they are the model's own in `component`.
    pub fn remember(&mut self, file: &Checkpoint, component: &str) {
        let on_disk: Vec<_> = file.paths().collect();
        if on_disk.is_empty() {
            let names = self.model.list(component).into_iter().filter(|n| n.ends_with(".safetensors"));
            self.files.extend(names.map(|n| (self.model.clone(), format!("{component}/{n}"))));
        }
        // Joined to an empty folder, a path stays itself.
        let here = || Source::Dir(PathBuf::new());
        self.files.extend(on_disk.iter().map(|path| (here(), path.display().to_string())));
    }

    /// The tokenizer beside the towers; without one, CLIP's for a vocabulary of its size. The model's own
    /// towers have the model's.
    fn tokenizer(&self, place: &Place, text: &ClipTextConfig) -> Result<Tokenizer> {
        let source = place.processor.as_ref().unwrap_or(&place.source);
        let files = source.list(place.component);
        if files.iter().any(|name| name == "vocab.json" || name == "tokenizer.json") {
            Tokenizer::open(source, place.component, text.max_positions)
        } else if text.vocab_size == tokenizer::VOCABULARY {
            Tokenizer::open(&tokenizer::alone(TOKENIZER)?, TOKENIZER, text.max_positions)
        } else if place.key.is_none() {
            Tokenizer::open(self.model, TOKENIZER, text.max_positions)
        } else {
            Err(Error::model(format!(
                "{}: no vocab.json and no tokenizer.json, and the vocabulary of {} is not that of CLIP ({})",
                source.describe(place.component),
                text.vocab_size,
                tokenizer::VOCABULARY
            ))
            .advice("put the vocab.json and merges.txt that belong to these towers into their folder"))
        }
    }
}

/// Files of which a folder of tokenizer and image statistics has one at least.
const PROCESSOR: [&str; 3] = ["preprocessor_config.json", "vocab.json", "tokenizer.json"];

/// The published files of HPSv2 without their endings, and the rewards that read them.
pub(super) const HPS: [(&str, &str); 2] =
    [("hpsv2", "HPS_v2_compressed"), ("hpsv2.1", "HPS_v2.1_compressed")];

/// The reward that reads `file`, where its name is that of another than the file `stem`.
fn other_hps(file: &Path, stem: &str) -> Option<&'static str> {
    let name = file.file_stem()?;
    HPS.iter().find(|(_, of)| *of != stem && name == *of).map(|(reward, _)| *reward)
}

/// The OpenCLIP file that `path` is or, as a folder, holds; folders of transformers hold none.
fn open_clip_file(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_path_buf());
    }
    let here = OPEN_CLIP.iter().map(|name| path.join(name)).find(|file| file.is_file());
    here.filter(|_| !path.join("config.json").is_file())
}

/// What `open_clip_config.json` beside `file` says, where there is one.
fn open_clip_config(file: &Path) -> Result<Option<OpenClipConfig>> {
    let source = Source::Dir(file.parent().unwrap_or(Path::new("")).to_path_buf());
    match source.exists(OPEN_CLIP_CONFIG) {
        true => {
            let bytes = source.read(OPEN_CLIP_CONFIG)?;
            OpenClipConfig::parse(&source.describe(OPEN_CLIP_CONFIG), &bytes).map(Some)
        }
        false => Ok(None),
    }
}

fn no_config(path: &Path) -> Error {
    Error::model(format!("{}: no {OPEN_CLIP_CONFIG} beside this file", path.display())).advice(
        "weights do not tell the number of heads nor the activation: put open_clip_config.json of the model's \
         repository there, or the model's file of OpenCLIP's model_configs under this name",
    )
}

/// One key for one folder or file, however its path is written.
fn key(path: &Path) -> Option<PathBuf> {
    Some(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))
}
