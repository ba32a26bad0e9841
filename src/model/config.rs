//! The JSON configurations of diffusers and transformers, read into what the networks need: defaults filled
//! in, lists made one entry per block, and every value that would change the result either used or refused.
//! Errors name file and key, the value found and what is supported. A key that is in none of the lists here
//! has no meaning to the Python classes either: it is named in `unknown_keys`, so that the user is told.

mod clip;
mod decoder;
mod open_clip;
mod scheduler;
mod tiny;
mod unet;
mod vae;

pub use clip::{Activation, ClipConfig, ClipTextConfig, ClipVisionConfig, Pooling};
pub use decoder::{AUTOENCODER_KL, AUTOENCODER_TINY, AUTOENCODERS, DecoderConfig};
pub use open_clip::OpenClipConfig;
pub use scheduler::SchedulerFile;
pub use tiny::TinyConfig;
pub use unet::{Attention, Level, Mid, TextTime, UNetConfig};
pub use vae::AutoencoderConfig;

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::files::{Source, join, json};
use crate::error::{Error, Result};

/// One JSON object and the file it is from. A key that is absent has its default; `null` counts as absent, as
/// it does for the optional keys of the Python classes.
struct Keys<'a> {
    file: String,
    /// Where in the file this object is, such as `text_config.`; empty at the top.
    prefix: &'static str,
    map: &'a Map<String, Value>,
    /// The keys that were asked for.
    seen: RefCell<BTreeSet<String>>,
}

/// What to do about a configuration that is in no file.
const MADE: &str = "this configuration was made for weights that come without one: give `model_config` the folder of a \
                    model with the same sizes (for an autoencoder `vae` the folder of one); else the file is \
                    damaged or of a kind that is not known";

