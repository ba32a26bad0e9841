//! The surrogates of a strategy and seed, one for each round, kept beside the queries.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::design::{Design, Strategy};
use super::line::{Line, embedding};
use crate::cli::experiment::{RUNS, stopped, unusable};
use crate::cli::progress::Progress;
use crate::cli::signals;
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::regular;
use crate::run::write_atomic;
use crate::session::Session;
use crate::surrogate::{Epoch, Pair, Surrogate, decode, encode};

/// Most bytes of a file of a surrogate: many times what four heads on the widest embeddings take.
const MOST_BYTES: u64 = 1 << 28;

/// Embeddings of the pictures that were learned from, by their paths.
pub type Embeddings = BTreeMap<String, Vec<f32>>;

/// The file of the surrogate that has learned from so many queries.
pub fn path(folder: &Path, strategy: Strategy, seed: u64, pairs: usize) -> PathBuf {
    folder.join(format!("surrogates/{}/{seed}-{pairs:04}.safetensors", strategy.name()))
}

/// What is at hand to make surrogates of.
pub struct Rounds<'a> {
    pub session: &'a Session,
    pub design: &'a Design,
    pub folder: &'a Path,
    pub progress: &'a Progress,
    /// Numbers of an embedding.
    pub width: usize,
    /// Queries that are left, for the message of a signal.
    pub left: usize,
}

impl Rounds<'_> {
    /// The surrogate after so many rounds: from its file if it is there, else learned now, from `lines`, the
    /// queries of the strategy and seed in order, and written. It learns on the host whatever the device is,
    /// so that its bits depend on the pairs alone.
    ///
    /// # Errors
    /// Of the files; of the learning; [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) after a
    /// signal.
    pub fn surrogate(
        &self,
        strategy: Strategy,
        seed: u64,
        rounds: usize,
        lines: &[&Line],
        seen: &mut Embeddings,
    ) -> Result<Arc<Surrogate>> {
        // One shot has learned once, whenever it is asked.
        let rounds = if strategy == Strategy::OneShot { 1 } else { rounds };
        let pairs = self.design.pairs(strategy, rounds);
        let path = path(self.folder, strategy, seed, pairs);
        let lines = lines.get(..pairs).unwrap_or(lines);
        if path.exists() {
            let found = read(&path, self.design, strategy, lines)?;
            if found.width() != self.width {
                return Err(foreign(
                    &path,
                    &format!(
                        "it sees embeddings of {} numbers, and --tower {} makes {}",
                        found.width(),
                        self.design.tower,
                        self.width
                    ),
                ));
            }
            return Ok(Arc::new(found));
        }
        // What a bootstrap goes on from.
        let before = match self.design.pairs(strategy, rounds - 1) {
            earlier if rounds > 1 && earlier < pairs && strategy == Strategy::Bootstrap => {
                Some(self.surrogate(strategy, seed, rounds - 1, lines, seen)?)
            }
            _ => None,
        };
        let learned: Vec<Pair> = lines
            .iter()
            .map(|line| Ok(Pair { embedding: self.embedded(line, seen)?, answer: line.label }))
            .collect::<Result<_>>()?;
        let settings = self.design.settings(strategy);
        let after = |epoch: Epoch| {
            if signals::requested().is_some() {
                return Err(stopped(self.left));
            }
            if epoch.epoch % 50 == 49 {
                self.progress.say(&format!(
                    "{} seed {seed}  learning from {pairs} queries: epoch {} of {}, error {:.3}",
                    strategy.name(),
                    epoch.epoch + 1,
                    settings.epochs,
                    epoch.error.sqrt()
                ));
            }
            Ok(())
        };
        let place = (seed, rounds as u32 - 1);
        let surrogate = settings
            .fit(&Cpu::new(), &learned, before.as_deref(), place, after)
            .map_err(|e| e.context(format!("{}, seed {seed}, {pairs} queries", strategy.name())))?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| unusable(parent, e))?;
        }
        write_atomic(&path, &encode(&surrogate)?)?;
        Ok(Arc::new(surrogate))
    }

    /// Learns whatever surrogate of a round is not there.
    ///
    /// # Errors
    /// As [`Rounds::surrogate`].
    pub fn all(&self, strategy: Strategy, seed: u64, lines: &[&Line], seen: &mut Embeddings) -> Result<()> {
        for rounds in 1..=self.design.rounds(strategy).len() {
            if !path(self.folder, strategy, seed, self.design.pairs(strategy, rounds)).exists() {
                self.surrogate(strategy, seed, rounds, lines, seen)?;
            }
        }
        Ok(())
    }

    /// The embedding of a query's picture.
    fn embedded(&self, line: &Line, seen: &mut Embeddings) -> Result<Vec<f32>> {
        if let Some(known) = seen.get(&line.picture) {
            return Ok(known.clone());
        }
        let picture = Picture::read(&self.folder.join(&line.picture)).map_err(|e| {
            e.advice(format!(
                "the surrogate learns from this picture: put it back, or remove its line from {RUNS} and those \
                 behind it"
            ))
        })?;
        let embedding = embedding(self.session, &picture)?;
        seen.insert(line.picture.clone(), embedding.clone());
        Ok(embedding)
    }
}

/// The surrogate in a file, which `strategy` has learned from `lines`.
///
/// # Errors
/// Of the file; of one that has learned otherwise, or from something else.
pub fn read(path: &Path, design: &Design, strategy: Strategy, lines: &[&Line]) -> Result<Surrogate> {
    let bytes = regular::read(path, MOST_BYTES).map_err(|e| unusable(path, e))?;
    let found = decode(&path.display().to_string(), &bytes)?;
    let labels: Vec<f64> = lines.iter().map(|line| line.label).collect();
    match found.differs_from(&design.settings(strategy), &labels) {
        Some(difference) => Err(foreign(path, &difference)),
        None => Ok(found),
    }
}

fn foreign(path: &Path, difference: &str) -> Error {
    Error::io(format!("{}: is the surrogate of something else: {difference}", path.display()))
        .advice("remove the file; the surrogate is then learned again")
}
