//! CLIP's tokenizer: byte-level BPE with an end-of-word mark. Text is composed (NFC), white space collapsed,
//! lower-cased and cut into words, single digits and runs of signs; each is merged from bytes by rank. Gives
//! the ids that the fast tokenizer of transformers gives, its treatment of special tokens included.

mod bpe;
mod files;

pub use bpe::{Dropped, Tokenizer, Tokens};
pub(super) use bpe::{byte_names, normalize};

#[cfg(test)]
mod tests;
