//! Which files of a repository a model or a CLIP tower is read from, and which of them a folder lacks: so
//! that of a repository of many gigabytes only what is used is downloaded.

use std::collections::BTreeSet;
use std::path::Path;

use super::checkpoint;
use super::embedding;
use super::families::FAMILIES;
use super::files::{Source, join, json};
use super::lora;
use crate::error::{Error, Result};
use crate::hub::Snapshot;

/// The file that says what a diffusers model is made of.
const INDEX: &str = "model_index.json";

/// Files beside weights that are read where they are.
const TEXTS: [&str; 9] = [
    "config.json",
    "scheduler_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// What a model in diffusers layout lacks; weights last, so that a folder with all weights has everything.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model): not in diffusers layout, an index that cannot be read, a
/// component without weights.
pub fn of_pipeline(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    let Some(components) = components(snapshot)? else { return Ok(vec![INDEX.to_string()]) };
    let mut files: Vec<String> = components.iter().flat_map(|name| texts_of(snapshot, name)).collect();
    for name in components.iter().filter(|name| !name.starts_with("tokenizer") && **name != "scheduler") {
        files.extend(weights_of(snapshot, name)?);
    }
    Ok(files)
}

/// What lacks of the configurations and tokenizers of a model in diffusers layout.
///
/// # Errors
/// As [`of_pipeline`].
pub fn of_configurations(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    let Some(components) = components(snapshot)? else { return Ok(vec![INDEX.to_string()]) };
    Ok(components.iter().flat_map(|name| texts_of(snapshot, name)).collect())
}

/// What an autoencoder lacks: one by itself, or that of a model in diffusers layout.
///
/// # Errors
/// As [`of_pipeline`].
pub fn of_autoencoder(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    const WITHIN: &str = "vae/config.json";
    let within = snapshot.folder.join(WITHIN).is_file()
        || snapshot.listing.is_some_and(|all| all.iter().any(|file| file == WITHIN));
    let component = if within { "vae" } else { "" };
    let mut files = lacking(snapshot.folder, component, &["config.json"]);
    files.extend(weights_of(snapshot, component)?);
    Ok(files)
}

/// What lacks of a LoRA: a file that is named is there already.
///
/// # Errors
/// None now.
pub fn of_lora(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    Ok(of_one(snapshot, &[lora::IN_FOLDER]))
}

/// What lacks of an embedding: a file that is named is there already.
///
/// # Errors
/// None now.
pub fn of_embedding(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    Ok(of_one(snapshot, &embedding::IN_FOLDER))
}

/// The components that the index names and a family reads; `None` without an index.
fn components(Snapshot { folder, listing }: Snapshot<'_>) -> Result<Option<Vec<&'static str>>> {
    if !folder.join(INDEX).is_file() {
        return match listing {
            Some(all) if !all.iter().any(|file| file == INDEX) => Err(no_pipeline(all)),
            _ => Ok(None),
        };
    }
    let index = json::read(&Source::Dir(folder.to_path_buf()), INDEX)?;
    let class = index["_class_name"].as_str().unwrap_or_default();
    // Whoever opens the folder says what is wrong with any other.
    let family = FAMILIES.iter().find(|family| family.class == class);
    let parts = family.into_iter().flat_map(|family| family.components);
    Ok(Some(parts.map(|part| part.name).filter(|name| index[*name][1].is_string()).collect()))
}

/// What a CLIP model with its tokenizer lacks.
///
/// # Errors
/// As [`of_pipeline`].
pub fn of_clip(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    let mut files = of_processor(snapshot)?;
    let tower = of_tower(snapshot)?;
    files.retain(|file| !tower.contains(file));
    Ok([files, tower].concat())
}

/// What a CLIP model lacks whose tokenizer is of no use or elsewhere.
///
/// # Errors
/// As [`of_pipeline`].
pub fn of_tower(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    let mut files = match snapshot.listing {
        Some(_) => texts_of(snapshot, ""),
        None => lacking(snapshot.folder, "", &["config.json"]),
    };
    files.extend(weights_of(snapshot, "")?);
    Ok(files)
}

/// What lacks of the files that say how images and prompts are prepared.
///
/// # Errors
/// None now.
pub fn of_processor(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    Ok(match snapshot.listing {
        Some(_) => texts_of(snapshot, ""),
        None => lacking(snapshot.folder, "", tokenizer(snapshot.folder, "")),
    })
}

/// The first of `names` that the hub has, unless one of them is there.
pub fn of_one(snapshot: Snapshot<'_>, names: &[&str]) -> Vec<String> {
    let Snapshot { folder, listing } = snapshot;
    let lacking = lacking(folder, "", names);
    if lacking.len() < names.len() {
        return Vec::new();
    }
    let listed = |file: &&String| listing.is_none_or(|all| all.contains(file));
    lacking.iter().find(listed).or(lacking.first()).cloned().into_iter().collect()
}

/// What lacks of `required`, and of those of `beside` that the hub has.
pub fn of_files(snapshot: Snapshot<'_>, required: &[&str], beside: &[&str]) -> Vec<String> {
    let Snapshot { folder, listing } = snapshot;
    let listed = |file: &String| listing.is_some_and(|all| all.contains(file));
    let beside = lacking(folder, "", beside).into_iter().filter(listed);
    beside.chain(lacking(folder, "", required)).collect()
}

/// A tokenizer is one file, or two.
fn tokenizer(folder: &Path, component: &str) -> &'static [&'static str] {
    match folder.join(join(component, "tokenizer.json")).is_file() {
        true => &[],
        false => &["vocab.json", "merges.txt"],
    }
}

/// Those of `names` that the folder `component` lacks.
fn lacking(folder: &Path, component: &str, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| join(component, name)).filter(|file| !folder.join(file).is_file()).collect()
}

