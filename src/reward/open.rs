//! From what the user asked for to rewards that can score: finds the files, loads the towers once each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clip::{Aesthetic, Cosine, Tower};
use super::head::Head;
use super::preprocess::Preprocess;
use super::spec::{Kind, Spec};
use super::{Reward, Sum, compressibility, gold, incompressibility};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::clip::{Clip, ClipVision};
use crate::model::config::ClipConfig;
use crate::model::files::Source;
use crate::model::tokenizer::Tokenizer;

/// Folders of a model that hold its own rewards, where it has them.
const CLIP: &str = "clip";
const AESTHETIC: &str = "aesthetic";
const TOKENIZER: &str = "tokenizer";
/// The head beside the towers in a folder given as PATH.
const HEAD: &str = "aesthetic.safetensors";

/// Loads the rewards of `specs`, at least one. A reward without a path uses the folders `clip` and
/// `aesthetic` of `model`; towers without a tokenizer of their own use the model's. Each tower is loaded
/// once, however many rewards look through it.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a reward whose path is missing, with what it needs;
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for files that are missing or damaged.
#[track_caller]
pub fn open(specs: &[Spec], model: &Source, backend: &dyn Backend) -> Result<Sum> {
    let mut towers = Towers { specs, model, backend, open: HashMap::new(), files: Vec::new() };
    let twice = |kind| specs.iter().filter(|s| s.kind == kind).count() > 1;
    let parts = specs.iter().map(|spec| {
        let name = match &spec.path {
            Some(path) if twice(spec.kind) => format!("{}:{}", spec.kind.name(), path.display()),
            _ => spec.kind.name().to_string(),
        };
        Ok((spec.weight, towers.reward(spec, name)?))
    });
    let parts = parts.collect::<Result<_>>()?;
    Ok(Sum::new(parts).of_files(towers.files))
}

struct Towers<'a> {
    specs: &'a [Spec],
    model: &'a Source,
    backend: &'a dyn Backend,
    /// By folder; the model's own is `None`.
    open: HashMap<Option<PathBuf>, Arc<Tower>>,
    /// What was read, for the hashes.
    files: Vec<(Source, String)>,
}

/// A CLIP folder: where, and which component there.
struct Place {
    source: Source,
    component: &'static str,
    key: Option<PathBuf>,
}

