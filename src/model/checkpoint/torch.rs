//! Files of `torch.save`: a pickle that names the tensors, and their storages beside it, in a zip archive
//! (since PyTorch 1.6) or one after another (before).

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::ops::Range;

use safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Id, Node, Pickle};
use crate::error::{Error, Result};

/// Dictionaries and lists in each other, below which no tensor is looked for.
const DEEPEST: usize = 8;

/// Most sizes of a tensor.
const MOST_SIZES: usize = 8;

/// Bytes that all names together may take, for each of the pickle: those above them are repeated.
const NAMES_PER_BYTE: usize = 16;

/// The first number of a file of torch.save before PyTorch 1.6, as each protocol writes it.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Keys under which training programs keep the weights, beside what else they keep.
const STATES: [&str; 4] = ["state_dict", "model_state_dict", "model", "params"];

/// Key at the top under which programs for textual inversion say what the file is called.
const NAME: &str = "name";

const AGAIN: &str = "download the file again, or take its .safetensors";

/// A tensor in the bytes of a file.
pub struct Found {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its sizes.
    pub dims: Vec<usize>,
    /// From its first element to behind its last.
    pub range: Range<usize>,
    /// Elements from one index to the next in each of `dims`, where they do not lie in order.
    pub strides: Option<Vec<usize>>,
}

/// Whether a file begins as one of `torch.save` does.
pub fn is_torch(bytes: &[u8]) -> bool {
    // Later protocols tell the length before the number.
    let is_legacy = |rest: &[u8]| rest.windows(MAGIC.len()).take(11).any(|number| number == MAGIC);
    bytes.starts_with(b"PK\x03\x04") || bytes.strip_prefix(b"\x80").is_some_and(is_legacy)
}

/// The tensors in the bytes of a file, by name. A dictionary of dictionaries gives names with dots; what is
/// no tensor is left out, but for the text under [`NAME`], which is added to `said`. Nothing that the pickle
/// names is imported or called.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model): damaged, compressed, of a big-endian machine, a whole
/// pickled network, a tensor whose elements lie outside its storage, a call that weights have no use for.
pub fn read(bytes: &[u8], said: &mut BTreeMap<String, String>) -> Result<Vec<(String, Found)>> {
    if bytes.starts_with(b"PK") { archive(bytes, said) } else { legacy(bytes, said) }
}

/// Where the bytes of each storage lie, by its key.
type Storages<'a> = HashMap<&'a str, Range<usize>>;

fn archive(bytes: &[u8], said: &mut BTreeMap<String, String>) -> Result<Vec<(String, Found)>> {
    let broken = |e| Error::model("a damaged zip archive").because(e).advice(AGAIN);
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let (mut files, mut top) = (HashMap::new(), None);
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(broken)?;
        let name = file.name().map_err(broken)?.into_owned();
        let damaged = || Error::model(format!("a damaged zip archive, at {name}")).advice(AGAIN);
        let stored = file.compression() == CompressionMethod::Stored && !file.encrypted();
        let start = file.data_start().and_then(|at| usize::try_from(at).ok()).ok_or_else(damaged)?;
        let end = usize::try_from(file.size()).ok().and_then(|size| start.checked_add(size));
        let range = start..end.filter(|end| *end <= bytes.len()).ok_or_else(damaged)?;
        if let Some(folder) = name.strip_suffix("data.pkl") {
            top = Some(folder.to_string());
        }
        files.insert(name, (range, stored));
    }
    let Some(top) = top else {
        return Err(Error::model("a zip archive without data.pkl: not of torch.save")
            .advice("give a file of weights; an archive of several files has to be unpacked first"));
    };
    if files.contains_key(&format!("{top}constants.pkl")) {
        return Err(Error::model("a TorchScript program, not a file of weights")
            .advice("save its state_dict(), as .safetensors"));
    }
    let prefix = format!("{top}data/");
    let pickled = format!("{top}data.pkl");
    let is_read = |name: &str| name == pickled || name.starts_with(&prefix);
    if let Some((name, _)) = files.iter().find(|(name, (_, stored))| is_read(name) && !stored) {
        return Err(Error::model(format!("a zip archive whose {name} is compressed or encrypted"))
            .advice("give a file as torch.save writes it, or .safetensors"));
    }
    if let Some((order, _)) = files.get(&format!("{top}byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err(big_endian());
    }
    let pickle = Pickle::read(&bytes[files[&pickled].0.clone()])?;
    let storages: Storages<'_> = files
        .iter()
        .filter_map(|(name, (range, _))| Some((name.strip_prefix(&prefix)?, range.clone())))
        .collect();
    Tensors { pickle: &pickle, storages }.all(said)
}

