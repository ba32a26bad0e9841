//! From what the user asked for to rewards that can score.

use std::path::PathBuf;

use super::locate::locate;
use super::spec::Spec;
use super::sum::Sum;
use super::towers::Towers;
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::Hub;
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
    let paths: Vec<_> = specs.iter().map(|spec| spec.path.clone()).collect();
    open_at(specs, &paths, model, backend)
}

/// As [`open`], where a path may also be the name of a repository, and a reward without a path whose files
/// the model does not bring is read from the repositories where it is published.
///
/// # Errors
/// As [`open`]; those of [`Hub::locate`].
#[track_caller]
pub fn open_named(specs: &[Spec], model: &Source, backend: &dyn Backend, hub: &Hub) -> Result<Sum> {
    let of_one = |spec: &Spec| {
        locate(spec, model, hub).map_err(|e: Error| e.context(format!("reward {}", spec.kind.name)))
    };
    let paths: Vec<_> = specs.iter().map(of_one).collect::<Result<_>>()?;
    open_at(specs, &paths, model, backend)
}

/// The rewards of `specs`, whose files are at `paths`.
#[track_caller]
fn open_at(specs: &[Spec], paths: &[Option<PathBuf>], model: &Source, backend: &dyn Backend) -> Result<Sum> {
    let both = || specs.iter().zip(paths);
    let reading: Vec<_> =
        both().filter(|(spec, _)| spec.kind.needs.prompt).map(|(_, path)| path.as_deref()).collect();
    let mut towers = Towers::new(model, backend, &reading);
    let twice = |kind| specs.iter().filter(|s| s.kind == kind).count() > 1;
    let mut parts = Vec::new();
    for (spec, at) in both() {
        let name = match &spec.path {
            Some(path) if twice(spec.kind) => format!("{}:{}", spec.kind.name, path.display()),
            _ => spec.kind.name.to_string(),
        };
        let reward = (spec.kind.open)(&mut towers, &name, at.as_deref()).map_err(|e| {
            let e = e.context(format!("reward {name}"));
            match e.kind() {
                ErrorKind::Usage if e.advice_text().is_none() => {
                    e.advice(format!("{}:PATH; {}", spec.kind.name, spec.kind.line()))
                }
                _ => e,
            }
        });
        parts.push((spec.weight, reward?));
    }
    Ok(Sum::new(parts).with_files(towers.into_files()))
}
