//! Weights by name. A checkpoint is one or more files of safetensors or of `torch.save`, memory-mapped or
//! embedded in the program; a [`Weights`] walks the names, and each fetch checks element type, shape and
//! finiteness. Nothing is copied but what must be: unaligned files, f64, and convolutions, which change from
//! OIHW to OHWI on the way.

mod find;
mod pickle;
mod torch;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::Pod;
use bytemuck::allocation::zeroed_vec;
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

pub(crate) use self::find::unusable;
pub(super) use self::find::{choose, count, cut, nothing_chosen, some_of};
use self::find::{damaged, modern_name};
use self::torch::Found;
use super::files::{Origin, Part, Piece, Renaming, Source, join, json};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::regular;
use crate::tensor::{HostSlice, OwnedSlice, Shape, Tensor};

/// Most bytes of an index of shards.
const MOST_OF_INDEX: u64 = 1 << 28;

const READABLE: &str = "check that this is a file that you may read, or download it again";

/// An open checkpoint: the names of all tensors and where their bytes are.
pub struct Checkpoint {
    label: String,
    files: Vec<File>,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    /// Where the tensors of this place in a model are in the file, where that is another.
    origins: Vec<Origin>,
    patches: BTreeMap<String, Vec<Patch>>,
}

/// Changes the elements of a tensor, in the file's order.
type Change = dyn Fn(&mut [f32]) -> Result<()> + Send + Sync;

/// What is merged into a tensor on its way out of the file.
pub(super) struct Patch {
    /// Names the file that the change is from.
    pub label: String,
    /// The change.
    pub change: Box<Change>,
}

struct File {
    label: String,
    path: Option<PathBuf>,
    bytes: Bytes,
}

enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

struct Entry {
    file: usize,
    dtype: Dtype,
    dims: Vec<usize>,
    range: Range<usize>,
    /// Elements from one index to the next in each of `dims`, where they do not lie in order.
    strides: Option<Vec<usize>>,
    /// Its name in the file, where that is another.
    stored: Option<String>,
    read: AtomicBool,
}

impl Checkpoint {
    /// Opens a file of weights, or the weights in a component's folder:
    /// `diffusion_pytorch_model.safetensors` or `model.safetensors`, whole or in shards with an index.
    /// `variant` asks for one such as `fp16` (`model.fp16.safetensors`); without it the plain file is taken,
    /// and a variant only where there is no plain file.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file: nothing found, only pickled weights, a
    /// file that is cut short or is no safetensors file, a shard that is missing.
    pub fn open(path: &Path, variant: Option<&str>) -> Result<Checkpoint> {
        if path.is_file() {
            return match path.to_string_lossy().ends_with(".json") {
                true => Checkpoint::from_index(path),
                false => Checkpoint::from_files(path, &[path.to_path_buf()]),
            };
        }
        if let Some(e) = unusable(path) {
            return Err(e);
        }
        let listing = fs::read_dir(path).map_err(|e| {
            let fix = regular::fix(&e, "let this user list the folder and read its files");
            Error::model(format!("{}: the folder cannot be listed", path.display())).because(e).advice(fix)
        })?;
        let mut names: Vec<String> = listing
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        match choose(&names, variant) {
            Some(name) if name.ends_with(".json") => Checkpoint::from_index(&path.join(name)),
            Some(name) => Checkpoint::from_files(&path.join(name), &[path.join(name)]),
            None => Err(nothing_chosen(&path.display().to_string(), &names, variant)),
        }
    }

    /// The safetensors file `bytes`, held inside the program; `label` names it in errors.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where the bytes are no safetensors file.
    pub fn embedded(label: &str, bytes: &'static [u8]) -> Result<Checkpoint> {
        let file = File { label: label.to_string(), path: None, bytes: Bytes::Static(bytes) };
        Checkpoint::new(label.to_string(), vec![file])
    }

    fn from_files(label: &Path, paths: &[PathBuf]) -> Result<Checkpoint> {
        let files = paths
            .iter()
            .map(|path| {
                let label = path.display().to_string();
                let bytes = Bytes::Mapped(map(path).map_err(|e| e.context(&label))?);
                Ok(File { label, path: Some(path.clone()), bytes })
            })
            .collect::<Result<Vec<_>>>()?;
        Checkpoint::new(label.display().to_string(), files)
    }