/// Reads `component/name` and hands its keys to `parse`.
fn open<T>(
    source: &Source,
    component: &str,
    name: &str,
    parse: impl FnOnce(&Keys<'_>) -> Result<T>,
) -> Result<T> {
    let rel = join(component, name);
    parse_bytes(&source.describe(&rel), &source.read(&rel)?, parse).map_err(|e| match source.is_made(&rel) {
        true => e.advice(MADE),
        false => e,
    })
}

fn parse_bytes<T>(file: &str, bytes: &[u8], parse: impl FnOnce(&Keys<'_>) -> Result<T>) -> Result<T> {
    let value = json::parse(bytes).map_err(|e| e.context(file))?;
    let Value::Object(map) = &value else {
        return Err(Error::model(format!("{file}: not a JSON object")).advice("download the file again"));
    };
    parse(&Keys::new(file, "", map))
}

impl<'a> Keys<'a> {
    fn new(file: &str, prefix: &'static str, map: &'a Map<String, Value>) -> Keys<'a> {
        Keys { file: file.to_string(), prefix, map, seen: RefCell::default() }
    }

    /// The value of `key` as the file has it, `null` included.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.seen.borrow_mut().insert(key.to_string());
        self.map.get(key)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.value(key).filter(|v| !v.is_null())
    }

    /// The keys that were never asked for, with their values, but for those that are known to be
    /// `without_effect`. Names that begin with an underscore are notes of the library that wrote the file,
    /// and a value that says "nothing" in Python switches nothing on.
    fn unknown(&self, without_effect: &[&str]) -> Vec<String> {
        let seen = self.seen.borrow();
        let nothing = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        let unknown = self.map.iter().filter(|(key, value)| {
            !key.starts_with('_')
                && !nothing(value)
                && !seen.contains(key.as_str())
                && !without_effect.contains(&key.as_str())
        });
        unknown.map(|(key, value)| format!("{}{key}: {}", self.prefix, shortened(value))).collect()
    }

    /// The error for a value of the wrong type or range.
    fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        Error::model(format!("{}: {}{key} is {found}, expected {expected}", self.file, self.prefix))
            .advice("download the file again, or correct this key")
    }

    /// The error for a value that is right but that this program does not know how to compute.
    fn unsupported(&self, key: &str, found: &Value, supported: &str) -> Error {
        Error::model(format!(
            "{}: {}{key} is {found}, which is not supported; supported: {supported}",
            self.file, self.prefix
        ))
        .advice("use a model without this option")
    }

    /// The error for keys that contradict each other.
    fn contradiction(&self, what: &str) -> Error {
        Error::model(format!("{}: {}{what}", self.file, self.prefix))
            .advice("download the file again, or correct these keys")
    }

    fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|v| as_size(v, 1).ok_or_else(|| self.wrong(key, v, SIZE))).transpose()
    }

    fn size(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.opt_size(key)?.unwrap_or(default))
    }

    /// How many of something stand one after another.
    fn count(&self, key: &str, default: usize) -> Result<usize> {
        let Some(v) = self.get(key) else { return Ok(default) };
        as_count(v, 1).ok_or_else(|| self.wrong(key, v, COUNT))
    }

    fn float(&self, key: &str, default: f32) -> Result<f32> {
        let Some(v) = self.get(key) else { return Ok(default) };
        let x = v.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
        x.ok_or_else(|| self.wrong(key, v, "a number that fits into 32 bits"))
    }

    /// A number in full precision.
    fn double(&self, key: &str, default: f64) -> Result<f64> {
        let Some(v) = self.get(key) else { return Ok(default) };
        v.as_f64().ok_or_else(|| self.wrong(key, v, "a finite number"))
    }

    /// An integer from 0, of any size.
    fn whole(&self, key: &str, default: usize) -> Result<usize> {
        let Some(v) = self.get(key) else { return Ok(default) };
        let whole = v.as_u64().and_then(|n| usize::try_from(n).ok());
        whole.ok_or_else(|| self.wrong(key, v, "an integer from 0"))
    }

    /// One of several names, and what it stands for.
    fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> Result<T> {
        let Some(v) = self.get(key) else { return Ok(default) };
        let chosen = choices.iter().find(|(name, _)| v.as_str() == Some(name)).map(|(_, choice)| *choice);
        chosen.ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.wrong(key, v, &format!("one of {}", names.join(", ")))
        })
    }

    /// A number that must be above zero, and whose inverse is a number too.
    fn positive(&self, key: &str, default: f32) -> Result<f32> {
        match self.float(key, default)? {
            x if x > 0.0 && x.is_normal() => Ok(x),
            _ => Err(self.wrong(key, &self.map[key], "a number above 0")),
        }
    }

    /// `null` is false here: it is what Python makes of it.
    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(key, v, "true or false")),
        }
    }

    fn opt_text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, v, "a string"))).transpose()
    }

    fn texts(&self, key: &str, default: &[&'static str]) -> Result<Vec<&'a str>> {
        let Some(v) = self.get(key) else { return Ok(default.to_vec()) };
        let list: Option<Vec<&str>> = v.as_array().and_then(|a| a.iter().map(Value::as_str).collect());
        list.filter(|l| !l.is_empty()).ok_or_else(|| self.wrong(key, v, "a list of strings"))
    }

    fn sizes(&self, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        let Some(v) = self.get(key) else { return Ok(default.to_vec()) };
        let list: Option<Vec<usize>> = v.as_array().and_then(|a| a.iter().map(|v| as_size(v, 1)).collect());
        list.filter(|l| !l.is_empty()).ok_or_else(|| self.wrong(key, v, "a list of integers from 1"))
    }

    /// One size for all `n` blocks, or a list with one for each.
    fn size_per_block(&self, key: &str, default: usize, n: usize) -> Result<Vec<usize>> {
        self.per_block(key, default, n, SIZE, |v| as_size(v, 1))
    }

    /// One count for all `n` blocks, or a list with one for each.
    fn count_per_block(&self, key: &str, default: usize, n: usize) -> Result<Vec<usize>> {
        self.per_block(key, default, n, COUNT, |v| as_count(v, 1))
    }

    fn per_block(
        &self,
        key: &str,
        default: usize,
        n: usize,
        expected: &str,
        read: impl Fn(&Value) -> Option<usize>,
    ) -> Result<Vec<usize>> {
        let Some(v) = self.get(key) else { return Ok(vec![default; n]) };
        if let Some(one) = read(v) {
            return Ok(vec![one; n]);
        }
        let list: Option<Vec<usize>> = v.as_array().and_then(|a| a.iter().map(read).collect());
        list.filter(|l| l.len() == n)
            .ok_or_else(|| self.wrong(key, v, &format!("{expected}, or a list of {n} of them")))
    }

    /// Channels of each level of a network whose resolution is halved between them, at full resolution first.
    /// Group norms must divide them.
    fn levels(&self, default: &[usize]) -> Result<(Vec<usize>, usize)> {
        let channels = self.sizes("block_out_channels", default)?;
        let groups = self.size("norm_num_groups", 32)?;
        if channels.len() > MOST_LEVELS {
            let n = channels.len();
            let what = format!("block_out_channels has {n} entries, at most {MOST_LEVELS} are supported");
            return Err(self.contradiction(&what));
        }
        match channels.iter().find(|&c| c % groups != 0) {
            None => Ok((channels, groups)),
            Some(c) => Err(self.contradiction(&format!(
                "block_out_channels {c} is no multiple of norm_num_groups {groups}"
            ))),
        }
    }

    /// A height and a width, given as one number or two; both at least 1.
    fn square_or_pair(&self, key: &str) -> Result<Option<(usize, usize)>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        if let Some(one) = as_size(v, 1) {
            return Ok(Some((one, one)));
        }
        let list: Option<Vec<usize>> = v.as_array().and_then(|a| a.iter().map(|v| as_size(v, 1)).collect());
        match list.as_deref() {
            Some(&[h, w]) => Ok(Some((h, w))),
            _ => Err(self.wrong(key, v, "an integer from 1, or two of them")),
        }
    }

    /// Refuses any value of `key` but those given, among which the default must be; absent is fine.
    fn only(&self, key: &str, supported: &[Value]) -> Result<()> {
        let Some(v) = self.get(key) else { return Ok(()) };
        let same = |s: &Value| s == v || (s.is_number() && s.as_f64() == v.as_f64());
        if supported.iter().any(same) {
            return Ok(());
        }
        let names: Vec<String> = supported.iter().map(Value::to_string).collect();
        Err(self.unsupported(key, v, &names.join(", ")))
    }

    /// Refuses every value but `null`.
    fn absent(&self, key: &str) -> Result<()> {
        self.only(key, &[]).map_err(|_| self.unsupported(key, &self.map[key], "null"))
    }

    /// Refuses a file of another class.
    fn class(&self, supported: &str) -> Result<()> {
        self.only("_class_name", &[supported.into()])
    }

    /// The object of a part that the file leaves out: all defaults.
    fn empty(&self) -> Keys<'static> {
        static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        Keys::new(&self.file, "", &NOTHING)
    }

    /// The object at `key`; `prefix` names its keys in errors.
    fn below(&self, key: &'static str, prefix: &'static str) -> Result<Option<Keys<'a>>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let map = v.as_object().ok_or_else(|| self.wrong(key, v, "an object"))?;
        Ok(Some(Keys::new(&self.file, prefix, map)))
    }
}

/// A value for messages: at most 60 characters of it.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

const SIZE: &str = "an integer from 1";
const COUNT: &str = "an integer from 1 to 1024";

/// Sizes that a network can have: what is above is a damaged file, and would overflow products of sizes.
const LARGEST: u64 = 1 << 30;

/// Layers that can stand one after another. Lists of them are made before any weight is looked at.
const MOST_LAYERS: u64 = 1024;

/// Levels of resolution: twice what any model has. Sides of images are multiples of two to their number.
const MOST_LEVELS: usize = 8;

fn as_size(value: &Value, least: u64) -> Option<usize> {
    value.as_u64().filter(|n| (least..=LARGEST).contains(n)).map(|n| n as usize)
}

fn as_count(value: &Value, least: u64) -> Option<usize> {
    value.as_u64().filter(|n| (least..=MOST_LAYERS).contains(n)).map(|n| n as usize)
}

#[cfg(test)]
mod tests;
