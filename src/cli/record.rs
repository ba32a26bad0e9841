//! What a run says about itself, in one place for `run.json` and for the pictures. A picture carries the
//! options that decide it, enough to draw it again, and none of those that only say where and how to work:
//! those must not change its bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::normalise;
use super::options::Options;
use super::values::{Bytes, typed};
use crate::error::Result;
use crate::method::Guidance;
use crate::model::embedding::Embedding;
use crate::model::files::FileHash;
use crate::model::lora::Lora;
use crate::reward::Spec;
use crate::run::{sha256, sha256_file};
use crate::session::{Normalise, Prompt, Session};
use crate::smc::{Floor, Rules, Tempering};

/// What keys the random numbers of one draw of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Number of the prompt in the run.
    pub index: usize,
    /// Seed of this draw.
    pub seed: u64,
}

/// Every option, under the name of its flag.
pub struct Choices {
    /// What decides the particles and which of them is returned.
    pub deciding: Map<String, Value>,
    /// Where and how.
    pub rest: Map<String, Value>,
}

impl Choices {
    /// All options of one draw, defaults filled in. Those that the method does not read are `null`.
    pub fn new(options: &Options, session: &Session, prompt: &Prompt, draw: Draw) -> Result<Choices> {
        // Without `..`: an option that is not recorded does not compile.
        let Options {
            prompts,
            // These two are in the draw.
            first_index,
            seed,
            seed_drawn: _,
            count,
            model: _,
            vae,
            model_config,
            prediction,
            scheduler,
            latents,
            steps,
            cfg_scale,
            long_prompts,
            eta,
            rewards,
            eval_rewards,
            normalise: asked,
            proposal,
            particles,
            populations,
            rules,
            on_nan,
            compat,
            output,
            image,
            select,
            save,
            save_latents,
            grid,
            metadata,
            overwrite,
            skip_finished,
            resume,
            shard,
            checkpoint_every,
            preview,
            preview_decoder,
            max_seconds,
            max_nfe,
            json,
            quiet,
            devices,
            dtype,
            machine,
            offline,
            builder: _,
            sample,
            notes: _,
        } = options;
        let (size, micro_batch) = (session.size(sample)?, session.micro_batch(sample)?);
        let weighs = proposal.weighs();
        let guidance = proposal.shifts().then(|| sample.guidance());
        let candidates = weighs.then(|| sample.candidates_per_particle());
        let Rules { tempering, resampler, ess_threshold, max_shift, potentials } = rules;
        let deciding = json!({
            "prompt": prompt.text,
            "negative_prompt": prompt.negative,
            "index": draw.index,
            "model": session.model_name(),
            "vae": vae.as_ref().map(|path| path.to_string_lossy()),
            "model_config": model_config.as_ref().map(|path| path.to_string_lossy()),
            "prediction": prediction.map(typed),
            "chain": scheduler.map(typed),
            "loras": session.folder().loras().iter().map(|lora| merged(lora)).collect::<Result<Vec<_>>>()?,
            "embeddings": session.folder().embeddings().iter().map(learned).collect::<Result<Vec<_>>>()?,
            "long_prompts": typed(*long_prompts),
            "width": size.width,
            "height": size.height,
            "seed": draw.seed,
            "latents": latents.as_ref().map(|path| path.to_string_lossy()),
            "steps": steps,
            "cfg_scale": cfg_scale,
            "eta": eta,
            "rewards": rewards.iter().map(weighted).collect::<Vec<_>>(),
            "eval_rewards": eval_rewards.iter().map(named).collect::<Vec<_>>(),
            "normalise": normalise::written(session),
            "kl": proposal.reads_alpha().then_some(session.alpha(&options.sample)),
        });
        let alignment = json!({
            "proposal": proposal.to_string(),
            "particles": particles,
            "candidates": candidates,
            "thin_at": candidates.filter(|&factor| factor != 1.0).map(|_| sample.thinned_at()),
            "populations": populations,
            "tempering": weighs.then(|| tempering.to_string()),
            "gamma": gamma(*tempering).filter(|_| weighs),
            "tempering_start": weighs.then(|| sample.starts_at()),
            "resample": weighs.then(|| resampler.to_string()),
            "ess_threshold": weighs.then_some(ess_threshold),
            // JSON knows no infinity: the text is what --max-shift takes.
            "max_shift": proposal.proposes().then(|| max_shift.map_or(json!("inf"), |most| json!(most))),
            "gradient": proposal.proposes().then(|| sample.gradient_path().to_string()),
            "gradient_every": proposal.proposes().then(|| sample.gradient_steps()),
            "potential": weighs.then(|| potentials.to_string()),
            "weigh_every": (weighs && !proposal.proposes()).then(|| sample.weighing_steps()),
            "duplicates": proposal.chooses().then(|| sample.duplicate_count()),
            "guidance_strength": guidance.map(|guidance| guidance.strength),
            "guidance_window": guidance.map(|Guidance { window: (from, until), .. }| format!("{from}..{until}")),
            "time_travel": guidance.filter(|_| proposal.travels()).map(|guidance| guidance.passes),
            "on_nan": on_nan.to_string(),
            "compat": weighs.then(|| compat.to_string()),
            "select": typed(*select),
            "dtype": typed(*dtype),
        });
        let rest = json!({
            "count": count,
            "draws": prompts.len() * count,
            "number": (draw.index - first_index) * count + draw.seed.wrapping_sub(*seed) as usize,
            "normalise_pictures": match asked {
                Some(Normalise::Measured(pictures)) => Some(pictures),
                _ => None,
            },
            "output": output.to_string_lossy(),
            "image": image.as_ref().map(|path| path.to_string_lossy()),
            "save": typed(*save),
            "save_latents": save_latents,
            "grid": grid,
            "metadata": metadata,
            "overwrite": overwrite,
            "skip_finished": skip_finished,
            "resume": resume,
            "shard": shard.map(|shard| shard.to_string()),
            "checkpoint_every": checkpoint_every,
            "preview": preview,
            "preview_decoder": preview_decoder,
            "max_seconds": max_seconds,
            "max_nfe": max_nfe,
            "json": json,
            "quiet": quiet,
            "device": distinct(session.device_names()),
            "device_choice": devices.to_string(),
            "micro_batch": micro_batch,
            "checkpointing": typed(sample.checkpointing_settled()),
            "max_vram": machine.max_vram.map(|Bytes(bytes)| bytes),
            "graph": !machine.no_graph,
            "cublas": !machine.no_cublas,
            "offline": offline,
            "threads": rayon::current_num_threads(),
        });
        let deciding = object(deciding).into_iter().chain(object(alignment)).collect();
        Ok(Choices { deciding, rest: object(rest) })
    }
}