    fn from_index(path: &Path) -> Result<Checkpoint> {
        let text = regular::read(path, MOST_OF_INDEX).map_err(|e| {
            let fix = regular::fix(&e, READABLE);
            Error::model(format!("{}: cannot be read", path.display())).because(e).advice(fix)
        })?;
        let what = || format!("{}: not an index of sharded safetensors", path.display());
        let index = json::parse(&text).map_err(|e| e.context(what()))?;
        let names =
            |(name, shard): (&String, &serde_json::Value)| Some((name.clone(), shard.as_str()?.to_string()));
        let weight_map: Option<BTreeMap<String, String>> =
            index["weight_map"].as_object().and_then(|map| map.iter().map(names).collect());
        let Some(weight_map) = weight_map else {
            return Err(Error::model(format!("{}: weight_map is no map of tensors to files", what()))
                .advice("download the file again"));
        };
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut paths = Vec::new();
        for shard in shards {
            // An index may come from anywhere; it names neighbours, never paths.
            let is_plain = Path::new(shard).file_name().is_some_and(|n| n.to_str() == Some(shard));
            let full = folder.join(shard);
            if !is_plain || !full.is_file() {
                return Err(Error::model(format!(
                    "{}: the shard {shard:?} that this index names is not beside it",
                    path.display()
                ))
                .advice("download all shards into the folder of the index"));
            }
            paths.push(full);
        }
        let checkpoint = Checkpoint::from_files(path, &paths)?;
        let lost: Vec<&str> = weight_map
            .keys()
            .filter(|name| !checkpoint.entries.contains_key(&modern_name(name)))
            .map(String::as_str)
            .collect();
        if !lost.is_empty() {
            return Err(Error::model(format!(
                "{}: the index names {} that no shard contains: {}",
                path.display(),
                count(lost.len(), "tensor"),
                some_of(&lost)
            ))
            .advice("index and shards are of different downloads: download them together"));
        }
        Ok(checkpoint)
    }

    fn new(label: String, files: Vec<File>) -> Result<Checkpoint> {
        let (mut entries, mut said) = (BTreeMap::new(), BTreeMap::new());
        for (index, file) in files.iter().enumerate() {
            for (name, Found { dtype, dims, range, strides }) in
                tensors(file.bytes.get(), &mut said).map_err(|e| e.context(&file.label))?
            {
                let (stored, read) = (None, AtomicBool::new(false));
                let entry = Entry { file: index, dtype, dims, range, strides, stored, read };
                let name = modern_name(&name);
                if entries.insert(name.clone(), entry).is_some() {
                    return Err(Error::model(format!(
                        "{}: the tensor {} is there twice",
                        file.label,
                        cut(&name)
                    ))
                    .advice("keep the shards of one model only in the folder, or download the model again"));
                }
            }
        }
        let (origins, patches) = (Vec::new(), BTreeMap::new());
        Ok(Checkpoint { label, files, entries, metadata: said, origins, patches })
    }