fn texts_of(Snapshot { folder, listing }: Snapshot<'_>, component: &str) -> Vec<String> {
    match listing {
        Some(all) => lacking(folder, component, &TEXTS).into_iter().filter(|f| all.contains(f)).collect(),
        None if component.starts_with("tokenizer") => {
            lacking(folder, component, tokenizer(folder, component))
        }
        None if component == "scheduler" => lacking(folder, component, &["scheduler_config.json"]),
        None => lacking(folder, component, &["config.json"]),
    }
}

/// The file of weights, or the index of its parts and then those; what is there already is preferred.
fn weights_of(Snapshot { folder, listing }: Snapshot<'_>, component: &str) -> Result<Vec<String>> {
    let source = Source::Dir(folder.to_path_buf());
    let here = source.list(component);
    let listed: Option<Vec<String>> = listing.map(|all| {
        let prefix = join(component, "");
        let below = all.iter().filter_map(|file| file.strip_prefix(prefix.as_str()));
        below.filter(|rest| !rest.contains('/')).map(str::to_string).collect()
    });
    let whole = |name: &&str| folder.join(join(component, name)).is_file();
    let chosen = match (checkpoint::choose(&here, None).filter(whole), &listed) {
        (Some(name), _) => name,
        (None, Some(listed)) => match checkpoint::choose(listed, None) {
            Some(name) => name,
            None => {
                let place = if component.is_empty() { "the repository" } else { component };
                return Err(checkpoint::nothing_chosen(place, listed, None));
            }
        },
        (None, None) if component.is_empty() || component.starts_with("text_encoder") => "model.safetensors",
        (None, None) => "diffusion_pytorch_model.safetensors",
    };
    let file = join(component, chosen);
    if !chosen.ends_with(".json") || !folder.join(&file).is_file() {
        return Ok(lacking(folder, component, &[chosen]));
    }
    let index = json::read(&source, &file)?;
    let shards = index["weight_map"].as_object().into_iter().flat_map(|map| map.values());
    let shards: BTreeSet<&str> = shards.filter_map(|shard| shard.as_str()).collect();
    Ok(lacking(folder, component, &shards.into_iter().collect::<Vec<_>>()))
}

