//! Checkpoints in a single file, in the layouts of the original programs: presented as the folder that
//! diffusers would make of them. Weights stay where they are in the file and are read under new names; the
//! configurations are made from the sizes of the tensors and from what the family was published with.

mod kind;
mod pool;
mod scheduler;
mod text;
mod tiny;
pub(crate) mod tokenizer;
mod unet;
mod vae;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use self::kind::{Texts, UNET, VAE};
use self::pool::Pool;
use self::scheduler::Predicts;
use super::checkpoint::{self, Checkpoint};
use super::config::DecoderConfig;
use super::files::{Assembled, AssembledModel, Piece, Source, join};
use crate::ddim::{Chain, Prediction};
use crate::error::{Error, Result};

/// File names of weights, as a folder has them.
const UNET_FILE: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE_FILE: &str = "vae/diffusion_pytorch_model.safetensors";
const SCHEDULER_FILE: &str = "scheduler/scheduler_config.json";

/// What a user may say of a model beside where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Another autoencoder: the folder of one, or a single file; a tiny one (TAESD) too.
    pub vae: Option<PathBuf>,
    /// A folder in diffusers layout whose configurations and tokenizers are taken for a single file.
    pub config: Option<PathBuf>,
    /// What the UNet predicts.
    pub prediction: Option<Prediction>,
    /// By which chain it is sampled.
    pub scheduler: Option<Chain>,
}

impl Choices {
    /// Whether they change the scheduler's file.
    fn of_the_noise(&self) -> bool {
        self.prediction.is_some() || self.scheduler.is_some()
    }
}

/// A checkpoint in a single file as a folder, and what the user should know of it.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model): a file of another kind, named; parts that are missing.
pub fn open(path: &Path, choices: &Choices) -> Result<(Source, Vec<String>)> {
    let file = Checkpoint::open(path, None)?;
    let texts = kind::recognise(&file)?;
    let name = path.display().to_string();
    let recorded = file_name(path);
    let mut model = Assembled { name: name.clone(), base: None, pieces: BTreeMap::new() };
    let place = |pool: Pool| Piece::Weights(pool.finish(path, recorded.clone()));

    let predicts = scheduler::predicts(&file, texts, choices.prediction)?;
    let mut pool = Pool::new(&file, UNET);
    let mut config = unet::rename(&mut pool, &name)?;
    model.pieces.insert(UNET_FILE.to_string(), place(pool));
    config["sample_size"] = json!(match (texts, predicts.prediction) {
        (Texts::Both, _) => 128,
        (Texts::OpenClip, Prediction::VPrediction) => 96,
        _ => 64,
    });
    let context = config["cross_attention_dim"].clone();
    make(&mut model, "unet/config.json", &config);
    let mut noise = scheduler::config(texts, &predicts);
    scheduler::choose(&mut noise, choices.prediction, choices.scheduler);
    make(&mut model, SCHEDULER_FILE, &noise);

    for (nth, prefix) in texts.prefixes().iter().enumerate() {
        let mut pool = Pool::new(&file, prefix);
        let open_clip = prefix.ends_with(".model.");
        let config = match open_clip {
            true => text::rename_open_clip(&mut pool, texts == Texts::Both),
            false => text::rename_clip(&mut pool),
        };
        let config = config.ok_or_else(|| {
            Error::model(format!("{name}: the text encoder at {prefix}* is not complete"))
                .advice("the file is damaged or was pruned: download it again")
        })?;
        let suffix = if nth == 0 { "" } else { "_2" };
        let component = format!("text_encoder{suffix}");
        make(&mut model, &format!("{component}/config.json"), &config);
        model.pieces.insert(format!("{component}/model.safetensors"), place(pool));
        let padding = if open_clip { tokenizer::Padding::Zero } else { tokenizer::Padding::End };
        tokenizer::add(&mut model, &format!("tokenizer{suffix}"), padding)?;
    }

    let scaling_factor = scaling_factor(texts == Texts::Both);
    match &choices.vae {
        Some(vae) => add_vae(&mut model, vae, scaling_factor)?,
        None => {
            let mut pool = Pool::new(&file, VAE);
            if !pool.any("decoder.") {
                return Err(Error::model(format!("{name}: the checkpoint holds no autoencoder"))
                    .option("vae")
                    .advice("give `vae` the folder or the file of one, such as sd-vae-ft-mse or sdxl-vae"));
            }
            let config = vae::rename(&mut pool, &name, scaling_factor)?;
            make(&mut model, "vae/config.json", &config);
            model.pieces.insert(VAE_FILE.to_string(), place(pool));
        }
    }
    make(&mut model, "model_index.json", &index(texts));
    let mut warnings = Vec::new();
    if let Some(folder) = &choices.config {
        let source = Source::Dir(folder.clone());
        check_configurations(folder, &source, texts, &context)?;
        warnings = take_configurations(&mut model, folder, choices, &predicts)?;
    }

    let mut notes = kind::notes(&file, &[&[UNET, VAE], texts.prefixes()].concat());
    notes.extend(predicts.note.filter(|_| choices.config.is_none()));
    notes.extend(warnings);
    Ok((Source::Assembled(AssembledModel(Arc::new(model))), notes))
}

