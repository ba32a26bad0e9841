//! The flags of `sample` that a record stands for: that of `run.json`, or that in a picture, which lacks the
//! options that only say where and how. All values are written out, so that no default can come between.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use serde_json::{Map, Value};

use super::args::{Cli, Sample};
use crate::assets::SHAPES;
use crate::error::{Error, Result};
use crate::method::Method;

/// A flag by clap's name of it, and as it is typed.
type Flag = (&'static str, OsString);

/// Entries that are flags of the same name.
const PLAIN: [(&str, &str); 26] = [
    ("negative_prompt", "negative-prompt"),
    ("vae", "vae"),
    ("model_config", "model-config"),
    ("prediction", "prediction"),
    ("long_prompts", "long-prompts"),
    ("width", "width"),
    ("height", "height"),
    ("seed", "seed"),
    ("latents", "latents"),
    ("steps", "steps"),
    ("cfg_scale", "cfg-scale"),
    ("eta", "eta"),
    ("normalise", "normalise"),
    ("kl", "kl"),
    ("particles", "particles"),
    ("populations", "populations"),
    ("tempering", "tempering"),
    ("gamma", "gamma"),
    ("resample", "resample"),
    ("gradient", "gradient"),
    ("on_nan", "on-nan"),
    ("select", "select"),
    ("dtype", "dtype"),
    ("save", "save"),
    ("micro_batch", "micro-batch"),
    ("checkpointing", "checkpointing"),
];

/// Entries whose flag has another name, or is one of those that some methods do not read.
const OTHER: [(&str, &str, &str); 16] = [
    ("index", "first_index", "first-index"),
    ("proposal", "proposal", "proposal"),
    ("candidates", "candidates", "candidates"),
    ("thin_at", "thin_at", "thin-at"),
    ("tempering_start", "tempering_start", "tempering-start"),
    ("ess_threshold", "ess_threshold", "ess-threshold"),
    ("max_shift", "max_shift", "max-shift"),
    ("gradient_every", "gradient_every", "gradient-every"),
    ("potential", "potential", "potential"),
    ("weigh_every", "weigh_every", "weigh-every"),
    ("duplicates", "duplicates", "duplicates"),
    ("guidance_strength", "guidance_strength", "guidance-strength"),
    ("guidance_window", "guidance_window", "guidance-window"),
    ("time_travel", "time_travel", "time-travel"),
    ("compat", "compat", "compat"),
    ("chain", "scheduler", "scheduler"),
];

/// Entries that are switches: what they are when the flag is given.
const SWITCHES: [(&str, bool, &str, &str); 6] = [
    ("save_latents", true, "save_latents", "save-latents"),
    ("grid", false, "no_grid", "no-grid"),
    ("metadata", false, "no_metadata", "no-metadata"),
    ("graph", false, "no_graph", "no-graph"),
    ("cublas", false, "no_cublas", "no-cublas"),
    ("offline", true, "offline", "offline"),
];

/// Options that depend on the method; another method has its own.
const OF_METHOD: [&str; 18] = [
    "candidates",
    "thin_at",
    "tempering",
    "gamma",
    "tempering_start",
    "resample",
    "ess_threshold",
    "max_shift",
    "gradient",
    "gradient_every",
    "potential",
    "weigh_every",
    "duplicates",
    "guidance_strength",
    "guidance_window",
    "time_travel",
    "compat",
    "select",
];

/// The flags of a record.
fn flags(record: &Map<String, Value>) -> Vec<Flag> {
    let mut all: Vec<Flag> = Vec::new();
    let mut add =
        |id: &'static str, flag: &str, value: &str| all.push((id, format!("--{flag}={value}").into()));
    let value = |key: &str| record.get(key).and_then(word);
    let list = |key: &str| record.get(key).and_then(Value::as_array).into_iter().flatten();
    let of = |entry: &Value, key: &str| entry.get(key).and_then(word);
    value("prompt").iter().for_each(|text| add("prompts", "prompt", text));
    value("model").iter().filter(|name| *name != SHAPES).for_each(|name| add("model", "model", name));
    for (key, flag) in PLAIN {
        value(key).iter().for_each(|value| add(key, flag, value));
    }
    for (key, id, flag) in OTHER {
        value(key).iter().for_each(|value| add(id, flag, value));
    }
    for lora in list("loras") {
        let (path, weight) = (of(lora, "path"), of(lora, "weight"));
        add("loras", "lora", &format!("{}={}", path.unwrap_or_default(), weight.unwrap_or_default()));
    }
    for embedding in list("embeddings") {
        let (name, path) = (of(embedding, "name"), of(embedding, "path"));
        add("embeddings", "embedding", &format!("{}={}", name.unwrap_or_default(), path.unwrap_or_default()));
    }
    for (key, flag) in [("rewards", "reward"), ("eval_rewards", "eval-reward")] {
        for reward in list(key) {
            let mut text = of(reward, "name").unwrap_or_default();
            of(reward, "weight").iter().for_each(|weight| text += &format!("={weight}"));
            of(reward, "path").iter().for_each(|path| text += &format!(":{path}"));
            add(key, flag, &text);
        }
    }
    value("device_choice").iter().for_each(|device| add("device", "device", device));
    value("max_vram").iter().for_each(|bytes| add("max_vram", "max-vram", bytes));
    for (key, given, id, flag) in SWITCHES {
        if record.get(key) == Some(&Value::Bool(given)) {
            all.push((id, format!("--{flag}").into()));
        }
    }
    all
}

/// A value as it is typed; `None` for `null`.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// `sample` as a record says, changed by the flags in `changes`.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for changes that are no flags of `sample`, and for a record
/// that holds what this program does not know.
pub fn sample(record: &Map<String, Value>, changes: &[OsString]) -> Result<Sample> {
    let is_changed = |id: &str| given(changes, id);
    let kept = flags(record).into_iter().filter(|(id, _)| {
        let by_method = is_changed("proposal") && OF_METHOD.contains(id);
        let by_method = by_method || (*id == "kl" && without_alpha(changes));
        let by_tempering = is_changed("tempering") && *id == "gamma";
        let of_model = is_changed("model") && ["vae", "model_config", "prediction", "scheduler"].contains(id);
        let of_device =
            is_changed("device") && ["max_vram", "no_graph", "no_cublas", "micro_batch"].contains(id);
        let by_normalise = is_changed("normalise_pictures") && *id == "normalise";
        !(is_changed(id) || by_method || by_tempering || of_model || of_device || by_normalise)
    });
    let kept: Vec<OsString> = kept.map(|(_, word)| word).collect();
    let matches = matches(&kept, changes)?;
    Sample::from_arg_matches(&matches).map_err(|e| refused(&e))
}

/// Whether the flag with this name of clap's is among `changes`.
pub fn given(changes: &[OsString], id: &str) -> bool {
    alone(changes).is_some_and(|matches| matches.value_source(id) == Some(ValueSource::CommandLine))
}

/// What is known of the changes by themselves. They may lack what they require; what is wrong with them is
/// found with all flags.
fn alone(changes: &[OsString]) -> Option<ArgMatches> {
    let words = ["das-cuda", "sample"].map(OsString::from);
    let command = Cli::command().ignore_errors(true);
    let matches = command.try_get_matches_from(words.iter().chain(changes)).ok()?;
    matches.subcommand_matches("sample").cloned()
}

/// Whether the changes name a method that knows no alpha.
fn without_alpha(changes: &[OsString]) -> bool {
    let method = alone(changes).and_then(|m| m.get_one::<&'static dyn Method>("proposal").copied());
    method.is_some_and(|method| !method.reads_alpha())
}

/// What clap makes of these flags of `sample`.
fn matches(flags: &[OsString], changes: &[OsString]) -> Result<ArgMatches> {
    let words = ["das-cuda", "sample"].map(OsString::from);
    let all = words.iter().chain(flags).chain(changes).cloned();
    let matches = Cli::command().try_get_matches_from(all).map_err(|e| refused(&e))?;
    Ok(matches.subcommand_matches("sample").cloned().unwrap_or_default())
}

fn refused(e: &clap::Error) -> Error {
    let text = e.to_string();
    let line = match e.use_stderr() {
        true => text.lines().next().unwrap_or_default().trim_start_matches("error: "),
        false => "--help and --version change no record",
    };
    Error::usage(format!("flags and the record: {line}"))
        .advice("see `das-cuda sample --help` for the flags there are")
}
