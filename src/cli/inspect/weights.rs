//! Models, and files of weights that belong to one.

use std::path::Path;

use serde_json::{Value, json};

use super::facts::Facts;
use crate::cli::flags;
use crate::cli::values::typed;
use crate::cpu::Cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{Hub, Snapshot};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::{ClipConfig, DecoderConfig};
use crate::model::embedding::{self, Embedding};
use crate::model::files::Source;
use crate::model::folder::ModelFolder;
use crate::model::lora::{self, Lora};
use crate::model::{lpips, needed, original};
use crate::session::Session;

/// The file of a model in diffusers layout.
const INDEX: &str = "model_index.json";

/// The model inside the program.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) in a program without it.
pub fn embedded(hub: &Hub) -> Result<Facts> {
    model("built into this program", &[], &Session::builder().hub(hub.clone()).folder()?)
}

/// What is at a path: a model, or what goes with one.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model), saying what it is instead.
pub fn facts(path: &Path, hub: &Hub) -> Result<Facts> {
    let place = path.to_string_lossy();
    let refused = match Session::builder().hub(hub.clone()).model(path).folder() {
        Ok(folder) => {
            let missing = match path.is_dir() {
                true => needed::of_pipeline(Snapshot { folder: path, listing: None })?,
                false => Vec::new(),
            };
            return model(&place, &missing, &folder);
        }
        // A model that cannot be run is none of the other things, whatever parts it has.
        Err(e) if path.join(INDEX).is_file() => return Err(e),
        Err(e) => e,
    };
    if let Ok(embedding) = Embedding::open(&embedding::Spec { name: None, path: path.into() }) {
        let facts = Facts::new("embedding").with("path", place).with("name", embedding.name());
        let facts = facts.with("family", embedding.family()).with("vectors", embedding.vectors());
        return Ok(held(facts, embedding.weights()).with("use", format!("--embedding {}", path.display())));
    }
    if let Ok(lora) = Lora::open(&lora::Spec { path: path.into(), weight: 1.0 }) {
        let layers: Vec<Value> = lora
            .layers()
            .into_iter()
            .map(|(component, (layers, ranks))| {
                let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
                json!({"name": component, "layers": layers, "ranks": ranks.join(", ")})
            })
            .collect();
        let facts =
            Facts::new("lora").with("path", place).with("family", lora.family()).with("layers", layers);
        return Ok(held(facts, lora.weights()).with("use", format!("--lora {}", path.display())));
    }
    if let Some(facts) = of_a_reward(path).or_else(|| of_lpips(path)).or_else(|| autoencoder(path)) {
        return Ok(facts);
    }
    // There is no --model here to name.
    let advice = "inspect takes a folder of this program's (run.json, compare.json, optimize.json, toy.json, \
                  pareto.json or eval.json is in it), a picture, a model, a LoRA, an embedding, an autoencoder, a \
                  tower or head of a reward, LPIPS, or the name of a reward";
    let e = Error::new(refused.kind(), refused.message());
    Err(match refused.kind() {
        ErrorKind::Model => e.advice(advice),
        _ => e.advice(refused.advice_text().unwrap_or(advice)),
    })
}

/// Type, parameters and bytes of weights.
pub fn held(facts: Facts, weights: &Checkpoint) -> Facts {
    let bytes: u64 = weights.types().iter().map(|(.., bytes)| bytes).sum();
    facts.with("type", types(weights)).with("parameters", weights.parameters()).with("bytes", bytes)
}

/// The types of the tensors: that of most bytes first.
pub fn types(weights: &Checkpoint) -> String {
    let mut types = weights.types();
    types.sort_by_key(|(.., bytes)| std::cmp::Reverse(*bytes));
    types.into_iter().map(|(name, ..)| name).collect::<Vec<_>>().join(", ")
}

fn model(place: &str, missing: &[String], folder: &ModelFolder) -> Result<Facts> {
    let parts = folder.parts();
    let mut rows = Vec::new();
    for component in parts.components().filter(|name| parts.class(name) != Some("")) {
        let class = parts.class(component).unwrap_or_default();
        // Tokenizers and schedulers have no weights.
        if component.starts_with("tokenizer") || component == "scheduler" {
            continue;
        }
        let row = match parts.checkpoint(component) {
            Ok(weights) => {
                let bytes: u64 = weights.types().iter().map(|(.., bytes)| bytes).sum();
                json!({
                    "name": component,
                    "class": class,
                    "type": types(&weights),
                    "parameters": weights.parameters(),
                    "bytes": bytes,
                })
            }
            Err(_) if !missing.is_empty() => json!({"name": component, "class": class, "type": "missing"}),
            Err(e) => return Err(e),
        };
        rows.push(row);
    }
    let total = |key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
    let (unet, decoder, scheduler) = (parts.unet_config()?, parts.decoder_config()?, parts.scheduler()?);
    let size = unet.sample_size.map(|(h, w)| format!("{}x{}", w * scale(&decoder), h * scale(&decoder)));
    let facts = Facts::new("model")
        .with("path", place)
        .with("pipeline", folder.family().class)
        .with("family", folder.family().about)
        .with("parts", rows.clone())
        .with("parameters", total("parameters"))
        .with("bytes", total("bytes"))
        .with("size", size)
        .with("latent_channels", decoder.latent_channels())
        .with("text_features", unet.context_dim())
        .with("prediction", typed(scheduler.config.prediction_type))
        .with("scheduler", scheduler.class)
        .with("distilled_guidance", unet.time_cond_proj_dim.is_some())
        .with("missing", json!(missing))
        .with("notes", json!(folder.notes()));
    Ok(facts)
}

