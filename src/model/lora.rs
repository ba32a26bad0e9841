//! LoRA: updates of low rank for the layers of a UNet and of text encoders, merged into the weights while a
//! checkpoint is read, in f32, and rounded to the checkpoint's type. No second copy of a model is held.
//!
//! The names and rules are those of the programs that write such files: diffusers, PEFT and kohya's trainer
//! (docs/spec.md 2.8).

mod merge;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use self::merge::Update;
use self::names::{Key, Role};
use super::checkpoint::{Checkpoint, Patch, TensorView, count, some_of, squeezed};
use super::files::{Source, json, sha256_once};
use crate::error::{Error, Result};

/// Name of the file that diffusers writes into a folder.
pub const IN_FOLDER: &str = "pytorch_lora_weights.safetensors";

/// Entry of the file's header in which diffusers keeps ranks and alphas, as JSON.
const METADATA: &str = "lora_adapter_metadata";

/// Which LoRA, and how much of it: `PATH` or `PATH=WEIGHT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The safetensors file, or the folder that diffusers wrote it into.
    pub path: PathBuf,
    /// Factor of the whole update, finite; 1 unless given.
    pub weight: f64,
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Spec> {
        let refused = |what: &str| {
            Error::usage(format!("{text:?}: {what}"))
                .option("lora")
                .advice("write PATH or PATH=WEIGHT, such as style.safetensors=0.8")
        };
        // A file may have the sign in its name.
        let (path, weight) = match text.rsplit_once('=').filter(|_| !Path::new(text).exists()) {
            None => (text, 1.0),
            Some((path, weight)) => match weight.trim().parse::<f64>() {
                Ok(weight) if weight.is_finite() => (path, weight),
                _ => return Err(refused("the weight is not a finite number")),
            },
        };
        if path.is_empty() {
            return Err(refused("no path"));
        }
        Ok(Spec { path: path.into(), weight })
    }
}

impl Spec {
    /// Reads all of them.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the text: one that cannot be read, or a file
    /// that is given twice.
    pub fn parse_all(texts: &[String]) -> Result<Vec<Spec>> {
        let mut specs: Vec<Spec> = Vec::new();
        for text in texts {
            let spec: Spec = text.parse()?;
            let whole = |spec: &Spec| {
                let of_folder = spec.path.is_dir().then(|| in_folder(&spec.path).ok()).flatten();
                let path = of_folder.unwrap_or_else(|| spec.path.clone());
                path.canonicalize().unwrap_or(path)
            };
            if specs.iter().any(|other| whole(other) == whole(&spec)) {
                return Err(Error::usage(format!("{}: given twice", spec.path.display()))
                    .option("lora")
                    .advice("give it once, with the sum of the weights"));
            }
            specs.push(spec);
        }
        Ok(specs)
    }
}

