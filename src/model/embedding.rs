//! Textual inversion: a new word of the prompt, and the vectors that text encoders read in its place. The
//! files are those of diffusers and of AUTOMATIC1111's web UI (docs/spec.md 2.9).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use super::checkpoint::{Checkpoint, count, cut, some_of};
use super::files::sha256_once;
use crate::error::{Error, Result};

/// Names of the file that diffusers writes into a folder.
pub const IN_FOLDER: [&str; 2] = ["learned_embeds.safetensors", "learned_embeds.bin"];

/// Most vectors of a word: far more than any prompt has room for.
const MOST_VECTORS: usize = 1024;

/// Most bytes of a name: names become parts of an expression that prompts are searched by.
const LONGEST_NAME: usize = 256;

/// What the tensors of a file for both text encoders of XL are called.
const OF_XL: [&str; 2] = ["clip_l", "clip_g"];

/// Which file, and the word that it stands for: `NAME=PATH` or `PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The word, as it is written in prompts; `None`: what the file calls itself, else its name.
    pub name: Option<String>,
    /// The file, or the folder that diffusers wrote it into.
    pub path: PathBuf,
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Spec> {
        let refused = |what: String| {
            Error::usage(format!("{text:?}: {what}"))
                .option("embedding")
                .advice("write NAME=PATH or PATH, such as \"<cat>=cat.safetensors\"; prompts then say <cat>")
        };
        // A file may have the sign in its name.
        let (name, path) = match text.split_once('=').filter(|_| !Path::new(text).exists()) {
            None => (None, text),
            Some((name, path)) => {
                check_name(name).map_err(|what| refused(format!("the name {name:?} {what}")))?;
                (Some(name.to_string()), path)
            }
        };
        if path.is_empty() {
            return Err(refused("no path".into()));
        }
        Ok(Spec { name, path: path.into() })
    }
}

/// What keeps `name` from being a word of prompts.
fn check_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("is empty".into()),
        _ if name.trim() != name => Err("begins or ends with white space".into()),
        // NAME=PATH is how it is given, and how a record gives it again.
        _ if name.contains('=') => Err("has a = in it; give another as NAME=PATH".into()),
        _ if name.contains(char::is_control) => Err("has a control character in it".into()),
        _ if name.len() > LONGEST_NAME => Err(format!("is longer than {LONGEST_NAME} bytes")),
        _ => Ok(()),
    }
}

/// What one text encoder reads in place of the word.
struct Part {
    tensor: String,
    vectors: usize,
    width: usize,
}

/// An open file of an embedding.
pub struct Embedding {
    path: PathBuf,
    label: String,
    file: Checkpoint,
    name: String,
    /// One for each text encoder, in their order.
    parts: Vec<Part>,
    hash: OnceLock<String>,
}

impl Embedding {
    /// Opens a file. Whether it fits a model is found when that is loaded.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file and the tensor: no file of one
    /// embedding, no vector or too many, a name that no prompt can have.
    pub fn open(spec: &Spec) -> Result<Embedding> {
        let path = match spec.path.is_dir() {
            true => in_folder(&spec.path)?,
            false => spec.path.clone(),
        };
        let file = Checkpoint::open(&path, None).map_err(|e| e.option("embedding"))?;
        let label = path.display().to_string();
        let place = |e: Error| e.context(&label).option("embedding");
        let found = Layout::of(&file).map_err(place)?;
        let parts = found.tensors.iter().map(|tensor| part(&file, tensor)).collect::<Result<Vec<_>>>()?;
        if let [one, other] = parts.as_slice()
            && one.vectors != other.vectors
        {
            let what = format!(
                "{} has {} and {} has {}: as many are expected",
                one.tensor,
                count(one.vectors, "vector"),
                other.tensor,
                count(other.vectors, "vector")
            );
            return Err(place(Error::model(what).advice("the file is damaged: download it again")));
        }
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = spec.name.clone().or(found.name).unwrap_or_else(stem);
        check_name(&name).map_err(|what| {
            place(
                Error::model(format!("the name {:?} of this embedding {what}", cut(&name)))
                    .advice("give it another: `embedding` NAME=PATH"),
            )
        })?;
        Ok(Embedding { path, label, file, name, parts, hash: OnceLock::new() })
    }