    /// Tensors of another file under new names; those that it lacks are left out.
    fn renamed(renaming: &Renaming) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::open(&renaming.path, None)?;
        let mut entries = BTreeMap::new();
        for tensor in &renaming.tensors {
            let Some(found) = checkpoint.entries.get(&tensor.stored) else { continue };
            let (mut dims, mut range, mut strides) =
                (found.dims.clone(), found.range.clone(), found.strides.clone());
            let wrong = |expected: &str| {
                Err(Error::model(format!(
                    "{}: tensor {} has shape {:?}, expected {expected}",
                    checkpoint.label, tensor.stored, found.dims
                ))
                .advice("the file is damaged, or of a family that is not known: download it again"))
            };
            match tensor.part {
                Part::Whole => {}
                Part::Third(nth) => {
                    let Some(rows) = dims.first_mut().filter(|rows| rows.is_multiple_of(3)) else {
                        return wrong("three blocks of rows of one size");
                    };
                    *rows /= 3;
                    let rows = *rows;
                    match &strides {
                        Some(strides) => range.start += nth * rows * strides[0] * found.dtype.bitsize() / 8,
                        None => {
                            let bytes = range.len() / 3;
                            range = range.start + nth * bytes..range.start + (nth + 1) * bytes;
                        }
                    }
                }
                Part::Transposed => {
                    let &[_, c] = dims.as_slice() else { return wrong("a matrix") };
                    let mut turned = strides.unwrap_or_else(|| vec![c, 1]);
                    dims.reverse();
                    turned.reverse();
                    strides = Some(turned);
                }
            }
            let entry = Entry {
                file: found.file,
                dtype: found.dtype,
                dims,
                range,
                strides,
                stored: Some(tensor.stored.clone()),
                read: AtomicBool::new(false),
            };
            entries.insert(tensor.name.clone(), entry);
        }
        checkpoint.entries = entries;
        checkpoint.origins = renaming.origins.clone();
        Ok(checkpoint)
    }

    /// The name in the file of what the model calls `name`, whether it is there or not.
    fn stored(&self, name: &str) -> String {
        if let Some(stored) = self.entries.get(name).and_then(|entry| entry.stored.as_ref()) {
            return stored.clone();
        }
        let rest = |origin: &Origin| {
            let rest = name.strip_prefix(&origin.name)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| format!("{}{rest}", origin.stored))
        };
        let mut places: Vec<&Origin> = self.origins.iter().collect();
        places.sort_by_key(|origin| std::cmp::Reverse(origin.name.len()));
        places.into_iter().find_map(rest).unwrap_or_else(|| name.to_string())
    }

    /// What to do about weights that are not those of the network.
    fn misfit(&self) -> &'static str {
        let described = |path: &Path| path.parent().is_some_and(|dir| dir.join("config.json").is_file());
        match self.files.first().and_then(|file| file.path.as_deref()) {
            _ if !self.origins.is_empty() => {
                "the file is damaged or of a kind that is not known: download it again; a configuration given by \
                 `model_config` must be that of this model"
            }
            Some(path) if !described(path) => "the file is damaged or of another model: download it again",
            _ => {
                "config.json does not describe these weights, or the download is incomplete: take both from the \
                  same model"
            }
        }
    }

    /// Lets `patch` change the tensor `name` wherever it is read, after the patches that it has: widened to
    /// f32, and rounded to its type behind the last.
    pub(super) fn patch(&mut self, name: &str, patch: Patch) {
        self.patches.entry(name.to_string()).or_default().push(patch);
    }

    /// What the file says beside its tensors: the header of safetensors, such as `modelspec.architecture`, or
    /// the `name` in a pickle.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The walker at the top of the names.
    pub fn root(&self) -> Weights<'_> {
        Weights { checkpoint: self, prefix: String::new() }
    }

    /// Names of all tensors, sorted; attention blocks of old VAE files under their present names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The file, index or embedded name that this was opened from.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The safetensors files on disk; empty for an embedded model.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().filter_map(|f| f.path.as_deref())
    }

    /// Elements of all tensors together: the number of parameters.
    pub fn parameters(&self) -> u64 {
        self.entries.values().map(|e| e.dims.iter().map(|&d| d as u64).product::<u64>()).sum()
    }

    /// The types of the tensors, as the file names them, each with its elements and its bytes.
    pub fn types(&self) -> Vec<(String, u64, u64)> {
        let mut types: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for entry in self.entries.values() {
            let (elements, bytes) = types.entry(format!("{:?}", entry.dtype)).or_default();
            *elements += entry.dims.iter().map(|&d| d as u64).product::<u64>();
            *bytes += entry.range.len() as u64;
        }
        types.into_iter().map(|(name, (elements, bytes))| (name, elements, bytes)).collect()
    }

    /// To be called when a network has read its weights: fails if tensors are left, since then the
    /// configuration does not describe these weights. `ignorable` declares what may be left: whole names,
    /// `prefix.*`, or `*.suffix`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the tensors never read.
    pub fn finish(&self, ignorable: &[&str]) -> Result<()> {
        let ignored = |name: &str| {
            ignorable.iter().any(|pattern| match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
                (Some(prefix), _) => name.starts_with(prefix),
                (_, Some(suffix)) => name.ends_with(suffix),
                _ => name == *pattern,
            })
        };
        let surplus: Vec<&str> = self
            .entries
            .iter()
            .filter(|(name, entry)| !entry.read.load(Ordering::Relaxed) && !ignored(name))
            .map(|(name, entry)| entry.stored.as_ref().unwrap_or(name).as_str())
            .collect();
        if surplus.is_empty() {
            return Ok(());
        }
        Err(Error::model(format!(
            "{}: {} that the network does not have: {}",
            self.label,
            count(surplus.len(), "tensor"),
            some_of(&surplus)
        ))
        .advice(self.misfit()))
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({}, {} tensors)", self.label, self.entries.len())
    }
}