/// An open LoRA file.
pub struct Lora {
    spec: Spec,
    file: Checkpoint,
    layers: BTreeMap<(&'static str, String), Layer>,
    settings: Settings,
    hash: OnceLock<String>,
}

/// The names of a layer's tensors in the file.
#[derive(Default)]
struct Layer {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
    magnitude: Option<String>,
}

impl Layer {
    fn slot(&mut self, role: Role) -> &mut Option<String> {
        match role {
            Role::Down => &mut self.down,
            Role::Up => &mut self.up,
            Role::Alpha => &mut self.alpha,
            Role::Magnitude => &mut self.magnitude,
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        [&self.down, &self.up, &self.alpha, &self.magnitude].into_iter().flatten().map(String::as_str)
    }
}

/// A layer known to fit a tensor of the model.
struct Fitted {
    down: String,
    up: String,
    magnitude: Option<String>,
    /// Of the product of `up` and `down`, the weight of the whole file included.
    scale: f32,
    rank: usize,
}

impl Lora {
    /// Opens a file, and reads what its names mean. Whether it fits a model is found when that is loaded.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file and the tensor: not a safetensors file,
    /// nothing in it, of another method or model, a layer that lacks one of its two matrices.
    pub fn open(spec: &Spec) -> Result<Lora> {
        let path = match spec.path.is_dir() {
            true => in_folder(&spec.path).map_err(|e| e.option("lora"))?,
            false => spec.path.clone(),
        };
        let label = path.display().to_string();
        let place = |e: Error| e.context(&label).option("lora");
        let file = Checkpoint::open(&path, None).map_err(|e| e.option("lora"))?;
        let mut layers: BTreeMap<(&'static str, String), Layer> = BTreeMap::new();
        for name in file.names() {
            let key = Key::read(name).map_err(place)?;
            let layer = layers.entry((key.component, key.layer)).or_default();
            if let Some(other) = layer.slot(key.role).replace(name.to_string()) {
                return Err(place(
                    Error::model(format!("{other} and {name} are the same tensor of one layer"))
                        .advice("keep one of them in the file"),
                ));
            }
        }
        if layers.is_empty() {
            return Err(place(
                Error::model("there are no tensors in this file").advice("download the file again"),
            ));
        }
        for layer in layers.values() {
            let Some(first) = layer.names().next() else { continue };
            if layer.down.is_none() || layer.up.is_none() {
                let lacks = if layer.down.is_none() { "lora_down (lora_A)" } else { "lora_up (lora_B)" };
                return Err(place(
                    Error::model(format!("{first} is there, but its layer has no {lacks}"))
                        .advice("the file is incomplete: download it again"),
                ));
            }
        }
        let settings = Settings::read(file.metadata().get(METADATA).map(String::as_str)).map_err(place)?;
        let spec = Spec { path, weight: spec.weight };
        Ok(Lora { spec, file, layers, settings, hash: OnceLock::new() })
    }

    /// The file, and its weight.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The name of the file without its ending; of the file that diffusers writes the name of its folder.
    pub fn name(&self) -> String {
        let path = match self.spec.path.ends_with(IN_FOLDER) {
            true => self.spec.path.parent().unwrap_or(&self.spec.path),
            false => &self.spec.path.with_extension(""),
        };
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// SHA-256 of the file, computed when first asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where it cannot be read any more.
    pub fn sha256(&self) -> Result<&str> {
        sha256_once(&self.hash, &self.spec.path, |what| self.refuse(what))
    }

    /// How many layers of each component it changes, and the ranks of their updates, smallest first.
    pub fn layers(&self) -> BTreeMap<&'static str, (usize, BTreeSet<usize>)> {
        let mut layers: BTreeMap<&'static str, (usize, BTreeSet<usize>)> = BTreeMap::new();
        for ((component, _), layer) in &self.layers {
            let (count, ranks) = layers.entry(*component).or_default();
            *count += 1;
            let down = layer.down.as_deref().and_then(|name| self.file.root().dims(name));
            ranks.extend(down.and_then(|dims| dims.first()).copied());
        }
        layers
    }

    /// The family of models that it is made for, where its sizes tell one.
    pub fn family(&self) -> Option<&'static str> {
        let (_, width) = self.of_a_text().unzip();
        // The second text encoder tells XL where the sizes are those of no published model.
        let two = self.layers.keys().any(|(component, _)| *component == "text_encoder_2");
        width.and_then(family).or(two.then_some(XL))
    }

    /// The tensor of a layer that reads texts, and how many features of them.
    fn of_a_text(&self) -> Option<(&str, usize)> {
        self.layers.iter().find_map(|((component, name), layer)| {
            let reads_text = name.contains("attn2") && (name.ends_with("_to_k") || name.ends_with("_to_v"));
            let down = layer.down.as_deref().filter(|_| *component == "unet" && reads_text)?;
            Some((down, *self.file.root().dims(down)?.get(1)?))
        })
    }

    /// The weights of the file.
    pub fn weights(&self) -> &Checkpoint {
        &self.file
    }

    /// Refuses a LoRA for another family than that of a model with these components, whose text states are
    /// `context` wide.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), with what the file is made for.
    pub fn check_family(&self, has: impl Fn(&str) -> bool, context: Option<usize>) -> Result<()> {
        let of_a_text = self.of_a_text();
        let lacking = self.layers.iter().find(|((component, _), _)| !has(component));
        let differs = of_a_text.zip(context).filter(|((_, width), context)| width != context);
        let reason = match (differs, lacking) {
            (Some(((name, width), context)), _) => {
                format!("{name} takes texts of {width} features, and those of this model have {context}")
            }
            (None, Some(((component, _), layer))) => {
                let name = layer.names().next().unwrap_or_default();
                format!("{name} is of the {component}, which this model does not have")
            }
            (None, None) => return Ok(()),
        };
        let theirs = self.family().unwrap_or("another kind of model");
        let ours = context.and_then(family).or(has("text_encoder_2").then_some(XL));
        let ours = ours.map_or(String::new(), |name| format!(", and this model is {name}"));
        Err(self.refuse(format!("made for {theirs}{ours}: {reason}")).advice(OF_ITS_FAMILY))
    }

