//! Byte-level BPE with an end-of-word mark.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Result};

pub(super) const END_OF_WORD: &str = "</w>";

/// Contractions, words, single digits, runs of anything else but white space.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";

static INNER_WORDS: LazyLock<Regex> = LazyLock::new(|| Regex::new(WORDS).expect("a valid expression"));
/// The same, and two special tokens as words.
static OUTER_WORDS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!(r"<\|startoftext\|>|<\|endoftext\|>|{WORDS}")).expect("a valid expression")
});

/// Symbol for bytes that the vocabulary does not have; never an id, and part of no merge.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// A prompt as the text model takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// As many as the model's context: begin, text, end, padding.
    pub ids: Vec<u32>,
    /// What did not fit, if anything.
    pub dropped: Option<Dropped>,
}

/// The end of a prompt that is longer than the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How many do not fit.
    pub tokens: usize,
    /// The text of these tokens: cleaned, lower-case.
    pub text: String,
}

/// The tokenizer of one text model.
pub struct Tokenizer {
    /// Symbols of each byte inside a word, and at its end.
    pub(super) inside: [u32; 256],
    pub(super) at_end: [u32; 256],
    /// Two neighbours to (rank, merged); lower ranks merge first.
    pub(super) merges: HashMap<(u32, u32), (u32, u32)>,
    pub(super) names: BTreeMap<u32, String>,
    pub(super) added: Vec<Added>,
    pub(super) split_raw: Option<Regex>,
    pub(super) split_normal: Option<Regex>,
    pub(super) bos: u32,
    pub(super) eos: u32,
    pub(super) pad: u32,
    pub(super) unk: u32,
    /// Where a text is filled up, and where it is cut.
    pub(super) padding: Side,
    pub(super) truncation: Side,
    pub(super) context: usize,
}

/// An end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A token that is found in the text as a whole, before anything is cut.
pub(super) struct Added {
    pub(super) content: String,
    pub(super) id: u32,
    /// Ids that it becomes, from `id` on; more than one only of a learned word.
    pub(super) count: u32,
    /// Looked for after composing, collapsing and lower-casing, and so in any case; else in the text as
    /// typed.
    pub(super) normalized: bool,
}

impl Added {
    /// What it becomes.
    fn ids(&self) -> Range<u32> {
        self.id..self.id + self.count
    }
}

/// Finds any of the added tokens, the longest at each place; `None` where there are none.
pub(super) fn any_of(added: &[Added], normalized: bool) -> Result<Option<Regex>, regex::Error> {
    let unique: HashSet<&str> =
        added.iter().filter(|a| a.normalized == normalized).map(|a| a.content.as_str()).collect();
    let mut contents: Vec<&str> = unique.into_iter().collect();
    if contents.is_empty() {
        return Ok(None);
    }
    contents.sort_by_key(|c| (Reverse(c.len()), *c));
    let alternatives: Vec<String> = contents.into_iter().map(regex::escape).collect();
    Regex::new(&alternatives.join("|")).map(Some)
}

impl Tokenizer {
    /// Tokens of a text, begin and end included: always as many.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The largest id that can come out; the text model's vocabulary must be larger.
    pub fn largest_id(&self) -> u32 {
        self.names.keys().next_back().copied().unwrap_or(0)
    }

    /// Adds a word that is found in a text as a whole, in any case, and becomes the ids from `first` on,
    /// `count` of them: as the tokens that transformers adds to a vocabulary are found. Ids of learned words
    /// do not count for [`Tokenizer::largest_id`].
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a word that is a token already.
    pub fn learn(&mut self, word: &str, first: u32, count: u32) -> Result<()> {
        let content = normalize(word);
        let taken = |name: &String| {
            let name = name.strip_suffix(END_OF_WORD).unwrap_or(name);
            name == word || name == content
        };
        if self.names.values().any(taken) || self.added.iter().any(|added| added.content == content) {
            return Err(Error::usage(format!("{word:?} is a token of the model's vocabulary already"))
                .option("embedding")
                .advice("give it another name: `embedding` NAME=PATH, such as \"<name>=PATH\""));
        }
        self.added.push(Added { content, id: first, count, normalized: true });
        self.split_normal = any_of(&self.added, true).map_err(|e| {
            Error::usage(format!("{word:?} is one word too many"))
                .option("embedding")
                .because(e)
                .advice("give fewer files to `embedding`")
        })?;
        Ok(())
    }

    /// Ids of a text of any length in windows of the context: each has begin, end and padding of its own. At
    /// least `least` windows; those without text are as an empty one.
    pub fn windows(&self, text: &str, least: usize) -> Vec<Vec<u32>> {
        let all = self.tokenize(text);
        let mut windows: Vec<_> = all.chunks(self.room()).map(|part| self.framed(part)).collect();
        windows.resize_with(windows.len().max(least).max(1), || self.framed(&[]));
        windows
    }

    /// Tokens of text that a context has room for.
    fn room(&self) -> usize {
        self.context - 2
    }

    /// A prompt as ids for the text model.
    pub fn encode(&self, text: &str) -> Tokens {
        let all = self.tokenize(text);
        let surplus = all.len().saturating_sub(self.room());
        let (kept, cut) = match self.truncation {
            Side::Right => all.split_at(all.len() - surplus),
            Side::Left => {
                let (cut, kept) = all.split_at(surplus);
                (kept, cut)
            }
        };
        let dropped = (!cut.is_empty()).then(|| Dropped { tokens: cut.len(), text: self.decode(cut) });
        Tokens { ids: self.framed(kept), dropped }
    }

