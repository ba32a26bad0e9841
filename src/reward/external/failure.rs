//! What failed in a scorer, and how its words are printed, which may be of any length and hold anything.

/// What failed, and what would fix it.
#[derive(Debug)]
pub struct Failure {
    /// After the words "the scorer": `wrote "..."`.
    pub what: String,
    /// The advice.
    pub fix: String,
}

impl Failure {
    pub fn new(what: impl Into<String>, fix: impl Into<String>) -> Failure {
        Failure { what: what.into(), fix: fix.into() }
    }
}

/// The beginning of a line, in quotes.
pub fn shown(line: &[u8]) -> String {
    format!("{:?}", cut(&String::from_utf8_lossy(line), 160))
}

/// The beginning of a text that is printed without quotes. Backticks become other quotes: those of messages
/// name options.
pub fn told(text: &str, most: usize) -> String {
    cut(text.trim(), most).replace('`', "'")
}

/// At most so many characters of a text.
fn cut(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push_str(" ...");
    }
    short
}
