//! The files of a tokenizer: vocabulary and merges in either of two layouts, and what up to three more files
//! say about special tokens.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use super::bpe::{Added, END_OF_WORD, Side, Tokenizer, UNKNOWN, any_of, byte_names, normalize};
use crate::error::{Error, Result};
use crate::model::files::{Source, join, json};

impl Tokenizer {
    /// Reads the tokenizer in the folder `component` (`""` is the top): `tokenizer.json`, or `vocab.json` and
    /// `merges.txt`; and `tokenizer_config.json` and `special_tokens_map.json` where they are. Prompts are
    /// padded or cut to the smaller of the file's `model_max_length` and `max_positions` tokens.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file that is missing, damaged or not CLIP's.
    pub fn open(source: &Source, component: &str, max_positions: usize) -> Result<Tokenizer> {
        Files { source, component }.tokenizer(max_positions)
    }
}

/// The files of one tokenizer.
struct Files<'a> {
    source: &'a Source,
    component: &'a str,
}

/// What the files say about an added or special token.
#[derive(Clone)]
struct Token {
    content: String,
    /// Looked for in normalized text; see [`Added`].
    normalized: bool,
    /// Not looked for where the file asks for `split_special_tokens`.
    special: bool,
}

impl Token {
    fn special(content: &str) -> Token {
        Token { content: content.to_string(), normalized: false, special: true }
    }
}

/// The tokens that the files add to the vocabulary, and which of them have a role.
struct Specials {
    /// In the order in which they are added.
    added: Vec<Token>,
    /// The contents of those that a file lists with an id.
    declared: HashSet<String>,
    /// Contents of begin, end, unknown and padding.
    roles: [String; 4],
}

/// The roles of tokens in the order in which transformers adds them; the first four of [`ROLES`] are used
/// here.
const STANDARD: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Keys of special tokens without a role.
const FURTHER: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];
/// Most added and special tokens: each is compared with every other.
const MOST_ADDED: usize = 4096;
const ROLES: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