    /// At most as many tokens as there is room for, between begin and end, filled up.
    fn framed(&self, tokens: &[u32]) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.context);
        if self.padding == Side::Left {
            ids.resize(self.room() - tokens.len(), self.pad);
        }
        ids.push(self.bos);
        ids.extend(tokens);
        ids.push(self.eos);
        ids.resize(self.context, self.pad);
        ids
    }

    /// Which of the learned words a text has, by the order in which they were learned.
    pub fn learned_in(&self, text: &str) -> Vec<usize> {
        let ids: HashSet<u32> = self.tokenize(text).into_iter().collect();
        let learned = self.added.iter().filter(|added| !self.names.contains_key(&added.id));
        learned.enumerate().filter(|(_, added)| ids.contains(&added.id)).map(|(at, _)| at).collect()
    }

    /// The ids of a text of any length, without begin, end and padding.
    pub fn tokenize(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.around(self.split_raw.as_ref(), text, false, &mut ids, |part, ids| {
            let normal = normalize(part);
            self.around(self.split_normal.as_ref(), &normal, true, ids, |part, ids| {
                for word in OUTER_WORDS.find_iter(part) {
                    // A special token that was not taken as one is cut once more.
                    for word in INNER_WORDS.find_iter(word.as_str()) {
                        self.merge(word.as_str().as_bytes(), ids);
                    }
                }
            });
        });
        ids
    }

    /// The text of ids, as far as bytes make text; words apart by one space.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        let table: HashMap<char, u8> = byte_names().into_iter().zip(0..=255).collect();
        let mut before = None;
        for id in ids {
            let previous = before.replace(id);
            let Some(name) = self.names.get(id) else {
                // A learned word is many ids, and is there once.
                let learned = |id: &u32| self.added.iter().position(|a| a.ids().contains(id));
                if let Some(at) = learned(id)
                    && (*id == self.added[at].id || previous.and_then(learned) != Some(at))
                {
                    bytes.extend_from_slice(self.added[at].content.as_bytes());
                    bytes.push(b' ');
                }
                continue;
            };
            let (body, ends) = match name.strip_suffix(END_OF_WORD) {
                Some(body) => (body, true),
                None => (name.as_str(), self.added.iter().any(|a| a.id == *id)),
            };
            bytes.extend(body.chars().filter_map(|c| table.get(&c)));
            if ends {
                bytes.push(b' ');
            }
        }
        String::from_utf8_lossy(&bytes).trim_end().to_string()
    }

    /// Splits at the added tokens, which go to `ids`; `between` gets what is between them.
    fn around(
        &self,
        split: Option<&Regex>,
        text: &str,
        normalized: bool,
        ids: &mut Vec<u32>,
        mut between: impl FnMut(&str, &mut Vec<u32>),
    ) {
        let mut start = 0;
        for found in split.iter().flat_map(|regex| regex.find_iter(text)) {
            between(&text[start..found.start()], ids);
            let added = self.added.iter().find(|a| a.normalized == normalized && a.content == found.as_str());
            ids.extend(added.into_iter().flat_map(Added::ids));
            start = found.end();
        }
        between(&text[start..], ids);
    }

    /// Byte-pair merging of one word: the lowest rank first, the leftmost of equals. A heap of candidates and
    /// a linked list keep a word of n bytes at n log n; prompts without spaces can be long.
    fn merge(&self, word: &[u8], ids: &mut Vec<u32>) {
        let Some((&last, head)) = word.split_last() else { return };
        struct Symbol {
            id: u32,
            previous: Option<usize>,
            next: Option<usize>,
            gone: bool,
        }
        let n = word.len();
        let mut symbols: Vec<Symbol> = head
            .iter()
            .map(|&b| self.inside[b as usize])
            .chain([self.at_end[last as usize]])
            .enumerate()
            .map(|(at, id)| Symbol {
                id,
                previous: at.checked_sub(1),
                next: (at + 1 < n).then_some(at + 1),
                gone: false,
            })
            .collect();
        let candidate = |symbols: &[Symbol], at: usize| {
            let next = symbols[at].next?;
            let &(rank, id) = self.merges.get(&(symbols[at].id, symbols[next].id))?;
            Some(Reverse((rank, at, id)))
        };
        let mut heap: BinaryHeap<_> = (0..n).filter_map(|at| candidate(&symbols, at)).collect();
        while let Some(Reverse((rank, at, id))) = heap.pop() {
            // Either neighbour may have been merged into something else since this was pushed.
            if symbols[at].gone || candidate(&symbols, at) != Some(Reverse((rank, at, id))) {
                continue;
            }
            let Some(next) = symbols[at].next else { continue };
            let after = symbols[next].next;
            symbols[next].gone = true;
            symbols[at].id = id;
            symbols[at].next = after;
            if let Some(after) = after {
                symbols[after].previous = Some(at);
            }
            heap.extend(candidate(&symbols, at));
            heap.extend(symbols[at].previous.and_then(|previous| candidate(&symbols, previous)));
        }
        let left = symbols.iter().filter(|s| !s.gone);
        ids.extend(left.map(|s| if s.id == UNKNOWN { self.unk } else { s.id }));
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens, context {})", self.names.len(), self.context)
    }
}

/// Composed, white space as single spaces, lower-case. Case is changed letter by letter: no final sigma.
pub(crate) fn normalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_space = false;
    for c in text.nfc() {
        if c.is_whitespace() {
            if !in_space {
                out.push(' ');
            }
            in_space = true;
        } else {
            in_space = false;
            out.extend(c.to_lowercase());
        }
    }
    out
}

/// The printable character that stands for each byte in vocabularies: itself where it is one, else one from
/// 256 on.
pub(crate) fn byte_names() -> [char; 256] {
    let mut spare = 256;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte as u32 } else { spare };
        spare += u32::from(!printable);
        char::from_u32(code).unwrap_or('\u{fffd}')
    })
}
