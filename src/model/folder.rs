//! What to load: a diffusers folder, read through its `model_index.json`, on disk or inside the program; or a
//! checkpoint in a single file, presented as one (`model::original`).
//! Finds the family of the model, and says what is wrong with any other folder.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::checkpoint::{Checkpoint, unusable};
use super::embedding::Embedding;
use super::families::{FAMILIES, Family};
use super::files::{FileHash, Source, json};
use super::lora::Lora;
use super::original::{self, Choices};
use super::parts::{Parts, refiner};
use super::pipeline::Pipeline;
use super::tokenizer::Tokenizer;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::hub;
use crate::regular;

/// The file that says what a diffusers model is made of.
const INDEX: &str = "model_index.json";

/// A diffusers model of a family that can be run, all its parts known to be there.
pub struct ModelFolder {
    parts: Parts,
    family: &'static Family,
    notes: Vec<String>,
}

impl ModelFolder {
    /// Opens the diffusers folder or the single-file checkpoint at `path`. `variant` chooses weight files
    /// such as `fp16`, as in [`Checkpoint::open`].
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model): no model of a family that can be run, a component that
    /// cannot be run or that is missing. Always with what was expected.
    pub fn open(path: &Path, variant: Option<&str>) -> Result<ModelFolder> {
        ModelFolder::open_with(path, variant, &Choices::default())
    }

    /// As [`ModelFolder::open`], with what the user says of the model.
    ///
    /// # Errors
    /// As [`ModelFolder::open`]; [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a choice that does not go
    /// with a folder.
    pub fn open_with(path: &Path, variant: Option<&str>, choices: &Choices) -> Result<ModelFolder> {
        if path.is_file() && is_weights(path) && folder_of(path).is_none() {
            let (source, notes) = original::open(path, choices)?;
            return Ok(ModelFolder { notes, ..ModelFolder::from_source(source, None)? });
        }
        if !path.join(INDEX).is_file() {
            return Err(not_a_model(path));
        }
        let source = match *choices == Choices::default() {
            true => Source::Dir(path.to_path_buf()),
            false => original::replace(path, choices)?,
        };
        ModelFolder::from_source(source, variant)
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
            // The published refiner names a pipeline of its own.
            if let Some(e) = index.as_object().and_then(|index| refiner(&file, index)) {
                return Err(e);
            }
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.class).collect();
            return Err(Error::model(format!("{file}: {} cannot be run", known_as(class)))
                .advice(format!("use a model of one of these pipelines: {}", known.join(", "))));
        };
        let Value::Object(index) = index else { unreachable!("it has a _class_name") };
        let parts = Parts::new(source, variant, index, family.components)?;
        Ok(ModelFolder { parts, family, notes: Vec::new() })
    }

    /// As [`Parts::with_loras`].
    ///
    /// # Errors
    /// As [`Parts::with_loras`].
    pub fn with_loras(self, loras: Vec<Lora>) -> Result<ModelFolder> {
        Ok(ModelFolder { parts: self.parts.with_loras(loras)?, ..self })
    }

    /// As [`Parts::with_embeddings`].
    ///
    /// # Errors
    /// As [`Parts::with_embeddings`].
    pub fn with_embeddings(self, embeddings: Vec<Embedding>) -> Result<ModelFolder> {
        Ok(ModelFolder { parts: self.parts.with_embeddings(embeddings)?, ..self })
    }

    /// As [`Parts::embeddings`].
    pub fn embeddings(&self) -> &[Embedding] {
        self.parts.embeddings()
    }

    /// The family of the model, by the pipeline that its index names.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// What is to be known of the files beside what they hold.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
        let mut pipeline = (folder.family.build)(&folder.parts, backend)?;
        pipeline.notes.splice(0..0, folder.notes.iter().cloned());
        Ok(pipeline)
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
        io::ErrorKind::NotFound => Error::model(format!("{shown}: there is no such file or folder")).advice(
            "give a single file, the folder that contains model_index.json, or OWNER/NAME of a repository on the \
             Hugging Face Hub",
        ).option("model"),
        io::ErrorKind::NotADirectory => Error::model(format!("{shown}: this is no folder"))
            .advice("give the folder that contains model_index.json"),
        io::ErrorKind::PermissionDenied => Error::model(format!("{shown}: the folder cannot be listed"))
            .because(e)
            .advice("let this user list the folder and read its files"),
        _ => {
            let fix = regular::fix(&e, "correct the path, or the links in it");
            Error::model(format!("{shown}: cannot be opened")).because(e).advice(fix).option("model")
        }
    }
}

/// Whether a file's name is that of weights.
fn is_weights(path: &Path) -> bool {
    // A GGUF file is refused by its content.
    let gguf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    gguf || hub::is_weights(&path.to_string_lossy())
}

/// The diffusers folder that a file belongs to: as its index, or as a file in one of the parts that the index
/// names.
fn folder_of(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    if parent.join(INDEX).is_file() {
        // Repositories have single files beside the folders of the same model.
        return (!is_weights(path)).then(|| parent.to_path_buf());
    }
    let (component, above) = (parent.file_name()?.to_str()?, parent.parent()?);
    let index = json::read(&Source::Dir(above.to_path_buf()), INDEX).ok()?;
    index[component].is_array().then(|| above.to_path_buf())
}

/// Why `path` is no diffusers folder, and what to do about it.
fn not_a_model(path: &Path) -> Error {
    let shown = path.display();
    if path.is_file() {
        if let Some(folder) = folder_of(path) {
            let name = if folder == Path::new("") { Path::new(".") } else { &folder };
            return Error::model(format!("{shown}: a file of a model; its folder is expected"))
                .option("model")
                .advice(format!("give `model` {}", name.display()));
        }
        return Error::model(format!(
            "{shown}: a file, but no weights; a checkpoint or a folder is expected"
        ))
        .option("model")
        .advice(format!("give `model` a .safetensors or .ckpt file, or the folder that contains {INDEX}"));
    }
    if regular::special(path).is_some()
        && let Some(e) = unusable(path)
    {
        return e.option("model");
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
        return Error::model(format!("{shown}: no {INDEX}, but one file of weights"))
            .option("model")
            .advice(format!("give `model` the file: {}", file.display()));
    }
    Error::model(format!("{shown}: not a diffusers folder: model_index.json is missing")).advice(
        "give a folder that contains model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/",
    )
}

#[cfg(test)]
mod tests;
