//! Which file of a folder holds the weights, under which names, and what is wrong where there is none.

use crate::error::Error;

/// File names that diffusers and transformers give to the weights of one component.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// Variants looked for when there is no plain file and none was asked for.
const VARIANTS: [&str; 3] = ["fp16", "bf16", "fp32"];

/// The weights file in a folder's listing: plain before variants unless one is asked for, whole before
/// shards.
pub fn choose<'n>(names: &'n [String], variant: Option<&str>) -> Option<&'n str> {
    let plain =
        STEMS.iter().flat_map(|s| [format!("{s}.safetensors"), format!("{s}.safetensors.index.json")]);
    let of_variant = |v: &str| {
        let v = v.to_string();
        STEMS.iter().flat_map(move |s| {
            [
                format!("{s}.{v}.safetensors"),
                format!("{s}.safetensors.index.{v}.json"),
                format!("{s}.{v}.safetensors.index.json"),
            ]
        })
    };
    let wanted: Vec<String> = match variant {
        Some(v) => of_variant(v).collect(),
        None => plain.chain(VARIANTS.iter().flat_map(|v| of_variant(v))).collect(),
    };
    wanted.iter().find_map(|w| names.iter().find(|n| *n == w)).map(String::as_str)
}

/// The error for a folder without usable weights.
pub fn nothing_chosen(folder: &str, names: &[String], variant: Option<&str>) -> Error {
    let ends = |epilogues: &[&str]| -> Vec<&str> {
        names.iter().map(String::as_str).filter(|n| epilogues.iter().any(|e| n.ends_with(e))).collect()
    };
    let (safe, pickled) = (ends(&[".safetensors"]), ends(&[".bin", ".ckpt", ".pt", ".pth"]));
    if let (Some(v), Some(other)) = (variant, choose(names, None)) {
        return Error::model(format!("{folder}: no weights of variant {v:?}, but {other}"))
            .advice("ask for no variant, or download that one");
    }
    if !safe.is_empty() {
        return Error::model(format!(
            "{folder}: none of {} is named diffusion_pytorch_model.safetensors or model.safetensors",
            some_of(&safe)
        ))
        .advice("rename the file, or give its full path");
    }
    if !pickled.is_empty() {
        return Error::model(format!(
            "{folder}: only pickled weights ({}); they can run code and are not read",
            some_of(&pickled)
        ))
        .advice("convert them to safetensors: load the model in diffusers and call save_pretrained, or download the .safetensors files");
    }
    Error::model(format!("{folder}: no diffusion_pytorch_model.safetensors and no model.safetensors"))
        .advice("the download is incomplete: fetch the .safetensors files of this folder")
}

/// What bytes that are no safetensors file probably are.
pub fn damaged(bytes: &[u8]) -> Error {
    if bytes.starts_with(b"version https://git-lfs") {
        return Error::model("a pointer to the weights, not the weights")
            .advice("fetch the file: git lfs pull");
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") {
        return Error::model("pickled weights; they can run code and are not read")
            .advice("convert them to safetensors, or download the .safetensors file");
    }
    if bytes.first() == Some(&b'<') {
        return Error::model("a web page, not weights").advice("download the file itself");
    }
    Error::model(format!("not a whole safetensors file ({} bytes)", bytes.len()))
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

/// Up to eight names, and how many more there are.
pub fn some_of(names: &[&str]) -> String {
    let shown = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(8) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