    /// The word that prompts have for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens that the word takes of a prompt.
    pub fn vectors(&self) -> usize {
        self.parts.first().map_or(0, |part| part.vectors)
    }

    /// The family of models that it is made for, where its sizes tell one.
    pub fn family(&self) -> Option<&'static str> {
        family(&self.parts.iter().map(|part| part.width).collect::<Vec<_>>())
    }

    /// The weights of the file.
    pub fn weights(&self) -> &Checkpoint {
        &self.file
    }

    /// What the text encoder with this place in the model reads, vector after vector. Panics for one that the
    /// model of [`Embedding::check_family`] does not have.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file and the tensor: of another type than
    /// floats, a value that is not finite.
    #[track_caller]
    pub fn values(&self, encoder: usize) -> Result<Vec<f32>> {
        let (root, tensor) = (self.file.root(), &self.parts[encoder].tensor);
        let view = root.tensor(tensor, root.dims(tensor).unwrap_or_default()).map_err(|e| {
            e.option("embedding")
                .advice("use another copy of the file, of finite numbers in F32, F16 or BF16")
        })?;
        Ok(view.data().to_f32().into_owned())
    }

    /// SHA-256 of the file, computed when first asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where it cannot be read any more.
    pub fn sha256(&self) -> Result<&str> {
        let refuse = |what| Error::model(format!("{}: {what}", self.label)).option("embedding");
        sha256_once(&self.hash, &self.path, refuse)
    }

    /// Refuses an embedding for another family than that of a model whose text encoders are `widths` wide.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), with what the file is made for and what was expected.
    pub fn check_family(&self, widths: &[usize]) -> Result<()> {
        let found: Vec<usize> = self.parts.iter().map(|part| part.width).collect();
        if found == widths {
            return Ok(());
        }
        let theirs = family(&found).unwrap_or("another kind of model");
        let ours = family(widths).map_or(String::new(), |name| format!(", and this model is {name}"));
        let described: Vec<String> =
            self.parts.iter().map(|part| format!("{} of {} features", part.tensor, part.width)).collect();
        let expected = match widths {
            [l, g] => format!("{} of {l} and {} of {g}", OF_XL[0], OF_XL[1]),
            _ => format!(
                "one tensor of {}",
                widths.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
            ),
        };
        Err(Error::model(format!(
            "{}: made for {theirs}{ours}: it has {}, expected {expected}",
            self.label,
            described.join(" and ")
        ))
        .option("embedding")
        .advice("use an embedding that was trained for this model's family"))
    }
}

impl fmt::Debug for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Embedding({:?}={}, {} vectors)", self.name, self.label, self.vectors())
    }
}

/// The family whose text encoders have these widths.
fn family(widths: &[usize]) -> Option<&'static str> {
    match widths {
        [768] => Some("Stable Diffusion 1.x"),
        [1024] => Some("Stable Diffusion 2.x"),
        [1280] => Some("the second text encoder of Stable Diffusion XL alone"),
        [_, _] => Some("Stable Diffusion XL"),
        _ => None,
    }
}

/// The file that diffusers wrote into `folder`.
fn in_folder(folder: &Path) -> Result<PathBuf> {
    let mut paths = IN_FOLDER.map(|name| folder.join(name)).into_iter();
    paths.find(|path| path.is_file()).ok_or_else(|| {
        Error::model(format!("{}: a folder without {}", folder.display(), IN_FOLDER.join(" or ")))
            .option("embedding")
            .advice("give `embedding` the file in it: NAME=PATH")
    })
}