fn legacy(bytes: &[u8], said: &mut BTreeMap<String, String>) -> Result<Vec<(String, Found)>> {
    let mut at = 0;
    let mut next = || {
        let pickle = Pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok::<_, Error>((pickle, at))
    };
    let (_magic, (version, _), (machine, _)) = (next()?, next()?, next()?);
    if version.size(version.root) != Some(1001) {
        return Err(Error::model("a file of torch.save of an unknown version").advice(AGAIN));
    }
    let little = machine.get(machine.root, "little_endian").map(|id| machine.node(id));
    if little == Some(&Node::Bool(false)) {
        return Err(big_endian());
    }
    let (pickle, _) = next()?;
    let (keys, mut at) = next()?;
    let mut storages = Storages::new();
    let without_storages = Tensors { pickle: &pickle, storages: Storages::new() };
    let widths = without_storages.widths();
    for id in keys.list(keys.root).unwrap_or_default() {
        let key = keys.text(*id).unwrap_or_default();
        let cut_short = || Error::model(format!("cut short in the storage {key}")).advice(AGAIN);
        let Some(width) = widths.get(key) else {
            let what = format!("a storage {key} that no tensor names, of unknown size");
            return Err(Error::model(what).advice(AGAIN));
        };
        let (count, rest) =
            bytes.get(at..).and_then(|rest| rest.split_first_chunk::<8>()).ok_or_else(cut_short)?;
        let length = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|n| n.checked_mul(*width));
        let length = length.filter(|length| *length <= rest.len()).ok_or_else(cut_short)?;
        storages.insert(key, at + 8..at + 8 + length);
        at += 8 + length;
    }
    Tensors { pickle: &pickle, storages }.all(said)
}

struct Tensors<'a> {
    pickle: &'a Pickle<'a>,
    storages: Storages<'a>,
}

