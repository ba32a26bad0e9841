//! BERT's tokenizer for lower-cased text: words and signs, each cut into the longest pieces of a vocabulary,
//! from the left. Gives the ids of `bert-base-uncased` in the fast tokenizer of transformers, with the tokens
//! `[DEC]` and `[ENC]` that BLIP adds behind the vocabulary.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use super::files::Source;
use super::tokenizer::{Dropped, Tokens};
use crate::error::{Error, Result};

/// The name of a vocabulary file, one token a line.
pub const FILE: &str = "vocab.txt";

/// Tokens that stand for themselves wherever a text has them; the last two are BLIP's own.
const SPECIAL: [&str; 7] = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "[DEC]", "[ENC]"];
/// How many of [`SPECIAL`] a vocabulary holds.
const IN_VOCABULARY: usize = 5;
/// Words of more characters are unknown.
const LONGEST_WORD: usize = 100;

/// A vocabulary and its rules.
#[derive(Debug)]
pub struct WordPiece {
    vocabulary: HashMap<String, u32>,
    special: [u32; SPECIAL.len()],
    context: usize,
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid expression")
}

static IS_SPECIAL: LazyLock<Regex> = LazyLock::new(|| regex(&SPECIAL.map(regex::escape).join("|")));
/// A sign or an ideogram, each of them a word, or a run of other characters.
static WORDS: LazyLock<Regex> =
    LazyLock::new(|| regex(&format!(r"[{SIGN}{IDEOGRAM}]|[^\s{SIGN}{IDEOGRAM}]+")));
static CONTROL: LazyLock<Regex> = LazyLock::new(|| regex(r"[\p{C}\x{fffd}&&[^\t\n\r]]+"));
static ACCENT: LazyLock<Regex> = LazyLock::new(|| regex(r"\p{Mn}+"));

impl WordPiece {
    /// Reads `vocab.txt` at the top of `source`. Texts are cut to `context` tokens, at least two of which are
    /// begin and end.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file: missing, no text, without BERT's
    /// special tokens.
    pub fn open(source: &Source, context: usize) -> Result<WordPiece> {
        let advice = "put vocab.txt of bert-base-uncased there";
        if !source.exists(FILE) {
            return Err(Error::model(format!("{}: missing", source.describe(FILE))).advice(advice));
        }
        let bytes = source.read(FILE)?;
        let bad = |what: String| Error::model(format!("{}: {what}", source.describe(FILE))).advice(advice);
        let text = std::str::from_utf8(&bytes).map_err(|e| bad("not UTF-8".into()).because(e))?;
        let mut vocabulary = HashMap::new();
        for (id, token) in text.lines().enumerate() {
            vocabulary.insert(token.trim_end().to_string(), id as u32);
        }
        let mut next = text.lines().count() as u32;
        let mut special = [0; SPECIAL.len()];
        for (i, (token, id)) in SPECIAL.iter().zip(&mut special).enumerate() {
            *id = match vocabulary.get(*token) {
                Some(id) => *id,
                None if i < IN_VOCABULARY => return Err(bad(format!("no token {token}"))),
                None => {
                    next += 1;
                    next - 1
                }
            };
        }
        Ok(WordPiece { special, vocabulary, context })
    }

    /// Most tokens of a text, begin and end included.
    pub fn context(&self) -> usize {
        self.context
    }

    /// One more than the largest id.
    pub fn size(&self) -> usize {
        let largest = self.vocabulary.values().chain(&self.special).max();
        largest.map_or(0, |id| *id as usize + 1)
    }

    /// The ids of a text between those of `[CLS]` and `[SEP]`, cut to the context and not padded.
    pub fn encode(&self, text: &str) -> Tokens {
        let mut pieces: Vec<(u32, String)> = Vec::new();
        let mut from = 0;
        for found in IS_SPECIAL.find_iter(text) {
            self.ordinary(&text[from..found.start()], &mut pieces);
            let which = SPECIAL.iter().position(|special| *special == found.as_str()).unwrap_or(0);
            pieces.push((self.special[which], format!(" {}", found.as_str())));
            from = found.end();
        }
        self.ordinary(&text[from..], &mut pieces);
        let room = self.context.saturating_sub(2);
        let dropped = pieces.split_off(pieces.len().min(room));
        let dropped = (!dropped.is_empty()).then(|| Dropped {
            tokens: dropped.len(),
            text: dropped.iter().map(|(_, piece)| piece.as_str()).collect::<String>().trim().to_string(),
        });
        let [_, sep, _, cls, ..] = self.special;
        let inner = pieces.into_iter().map(|(id, _)| id);
        Tokens { ids: std::iter::once(cls).chain(inner).chain([sep]).collect(), dropped }
    }

    /// Text without special tokens: ids, and what each is of, with a space before words.
    fn ordinary(&self, text: &str, pieces: &mut Vec<(u32, String)>) {
        let clean = CONTROL.replace_all(text, "");
        let decomposed: String = clean.nfd().collect();
        let plain = ACCENT.replace_all(&decomposed, "");
        // Character by character, as the fast tokenizer does: no letter knows that it ends a word.
        let lower: String = plain.chars().flat_map(char::to_lowercase).collect();
        WORDS.find_iter(&lower).for_each(|word| self.word(word.as_str(), pieces));
    }

    /// The longest pieces from the left; unknown as a whole where one is not in the vocabulary.
    fn word(&self, word: &str, pieces: &mut Vec<(u32, String)>) {
        let before = pieces.len();
        let mut from = 0;
        let mut known = word.chars().count() <= LONGEST_WORD;
        while known && from < word.len() {
            let rest = &word[from..];
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
            let mark = if from == 0 { "" } else { "##" };
            let found = ends.into_iter().find_map(|end| {
                let id = self.vocabulary.get(&format!("{mark}{}", &rest[..end]))?;
                Some((*id, &rest[..end]))
            });
            match found {
                Some((id, piece)) => {
                    let space = if from == 0 { " " } else { "" };
                    pieces.push((id, format!("{space}{piece}")));
                    from += piece.len();
                }
                None => known = false,
            }
        }
        if !known {
            pieces.truncate(before);
            pieces.push((self.special[0], format!(" {word}")));
        }
    }
}

/// Punctuation, and every ASCII sign that is neither letter nor digit.
const SIGN: &str = r"\p{P}!-/:-@\[-`{-~";
/// What BERT takes for Chinese characters, each of which is a word.
const IDEOGRAM: &str = r"\x{4e00}-\x{9fff}\x{3400}-\x{4dbf}\x{20000}-\x{2a6df}\x{2a700}-\x{2b73f}\x{2b740}-\x{2b81f}\x{2b820}-\x{2ceaf}\x{f900}-\x{faff}\x{2f800}-\x{2fa1f}";

#[cfg(test)]
mod tests;