/// Where the vectors are in a file, and what it says of its name.
struct Layout {
    tensors: Vec<String>,
    name: Option<String>,
}

impl Layout {
    fn of(file: &Checkpoint) -> Result<Layout> {
        // Of the web UI's pickles, whose numbers of tokens are tensors in the oldest.
        let names: Vec<&str> = file.names().filter(|name| !name.starts_with("string_to_token.")).collect();
        let said = || file.metadata().get("name").cloned();
        let owned = |tensors: &[&str]| tensors.iter().map(|name| (*name).to_string()).collect();
        match names.as_slice() {
            [one] if one.starts_with("string_to_param.") => {
                Ok(Layout { tensors: owned(&[one]), name: said() })
            }
            ["emb_params"] => Ok(Layout { tensors: owned(&["emb_params"]), name: None }),
            // Sorted by their names.
            ["clip_g", "clip_l"] => Ok(Layout { tensors: owned(&OF_XL), name: None }),
            [part] if OF_XL.contains(part) => {
                let other = if *part == OF_XL[0] { OF_XL[1] } else { OF_XL[0] };
                Err(Error::model(format!("{part} is there and {other} is not"))
                    .advice("download the file again, or take one for both text encoders"))
            }
            [token] if !is_of_a_network(token) => {
                Ok(Layout { tensors: owned(&[token]), name: Some((*token).to_string()) })
            }
            [] => Err(Error::model("there are no tensors in this file").advice("download the file again")),
            names => {
                let lora = names.iter().any(|name| name.contains("lora_") || name.contains(".lora."));
                let what = if lora { "a LoRA" } else { "no embedding" };
                let fix = if lora { "give it to `lora`" } else { "give the file of one embedding" };
                Err(Error::model(format!(
                    "this is {what}: it has {}, {}; expected the one tensor of a token, emb_params, \
                     string_to_param, or clip_l and clip_g",
                    count(names.len(), "tensor"),
                    some_of(names)
                ))
                .advice(fix))
            }
        }
    }
}

/// Whether a tensor is called as those of networks are, and not as a word.
fn is_of_a_network(name: &str) -> bool {
    name.ends_with(".weight") || name.ends_with(".bias") || name.contains("lora_")
}

/// The sizes of what is for one text encoder.
fn part(file: &Checkpoint, tensor: &str) -> Result<Part> {
    let dims = file.root().dims(tensor).unwrap_or_default();
    let refused = |what: String| {
        Error::model(format!("{}: {} has shape {dims:?}: {what}", file.label(), cut(tensor)))
            .option("embedding")
            .advice("give the file of an embedding, or download it again")
    };
    let (vectors, width) = match *dims {
        [width] => (1, width),
        [vectors, width] => (vectors, width),
        _ => return Err(refused("a vector or a list of vectors is expected".into())),
    };
    if vectors == 0 || width == 0 {
        return Err(refused("at least one vector is expected".into()));
    }
    if vectors > MOST_VECTORS {
        return Err(refused(format!("at most {MOST_VECTORS} vectors are expected")));
    }
    Ok(Part { tensor: tensor.to_string(), vectors, width })
}

/// The words of `embeddings`, each there once; as `normal` writes them, texts that are equal are the same
/// word.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for two files with one word.
pub(super) fn check_distinct(embeddings: &[Embedding], normal: impl Fn(&str) -> String) -> Result<()> {
    let mut seen = BTreeSet::new();
    match embeddings.iter().find(|embedding| !seen.insert(normal(&embedding.name))) {
        None => Ok(()),
        Some(second) => Err(Error::usage(format!(
            "{}: the name {:?} is that of another embedding too; case and width of spaces make no difference",
            second.label, second.name
        ))
        .option("embedding")
        .advice("give one of them another: `embedding` NAME=PATH")),
    }
}

#[cfg(test)]
mod tests;