impl Source {
    /// Opens the weights in the folder `component` (`""` is the top); `variant` as in [`Checkpoint::open`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn checkpoint(&self, component: &str, variant: Option<&str>) -> Result<Checkpoint> {
        match self {
            Source::Dir(dir) => Checkpoint::open(&dir.join(component), variant),
            Source::Embedded(files) => {
                let names = self.list(component);
                let rel = choose(&names, variant).map(|name| join(component, name));
                match rel.as_ref().and_then(|rel| files.iter().find(|(name, _)| name == rel)) {
                    Some((name, bytes)) => Checkpoint::embedded(&self.describe(name), bytes),
                    None => Err(nothing_chosen(&self.describe(component), &names, variant)),
                }
            }
            Source::Assembled(model) => {
                let names = self.list(component);
                let rel = choose(&names, variant).map(|name| join(component, name));
                match rel.as_ref().and_then(|rel| model.0.piece(rel)) {
                    Some(Piece::Weights(renaming)) => Checkpoint::renamed(renaming),
                    Some(Piece::File(path)) => Checkpoint::open(path, None),
                    Some(Piece::Made(_) | Piece::Changed { .. }) | None => match (&rel, &model.0.base) {
                        (Some(_), Some(base)) => Checkpoint::open(&base.join(component), variant),
                        _ => Err(nothing_chosen(&self.describe(component), &names, variant)),
                    },
                }
            }
        }
    }
}

/// A place among the names of a checkpoint: `w.at("down_blocks").at(0).at("resnets").at(1)`.
#[derive(Clone)]
pub struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
}