/// The autoencoder alone at `path`, its folder or a file of it, as the component `vae` of a folder.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for anything else.
pub fn autoencoder(path: &Path) -> Result<Source> {
    let mut model = Assembled { name: path.display().to_string(), base: None, pieces: BTreeMap::new() };
    if path.is_file() && Checkpoint::open(path, None)?.names().any(|name| name.starts_with(UNET)) {
        return Err(Error::model(format!("{}: more than an autoencoder", path.display())));
    }
    add_vae(&mut model, path, scaling_factor(false))?;
    Ok(Source::Assembled(AssembledModel(Arc::new(model))))
}

/// The folder `path`, whose index is `index`, with the parts that `choices` replace.
///
/// # Errors
/// As [`open`]; [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a choice that is for single files.
pub fn replace(path: &Path, choices: &Choices) -> Result<Source> {
    if choices.config.is_some() {
        return Err(Error::usage(format!("{}: a folder has its own configurations", path.display()))
            .option("model_config")
            .advice("leave out `model_config`: it is for checkpoints in a single file"));
    }
    let source = Source::Dir(path.to_path_buf());
    let name = path.display().to_string();
    let mut model = Assembled { name, base: Some(path.to_path_buf()), pieces: BTreeMap::new() };
    if let Some(vae) = &choices.vae {
        let own =
            source.exists("vae/config.json").then(|| DecoderConfig::open(&source, "vae")).transpose()?;
        let scaling_factor = match own {
            Some(DecoderConfig::Kl(own)) => f64::from(own.scaling_factor),
            // A tiny autoencoder has no factor of its own: that of the family is meant.
            _ => scaling_factor(super::files::json::read(&source, "model_index.json")?["_class_name"] == XL),
        };
        add_vae(&mut model, vae, scaling_factor)?;
    }
    if choices.of_the_noise() {
        take_scheduler(&mut model, path, choices, None)?;
    }
    Ok(Source::Assembled(AssembledModel(Arc::new(model))))
}

/// The scheduler's file of `folder` as what a checkpoint in a single file says of itself changes it, and then
/// `choices`. Returns what of it is overruled.
fn take_scheduler(
    model: &mut Assembled,
    folder: &Path,
    choices: &Choices,
    predicts: Option<&Predicts>,
) -> Result<Vec<String>> {
    let from = folder.join(SCHEDULER_FILE);
    let place = from.display().to_string();
    let mut config = super::files::json::read(&Source::Dir(folder.to_path_buf()), SCHEDULER_FILE)?;
    if !config.is_object() {
        return Err(Error::model(format!("{place}: not a JSON object")).advice("download the file again"));
    }
    let before = config.clone();
    let warnings = predicts.map(|predicts| predicts.settle(&mut config, &model.name, &place));
    scheduler::choose(&mut config, choices.prediction, choices.scheduler);
    let piece = match config == before {
        true => Piece::File(from),
        false => Piece::Changed { from, content: config.to_string().into_bytes() },
    };
    model.pieces.insert(SCHEDULER_FILE.to_string(), piece);
    Ok(warnings.unwrap_or_default())
}

fn make(model: &mut Assembled, rel: &str, value: &Value) {
    model.make(rel, value.to_string().into_bytes());
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The pipeline of Stable Diffusion XL.
const XL: &str = "StableDiffusionXLPipeline";

fn class(texts: Texts) -> &'static str {
    match texts {
        Texts::Clip | Texts::OpenClip => "StableDiffusionPipeline",
        Texts::Both => XL,
    }
}

/// Of the autoencoder that a family was published with.
fn scaling_factor(xl: bool) -> f64 {
    if xl { 0.13025 } else { 0.18215 }
}

/// `model_index.json`.
fn index(texts: Texts) -> Value {
    let mut index = json!({
        "_class_name": class(texts),
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    });
    if texts == Texts::Both {
        index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
        index["tokenizer_2"] = json!(["transformers", "CLIPTokenizer"]);
        index["force_zeros_for_empty_prompt"] = json!(true);
    }
    index
}