impl Tensors<'_> {
    fn all(&self, said: &mut BTreeMap<String, String>) -> Result<Vec<(String, Found)>> {
        let pickle = self.pickle;
        let mut root = pickle.root;
        let name = pickle.get(root, NAME).and_then(|id| pickle.text(id));
        said.extend(name.map(|name| (NAME.to_string(), name.to_string())));
        // Some programs put the weights into a dictionary in a dictionary.
        for _ in 0..DEEPEST {
            let state = STATES.iter().find_map(|key| pickle.get(root, key));
            match state.filter(|state| matches!(pickle.node(*state), Node::Dict(_))) {
                Some(state) => root = state,
                None => break,
            }
        }
        match pickle.node(root) {
            Node::Opaque(class) => {
                let class = pickle.global(*class).unwrap_or("an unknown class");
                return Err(Error::model(format!("a pickled object of {class}, not a file of weights"))
                    .advice("save its state_dict(), as .safetensors"));
            }
            Node::Tensor { .. } | Node::Unread(_) => {
                return Err(Error::model("one tensor without a name, not a file of weights")
                    .advice("save a dictionary of tensors by their names"));
            }
            _ => {}
        }
        let mut found = Vec::new();
        let mut names = Names { pickle, places: vec![Place { above: 0, part: Part::Top }], bytes: 0 };
        // Places still to look at: which, value, depth.
        let mut open = vec![(0, root, 0)];
        while let Some((place, id, depth)) = open.pop() {
            match pickle.node(id) {
                Node::Tensor { storage, offset, dims, strides } => {
                    let name = names.full(place)?;
                    let tensor = self.tensor(&name, *storage, [*offset, *dims, *strides])?;
                    found.push((name, tensor));
                }
                Node::Unread(kind) => {
                    let kind = pickle.global(*kind).unwrap_or("an unknown kind");
                    let name = names.full(place)?;
                    return Err(unreadable(&name, kind));
                }
                Node::Dict(items) if depth < DEEPEST => {
                    for (key, value) in items {
                        let Node::Text(_) = pickle.node(*key) else { continue };
                        open.push((names.add(place, Part::Key(*key))?, *value, depth + 1));
                    }
                }
                Node::List(items) if depth < DEEPEST => {
                    for (i, value) in items.iter().enumerate() {
                        open.push((names.add(place, Part::Index(i))?, *value, depth + 1));
                    }
                }
                Node::Plain | Node::Int(_) if names.is_alpha(place) => {
                    let name = names.full(place)?;
                    return Err(Error::model(format!("{name} is a number, and a tensor is expected"))
                        .advice("save it as torch.tensor(alpha)"));
                }
                _ => {}
            }
        }
        if found.is_empty() {
            return Err(Error::model("a pickle without tensors").advice("give a file that holds tensors"));
        }
        without_module(&mut found);
        Ok(found)
    }

    /// What one tensor is.
    fn tensor(&self, name: &str, storage: Id, [offset, dims, strides]: [Id; 3]) -> Result<Found> {
        let pickle = self.pickle;
        let wrong = |what: &str| Error::model(format!("tensor {name}: {what}")).advice(AGAIN);
        let (class, key, view) =
            self.storage(storage).ok_or_else(|| wrong("a storage of an unknown kind"))?;
        let dtype = dtype(class).ok_or_else(|| unreadable(name, class))?;
        let bytes = self.storages.get(key).ok_or_else(|| wrong(&format!("its storage {key} is missing")))?;
        let (Some(offset), Some(dims), Some(strides)) =
            (pickle.size(offset), pickle.sizes(dims, MOST_SIZES), pickle.sizes(strides, MOST_SIZES))
        else {
            return Err(wrong(&format!(
                "offset, sizes or strides that are no whole numbers, or more than {MOST_SIZES}"
            )));
        };
        let outside = || wrong("its elements lie outside its storage");
        if dims.len() != strides.len() {
            return Err(wrong("as many strides as sizes are expected"));
        }
        let width = dtype.bitsize() / 8;
        let offset = offset.checked_add(view).ok_or_else(outside)?;
        // One behind the last element.
        let reach = dims.iter().zip(&strides).try_fold(1usize, |reach, (dim, stride)| {
            reach.checked_add(dim.saturating_sub(1).checked_mul(*stride)?)
        });
        // Sizes of 0 count as 1, so that no order of multiplying the others overflows later.
        let elements = dims.iter().try_fold(1usize, |product, dim| product.checked_mul((*dim).max(1)));
        let (Some(reach), Some(elements)) = (reach, elements) else { return Err(outside()) };
        let empty = dims.contains(&0);
        let (reach, elements) = if empty { (0, 0) } else { (reach, elements) };
        // More elements than lie there are one element many times, which no file of weights has.
        if elements > reach {
            return Err(wrong("elements that overlap: save a copy of it (.contiguous()), as .safetensors"));
        }
        let place = |at: usize| at.checked_mul(width)?.checked_add(bytes.start);
        let start = place(offset).ok_or_else(outside)?;
        let end = offset.checked_add(reach).and_then(place).filter(|end| *end <= bytes.end);
        let range = start..end.ok_or_else(outside)?;
        // Without elements strides mean nothing, and may be anything.
        let strides = (!empty && !is_contiguous(&dims, &strides)).then_some(strides);
        Ok(Found { dtype, dims, range, strides })
    }

    /// Class and key of a storage, and the elements before its view.
    fn storage(&self, id: Id) -> Option<(&str, &str, usize)> {
        let Node::Persistent(id) = self.pickle.node(id) else { return None };
        let parts = self.pickle.list(*id)?;
        let [kind, class, key, _location, _elements, rest @ ..] = parts else { return None };
        let Node::Global(class) = self.pickle.node(*class) else { return None };
        // Old files have storages that are parts of others: key, first element, elements.
        let view = match rest.first().and_then(|view| self.pickle.list(*view)) {
            Some(&[_, first, _]) => self.pickle.size(first)?,
            Some(_) => return None,
            None => 0,
        };
        (self.pickle.text(*kind)? == "storage").then_some((class, self.pickle.text(*key)?, view))
    }

    /// Bytes of an element, by the key of its storage.
    fn widths(&self) -> HashMap<&str, usize> {
        let of = |id| {
            let (class, key, _) = self.storage(id)?;
            Some((key, dtype(class)?.bitsize() / 8))
        };
        (0..self.pickle.count()).filter_map(of).collect()
    }
}