impl<'a> Weights<'a> {
    /// One level down.
    pub fn at(&self, part: impl Display) -> Weights<'a> {
        Weights { checkpoint: self.checkpoint, prefix: format!("{}{part}.", self.prefix) }
    }

    /// One level down if any tensor is there, else here. For a level that only some files write, such as the
    /// `text_model` of a lone CLIP text model.
    pub fn at_if_any(&self, part: impl Display) -> Weights<'a> {
        let below = self.at(part);
        if below.any() { below } else { self.clone() }
    }

    /// Whether any tensor lies at or below this place.
    pub fn any(&self) -> bool {
        self.checkpoint.names().any(|name| name.starts_with(&self.prefix))
    }

    /// Whether the tensor `name` is here. Does not count as reading it.
    pub fn has(&self, name: &str) -> bool {
        self.dims(name).is_some()
    }

    /// The sizes that the file states for `name`, as written there.
    pub fn dims(&self, name: &str) -> Option<&'a [usize]> {
        self.checkpoint.entries.get(&self.full(name)).map(|e| e.dims.as_slice())
    }

    /// The full name of a tensor here.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The tensor `name` of exactly the sizes `dims`, in the file's order. Trailing sizes of 1 are no
    /// difference: a linear layer stored as a 1x1 convolution is the same weights.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and tensor: not there, another shape, an
    /// element type that is not f32, f16, bf16 or f64, or a value that is not finite, or not in f32.
    pub fn tensor(&self, name: &str, dims: &[usize]) -> Result<TensorView<'a>> {
        self.read(name, dims, true)
    }

    /// The same with its values unseen: for who wants only type and number of the elements. What is not
    /// finite is no error, and patches change nothing.
    ///
    /// # Errors
    /// As [`Weights::tensor`], of all but the values.
    pub fn unseen(&self, name: &str, dims: &[usize]) -> Result<TensorView<'a>> {
        self.read(name, dims, false)
    }

    fn read(&self, name: &str, dims: &[usize], seen: bool) -> Result<TensorView<'a>> {
        let full = self.full(name);
        let Some(entry) = self.checkpoint.entries.get(&full) else {
            return Err(self.missing(&full));
        };
        let file = &self.checkpoint.files[entry.file];
        let place = || match &entry.stored {
            Some(stored) => format!("{}: tensor {stored} ({full})", file.label),
            None => format!("{}: tensor {full}", file.label),
        };
        if squeezed(&entry.dims) != squeezed(dims) {
            return Err(Error::model(format!(
                "{} has shape {:?} of {:?}, expected {dims:?}",
                place(),
                entry.dims,
                entry.dtype
            ))
            .advice(self.checkpoint.misfit()));
        }
        let bytes = &file.bytes.get()[entry.range.clone()];
        let data = match entry.dtype {
            Dtype::F32 => Elements::F32(cast(bytes)),
            Dtype::F16 => Elements::F16(cast(bytes)),
            Dtype::BF16 => Elements::BF16(cast(bytes)),
            Dtype::F64 => Elements::F32(Cow::Owned(cast::<f64>(bytes).iter().map(|&x| x as f32).collect())),
            other => {
                return Err(Error::model(format!(
                    "{} has element type {other:?}, expected F32, F16, BF16 or F64",
                    place()
                ))
                .advice("save the model in one of these types; quantised weights cannot be used"));
            }
        };
        // A view of a wider tensor has gaps.
        let data = match (&data, &entry.strides) {
            (Elements::F32(x), Some(strides)) => Elements::F32(in_order(x, &entry.dims, strides)),
            (Elements::F16(x), Some(strides)) => Elements::F16(in_order(x, &entry.dims, strides)),
            (Elements::BF16(x), Some(strides)) => Elements::BF16(in_order(x, &entry.dims, strides)),
            (_, None) => data,
        };
        entry.read.store(true, Ordering::Relaxed);
        if !seen {
            return Ok(TensorView { dims: dims.to_vec(), data });
        }
        if let Some((index, value)) = not_finite(data.slice()) {
            // As it was before it became f32.
            let wide = (entry.dtype == Dtype::F64).then(|| match &entry.strides {
                Some(strides) => in_order(&cast::<f64>(bytes), &entry.dims, strides)[index],
                None => cast::<f64>(bytes)[index],
            });
            if let Some(wide) = wide.filter(|wide| wide.is_finite()) {
                let what = format!(
                    "{} contains {wide:e} (element {index}), which is too large for 32 bits",
                    place()
                );
                return Err(Error::model(what)
                    .advice("no network of this kind has such weights: use another copy of the file"));
            }
            return Err(Error::model(format!("{} contains {value} (element {index})", place())).advice(
                "the file is damaged or was saved after an overflow: use another copy or the fp32 weights",
            ));
        }
        let data = match self.checkpoint.patches.get(&full) {
            Some(patches) => patched(data, patches, &place)?,
            None => data,
        };
        Ok(TensorView { dims: dims.to_vec(), data })
    }

    /// The convolution weight `name` of sizes `(out, in, kh, kw)` in the file, returned as `(out, kh, kw,
    /// in)` in the file's element type.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn conv_weight(&self, name: &str, [o, i, kh, kw]: [usize; 4]) -> Result<TensorView<'a>> {
        let mut view = self.tensor(name, &[o, i, kh, kw])?;
        view.dims = vec![o, kh, kw, i];
        if kh * kw > 1 && i > 1 {
            view.data = match &view.data {
                Elements::F32(x) => Elements::F32(Cow::Owned(channels_last(x, o, i, kh * kw))),
                Elements::F16(x) => Elements::F16(Cow::Owned(channels_last(x, o, i, kh * kw))),
                Elements::BF16(x) => Elements::BF16(Cow::Owned(channels_last(x, o, i, kh * kw))),
            };
        }
        Ok(view)
    }

    /// A name that is not there: what the nearest place above it does hold says what differs.
    fn missing(&self, full: &str) -> Error {
        let names: Vec<&str> = self.checkpoint.names().collect();
        let mut parent = full;
        let near: Vec<&str> = loop {
            parent = parent.rsplit_once('.').map_or("", |(head, _)| head);
            let here: Vec<&str> = names
                .iter()
                .copied()
                .filter(|n| parent.is_empty() || n.strip_prefix(parent).is_some_and(|r| r.starts_with('.')))
                .collect();
            if !here.is_empty() || parent.is_empty() {
                break here;
            }
        };
        let place = if parent.is_empty() {
            "the file".to_string()
        } else {
            format!("{:?}", self.checkpoint.stored(parent))
        };
        let stored = self.checkpoint.stored(full);
        let wanted = if stored == full { stored } else { format!("{stored} ({full})") };
        let near: Vec<String> = near.into_iter().map(|name| self.checkpoint.stored(name)).collect();
        let near: Vec<&str> = near.iter().map(String::as_str).collect();
        Error::model(format!(
            "{}: no tensor {wanted}; {place} holds {}",
            self.checkpoint.label,
            if near.is_empty() { "nothing".to_string() } else { some_of(&near) }
        ))
        .advice(self.checkpoint.misfit())
    }
}

