//! The networks of an experiment, one for each seed, kept beside its runs.

use std::path::Path;

use serde_json::{Value, json};

use super::design::{Arm, Design, Sampling, Score};
use crate::backend::Backend;
use crate::cli::experiment::{stopped, unusable};
use crate::cli::progress::Progress;
use crate::cli::signals;
use crate::error::{Error, Result};
use crate::regular;
use crate::run::{SCHEMA, write_atomic};
use crate::toy::{Finetune, Network, Tuned, training_alpha_bars};

/// A trained network, and its loss: the mean over the last tenth of its epochs.
pub struct Learned {
    pub seed: u64,
    pub network: Network,
    pub loss: f64,
}

/// Entries of a design that decide a network, besides the seed.
const OF: [&str; 4] = ["toy", "points_sha256", "learn", "epochs"];
/// Most bytes of a file of weights: several times what the widest network takes.
const MOST_BYTES: u64 = 1 << 20;

/// The network of `seed`: from its file if it is there, else trained now and written. `None` where the score
/// is in closed form. `left` counts runs, for the message of a signal.
///
/// # Errors
/// Of the file; from the device; [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) after a signal.
pub fn network(
    backend: &dyn Backend,
    design: &Design,
    seed: u64,
    left: usize,
    progress: &Progress,
) -> Result<Option<Learned>> {
    let Score::Trained { points, epochs } = design.score else { return Ok(None) };
    let path = design.folder.join(format!("network-{seed}.safetensors"));
    if path.exists() {
        return read(&path, design, seed).map(Some);
    }
    let data = design.toy.learned(seed, points);
    let mut network = Network::new(design.toy.dimensions(), seed);
    let losses = network.train(backend, &data, &training_alpha_bars(), seed, epochs, |epoch, loss| {
        if signals::requested().is_some() {
            return Err(stopped(left));
        }
        if epoch % 100 == 99 {
            progress.say(&format!("seed {seed}  epoch {} of {epochs}, loss {loss:.4}", epoch + 1));
        }
        Ok(())
    })?;
    let last = &losses[losses.len() - losses.len().div_ceil(10)..];
    let loss = last.iter().sum::<f64>() / last.len() as f64;
    let mut said = json!({"schema": SCHEMA, "seed": seed, "loss": loss.to_string()});
    let record = design.record();
    OF.iter().for_each(|key| said[*key] = record[*key].clone());
    write_atomic(&path, &network.encode(&said.to_string())?)?;
    Ok(Some(Learned { seed, network, loss }))
}

/// What a baseline makes of the network; `None` for other arms.
///
/// # Errors
/// From the device; [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) after a signal.
pub fn tuned(
    backend: &dyn Backend,
    design: &Design,
    arm: &Arm,
    learned: Option<&Learned>,
    left: usize,
    progress: &Progress,
) -> Result<Option<Tuned>> {
    let (Sampling::Baseline(baseline), Some(learned)) = (arm.sampling, learned) else { return Ok(None) };
    let (toy, seed, model) = (&design.toy, learned.seed, &learned.network);
    let epochs = design.tuning_epochs.unwrap_or_else(|| baseline.epochs(toy));
    let tune = Finetune { backend, toy, schedule: &design.schedule, model, alpha: design.alpha, seed };
    let after = |epoch, reward| {
        if signals::requested().is_some() {
            return Err(stopped(left));
        }
        if epoch % 10 == 9 {
            progress.say(&format!(
                "seed {seed}  {}: epoch {} of {epochs}, reward {reward:.3}",
                arm.label,
                epoch + 1
            ));
        }
        Ok(())
    };
    tune.run(baseline, epochs, after).map(Some)
}

fn read(path: &Path, design: &Design, seed: u64) -> Result<Learned> {
    let bytes = regular::read(path, MOST_BYTES).map_err(|e| unusable(path, e))?;
    let (network, said) = Network::decode(&path.display().to_string(), &bytes, design.toy.dimensions())?;
    let said: Value = serde_json::from_str(&said).unwrap_or_default();
    let record = design.record();
    let other = OF.into_iter().find(|key| said.get(key) != record.get(*key));
    let loss = said["loss"].as_str().and_then(|loss| loss.parse().ok());
    match (said["schema"].as_u64(), said["seed"].as_u64(), loss) {
        (Some(schema), Some(own), Some(loss))
            if schema == u64::from(SCHEMA) && own == seed && other.is_none() =>
        {
            Ok(Learned { seed, network, loss })
        }
        (_, own, _) => Err(Error::io(match (own, other) {
            (Some(own), _) if own != seed => format!("{}: is the network of seed {own}", path.display()),
            (Some(_), Some(key)) if !said[key].is_null() => {
                format!("{}: is a network of {key} {}, not {}", path.display(), said[key], record[key])
            }
            _ => format!("{}: its metadata do not say whose network it is", path.display()),
        })
        .advice("remove the file; the network is then trained again")),
    }
}
