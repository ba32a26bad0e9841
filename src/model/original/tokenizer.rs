//! The files of CLIP's tokenizer, which no checkpoint in a single file brings: made from the merges inside
//! the program (`assets/clip/README.md`).

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::files::{Assembled, AssembledModel, Source};
use crate::model::tokenizer::byte_names;

static MERGES: &[u8] = include_bytes!("../../../assets/clip/merges.txt.gz");

/// What texts are padded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The end token, as for CLIP.
    End,
    /// The token `!`, whose id is 0, as for OpenCLIP.
    Zero,
}

/// Tokens that CLIP's tokenizer has.
pub const VOCABULARY: usize = 49408;

/// A place whose folder `component` holds CLIP's tokenizer, for towers that come without one.
///
/// # Errors
/// As [`add`].
pub fn alone(component: &str) -> Result<Source> {
    let (name, base, pieces) =
        ("the tokenizer of CLIP inside this program".to_string(), None, BTreeMap::new());
    let mut model = Assembled { name, base, pieces };
    add(&mut model, component, Padding::End)?;
    Ok(Source::Assembled(AssembledModel(model.into())))
}

/// Vocabulary and merges, as their files hold them.
struct Tables {
    vocabulary: Vec<u8>,
    merges: Vec<u8>,
}

/// The tables, made when they are first asked for.
fn tables() -> Result<&'static Tables> {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    if let Some(tables) = TABLES.get() {
        return Ok(tables);
    }
    let mut merges = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut merges).map_err(|e| {
        Error::model("the merges of CLIP inside this program cannot be read")
            .because(e)
            .advice("build it again")
    })?;
    let vocabulary = vocabulary(&merges).to_string().into_bytes();
    let merges = format!("#version: 0.2\n{merges}").into_bytes();
    Ok(TABLES.get_or_init(|| Tables { vocabulary, merges }))
}

/// Adds the files of the tokenizer `component`.
///
/// # Errors
/// None in practice: the merges are part of the program.
pub fn add(model: &mut Assembled, component: &str, padding: Padding) -> Result<()> {
    let tables = tables()?;
    let file = |name: &str| format!("{component}/{name}");
    model.make(&file("vocab.json"), tables.vocabulary.as_slice());
    model.make(&file("tokenizer_config.json"), settings(padding).to_string().into_bytes());
    model.make(&file("merges.txt"), tables.merges.as_slice());
    Ok(())
}

/// The bytes, printable ones first; the same at the end of a word; what the merges make; begin and end.
fn vocabulary(merges: &str) -> Value {
    let (plain, spare): (Vec<_>, Vec<_>) =
        byte_names().into_iter().enumerate().partition(|&(byte, name)| byte as u32 == name as u32);
    let bytes: Vec<String> = plain.iter().chain(&spare).map(|(_, name)| name.to_string()).collect();
    let ends = bytes.iter().map(|name| format!("{name}</w>"));
    let merged = merges.lines().map(|line| line.replacen(' ', "", 1));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_string);
    let tokens = bytes.iter().cloned().chain(ends).chain(merged).chain(special);
    Value::Object(tokens.zip(0u32..).map(|(token, id)| (token, json!(id))).collect::<Map<_, _>>())
}

/// What the published `tokenizer_config.json` say that matters here.
fn settings(padding: Padding) -> Value {
    let token = |content: &str, normalized: bool| {
        json!({"content": content, "normalized": normalized, "special": true,
            "lstrip": false, "rstrip": false, "single_word": false})
    };
    let mut added = json!({
        "49406": token("<|startoftext|>", true),
        "49407": token("<|endoftext|>", padding == Padding::End),
    });
    if padding == Padding::Zero {
        added["0"] = token("!", false);
    }
    json!({
        "tokenizer_class": "CLIPTokenizer",
        "added_tokens_decoder": added,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": if padding == Padding::Zero { "!" } else { "<|endoftext|>" },
        "model_max_length": 77,
    })
}
