//! Pictures, by what they say of their making.

use std::path::Path;

use super::facts::Facts;
use crate::error::Result;
use crate::pixels::Picture;
use crate::run::{prompt_in, read_texts};

/// A picture: the record of this program, or what another has written.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be opened.
pub fn facts(path: &Path, picture: &Picture) -> Result<Facts> {
    let texts = read_texts(path)?;
    let facts = Facts::new("picture")
        .with("path", path.to_string_lossy())
        .with("width", picture.width)
        .with("height", picture.height);
    Ok(match (texts.record, texts.parameters) {
        (Some(record), _) => facts.with("record", record),
        (_, Some(parameters)) => facts.with("prompt", prompt_in(&parameters)).with("text", parameters),
        _ => facts.with("notes", vec!["it says nothing of its making"]),
    })
}
