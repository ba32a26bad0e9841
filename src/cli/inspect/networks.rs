//! Networks that this program has trained: surrogates of `optimize`, and score networks of `toy`.

use std::path::Path;

use serde_json::{Value, json};

use super::facts::Facts;
use super::weights::held;
use crate::cli::experiment::unusable;
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::run::SCHEMA;
use crate::{regular, surrogate, toy};

/// Most bytes of a file of such a network.
const MOST_BYTES: u64 = 1 << 28;

/// What such a network says of itself; `None` of any other file.
pub fn facts(path: &Path) -> Option<Result<Facts>> {
    if !path.is_file() {
        return None;
    }
    let weights = Checkpoint::open(path, None).ok()?;
    let read = || regular::read(path, MOST_BYTES).map_err(|e| unusable(path, e));
    let name = path.display().to_string();
    if weights.metadata().contains_key(surrogate::ENTRY) {
        let found = read().and_then(|bytes| surrogate::decode(&name, &bytes));
        return Some(found.map(|found| of_optimize(&name, &found, &weights)));
    }
    let said = weights.metadata().get(toy::ENTRY)?;
    let inputs = weights.root().dims("layers.0.weight").filter(|dims| dims.len() == 2)?[1];
    // The last input is the time.
    let dimensions = inputs.saturating_sub(1);
    let network = read().and_then(|bytes| toy::Network::decode(&name, &bytes, dimensions));
    Some(network.and_then(|_| of_toy(&name, said, dimensions, &weights)))
}

fn of_optimize(name: &str, found: &surrogate::Surrogate, weights: &Checkpoint) -> Facts {
    let (settings, learned) = (found.settings(), found.learned());
    let facts = Facts::new("surrogate")
        .with("path", name)
        .with("about", "what `optimize` has learned of a black box, on top of a CLIP embedding")
        .with("optimism", settings.optimism.name())
        .with("heads", settings.heads())
        .with("features", found.width())
        .with("pairs", learned.pairs)
        .with("validated", learned.validated)
        .with("best_epochs", json!(learned.best_epochs))
        .with("epochs", settings.epochs)
        .with("validation_error", learned.error)
        .with("training_error", learned.training_error);
    held(facts, weights)
}

fn of_toy(name: &str, said: &str, dimensions: usize, weights: &Checkpoint) -> Result<Facts> {
    let said: Value = serde_json::from_str(said).unwrap_or_default();
    let loss: Option<f64> = said["loss"].as_str().and_then(|loss| loss.parse().ok());
    let (Some(seed), Some(loss)) = (said["seed"].as_u64().filter(|_| said["schema"] == SCHEMA), loss) else {
        return Err(Error::io(format!("{name}: its metadata do not say whose network it is"))
            .advice("remove the file; `das-cuda toy` then trains the network again"));
    };
    let facts = Facts::new("score network")
        .with("path", name)
        .with("about", "what `toy` has learned of its data: the noise of a point")
        .with("dimensions", dimensions)
        .with("seed", seed)
        .with("loss", loss);
    Ok(held(facts, weights))
}