/// A repository that is no pipeline, and what it may have instead.
fn no_pipeline(all: &[String]) -> Error {
    let single: Vec<&str> = all
        .iter()
        .map(String::as_str)
        .filter(|f| [".safetensors", ".ckpt"].iter().any(|end| f.ends_with(end)))
        .take(8)
        .collect();
    let error = Error::model(format!("not in diffusers layout: the repository has no {INDEX}"));
    match single.is_empty() {
        true => error.advice("use a repository with a model in diffusers layout"),
        false => error.advice(format!(
            "use a repository in diffusers layout, or name one file of it, OWNER/NAME/FILE: it has {}",
            single.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(folder: &Path, file: &str, text: &str) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_pipeline_is_its_index_then_texts_then_weights_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let all: Vec<String> = [
            "README.md",
            "model_index.json",
            "v1-5-pruned.ckpt",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/model.safetensors",
            "text_encoder/pytorch_model.bin",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/vocab.json",
            "safety_checker/model.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model-1.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
        .map(String::from)
        .to_vec();
        let missing = |listing| of_pipeline(Snapshot { folder, listing }).unwrap();
        assert_eq!(missing(None), ["model_index.json"]);
        assert_eq!(missing(Some(&all)), ["model_index.json"]);
        let part = |class: &str| format!("[\"x\", \"{class}\"]");
        let index = format!(
            "{{\"_class_name\": \"StableDiffusionPipeline\", \"scheduler\": {}, \"text_encoder\": {}, \
             \"tokenizer\": {}, \"unet\": {}, \"vae\": {}, \"safety_checker\": {}}}",
            part("PNDMScheduler"),
            part("CLIPTextModel"),
            part("CLIPTokenizer"),
            part("UNet2DConditionModel"),
            part("AutoencoderKL"),
            part("StableDiffusionSafetyChecker")
        );
        put(folder, "model_index.json", &index);
        let first = missing(Some(&all));
        let weights: Vec<&str> = first
            .iter()
            .map(String::as_str)
            .skip_while(|f| f.contains("config") || f.contains("token"))
            .collect();
        assert_eq!(first.len() - weights.len(), 7, "{first:?}");
        let mut sorted = weights.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            [
                "text_encoder/model.safetensors",
                "unet/diffusion_pytorch_model.safetensors.index.json",
                "vae/diffusion_pytorch_model.safetensors"
            ]
        );
        for file in &first {
            put(folder, file, "{\"weight_map\": {\"a\": \"diffusion_pytorch_model-1.safetensors\"}}");
        }
        assert_eq!(missing(Some(&all)), ["unet/diffusion_pytorch_model-1.safetensors"]);
        put(folder, "unet/diffusion_pytorch_model-1.safetensors", "");
        assert!(missing(Some(&all)).is_empty() && missing(None).is_empty());
        // For a single file only the texts are read, and of another model only the autoencoder.
        let other = tempfile::tempdir().unwrap();
        put(other.path(), "model_index.json", &index);
        let snapshot = Snapshot { folder: other.path(), listing: Some(&all) };
        assert_eq!(of_configurations(snapshot).unwrap(), first[..7]);
        let vae = ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"];
        assert_eq!(of_autoencoder(snapshot).unwrap(), vae);
        let listing = vae.map(|file| file.replace("vae/", ""));
        let alone = of_autoencoder(Snapshot { folder: other.path(), listing: Some(&listing) }).unwrap();
        assert_eq!(alone, listing);
        // What somebody else downloaded may be another variant.
        fs::remove_file(folder.join("text_encoder/model.safetensors")).unwrap();
        assert_eq!(missing(None), ["text_encoder/model.safetensors"]);
        put(folder, "text_encoder/model.fp16.safetensors", "");
        assert!(missing(None).is_empty());
    }

    #[test]
    fn other_repositories_are_refused_with_what_they_have() {
        let dir = tempfile::tempdir().unwrap();
        let says = |of: fn(Snapshot<'_>) -> Result<Vec<String>>, files: &[&str], what: &str| {
            let all: Vec<String> = files.iter().map(|file| file.to_string()).collect();
            let text = of(Snapshot { folder: dir.path(), listing: Some(&all) }).unwrap_err().to_string();
            assert!(text.contains(what), "{text}");
        };
        says(of_pipeline, &["xl.safetensors"], "it has xl.safetensors");
        says(of_pipeline, &["README.md"], "no model_index.json");
        let all = ["config.json", "merges.txt", "model.safetensors", "vocab.json"].map(String::from);
        let mut clip = of_clip(Snapshot { folder: dir.path(), listing: Some(&all) }).unwrap();
        clip.sort();
        assert_eq!(clip, all);
        says(of_clip, &["config.json", "other.bin"], "other.bin");
    }
}