fn scale(decoder: &DecoderConfig) -> usize {
    match decoder {
        DecoderConfig::Kl(config) => config.scale(),
        DecoderConfig::Tiny(config) => config.scale(),
    }
}

fn autoencoder(path: &Path) -> Option<Facts> {
    let source = original::autoencoder(path).ok()?;
    let config = DecoderConfig::open(&source, "vae").ok()?;
    let weights = source.checkpoint("vae", None).ok()?;
    // A configuration says little: most of its keys have a default.
    weights.names().find(|name| name.starts_with("decoder."))?;
    let class = match config {
        DecoderConfig::Kl(_) => "AutoencoderKL",
        DecoderConfig::Tiny(_) => "AutoencoderTiny (TAESD): pictures and rewards are approximations",
    };
    let channels = config.latent_channels();
    let facts = Facts::new("autoencoder")
        .with("path", path.to_string_lossy())
        .with("class", class)
        .with("latent_channels", channels)
        .with("scale", scale(&config));
    // The families here have four.
    let usable = (channels == 4).then(|| format!("--vae {}", path.display()));
    let other = "its latents have another number of channels than those of the families here";
    let notes = if usable.is_none() { vec![other] } else { Vec::new() };
    Some(held(facts, &weights).with("use", usable).with("notes", notes))
}

/// The network of LPIPS, the weights of its channels, or both.
fn of_lpips(path: &Path) -> Option<Facts> {
    let weights = Checkpoint::open(path, None).ok().filter(|_| path.is_file())?;
    let has = |name: &str, dims: &[usize]| weights.root().dims(name).is_some_and(|own| own == dims);
    let kernel = [64, 3, 11, 11];
    let of_package = has("net.slice1.0.weight", &kernel);
    let of_torchvision = has("features.0.weight", &kernel) || has("0.weight", &kernel);
    let linear = has("lin0.model.1.weight", &[1, 64, 1, 1]) || has("lin0.model.1.weight", &[1, 64]);
    let shown = path.display();
    let (about, way) = match (of_package, of_torchvision, linear) {
        (true, _, true) => ("LPIPS by AlexNet, the network and its channels' weights", shown.to_string()),
        (_, true, _) => ("AlexNet, through which LPIPS looks", format!("{shown},LINEAR")),
        (false, false, true) => ("weights of the channels of LPIPS by AlexNet", format!("NETWORK,{shown}")),
        _ => return None,
    };
    let facts = Facts::new("lpips").with("path", path.to_string_lossy()).with("about", about);
    let damage =
        lpips::check(&Cpu::new(), &weights, of_package || of_torchvision, linear && !of_torchvision).err();
    let usable = damage.is_none().then(|| format!("--lpips {way}"));
    let notes: Vec<String> = damage.iter().map(|e| format!("cannot be used: {}", flags::report(e))).collect();
    Some(held(facts, &weights).with("use", usable).with("notes", notes))
}

/// A CLIP tower, or the head of an aesthetic score.
fn of_a_reward(path: &Path) -> Option<Facts> {
    let place = path.to_string_lossy();
    if path.is_dir() {
        ClipConfig::open(&Source::Dir(path.into()), "").ok()?;
        let weights = Checkpoint::open(path, None).ok()?;
        let facts =
            Facts::new("tower").with("path", place).with("about", "a CLIP model, through which rewards look");
        return Some(held(facts, &weights).with("use", format!("--reward clip:{}", path.display())));
    }
    let weights = Checkpoint::open(path, None).ok()?;
    let of_layers = weights.names().all(|name| name.starts_with("layers."));
    let root = weights.root();
    // A score: one number.
    let one =
        weights.names().any(|name| name.ends_with(".weight") && root.dims(name).is_some_and(|d| d[0] == 1));
    let first = root.dims("layers.0.weight").filter(|dims| of_layers && one && dims.len() == 2)?;
    let facts = Facts::new("head")
        .with("path", place)
        .with("about", "the head of an aesthetic score, on top of a CLIP tower")
        .with("features", first[1]);
    Some(held(facts, &weights).with("use", format!("--reward aesthetic:TOWER,{}", path.display())))
}