impl Files<'_> {
    fn tokenizer(&self, max_positions: usize) -> Result<Tokenizer> {
        let whole = self.json("tokenizer.json")?;
        let config = self.json("tokenizer_config.json")?.unwrap_or_default();
        let (mut vocab, pairs, origin) = match &whole {
            Some(json) => self.whole(json)?,
            None => self.pair_of_files()?,
        };
        self.refuse_empty(&origin, vocab.len(), pairs.len())?;
        let specials = self.specials(&config, whole.as_ref())?;
        // As the tokenizers library numbers them: a token of the vocabulary keeps its id, any other gets the
        // next one, whatever id the file states.
        let mut next = u32::try_from(vocab.len()).unwrap_or(UNKNOWN);
        let mut added: Vec<Added> = Vec::new();
        for (role, content) in ROLES.iter().zip(&specials.roles) {
            // Padding may be a token of its own; the others are part of every text that a model was trained
            // on.
            let known = vocab.contains_key(content) || specials.declared.contains(content);
            if !known && *role != "pad_token" {
                let what = format!("the {role} {content:?} is not in the vocabulary");
                return Err(self.bad(&origin, what));
            }
        }
        let split_specials = config.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false);
        for token in &specials.added {
            let id = *vocab.entry(token.content.clone()).or_insert_with(|| {
                next += 1;
                next - 1
            });
            if !(split_specials && token.special) {
                let (content, normalized) = (token.content.clone(), token.normalized);
                added.push(Added { content, id, count: 1, normalized });
            }
        }
        let ids = specials.roles.each_ref().map(|content| vocab.get(content).copied().unwrap_or(UNKNOWN));
        let [bos, eos, unk, pad] = ids;
        for token in &mut added {
            if token.normalized {
                token.content = normalize(&token.content);
            }
        }

        let names = byte_names();
        let symbol = |name: String| vocab.get(&name).copied().unwrap_or(UNKNOWN);
        let mut merges = HashMap::with_capacity(pairs.len());
        for (rank, (left, right)) in pairs.iter().enumerate() {
            let find = |token: &str| {
                vocab.get(token).copied().ok_or_else(|| {
                    self.bad(
                        &origin,
                        format!("merge {} needs {token:?}, which is not in the vocabulary", rank + 1),
                    )
                })
            };
            let merged = find(&format!("{left}{right}"))?;
            // The last of equals counts, as in a table filled line by line.
            merges.insert((find(left)?, find(right)?), (rank as u32, merged));
        }

        let context = match config.get("model_max_length").filter(|v| !v.is_null()) {
            None => max_positions,
            Some(v) => match json::number(v) {
                // Files that know no limit state an enormous one.
                Some(length) if length >= 3.0 => max_positions.min(length as usize),
                _ => {
                    let what = format!("model_max_length is {v}, expected a number from 3");
                    return Err(self.bad("tokenizer_config.json", what));
                }
            },
        };
        let side = |key: &str, part: &str| -> Result<Side> {
            let stated = config.get(key).filter(|v| !v.is_null()).map(|v| v.as_str().unwrap_or("?"));
            let in_whole = whole.as_ref().and_then(|w| w.get(part)?["direction"].as_str());
            match stated.or(in_whole).map(str::to_lowercase).as_deref() {
                None | Some("right") => Ok(Side::Right),
                Some("left") => Ok(Side::Left),
                Some(_) => {
                    let what = format!("{key} is neither \"left\" nor \"right\"");
                    Err(self.bad("tokenizer_config.json", what))
                }
            }
        };
        let (padding, truncation) =
            (side("padding_side", "padding")?, side("truncation_side", "truncation")?);
        if context < 3 {
            return Err(
                self.bad(&origin, format!("a text model of {max_positions} tokens has no room for text"))
            );
        }
        Ok(Tokenizer {
            inside: names.map(|c| symbol(c.to_string())),
            at_end: names.map(|c| symbol(format!("{c}{END_OF_WORD}"))),
            merges,
            split_raw: any_of(&added, false).map_err(|e| self.too_many().because(e))?,
            split_normal: any_of(&added, true).map_err(|e| self.too_many().because(e))?,
            names: vocab.into_iter().map(|(name, id)| (id, name)).collect(),
            added,
            bos,
            eos,
            pad,
            unk,
            padding,
            truncation,
            context,
        })
    }

    /// Refuses files without content, which a download that failed leaves: without merges every text is cut
    /// into single letters.
    fn refuse_empty(&self, origin: &str, tokens: usize, merges: usize) -> Result<()> {
        let whole = origin == "tokenizer.json";
        let (vocab, pairs) = if whole { ("model.vocab", "model.merges") } else { ("it", "it") };
        match (tokens, merges) {
            (0, _) => Err(self.bad(origin, format!("{vocab} holds no token"))),
            (_, 0) => {
                let file = if whole { origin } else { "merges.txt" };
                Err(self.bad(file, format!("{pairs} holds no merge")))
            }
            _ => Ok(()),
        }
    }

    /// Vocabulary and merges of `tokenizer.json`. Of its other parts only the added tokens matter: the steps
    /// before and after are CLIP's by definition.
    fn whole(&self, json: &Map<String, Value>) -> Result<Parts> {
        let name = "tokenizer.json";
        let none = Value::Null;
        let model = json.get("model").unwrap_or(&none);
        if model["type"].as_str().is_some_and(|t| t != "BPE") {
            return Err(self.bad(name, format!("model.type is {}, expected \"BPE\"", model["type"])));
        }
        let vocab = model["vocab"].as_object().and_then(vocabulary);
        let vocab =
            vocab.ok_or_else(|| self.bad(name, "model.vocab is not a map of tokens to ids".into()))?;
        let pair = |v: &Value| match v {
            Value::String(line) => line.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())),
            v => match v.as_array()?.as_slice() {
                [a, b] => Some((a.as_str()?.to_string(), b.as_str()?.to_string())),
                _ => None,
            },
        };
        let merges = model["merges"].as_array().and_then(|list| list.iter().map(pair).collect());
        let merges = merges.ok_or_else(|| self.bad(name, "model.merges is not a list of pairs".into()))?;
        Ok((vocab, merges, name.to_string()))
    }

    fn pair_of_files(&self) -> Result<Parts> {
        let json = self.json("vocab.json")?.ok_or_else(|| {
            let folder = self.source.describe(self.component);
            Error::model(format!("{folder}: no tokenizer.json and no vocab.json"))
                .advice("the download is incomplete: fetch vocab.json and merges.txt of this tokenizer")
        })?;
        let vocab = vocabulary(&json)
            .ok_or_else(|| self.bad("vocab.json", "expected a map of tokens to ids".into()))?;
        let rel = join(self.component, "merges.txt");
        let text = self.source.read(&rel)?;
        let text = std::str::from_utf8(&text)
            .map_err(|e| self.bad("merges.txt", "not UTF-8 text".into()).because(e))?;
        let mut merges = Vec::new();
        for (at, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with("#version") {
                continue;
            }
            match line.split_once(' ') {
                Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => {
                    merges.push((a.to_string(), b.to_string()));
                }
                _ => {
                    let what =
                        format!("line {} is {line:?}, expected two tokens with a space between", at + 1);
                    return Err(self.bad("merges.txt", what));
                }
            }
        }
        Ok((vocab, merges, "vocab.json".to_string()))
    }

    /// What the files say about added and special tokens, as transformers puts it together: either
    /// `tokenizer_config.json` declares the added tokens and the other files are not looked at, or
    /// `special_tokens_map.json` goes before `tokenizer_config.json`, and the added tokens are those of
    /// `added_tokens.json` and of `tokenizer.json`, which goes before. Tokens are added in the order of the
    /// ids that are stated, then those that only have a role, then further ones.
    fn specials(&self, config: &Map<String, Value>, whole: Option<&Map<String, Value>>) -> Result<Specials> {
        let declares = config.contains_key("added_tokens_decoder");
        let mut named: Vec<(String, Token)> = Vec::new();
        let mut further: Vec<Token> = Vec::new();
        self.collect("tokenizer_config.json", config, &mut named, &mut further)?;
        let mut declared: BTreeMap<u32, Token> = BTreeMap::new();
        if declares {
            let none = Map::new();
            let list = config.get("added_tokens_decoder").and_then(Value::as_object).unwrap_or(&none);
            for (id, v) in list {
                let file = "tokenizer_config.json";
                declared.insert(self.id(file, id.parse().ok(), v)?, self.token(file, v)?);
            }
        } else {
            let mut map_further = Vec::new();
            if let Some(map) = self.json("special_tokens_map.json")? {
                let before = further.len();
                self.collect("special_tokens_map.json", &map, &mut named, &mut further)?;
                if map.contains_key("additional_special_tokens") {
                    map_further = further[before..].to_vec();
                }
            }
            // Those of `additional_special_tokens` in the map come too late to count as special here.
            let late = |token: &Token| map_further.iter().any(|late| late.content == token.content);
            let file = "added_tokens.json";
            for (content, id) in self.json(file)?.iter().flatten() {
                let standard = named.iter().filter(|(role, _)| STANDARD.contains(&role.as_str()));
                let extra = further.iter().filter(|token| !late(token));
                let special = standard.map(|(_, token)| token).chain(extra).any(|t| t.content == *content);
                let token = Token { content: content.clone(), normalized: !special, special };
                declared.insert(self.id(file, id.as_u64(), &Value::from(content.as_str()))?, token);
            }
            let list = whole.and_then(|w| w.get("added_tokens")).and_then(Value::as_array);
            for v in list.into_iter().flatten() {
                let file = "tokenizer.json";
                declared.insert(self.id(file, v["id"].as_u64(), v)?, self.token(file, v)?);
            }
        }
        if declared.len() + named.len() + further.len() > MOST_ADDED {
            return Err(self.too_many());
        }
        let mut added: Vec<Token> = declared.into_values().collect();
        let count = added.len();
        let contents: HashSet<String> = added.iter().map(|token| token.content.clone()).collect();
        let named_or =
            |role: &str| named.iter().rev().find(|(r, _)| r == role).map(|(_, token)| token.clone());
        let standard = STANDARD.into_iter().filter_map(|role| {
            let default = match role {
                "bos_token" => Some("<|startoftext|>"),
                "eos_token" | "unk_token" | "pad_token" => Some("<|endoftext|>"),
                _ => None,
            };
            named_or(role).or_else(|| default.map(Token::special))
        });
        let others = named.iter().filter(|(role, _)| !STANDARD.contains(&role.as_str()));
        let with_role = standard.chain(others.map(|(_, token)| token.clone())).map(|token| (true, token));
        for (role, token) in with_role.chain(further.iter().cloned().map(|token| (false, token))) {
            // Of roles that share a token the last one's flags count, but for a token that is declared.
            match added.iter().position(|a| a.content == token.content) {
                Some(at) if at < count => added[at].special |= role,
                Some(at) if role => added[at] = token,
                Some(_) => {}
                None => added.push(token),
            }
        }
        let roles = ROLES.map(|role| {
            let default = if role == "bos_token" { "<|startoftext|>" } else { "<|endoftext|>" };
            named_or(role).map_or(default.to_string(), |token| token.content)
        });
        Ok(Specials { added, declared: contents, roles })
    }

    /// Reads the roles (`..._token`) and the further special tokens of one file; later ones go before earlier
    /// ones.
    fn collect(
        &self,
        file: &str,
        keys: &Map<String, Value>,
        named: &mut Vec<(String, Token)>,
        further: &mut Vec<Token>,
    ) -> Result<()> {
        for (key, v) in keys {
            if named.len() + further.len() > MOST_ADDED {
                return Err(self.too_many());
            }
            let role = key.ends_with("_token") && !key.starts_with("add_");
            let standard = STANDARD.contains(&key.as_str());
            match v {
                Value::String(content) if role && !content.is_empty() => {
                    named.push((key.clone(), Token::special(content)));
                }
                Value::Null | Value::Bool(_) if role => {}
                v if role && (standard || v.is_object()) => named.push((key.clone(), self.token(file, v)?)),
                Value::Array(list) if FURTHER.contains(&key.as_str()) => {
                    if list.len() > MOST_ADDED {
                        return Err(self.too_many());
                    }
                    for v in list {
                        let token = match v {
                            Value::String(content) => Token::special(content),
                            v => Token { special: true, ..self.token(file, v)? },
                        };
                        if !further.iter().any(|t| t.content == token.content) {
                            further.push(token);
                        }
                    }
                }
                Value::Object(map) if FURTHER.contains(&key.as_str()) => {
                    for (name, v) in map {
                        let token = match v {
                            Value::String(content) => Token::special(content),
                            v => Token { special: true, ..self.token(file, v)? },
                        };
                        named.push((name.clone(), token));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The id stated for the added token `v`.
    fn id(&self, file: &str, id: Option<u64>, v: &Value) -> Result<u32> {
        let id = id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != UNKNOWN);
        id.ok_or_else(|| self.bad(file, format!("the added token {v} has no id")))
    }

    fn token(&self, file: &str, v: &Value) -> Result<Token> {
        let content = v["content"].as_str().filter(|c| !c.is_empty());
        let content = content.ok_or_else(|| self.bad(file, format!("the token {v} has no content")))?;
        for option in ["lstrip", "rstrip", "single_word"] {
            if v[option] == true {
                let what = format!("the token {content:?} has {option}, which is not supported");
                return Err(self.bad(file, what));
            }
        }
        // Absent, it is true for ordinary tokens and false for special ones.
        let special = v["special"] != false;
        let normalized = v["normalized"].as_bool().unwrap_or(!special);
        Ok(Token { content: content.to_string(), normalized, special })
    }

    fn too_many(&self) -> Error {
        Error::model(format!("{}: too many added tokens", self.source.describe(self.component)))
            .advice("use the tokenizer files of a CLIP text model as they were published")
    }

    fn json(&self, name: &str) -> Result<Option<Map<String, Value>>> {
        let rel = join(self.component, name);
        if !self.source.exists(&rel) {
            return Ok(None);
        }
        let value = json::read(self.source, &rel)?;
        match value {
            Value::Object(map) => Ok(Some(map)),
            _ => Err(self.bad(name, "not a JSON object".into())),
        }
    }

    fn bad(&self, name: &str, what: String) -> Error {
        Error::model(format!("{}: {what}", self.source.describe(&join(self.component, name))))
            .advice("use the tokenizer files of a CLIP text model, all from the same download")
    }
}

/// Vocabulary, merges by rank, and the file they are from.
type Parts = (HashMap<String, u32>, Vec<(String, String)>, String);

fn vocabulary(json: &Map<String, Value>) -> Option<HashMap<String, u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| id != UNKNOWN);
    json.iter().map(|(token, v)| Some((token.clone(), id(v)?))).collect()
}
