//! The files of a tokenizer: vocabulary and merges in either of two layouts, and what up to three more files
//! say about special tokens.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use regex::Regex;
use serde_json::{Map, Value};

use super::bpe::{Added, END_OF_WORD, Tokenizer, UNKNOWN, WORDS, byte_names, normalize};
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

/// What the optional files say about a special token.
#[derive(Clone)]
struct Special {
    content: String,
    normalized: bool,
}

impl Files<'_> {
    fn tokenizer(&self, max_positions: usize) -> Result<Tokenizer> {
        let whole = self.json("tokenizer.json")?;
        let config = self.json("tokenizer_config.json")?.unwrap_or_default();
        let (mut vocab, pairs, origin) = match &whole {
            Some(json) => self.whole(json)?,
            None => self.pair_of_files()?,
        };
        let specials = self.specials(&config)?;
        let mut added = self.added(&config, whole.as_ref())?;
        for token in &added {
            vocab.entry(token.content.clone()).or_insert(token.id);
        }
        let id = |role: &str, special: &Special| {
            vocab.get(&special.content).copied().ok_or_else(|| {
                self.bad(&origin, format!("the {role} {:?} is not in the vocabulary", special.content))
            })
        };
        let declared = added.len();
        let mut ids = [0; 4];
        for ((role, special), slot) in specials.iter().zip(&mut ids) {
            *slot = id(role, special)?;
            // Of roles that share a token the last one's flags count, but for a token that is declared.
            if !added[..declared].iter().any(|a| a.content == special.content) {
                added.retain(|a| a.content != special.content);
                added.push(Added {
                    content: special.content.clone(),
                    id: *slot,
                    normalized: special.normalized,
                });
            }
        }
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
        if context < 3 {
            return Err(
                self.bad(&origin, format!("a text model of {max_positions} tokens has no room for text"))
            );
        }
        Ok(Tokenizer {
            inside: names.map(|c| symbol(c.to_string())),
            at_end: names.map(|c| symbol(format!("{c}{END_OF_WORD}"))),
            merges,
            split_raw: self.any_of(&added, false)?,
            split_normal: self.any_of(&added, true)?,
            words: self.regex(&format!(r"<\|startoftext\|>|<\|endoftext\|>|{WORDS}"))?,
            inner_words: self.regex(WORDS)?,
            names: vocab.into_iter().map(|(name, id)| (id, name)).collect(),
            added,
            bos,
            eos,
            pad,
            unk,
            context,
        })
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
                .fix("the download is incomplete: fetch vocab.json and merges.txt of this tokenizer")
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

    /// Begin, end, unknown and padding, in this order. `special_tokens_map.json` goes before
    /// `tokenizer_config.json`, but is not looked at where the latter declares the added tokens.
    fn specials(&self, config: &Map<String, Value>) -> Result<[(&'static str, Special); 4]> {
        let map = match config.contains_key("added_tokens_decoder") {
            true => None,
            false => self.json("special_tokens_map.json")?,
        };
        let roles = [
            ("bos_token", "<|startoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
        ];
        let mut found =
            roles.map(|(role, content)| (role, Special { content: content.to_string(), normalized: false }));
        for (file, keys) in
            [("tokenizer_config.json", Some(config)), ("special_tokens_map.json", map.as_ref())]
        {
            for (role, special) in &mut found {
                let Some(v) = keys.and_then(|k| k.get(*role)).filter(|v| !v.is_null()) else { continue };
                *special = match v {
                    Value::String(content) => Special { content: content.clone(), normalized: false },
                    v => self.token(file, v)?,
                };
            }
        }
        Ok(found)
    }

    /// Tokens added to the vocabulary, from the one file that decides.
    fn added(&self, config: &Map<String, Value>, whole: Option<&Map<String, Value>>) -> Result<Vec<Added>> {
        let mut added = Vec::new();
        let mut push = |file: &str, id: Option<u64>, v: &Value| {
            let id = id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != UNKNOWN);
            let id = id.ok_or_else(|| self.bad(file, format!("the added token {v} has no id")))?;
            let Special { content, normalized } = self.token(file, v)?;
            added.push(Added { content, id, normalized });
            Ok::<(), Error>(())
        };
        if let Some(declared) = config.get("added_tokens_decoder").and_then(Value::as_object) {
            for (id, v) in declared {
                push("tokenizer_config.json", id.parse().ok(), v)?;
            }
        } else if let Some(list) = whole.and_then(|w| w.get("added_tokens")).and_then(Value::as_array) {
            for v in list {
                push("tokenizer.json", v["id"].as_u64(), v)?;
            }
        }
        Ok(added)
    }

    fn token(&self, file: &str, v: &Value) -> Result<Special> {
        let content = v["content"].as_str().filter(|c| !c.is_empty());
        let content = content.ok_or_else(|| self.bad(file, format!("the token {v} has no content")))?;
        for option in ["lstrip", "rstrip", "single_word"] {
            if v[option] == true {
                let what = format!("the token {content:?} has {option}, which is not supported");
                return Err(self.bad(file, what));
            }
        }
        // Absent, it is true for ordinary tokens and false for special ones.
        let normalized = v["normalized"].as_bool().unwrap_or(v["special"] == false);
        Ok(Special { content: content.to_string(), normalized })
    }

    /// Finds any of the added tokens, the longest at each place.
    fn any_of(&self, added: &[Added], normalized: bool) -> Result<Option<Regex>> {
        let unique: HashSet<&str> =
            added.iter().filter(|a| a.normalized == normalized).map(|a| a.content.as_str()).collect();
        let mut contents: Vec<&str> = unique.into_iter().collect();
        if contents.is_empty() {
            return Ok(None);
        }
        contents.sort_by_key(|c| (Reverse(c.len()), *c));
        let alternatives: Vec<String> = contents.into_iter().map(regex::escape).collect();
        self.regex(&alternatives.join("|")).map(Some)
    }

    fn regex(&self, pattern: &str) -> Result<Regex> {
        Regex::new(pattern).map_err(|e| {
            Error::model(format!("{}: too many added tokens", self.source.describe(self.component)))
                .because(e)
                .fix("use the tokenizer files of a CLIP text model as they were published")
        })
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
            .fix("use the tokenizer files of a CLIP text model, all from the same download")
    }
}

/// Vocabulary, merges by rank, and the file they are from.
type Parts = (HashMap<String, u32>, Vec<(String, String)>, String);

fn vocabulary(json: &Map<String, Value>) -> Option<HashMap<String, u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| id != UNKNOWN);
    json.iter().map(|(token, v)| Some((token.clone(), id(v)?))).collect()
}
