//! What to load: a diffusers folder, read through its `model_index.json`, on disk or inside the program.
//! Finds the family of the model, and says what is wrong with any other folder.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::families::{FAMILIES, Family};
use super::files::{FileHash, Source, json};
use super::lora::Lora;
use super::parts::Parts;
use super::pipeline::Pipeline;
use super::tokenizer::Tokenizer;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::regular;

/// The file that says what a diffusers model is made of.
const INDEX: &str = "model_index.json";

/// A diffusers model of a family that can be run, all its parts known to be there.
pub struct ModelFolder {
    parts: Parts,
    family: &'static Family,
}

impl ModelFolder {
    /// Opens the diffusers folder at `path`. `variant` chooses weight files such as `fp16`, as in
    /// [`Checkpoint::open`].
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model): not a diffusers folder, a pipeline or a component that
    /// cannot be run, a component that is missing. Always with what was expected.
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
        let index = json::read(&source, "model_index.json")?;
        let class = index["_class_name"].as_str().ok_or_else(|| {
            Error::model(format!("{file}: _class_name is {}, expected a string", index["_class_name"]))
                .advice("this is no index of a diffusers pipeline: download the file again")
        })?;
        let Some(family) = FAMILIES.iter().find(|family| family.class == class) else {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.class).collect();
            return Err(Error::model(format!("{file}: {} cannot be run", known_as(class)))
                .advice(format!("use a model of one of these pipelines: {}", known.join(", "))));
        };
        let Value::Object(index) = index else { unreachable!("it has a _class_name") };
        Ok(ModelFolder { parts: Parts::new(source, variant, index, family.components)?, family })
    }

    /// As [`Parts::with_loras`].
    ///
    /// # Errors
    /// As [`Parts::with_loras`].
    pub fn with_loras(self, loras: Vec<Lora>) -> Result<ModelFolder> {
        Ok(ModelFolder { parts: self.parts.with_loras(loras)?, ..self })
    }

    /// The family of the model, by the pipeline that its index names.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The parts of the model.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// As [`Parts::loras`].
    pub fn loras(&self) -> &[Arc<Lora>] {
        self.parts.loras()
    }

    /// Where the files are.
    pub fn source(&self) -> &Source {
        self.parts.source()
    }

    /// As [`Parts::checkpoint`].
    ///
    /// # Errors
    /// As [`Parts::checkpoint`].
    pub fn checkpoint(&self, component: &str) -> Result<Checkpoint> {
        self.parts.checkpoint(component)
    }

    /// As [`Parts::tokenizer`].
    ///
    /// # Errors
    /// As [`Parts::tokenizer`].
    pub fn tokenizer(&self, component: &str, max_positions: usize) -> Result<Tokenizer> {
        self.parts.tokenizer(component, max_positions)
    }

    /// As [`Parts::hashes`].
    ///
    /// # Errors
    /// As [`Parts::hashes`].
    pub fn hashes(&self) -> Result<&[FileHash]> {
        self.parts.hashes()
    }
}

impl Pipeline {
    /// Loads all networks of a folder, as its family builds them.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file and what is wrong in it.
    pub fn load(backend: &dyn Backend, folder: &ModelFolder) -> Result<Pipeline> {
        (folder.family.build)(&folder.parts, backend)
    }
}

impl fmt::Debug for ModelFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelFolder({}, {:?})", self.family.class, self.source())
    }
}

/// A pipeline class with the name people know it by.
fn known_as(class: &str) -> String {
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

/// Why the folder `path` cannot be listed.
fn unlisted(path: &Path, e: io::Error) -> Error {
    let shown = path.display();
    match e.kind() {
        io::ErrorKind::NotFound => Error::model(format!("{shown}: there is no such folder")).advice(
            "give the folder that contains model_index.json; models are not downloaded: fetch one first",
        ),
        io::ErrorKind::NotADirectory => Error::model(format!("{shown}: this is no folder"))
            .advice("give the folder that contains model_index.json"),
        _ => {
            let fix = regular::fix(&e, "let this user list the folder and read its files");
            Error::model(format!("{shown}: the folder cannot be listed")).because(e).advice(fix)
        }
    }
}

/// Why `path` is no diffusers folder, and what to do about it.
fn not_a_model(path: &Path) -> Error {
    let shown = path.display();
    let single = |file: &Path| {
        Error::model(format!("{}: a single-file checkpoint; a diffusers folder is expected", file.display())).advice(
            "convert it: load it with from_single_file in diffusers and write it with save_pretrained, then give that folder",
        )
    };
    if path.is_file() {
        // Of a folder, its index or a file in one of its parts.
        let mut above = path.parent().into_iter().flat_map(Path::ancestors).take(2);
        if let Some(folder) = above.find(|folder| folder.join(INDEX).is_file()) {
            let name = if folder == Path::new("") { Path::new(".") } else { folder };
            return Error::model(format!("{shown}: a file of a model; its folder is expected"))
                .option("model")
                .advice(format!("give `model` {}", name.display()));
        }
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        return match ["safetensors", "ckpt", "pt", "pth", "bin"].contains(&ending.as_str()) {
            true => single(path),
            false => Error::model(format!("{shown}: a file; a diffusers folder is expected"))
                .option("model")
                .advice(format!("give `model` the folder that contains {INDEX}")),
        };
    }
    let listing = match fs::read_dir(path) {
        Ok(listing) => listing,
        Err(e) => return unlisted(path, e),
    };
    let files: Vec<PathBuf> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let called = |name: &str| files.iter().any(|f| f.file_name().is_some_and(|n| n == name));
    if called("snapshots") {
        return Error::model(format!("{shown}: a download cache, not a model; model_index.json is expected"))
            .advice("give the folder below snapshots/ in it");
    }
    if called("config.json") {
        return Error::model(format!("{shown}: one component of a model; model_index.json is expected"))
            .advice("give the folder above it");
    }
    let weights: Vec<&PathBuf> =
        files.iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors" || e == "ckpt")).collect();
    if let [file] = weights.as_slice() {
        return single(file);
    }
    Error::model(format!("{shown}: not a diffusers folder: model_index.json is missing")).advice(
        "give a folder that contains model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/",
    )
}

#[cfg(test)]
mod tests;