    /// Hangs the layers for `component` onto the tensors of `model`, its weights.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file and the tensor: a layer that the
    /// component does not have, another shape than the layer's, no rank, an alpha that is no number.
    pub(super) fn adapt(self: &Arc<Lora>, component: &str, model: &mut Checkpoint) -> Result<()> {
        let tensors = tensors(component, model);
        let per_level = blocks_of_a_level(model);
        let (mut unknown, mut fitted) = (Vec::new(), Vec::new());
        let mut taken = BTreeSet::new();
        for ((_, name), layer) in self.layers.iter().filter(|((of, _), _)| *of == component) {
            let original = || tensors.get(&names::of_original(name, per_level)?);
            let Some(tensor) = tensors.get(name).or_else(original) else {
                unknown.extend(layer.names());
                continue;
            };
            if !taken.insert(tensor) {
                let first = layer.names().next().unwrap_or_default();
                return Err(self
                    .refuse(format!("{first} is for {tensor}, which other tensors of the file are for too"))
                    .advice("keep one of the two ways of writing a layer in the file"));
            }
            fitted.push((tensor.clone(), self.fit(component, layer, tensor, model)?));
        }
        if !unknown.is_empty() {
            let of = if unknown.len() == 1 { "a layer" } else { "layers" };
            return Err(self
                .refuse(format!(
                    "{} of {of} that {} does not have: {}",
                    count(unknown.len(), "tensor"),
                    model.label(),
                    some_of(&unknown)
                ))
                .advice(OF_ITS_FAMILY));
        }
        for (tensor, layer) in fitted {
            let lora = self.clone();
            let change = Box::new(move |w: &mut [f32]| lora.merge(&layer, w));
            model.patch(&tensor, Patch { label: self.file.label().to_string(), change });
        }
        Ok(())
    }

    /// Compares the sizes of a layer with those of `tensor` of the model.
    fn fit(&self, component: &str, layer: &Layer, tensor: &str, model: &Checkpoint) -> Result<Fitted> {
        let dims = model.root().dims(tensor).unwrap_or_default();
        let (Some(down), Some(up)) = (&layer.down, &layer.up) else {
            unreachable!("seen when it was opened")
        };
        let of = |name: &str| self.file.root().dims(name).unwrap_or_default();
        let rank = of(down).first().copied().unwrap_or(0);
        if rank == 0 {
            return Err(self
                .refuse(format!("{down} has shape {:?}: a rank of at least 1 is expected", of(down)))
                .advice("the file is damaged: download it again"));
        }
        let (out, inputs) = dims.split_first().unwrap_or((&0, &[]));
        let wanted_down: Vec<usize> = std::iter::once(rank).chain(inputs.iter().copied()).collect();
        let magnitude = layer.magnitude.as_deref();
        // PEFT keeps those of a convolution in the second place.
        let lengths = magnitude.filter(|m| m.ends_with(".dora_scale") || of(m).first() != Some(&1));
        let wanted_lengths = if lengths.is_some() { vec![*out] } else { vec![1, *out] };
        let wanted = [(Some(down.as_str()), wanted_down), (Some(up.as_str()), vec![*out, rank])];
        for (name, wanted) in wanted.into_iter().chain([(magnitude, wanted_lengths)]) {
            let Some(name) = name else { continue };
            if squeezed(of(name)) != squeezed(&wanted) {
                return Err(self
                    .refuse(format!(
                        "{name} has shape {:?}, expected {wanted:?} for {tensor} {dims:?} of {}",
                        of(name),
                        model.label()
                    ))
                    .advice(OF_ITS_FAMILY));
            }
        }
        let alpha = match &layer.alpha {
            Some(name) => match *self.tensor(name)?.data().to_f32() {
                [alpha] => Some(f64::from(alpha) / rank as f64),
                _ => {
                    let what = format!("{name} has shape {:?}: one number is expected", of(name));
                    return Err(self.refuse(what).advice("the file is damaged: download it again"));
                }
            },
            None => self
                .settings
                .scale(component, tensor, rank)
                .map_err(|e| e.context(self.file.label()).option("lora"))?,
        };
        Ok(Fitted {
            down: down.clone(),
            up: up.clone(),
            magnitude: layer.magnitude.clone(),
            scale: (self.spec.weight * alpha.unwrap_or(1.0)) as f32,
            rank,
        })
    }

    /// Merges a layer into `w`, its weights.
    fn merge(&self, layer: &Fitted, w: &mut [f32]) -> Result<()> {
        let (up, down) = (self.tensor(&layer.up)?, self.tensor(&layer.down)?);
        let magnitude = layer.magnitude.as_deref().map(|name| self.tensor(name)).transpose()?;
        let magnitude = magnitude.as_ref().map(|view| view.data().to_f32());
        let update = Update {
            up: &up.data().to_f32(),
            down: &down.data().to_f32(),
            rank: layer.rank,
            scale: layer.scale,
            magnitude: magnitude.as_deref(),
        };
        update.apply(w);
        if w.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        Err(self
            .refuse(format!("{} and {} make weights that are not finite", layer.up, layer.down))
            .advice("give `lora` a smaller weight, or use another copy of the file"))
    }

    /// A tensor of the file as it is there.
    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let root = self.file.root();
        root.tensor(name, root.dims(name).unwrap_or_default()).map_err(|e| {
            e.option("lora").advice("use another copy of the file, of finite numbers in F32, F16 or BF16")
        })
    }