impl Towers<'_> {
    fn reward(&mut self, spec: &Spec, name: String) -> Result<Box<dyn Reward>> {
        let context = |e: Error| e.context(format!("reward {name}"));
        Ok(match spec.kind {
            Kind::Jpeg => Box::new(compressibility()),
            Kind::Incompressibility => Box::new(incompressibility()),
            Kind::Gold => Box::new(gold()),
            Kind::Aesthetic => {
                let (folder, head) = match &spec.path {
                    Some(path) => {
                        let (folder, head) = folder_and_head(path);
                        (Some(folder), Some(head))
                    }
                    None => (None, None),
                };
                let place = self.place(spec.kind, folder).map_err(context)?;
                let file = self.head(head).map_err(context)?;
                self.remember(&file, AESTHETIC);
                let tower = self.tower(&place).map_err(context)?;
                let head = Head::load(&file, tower.vision.config().projection_dim).map_err(context)?;
                Box::new(Aesthetic::new(name.clone(), tower, &head, self.backend)?)
            }
            Kind::Clip | Kind::PickScore => {
                let place = self.place(spec.kind, spec.path.clone()).map_err(context)?;
                let tower = self.tower(&place).map_err(context)?;
                let (factor, kl) = if spec.kind == Kind::Clip { (20.0, 0.01) } else { (1.0, 1e-4) };
                Box::new(Cosine::new(name.clone(), factor, kl, tower))
            }
        })
    }

    fn place(&self, kind: Kind, path: Option<PathBuf>) -> Result<Place> {
        if let Some(path) = path {
            return Ok(Place { key: key(&path), source: Source::Dir(path), component: "" });
        }
        // PickScore has weights of its own: no model's `clip` stands in for them.
        if kind == Kind::PickScore || !self.model.exists(&format!("{CLIP}/config.json")) {
            let folder = self.model.describe(CLIP);
            let why = match kind {
                Kind::PickScore => "no path is given".to_string(),
                _ => format!("no path is given, and the model brings no CLIP of its own ({folder})"),
            };
            return Err(Error::usage(why).fix(format!("{}:PATH; {}", kind.name(), kind.needs())));
        }
        Ok(Place { source: self.model.clone(), component: CLIP, key: None })
    }

    /// The head in `path`, or the model's own.
    fn head(&self, path: Option<PathBuf>) -> Result<Checkpoint> {
        let Some(path) = path else { return self.model.checkpoint(AESTHETIC, None) };
        if path.extension().is_some_and(|e| e == "pth" || e == "pt") {
            return Err(Error::model(format!("{}: pickled weights are not read", path.display())).fix(
                "convert them: python -c \"import torch, safetensors.torch as s; \
                 s.save_file(torch.load('HEAD.pth'), 'HEAD.safetensors')\"",
            ));
        }
        if !path.exists() {
            return Err(Error::model(format!("{}: the aesthetic head is missing", path.display())).fix(
                format!(
                    "put the head there, or write aesthetic:FOLDER,HEAD.safetensors; {}",
                    Kind::Aesthetic.needs()
                ),
            ));
        }
        Checkpoint::open(&path, None)
    }

    fn tower(&mut self, place: &Place) -> Result<Arc<Tower>> {
        if let Some(tower) = self.open.get(&place.key) {
            return Ok(tower.clone());
        }
        let Place { source, component, key: folder } = place;
        let config = ClipConfig::open(source, component)?;
        let file = source.checkpoint(component, None)?;
        let reads_text = |spec: &Spec| match spec.kind {
            Kind::Clip | Kind::PickScore => spec.path.as_deref().and_then(key) == *folder,
            _ => false,
        };
        let (vision, text) = if self.specs.iter().any(reads_text) {
            let tokenizer = self.tokenizer(place, config.text.max_positions)?;
            if tokenizer.largest_id() as usize >= config.text.vocab_size {
                return Err(Error::model(format!(
                    "{}: a vocabulary of {} does not hold the tokenizer's id {}",
                    file.label(),
                    config.text.vocab_size,
                    tokenizer.largest_id()
                ))
                .fix("put the vocab.json and merges.txt that belong to these towers into their folder"));
            }
            let Clip { vision, text } = Clip::load(self.backend, &file, &config)?;
            (vision, Some((tokenizer, text)))
        } else {
            (ClipVision::load(self.backend, &file, &config.vision)?, None)
        };
        self.remember(&file, component);
        let preprocess = Preprocess::open(source, component, config.vision.image_size, self.backend)?;
        let tower = Arc::new(Tower { preprocess, vision, text });
        self.open.insert(folder.clone(), tower.clone());
        Ok(tower)
    }

    /// Keeps the weight files of `file`; if it is embedded, they are the model's own in `component`.
    fn remember(&mut self, file: &Checkpoint, component: &str) {
        let on_disk: Vec<_> = file.paths().collect();
        if on_disk.is_empty() {
            let names = self.model.list(component).into_iter().filter(|n| n.ends_with(".safetensors"));
            self.files.extend(names.map(|n| (self.model.clone(), format!("{component}/{n}"))));
        }
        // Joined to an empty folder, a path stays itself.
        let here = || Source::Dir(PathBuf::new());
        self.files.extend(on_disk.iter().map(|path| (here(), path.display().to_string())));
    }

    /// The tokenizer beside the towers, or the model's.
    fn tokenizer(&self, place: &Place, max_positions: usize) -> Result<Tokenizer> {
        let files = place.source.list(place.component);
        if files.iter().any(|name| name == "vocab.json" || name == "tokenizer.json") {
            Tokenizer::open(&place.source, place.component, max_positions)
        } else {
            Tokenizer::open(self.model, TOKENIZER, max_positions)
        }
    }
}

/// One key for one folder, however its path is written.
fn key(path: &Path) -> Option<PathBuf> {
    Some(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))
}

/// `FOLDER` or `FOLDER,HEAD`: a folder whose name has a comma wins over the split.
fn folder_and_head(path: &Path) -> (PathBuf, PathBuf) {
    let text = path.to_string_lossy();
    match text.rsplit_once(',') {
        Some((folder, head)) if !path.is_dir() => (PathBuf::from(folder), PathBuf::from(head)),
        _ => (path.to_path_buf(), path.join(HEAD)),
    }
}