/// The entries of a value made as an object.
pub fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { unreachable!("made as an object") };
    map
}

/// Names, each once.
fn distinct(mut names: Vec<String>) -> String {
    names.dedup();
    names.join(", ")
}

fn named(spec: &Spec) -> Value {
    json!({"name": spec.kind.name, "path": spec.path.as_ref().map(|path| path.to_string_lossy())})
}

/// A LoRA file by its content, since the path may hold another one tomorrow.
fn merged(lora: &Lora) -> Result<Value> {
    let spec = lora.spec();
    Ok(json!({
        "name": lora.name(),
        "path": spec.path.to_string_lossy(),
        "weight": spec.weight,
        "sha256": lora.sha256()?,
    }))
}

/// An embedding by its content.
fn learned(embedding: &Embedding) -> Result<Value> {
    Ok(json!({
        "name": embedding.name(),
        "path": embedding.path().to_string_lossy(),
        "vectors": embedding.vectors(),
        "sha256": embedding.sha256()?,
    }))
}

fn weighted(spec: &Spec) -> Value {
    let path = spec.path.as_ref().map(|path| path.to_string_lossy());
    json!({"name": spec.kind.name, "weight": spec.weight, "path": path})
}

/// The rate of a fixed schedule.
fn gamma(tempering: Tempering) -> Option<f64> {
    match tempering {
        Tempering::None | Tempering::Adaptive { floor: Floor::Last } => None,
        Tempering::Exp { gamma }
        | Tempering::Poly { gamma, .. }
        | Tempering::Adaptive { floor: Floor::Exp { gamma } | Floor::Poly { gamma, .. } } => Some(gamma),
    }
}

/// The entries of [`files`] that are hashes: what is drawn again must be drawn with the same files.
pub const HASHES: [&str; 3] = ["model_files", "reward_files", "latents_sha256"];

/// Now, in seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Hashes of everything read: the files of the model, of the rewards, and the latents. The same for every
/// prompt.
///
/// # Errors
/// Of files that cannot be read any more.
pub fn files(options: &Options, session: &Session) -> Result<Map<String, Value>> {
    let by_path = |hashes: &[FileHash]| -> Map<String, Value> {
        hashes.iter().map(|h| (h.path.clone(), json!(h.sha256))).collect()
    };
    let mut rewards = session.reward().hashes()?.to_vec();
    if let Some(eval) = session.eval_reward() {
        rewards.extend_from_slice(eval.hashes()?);
    }
    Ok(object(json!({
        "model_files": by_path(session.folder().hashes()?),
        "reward_files": by_path(&rewards),
        "latents_sha256": options.latents.as_deref().map(sha256_file).transpose()?,
        "repositories": session.repositories(),
    })))
}

/// Options that differ from draw to draw.
const OF_A_DRAW: [&str; 4] = ["prompt", "negative_prompt", "index", "seed"];

/// SHA-256 of all that decides the draws of a command besides its prompts, of which `choices` are those of
/// any one: options, files and seeds. Processes that make parts of one list have the same, and so has the
/// same list with further prompts behind.
pub fn list(options: &Options, choices: &Choices, files: &Map<String, Value>) -> String {
    let shared: Map<String, Value> = choices
        .deciding
        .iter()
        .filter(|(key, _)| !OF_A_DRAW.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let all = json!([shared, files, options.first_index, options.count, options.seed]);
    sha256(all.to_string().as_bytes())
}

/// What followed from the options before anything was drawn.
pub fn consequences(options: &Options, session: &Session) -> Map<String, Value> {
    object(json!({
        "vae_class": session.pipeline().decoder.class(),
        "scheduler": session.pipeline().scheduler_class,
        "chains": options.sample.chains(),
        // Of log Z, which plain samples estimate too.
        "alpha": session.alpha(&options.sample),
        "unet_evaluations": session.evaluations(&options.sample),
    }))
}