    fn refuse(&self, what: impl fmt::Display) -> Error {
        Error::model(format!("{}: {what}", self.file.label())).option("lora")
    }
}

/// The file that diffusers wrote into `folder`.
fn in_folder(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(IN_FOLDER);
    if path.is_file() {
        return Ok(path);
    }
    let names = Source::Dir(folder.to_path_buf()).list("");
    let weights: Vec<&String> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    let error = Error::model(format!("{}: a folder without {IN_FOLDER}", folder.display()));
    Err(match weights.as_slice() {
        [one] => error.advice(format!("give `lora` the file in it: {}", folder.join(one).display())),
        _ => error.advice(format!("give `lora` a file, or a folder that diffusers wrote {IN_FOLDER} into")),
    })
}

impl fmt::Debug for Lora {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lora({}={}, {} layers)", self.file.label(), self.spec.weight, self.layers.len())
    }
}

const XL: &str = "Stable Diffusion XL";

/// What to do about a LoRA that does not fit.
const OF_ITS_FAMILY: &str = "use a LoRA that was trained for this model's family";

/// The family whose UNet takes texts of this many features.
fn family(context: usize) -> Option<&'static str> {
    match context {
        768 => Some("Stable Diffusion 1.x"),
        1024 => Some("Stable Diffusion 2.x"),
        1280 => Some("the refiner of Stable Diffusion XL"),
        2048 => Some(XL),
        _ => None,
    }
}

/// The weights of all layers of a component, by the names that a [`Key`] has for them.
fn tensors(component: &str, model: &Checkpoint) -> BTreeMap<String, String> {
    let layer = |name: &str| Some(name.strip_suffix(".weight")?.replace('.', "_"));
    let named = model.names().filter_map(|name| {
        let layer = layer(name)?;
        let layer = if component == "unet" { &layer } else { names::without_outer(&layer) };
        Some((layer.to_string(), name.to_string()))
    });
    named.collect()
}

/// How many residual blocks the first level of a UNet has.
fn blocks_of_a_level(model: &Checkpoint) -> usize {
    let first =
        model.names().filter_map(|name| name.strip_prefix("down_blocks.0.resnets.")?.split('.').next());
    first.collect::<BTreeSet<_>>().len()
}

/// What diffusers writes into the header of a file: for each component its alpha, and layers with another.
#[derive(Default)]
struct Settings(serde_json::Map<String, Value>);

impl Settings {
    fn read(text: Option<&str>) -> Result<Settings> {
        let Some(text) = text else { return Ok(Settings::default()) };
        match json::parse(text.as_bytes()).map_err(|e| e.context(METADATA))? {
            Value::Object(map) => Ok(Settings(map)),
            _ => Err(Error::model(format!("{METADATA}: no JSON object"))
                .advice("the file is damaged: download it again")),
        }
    }

    /// The factor of the update of a layer; `None` where nothing is said of it.
    fn scale(&self, component: &str, tensor: &str, rank: usize) -> Result<Option<f64>> {
        let at = |key: &str| self.0.get(&format!("{component}.{key}")).filter(|value| !value.is_null());
        let wrong = |key: &str, value: &Value| {
            Error::model(format!("{METADATA}: {component}.{key} is {value}, which is not understood"))
                .advice("save the LoRA again without this entry of its header")
        };
        let layer = tensor.strip_suffix(".weight").unwrap_or(tensor);
        let mut alpha = at("lora_alpha").map(|value| ("lora_alpha", value));
        if let Some(patterns) = at("alpha_pattern") {
            let map = patterns.as_object().ok_or_else(|| wrong("alpha_pattern", patterns))?;
            let plain = |name: &str| {
                let name = name.strip_prefix('^').unwrap_or(name);
                name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_'))
            };
            if !map.keys().all(|name| plain(name)) {
                return Err(wrong("alpha_pattern", patterns));
            }
            let meant = |name: &str| {
                let outer = format!("text_model.{layer}");
                [layer, &outer].iter().any(|layer| {
                    // PEFT's patterns are ends of names; behind a ^ whole names.
                    match name.strip_prefix('^') {
                        Some(whole) => **layer == *whole,
                        None => layer
                            .strip_suffix(name)
                            .is_some_and(|head| head.is_empty() || head.ends_with('.')),
                    }
                })
            };
            let own = map.iter().find(|(name, _)| meant(name));
            alpha = own.map(|(_, value)| ("alpha_pattern", value)).or(alpha);
        }
        let Some((key, value)) = alpha else { return Ok(None) };
        let number = value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| wrong(key, value))?;
        let root = at("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Ok(Some(number / if root { (rank as f64).sqrt() } else { rank as f64 }))
    }
}

#[cfg(test)]
mod tests;