/// The autoencoder at `path`, in the place of the model's own: its folder, the folder of a model that has
/// one, or a file.
fn add_vae(model: &mut Assembled, path: &Path, scaling_factor: f64) -> Result<()> {
    if path.is_dir() {
        let whole = path.join("vae");
        let folder = if whole.join("config.json").is_file() { whole } else { path.to_path_buf() };
        let source = Source::Dir(folder.clone());
        let names = source.list("");
        let weights = checkpoint::choose(&names, None).filter(|_| source.exists("config.json"));
        let Some(weights) = weights else {
            return Err(Error::model(format!(
                "{}: no config.json with diffusion_pytorch_model.safetensors of an autoencoder",
                folder.display()
            ))
            .option("vae")
            .advice(
                "give `vae` the folder or the file of an AutoencoderKL or of an AutoencoderTiny (TAESD)",
            ));
        };
        for name in ["config.json", weights] {
            model.pieces.insert(join("vae", name), Piece::File(folder.join(name)));
        }
        return Ok(());
    }
    let file = Checkpoint::open(path, None).map_err(|e| e.option("vae"))?;
    let recorded = join("vae", &file_name(path));
    if let Some((pool, config)) = tiny::rename(&file)? {
        make(model, "vae/config.json", &config);
        model.pieces.insert(VAE_FILE.to_string(), Piece::Weights(pool.finish(path, recorded)));
        return Ok(());
    }
    let prefix = if file.names().any(|name| name.starts_with(VAE)) { VAE } else { "" };
    let mut pool = Pool::new(&file, prefix);
    let config = vae::rename(&mut pool, &path.display().to_string(), scaling_factor)?;
    make(model, "vae/config.json", &config);
    model.pieces.insert(VAE_FILE.to_string(), Piece::Weights(pool.finish(path, recorded)));
    Ok(())
}

/// Refuses what is no folder, and the configurations of another family than that of the checkpoint.
fn check_configurations(folder: &Path, source: &Source, texts: Texts, context: &Value) -> Result<()> {
    let shown = folder.display();
    let refused = |e: Error| Err(e.option("model_config"));
    if let Some(e) = checkpoint::unusable(folder) {
        return refused(e);
    }
    if folder.is_file() {
        return refused(Error::model(format!("{shown}: this is a file, where a folder is expected")).advice(
            "give `model_config` the folder that contains unet/config.json, scheduler/, tokenizer/ and so on",
        ));
    }
    let read = |rel: &str| match source.exists(rel) {
        true => super::files::json::read(source, rel),
        false => Ok(Value::Null),
    };
    let fix = "give `model_config` the folder of a model of the checkpoint's family";
    let index = read("model_index.json")?;
    let theirs = match index["_class_name"].as_str() {
        Some(name) if name == class(Texts::Both) => (texts != Texts::Both).then(|| Texts::Both.family()),
        Some(name) if name == class(Texts::Clip) => {
            (texts == Texts::Both).then_some("Stable Diffusion 1.x or 2.x")
        }
        // Whoever opens the model knows which others there are.
        _ => None,
    };
    if let Some(theirs) = theirs {
        let what = format!("{shown}: a configuration of {theirs} for a checkpoint of {}", texts.family());
        return refused(Error::model(what).advice(fix));
    }
    let unet = read("unet/config.json")?;
    if let (Some(theirs), Some(ours)) = (unet["cross_attention_dim"].as_u64(), context.as_u64())
        && theirs != ours
    {
        let what = format!(
            "{shown}: a configuration for texts of {theirs} features, and the UNet of the checkpoint ({}) takes {ours}",
            texts.family()
        );
        return refused(Error::model(what).advice(fix));
    }
    Ok(())
}

/// Configurations and tokenizers of a folder in diffusers layout take the place of those made here.
/// Returns what they are overruled in.
fn take_configurations(
    model: &mut Assembled,
    folder: &Path,
    choices: &Choices,
    predicts: &Predicts,
) -> Result<Vec<String>> {
    let source = Source::Dir(folder.to_path_buf());
    let (mut found, mut warnings) = (false, Vec::new());
    if source.exists(SCHEDULER_FILE) {
        warnings = take_scheduler(model, folder, choices, Some(predicts))?;
        found = true;
    }
    let components = ["unet", "vae", "text_encoder", "text_encoder_2"].map(|c| join(c, "config.json"));
    for rel in components.into_iter().chain(["model_index.json".to_string()]) {
        let kept = rel.starts_with("vae/") && choices.vae.is_some();
        if source.exists(&rel) && !kept && model.piece(&rel).is_some() {
            model.pieces.insert(rel.clone(), Piece::File(folder.join(&rel)));
            found = true;
        }
    }
    for component in ["tokenizer", "tokenizer_2"] {
        let names = source.list(component);
        if names.iter().any(|n| n == "tokenizer.json" || n == "vocab.json") && model.has_component(component)
        {
            model.pieces.retain(|rel, _| rel.rsplit_once('/').is_none_or(|(folder, _)| folder != component));
            for name in names {
                let rel = join(component, &name);
                model.pieces.insert(rel.clone(), Piece::File(folder.join(&rel)));
            }
            found = true;
        }
    }
    match found {
        true => Ok(warnings),
        false => Err(Error::model(format!("{}: no configuration of a model is there", folder.display()))
            .option("model_config")
            .advice("give `model_config` a folder with unet/config.json, scheduler/, tokenizer/ and so on")),
    }
}
