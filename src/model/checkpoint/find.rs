//! Which file of a folder holds the weights, under which names, and what is wrong where there is none.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::Path;

use safetensors::SafeTensorError;

use crate::error::Error;
use crate::regular;

/// File names that diffusers and transformers give to the weights of one component.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
/// The same of weights that `torch.save` wrote.
const PICKLED_STEMS: [&str; 2] = ["diffusion_pytorch_model", "pytorch_model"];

/// Variants looked for when there is no plain file and none was asked for.
const VARIANTS: [&str; 3] = ["fp16", "bf16", "fp32"];

/// The weights file in a folder's listing: safetensors before pickles, plain before variants unless one is
/// asked for, whole before shards.
pub fn choose<'n>(names: &'n [String], variant: Option<&str>) -> Option<&'n str> {
    let wanted = |stems: [&str; 2], ending: &str| -> Vec<String> {
        let plain = stems.iter().flat_map(|s| [format!("{s}.{ending}"), format!("{s}.{ending}.index.json")]);
        let of_variant = |v: &str| {
            let name = |s: &&str| {
                [
                    format!("{s}.{v}.{ending}"),
                    format!("{s}.{ending}.index.{v}.json"),
                    format!("{s}.{v}.{ending}.index.json"),
                ]
            };
            stems.iter().flat_map(name).collect::<Vec<_>>()
        };
        match variant {
            Some(v) => of_variant(v),
            None => plain.chain(VARIANTS.iter().flat_map(|v| of_variant(v))).collect(),
        }
    };
    let wanted = [wanted(STEMS, "safetensors"), wanted(PICKLED_STEMS, "bin")].concat();
    wanted.iter().find_map(|w| names.iter().find(|n| *n == w)).map(String::as_str)
}

/// The error for a folder without usable weights.
pub fn nothing_chosen(folder: &str, names: &[String], variant: Option<&str>) -> Error {
    if let (Some(v), Some(other)) = (variant, choose(names, None)) {
        return Error::model(format!("{folder}: no weights of variant {v:?}, but {other}"))
            .advice("ask for no variant, or download that one");
    }
    let is_weights =
        |name: &&str| [".safetensors", ".bin", ".ckpt", ".pt", ".pth"].iter().any(|e| name.ends_with(e));
    let weights: Vec<&str> = names.iter().map(String::as_str).filter(is_weights).collect();
    if let Some((stem, _)) = weights.iter().find_map(|name| name.split_once("-00001-of-")) {
        return Error::model(format!(
            "{folder}: {stem} in parts, without the index that says what is in which"
        ))
        .advice(format!(
            "fetch {stem}.safetensors.index.json too, or .bin.index.json for parts that end so"
        ));
    }
    if !weights.is_empty() {
        return Error::model(format!(
            "{folder}: none of {} is named diffusion_pytorch_model or model .safetensors, or as diffusers and \
             transformers name their .bin",
            some_of(&weights)
        ))
        .advice("rename the file that is meant, or give its full path");
    }
    Error::model(format!("{folder}: no diffusion_pytorch_model.safetensors and no model.safetensors"))
        .advice("the download is incomplete: fetch the .safetensors files of this folder")
}

/// Why there is nothing to read at `path`; `None` for a regular file or a folder.
pub fn unusable(path: &Path) -> Option<Error> {
    let shown = path.display();
    let e = match fs::metadata(path) {
        Ok(_) => {
            let what = format!("{shown}: this is {}, not a regular file", regular::special(path)?);
            let fix = "give a regular file: weights are not read in the order in which a pipe brings them";
            return Some(Error::model(what).advice(fix));
        }
        Err(e) => e,
    };
    let fix = "check the path, and that the download is complete";
    Some(match e.kind() {
        io::ErrorKind::NotFound => {
            Error::model(format!("{shown}: there is no such file or folder")).advice(fix)
        }
        io::ErrorKind::PermissionDenied => Error::model(format!("{shown}: cannot be opened"))
            .because(e)
            .advice("let this user read the file and list the folders above it"),
        _ => {
            let fix = regular::fix(&e, "correct the path, or the links in it");
            Error::model(format!("{shown}: cannot be opened")).because(e).advice(fix)
        }
    })
}

/// What bytes that are no file of weights probably are; `e` says why they are no safetensors file.
pub fn damaged(bytes: &[u8], e: SafeTensorError) -> Error {
    if bytes.is_empty() {
        return Error::model("an empty file").advice("the download did not begin: download it again");
    }
    if bytes.starts_with(b"GGUF") {
        return Error::model("a GGUF file, whose quantised weights are not read")
            .advice("give the same weights as .safetensors, in F32, F16 or BF16");
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Error::model("a pointer to the weights, not the weights")
            .advice("fetch the file: git lfs pull");
    }
    if bytes.starts_with(b"\x80") {
        return Error::model("a pickle, but not one that torch.save wrote")
            .advice("give the weights as .safetensors, or as torch.save writes them");
    }
    if bytes.first() == Some(&b'<') {
        return Error::model("a web page, not weights").advice("download the file itself");
    }
    Error::model(format!("not a whole safetensors file ({} bytes)", bytes.len()))
        .because(e)
        .advice("the file is cut short or damaged: download it again")
}

/// Attention blocks of VAE files from before diffusers 0.17 carry other names for the same four layers.
pub fn modern_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    if let [head @ .., attentions, index, layer, leaf] = parts.as_slice()
        && *attentions == "attentions"
    {
        let layer = match *layer {
            "query" => "to_q",
            "key" => "to_k",
            "value" => "to_v",
            "proj_attn" => "to_out.0",
            _ => return name.to_string(),
        };
        let head: String = head.iter().flat_map(|p| [p, "."]).collect();
        return format!("{head}attentions.{index}.{layer}.{leaf}");
    }
    name.to_string()
}

pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A name for messages: at most 120 characters of it. No model has a name so long.
pub fn cut(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(120) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}...", &name[..end])),
    }
}

/// Up to eight names, and how many more there are.
pub fn some_of(names: &[&str]) -> String {
    let shown = names.iter().take(8).map(|name| cut(name)).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(8) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
