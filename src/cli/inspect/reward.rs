//! Rewards, by name and with a path.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::facts::Facts;
use super::weights::types;
use crate::error::Result;
use crate::hub::Hub;
use crate::model::checkpoint::Checkpoint;
use crate::model::files::Source;
use crate::reward::{REWARDS, Spec};

/// The reward that `text` names (`NAME` or `NAME:PATH`); `None` where it names none.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a path that the reward does not take.
pub fn facts(text: &str, hub: &Hub) -> Result<Option<Facts>> {
    let name = text.split([':', '=']).next().unwrap_or_default().trim().to_ascii_lowercase();
    if !REWARDS.iter().any(|kind| kind.name == name) {
        return Ok(None);
    }
    let spec: Spec = text.parse()?;
    let kind = spec.kind;
    let facts = Facts::new("reward")
        .with("name", kind.name)
        .with("about", kind.about)
        .with("gradient", kind.needs.gradient)
        .with("reads_prompt", kind.needs.prompt)
        .with("alpha", kind.default_alpha)
        .with("source", kind.source)
        .with("needs", kind.needs.files)
        .with("path", spec.path.as_ref().map(|path| path.to_string_lossy().into_owned()))
        .with("published", kind.published());
    if kind.published().is_none() {
        return Ok(Some(facts));
    }
    // A model without towers: those of `shapes` are its own.
    let none = Source::Dir(PathBuf::new());
    Ok(Some(match spec.find(&none, hub) {
        Ok(found) => {
            let (files, lacking) = found.map(|path| files(&path)).unwrap_or_default();
            facts.with("files", files).with("missing", lacking)
        }
        Err(lacking) => {
            let how = "they are downloaded when it is first used";
            facts.with("missing", json!([lacking.message()])).with("notes", json!([how]))
        }
    }))
}

/// The weights at a path of a reward, which may be two parted by a comma, and what is wrong with the others.
fn files(path: &Path) -> (Vec<Value>, Vec<String>) {
    let text = path.to_string_lossy();
    let paths = match path.exists() {
        true => vec![text.as_ref()],
        false => text.split(',').collect(),
    };
    let (mut files, mut lacking) = (Vec::new(), Vec::new());
    for path in paths {
        match Checkpoint::open(Path::new(path), None) {
            Ok(opened) => {
                let bytes: u64 = opened.types().iter().map(|(.., bytes)| bytes).sum();
                files.push(json!({
                    "path": path,
                    "type": types(&opened),
                    "parameters": opened.parameters(),
                    "bytes": bytes,
                }));
            }
            Err(e) => lacking.push(e.message().to_string()),
        }
    }
    (files, lacking)
}