/// Where a value lies: in what, and under which key or number.
struct Place {
    above: usize,
    part: Part,
}

enum Part {
    Top,
    Key(Id),
    Index(usize),
}

/// The places that were come by, and their names.
struct Names<'a> {
    pickle: &'a Pickle<'a>,
    places: Vec<Place>,
    /// Of all names that were made.
    bytes: usize,
}

impl Names<'_> {
    /// Another place. Each takes a byte of the pickle or more, but in one that holds itself.
    fn add(&mut self, above: usize, part: Part) -> Result<usize> {
        if self.places.len() > self.pickle.length {
            return Err(Error::model("a pickle that holds itself").advice(AGAIN));
        }
        self.places.push(Place { above, part });
        Ok(self.places.len() - 1)
    }

    /// Whether the key of a place is a LoRA's alpha.
    fn is_alpha(&self, place: usize) -> bool {
        match self.places[place].part {
            Part::Key(id) => self.pickle.bytes_of_text(id).is_some_and(|key| key.ends_with(b".alpha")),
            _ => false,
        }
    }

    /// Keys and numbers from the top, parted by dots.
    fn full(&mut self, mut place: usize) -> Result<String> {
        let mut parts = Vec::new();
        loop {
            let Place { above, part } = &self.places[place];
            match part {
                Part::Top => break,
                Part::Key(id) => {
                    // Before it is read: a key may be long, and many tensors may have it.
                    self.bytes += self.pickle.bytes_of_text(*id).map_or(0, <[u8]>::len);
                    if self.bytes > NAMES_PER_BYTE * self.pickle.length {
                        return Err(Error::model("a pickle that is names for the most part").advice(AGAIN));
                    }
                    let key = self.pickle.text(*id).ok_or_else(|| {
                        Error::model("a pickle with a name that is not UTF-8").advice(AGAIN)
                    })?;
                    parts.push(key.to_string());
                }
                Part::Index(i) => parts.push(i.to_string()),
            }
            place = *above;
        }
        parts.reverse();
        Ok(parts.join("."))
    }
}

fn unreadable(name: &str, kind: &str) -> Error {
    Error::model(format!("tensor {name} is of {kind}, expected floats of 16, 32 or 64 bits in order"))
        .advice("save it as a plain tensor of one of these types; quantised weights cannot be used")
}

/// Whole models wrapped for training on several GPUs have every name below `module.`.
fn without_module(found: &mut [(String, Found)]) {
    if found.iter().all(|(name, _)| name.starts_with("module.")) {
        for (name, _) in found {
            name.drain(.."module.".len());
        }
    }
}

fn is_contiguous(dims: &[usize], strides: &[usize]) -> bool {
    let mut next = 1;
    dims.iter().zip(strides).rev().all(|(&dim, &stride)| {
        let fits = dim <= 1 || stride == next;
        next *= dim;
        fits
    })
}

/// The type of a class of storages; `None` for one that safetensors have no name for.
fn dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "torch.FloatStorage" => Dtype::F32,
        "torch.HalfStorage" => Dtype::F16,
        "torch.BFloat16Storage" => Dtype::BF16,
        "torch.DoubleStorage" => Dtype::F64,
        "torch.LongStorage" => Dtype::I64,
        "torch.IntStorage" => Dtype::I32,
        "torch.ShortStorage" => Dtype::I16,
        "torch.CharStorage" => Dtype::I8,
        "torch.ByteStorage" => Dtype::U8,
        "torch.BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

fn big_endian() -> Error {
    Error::model("a file of a big-endian machine").advice("save it as .safetensors")
}

#[cfg(test)]
mod tests;
