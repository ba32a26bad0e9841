//! From what the user asked for to rewards that can score.

use super::spec::Spec;
use super::sum::Sum;
use super::towers::Towers;
use crate::backend::Backend;
use crate::error::{ErrorKind, Result};
use crate::model::files::Source;

/// Loads the rewards of `specs`, at least one. A reward without a path uses the folders `clip` and
/// `aesthetic` of `model`; towers without a tokenizer of their own use the model's. Each tower is loaded
/// once, however many rewards look through it.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a reward whose path is missing, with what it needs;
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for files that are missing or damaged.
#[track_caller]
pub fn open(specs: &[Spec], model: &Source, backend: &dyn Backend) -> Result<Sum> {
    let reading: Vec<_> = specs.iter().filter(|s| s.kind.needs.prompt).map(|s| s.path.as_deref()).collect();
    let mut towers = Towers::new(model, backend, &reading);
    let twice = |kind| specs.iter().filter(|s| s.kind == kind).count() > 1;
    let mut parts = Vec::new();
    for spec in specs {
        let name = match &spec.path {
            Some(path) if twice(spec.kind) => format!("{}:{}", spec.kind.name, path.display()),
            _ => spec.kind.name.to_string(),
        };
        let reward = (spec.kind.open)(&mut towers, &name, spec.path.as_deref()).map_err(|e| {
            let e = e.context(format!("reward {name}"));
            match e.kind() {
                ErrorKind::Usage => e.advice(format!("{}:PATH; {}", spec.kind.name, spec.kind.line())),
                _ => e,
            }
        });
        parts.push((spec.weight, reward?));
    }
    Ok(Sum::new(parts).with_files(towers.into_files()))
}