impl fmt::Debug for Weights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({}: {}*)", self.checkpoint.label, self.prefix)
    }
}

/// One tensor's elements, finite, in the file's type (f64 as f32); borrowed from the file where its bytes are
/// aligned.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    dims: Vec<usize>,
    data: Elements<'a>,
}

#[derive(Clone, Debug)]
enum Elements<'a> {
    F32(Cow<'a, [f32]>),
    F16(Cow<'a, [f16]>),
    BF16(Cow<'a, [bf16]>),
}

impl<'a> Elements<'a> {
    /// The elements, owned where they are no part of a file.
    fn split(self) -> Result<OwnedSlice, HostSlice<'a>> {
        match self {
            Elements::F32(Cow::Borrowed(x)) => Err(HostSlice::F32(x)),
            Elements::F16(Cow::Borrowed(x)) => Err(HostSlice::F16(x)),
            Elements::BF16(Cow::Borrowed(x)) => Err(HostSlice::BF16(x)),
            Elements::F32(Cow::Owned(x)) => Ok(OwnedSlice::F32(x)),
            Elements::F16(Cow::Owned(x)) => Ok(OwnedSlice::F16(x)),
            Elements::BF16(Cow::Owned(x)) => Ok(OwnedSlice::BF16(x)),
        }
    }

    fn slice(&self) -> HostSlice<'_> {
        match self {
            Elements::F32(x) => HostSlice::F32(x),
            Elements::F16(x) => HostSlice::F16(x),
            Elements::BF16(x) => HostSlice::BF16(x),
        }
    }
}

impl TensorView<'_> {
    /// The sizes asked for; of a convolution weight `(out, kh, kw, in)`.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Puts the elements on a device as a tensor of as many.
    ///
    /// # Errors
    /// As [`Backend::upload`].
    pub fn upload(self, backend: &dyn Backend, shape: Shape) -> Result<Tensor> {
        match self.data.split() {
            Ok(owned) => backend.upload_owned(shape, owned),
            Err(part) => backend.upload(shape, part),
        }
    }

    /// The elements, last size fastest.
    pub fn data(&self) -> HostSlice<'_> {
        self.data.slice()
    }

    /// The sizes as a shape: `(c)` is a vector, `(out, in)` is `(out, 1, 1, in)`, `(a, b, c)` is `(a, 1, b,
    /// c)`, and four sizes are taken as they are.
    #[track_caller]
    pub fn shape(&self) -> Shape {
        match *self.dims.as_slice() {
            [] => Shape::vector(1),
            [c] => Shape::vector(c),
            [n, c] => Shape::rows(n, c),
            [n, w, c] => Shape::new(n, 1, w, c),
            [n, h, w, c] => Shape::new(n, h, w, c),
            _ => panic!("a tensor of {} sizes has no shape (n, h, w, c)", self.dims.len()),
        }
    }
}

/// The tensors in the bytes of a file; what its header says beside them is added to `said`.
fn tensors(bytes: &[u8], said: &mut BTreeMap<String, String>) -> Result<Vec<(String, Found)>> {
    if torch::is_torch(bytes) {
        return torch::read(bytes, said);
    }
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(bytes, e))?;
    said.extend(metadata.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())));
    let found = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (start, end) = info.data_offsets;
        let range = 8 + header + start..8 + header + end;
        (name, Found { dtype: info.dtype, dims: info.shape.clone(), range, strides: None })
    };
    Ok(metadata.tensors().into_iter().map(found).collect())
}

#[allow(unsafe_code)]
fn map(path: &Path) -> Result<Mmap> {
    let failed = |what| {
        move |e: std::io::Error| {
            let fix = regular::fix(&e, READABLE);
            Error::model(what).because(e).advice(fix)
        }
    };
    let file = regular::open(path).map_err(failed("cannot be opened"))?;
    // SAFETY: the mapping is read-only and private to us, and every use goes through `&[u8]`, for which all
    // bit patterns are valid. What Rust cannot rule out is another process changing or truncating the file
    // while we run; like every program that maps weights we ask that a model not be rewritten while it is in
    // use.
    unsafe { Mmap::map(&file) }.map_err(failed("cannot be mapped into memory"))
}

