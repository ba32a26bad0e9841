//! Surrogates in safetensors files: the weights of every head at its best epoch, as PyTorch's linear layers
//! have them, and all else in one entry of the metadata. That is all that the next round goes on from.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bonus::{Features, Moments};
use super::learned::{Standard, taught};
use super::settings::HIDDEN;
use super::{Learned, Optimism, Settings, Spread, Surrogate};
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::mlp;

/// The entry of the metadata.
pub const ENTRY: &str = "das-cuda surrogate";
/// Version of the entry.
const SCHEMA: u32 = 1;

/// What the entry says, as JSON.
#[derive(Serialize, Deserialize)]
struct About {
    schema: u32,
    optimism: String,
    bonus: f64,
    learning_rate: f64,
    batch: usize,
    epochs: usize,
    langevin: f64,
    width: usize,
    mean: f64,
    deviation: f64,
    pairs: usize,
    validated: usize,
    answers_sha256: String,
    best_epochs: Vec<usize>,
    error: f64,
    training_error: f64,
    feature_sum: Option<Vec<f64>>,
    feature_products: Option<Vec<f64>>,
    sha256: String,
}

/// SHA-256 of all that has been learned, as little-endian numbers.
fn digest(surrogate: &Surrogate) -> String {
    let Surrogate { networks, standard, learned, features, settings: _, heads: _ } = surrogate;
    let mut bytes = learned.answers_sha256.clone().into_bytes();
    for network in networks {
        network.parameters().flatten().for_each(|value| bytes.extend(value.to_le_bytes()));
    }
    let epochs = learned.best_epochs.iter().map(|epoch| *epoch as f64);
    let moments = features.iter().flat_map(|f| f.moments.first.iter().chain(&f.moments.second));
    [standard.mean, standard.deviation, learned.error, learned.training_error]
        .into_iter()
        .chain(epochs)
        .chain(moments.copied())
        .for_each(|value| bytes.extend(value.to_le_bytes()));
    sha256(&bytes)
}

impl Optimism {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Optimism::Ucb(Spread::Sum) => "ucb",
            Optimism::Ucb(Spread::Covariance) => "ucb-covariance",
            Optimism::Bootstrap => "bootstrap",
            Optimism::Greedy => "greedy",
        }
    }
}

const ALL: [Optimism; 4] =
    [Optimism::Ucb(Spread::Sum), Optimism::Ucb(Spread::Covariance), Optimism::Bootstrap, Optimism::Greedy];

/// The file of a surrogate: the same bytes for the same surrogate.
///
/// # Errors
/// None in practice: it is made in memory.
pub fn encode(surrogate: &Surrogate) -> Result<Vec<u8>> {
    let Surrogate { settings, networks, standard, learned, features, heads: _ } = surrogate;
    let moments = features.as_ref().map(|features| &features.moments);
    let about = About {
        schema: SCHEMA,
        optimism: settings.optimism.name().into(),
        bonus: settings.bonus,
        learning_rate: settings.rate,
        batch: settings.batch,
        epochs: settings.epochs,
        langevin: settings.langevin,
        width: surrogate.width(),
        mean: standard.mean,
        deviation: standard.deviation,
        pairs: learned.pairs,
        validated: learned.validated,
        answers_sha256: learned.answers_sha256.clone(),
        best_epochs: learned.best_epochs.clone(),
        error: learned.error,
        training_error: learned.training_error,
        feature_sum: moments.map(|moments| moments.first.clone()),
        feature_products: moments.map(|moments| moments.second.clone()),
        sha256: digest(surrogate),
    };
    let about = serde_json::to_string(&about)
        .map_err(|e| Error::io("a surrogate cannot be encoded as JSON").because(e))?;
    let networks: Vec<(String, &mlp::Mlp)> =
        networks.iter().enumerate().map(|(k, network)| (format!("heads.{k}."), network)).collect();
    mlp::encode(&networks, HashMap::from([(ENTRY.to_string(), about)]))
}

/// Reads what [`encode`] made. `name` is for messages.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file: no safetensors file, or not of a surrogate.
pub fn decode(name: &str, bytes: &[u8]) -> Result<Surrogate> {
    let damaged = |what: &str| {
        Error::io(format!("{name}: {what}")).advice("remove the file; the surrogate is then learned again")
    };
    let said = mlp::said(name, bytes)?;
    let entry = said.get(ENTRY).ok_or_else(|| damaged("no surrogate of das-cuda"))?;
    let said: Value = serde_json::from_str(entry)
        .map_err(|e| damaged("what is said of the surrogate is damaged").because(e))?;
    if said["schema"] != SCHEMA {
        return Err(damaged(&format!("of layout {}, and this program reads {SCHEMA}", said["schema"])));
    }
    let about: About = serde_json::from_value(said)
        .map_err(|e| damaged("what is said of the surrogate is damaged").because(e))?;
    let known = ALL.into_iter().find(|optimism| optimism.name() == about.optimism);
    let optimism = known.ok_or_else(|| damaged("a surrogate of an unknown kind"))?;
    let settings = Settings {
        optimism,
        bonus: about.bonus,
        rate: about.learning_rate,
        batch: about.batch,
        epochs: about.epochs,
        langevin: about.langevin,
    };
    settings.check().map_err(|e| damaged("its settings are damaged").because(e))?;
    let widths: Vec<usize> = [about.width].into_iter().chain(HIDDEN).chain([1]).collect();
    let heads: Vec<(String, &[usize])> =
        (0..settings.heads()).map(|k| (format!("heads.{k}."), &widths[..])).collect();
    let networks = mlp::decode(name, bytes, &heads)?;
    let is_size = |x: f64| x.is_finite() && x >= 0.0;
    let numbers = [
        ("mean", about.mean.is_finite()),
        ("deviation", is_size(about.deviation) && about.deviation > 0.0),
        ("error", is_size(about.error)),
        ("training_error", is_size(about.training_error)),
        ("pairs", about.pairs > 0),
        ("validated", about.validated == about.pairs - taught(about.pairs)),
        ("best_epochs", about.best_epochs.len() == settings.heads()),
        ("best_epochs", about.best_epochs.iter().all(|epoch| *epoch < settings.epochs)),
    ];
    if let Some((name, _)) = numbers.into_iter().find(|(_, sound)| !sound) {
        return Err(damaged(&format!("\"{name}\" of the surrogate is no number that learning leaves")));
    }
    let standard = Standard { mean: about.mean, deviation: about.deviation };
    let k = HIDDEN[HIDDEN.len() - 1];
    let features = match (about.feature_sum, about.feature_products) {
        (None, None) if optimism == Optimism::Bootstrap => None,
        (Some(first), Some(second)) if first.len() == k && second.len() == k * k => {
            let moments = Moments { pairs: about.pairs, first, second };
            let features = Features::from_moments(&networks[0], moments, &settings);
            Some(features.map_err(|_| damaged("the sums of its features are no sums of squares"))?)
        }
        _ => return Err(damaged("the sums of its features are damaged")),
    };
    let learned = Learned {
        pairs: about.pairs,
        validated: about.validated,
        answers_sha256: about.answers_sha256,
        best_epochs: about.best_epochs,
        error: about.error,
        training_error: about.training_error,
    };
    let surrogate = Surrogate::new(settings, networks, standard, learned, features);
    match about.sha256 == digest(&surrogate) {
        true => Ok(surrogate),
        false => Err(damaged("its numbers are not those that were learned")),
    }
}