/// The elements changed by patches in f32, in their own type again.
fn patched<'a>(data: Elements<'a>, patches: &[Patch], place: &dyn Fn() -> String) -> Result<Elements<'a>> {
    let mut wide = data.slice().to_f32().into_owned();
    patches.iter().try_for_each(|patch| (patch.change)(&mut wide))?;
    let data = match data {
        Elements::F32(_) => Elements::F32(Cow::Owned(wide)),
        Elements::F16(_) => Elements::F16(wide.iter().map(|&x| f16::from_f32(x)).collect()),
        Elements::BF16(_) => Elements::BF16(wide.iter().map(|&x| bf16::from_f32(x)).collect()),
    };
    match not_finite(data.slice()) {
        None => Ok(data),
        Some((index, _)) => {
            let labels: Vec<&str> = patches.iter().map(|patch| patch.label.as_str()).collect();
            let what = format!("merged into {}, makes element {index} too large for its type", place());
            Err(Error::model(format!("{}: {what}", labels.join(", ")))
                .option("lora")
                .advice("give `lora` a smaller weight, or use the fp32 weights of the model"))
        }
    }
}

/// Sizes without trailing ones.
pub(super) fn squeezed(dims: &[usize]) -> &[usize] {
    let kept = dims.iter().rposition(|&d| d != 1).map_or(0, |last| last + 1);
    &dims[..kept]
}

/// Bytes as elements: borrowed where aligned, else copied. Safetensors are little-endian, as is every host of
/// CUDA.
fn cast<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    bytemuck::try_cast_slice(bytes)
        .map_or_else(|_| Cow::Owned(bytemuck::pod_collect_to_vec(bytes)), Cow::Borrowed)
}

/// The elements of a tensor in the order of its indices, the last fastest. `x` holds them from the first on.
fn in_order<T: Copy>(x: &[T], dims: &[usize], strides: &[usize]) -> Cow<'static, [T]> {
    let count = dims.iter().product();
    let mut y = Vec::with_capacity(count);
    let mut index = vec![0; dims.len()];
    let mut at = 0;
    while y.len() < count {
        y.push(x[at]);
        for (index, (&dim, &stride)) in index.iter_mut().zip(dims.iter().zip(strides)).rev() {
            *index += 1;
            at += stride;
            if *index < dim {
                break;
            }
            at -= dim * stride;
            *index = 0;
        }
    }
    Cow::Owned(y)
}

/// `(out, in, k)` to `(out, k, in)`.
fn channels_last<T: Pod + Send + Sync>(x: &[T], o: usize, i: usize, k: usize) -> Vec<T> {
    if x.is_empty() {
        return Vec::new();
    }
    let mut y = zeroed_vec(o * i * k);
    y.par_chunks_exact_mut(i * k).zip(x.par_chunks_exact(i * k)).for_each(|(y, x)| {
        for (at, row) in y.chunks_exact_mut(i).enumerate() {
            for (c, y) in row.iter_mut().enumerate() {
                *y = x[c * k + at];
            }
        }
    });
    y
}

/// The first element that is NaN or infinite. An exponent of all ones is the mark of both, in every type.
fn not_finite(data: HostSlice<'_>) -> Option<(usize, f32)> {
    // Large enough to feed a core, small enough to share out.
    const CHUNK: usize = 1 << 18;
    fn first<T: Copy + Sync>(x: &[T], bad: impl Fn(T) -> bool + Sync) -> Option<usize> {
        let found = x
            .par_chunks(CHUNK)
            // No early exit inside a chunk: the loop then runs in vectors.
            .position_first(|chunk| chunk.iter().fold(false, |any, &v| any | bad(v)))?;
        let start = found * CHUNK;
        x[start..].iter().position(|&v| bad(v)).map(|at| start + at)
    }
    match data {
        HostSlice::F32(x) => first(x, |v| !v.is_finite()).map(|at| (at, x[at])),
        HostSlice::F16(x) => first(x, |v| v.to_bits() & 0x7c00 == 0x7c00).map(|at| (at, x[at].to_f32())),
        HostSlice::BF16(x) => first(x, |v| v.to_bits() & 0x7f80 == 0x7f80).map(|at| (at, x[at].to_f32())),
    }
}

#[cfg(test)]
mod tests;
