//! Learning from pairs (docs/spec.md 8.2).

use super::bonus::Features;
use super::learned::{Standard, composed, hash, taught};
use super::settings::{DROPOUT, HIDDEN};
use super::{Learned, Optimism, Pair, Settings, Surrogate};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::mlp::{Adam, Mlp};
use crate::noise::{Key, Purpose, fill_normals_at, philox, uniforms};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape};

/// Streams of random numbers: of the first weights of head 0, a multiple of 8 further those of the next; of
/// dropout likewise, for each layer; of the choice of pairs, their order and the noise, one for each head.
const FIRST_WEIGHTS: u32 = 64;
const LEFT_OUT: u32 = 128;
const RESAMPLED: u32 = 192;
const ORDER: u32 = 208;
const LANGEVIN: u32 = 224;

/// What keys the random numbers of a fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Of the run.
    seed: u64,
    /// Fits of the run before this one.
    round: u32,
}

impl Place {
    fn key(self, stream: u32, step: u32) -> Key {
        Key { seed: self.seed, prompt: stream, particle: self.round, step, purpose: Purpose::Fit }
    }
}

/// An epoch of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Head, from 0.
    pub head: usize,
    /// Epoch, from 0.
    pub epoch: usize,
    /// Mean squared error on the pairs that validate, in variances of the answers.
    pub error: f64,
}

impl Settings {
    /// Learns from `pairs` in the order of their arrival: the newest tenth validates, the others teach. A
    /// network begins with weights that depend on the seed alone; those of a bootstrap go on from `before`,
    /// if it is given. Of every network the weights of its best epoch on the pairs that validate are kept.
    /// Each epoch is told to `after`, which may stop it. The bits depend on the arguments alone if those of
    /// the backend do, which is so on the CPU.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) of the settings, and without pairs;
    /// [`ErrorKind::Numerical`](crate::ErrorKind::Numerical) for answers that are not finite, and where no
    /// epoch has a finite error; from the device; of `after`.
    ///
    /// # Panics
    /// Where embeddings differ in their widths, or `before` is of others.
    pub fn fit(
        &self,
        backend: &dyn Backend,
        pairs: &[Pair],
        before: Option<&Surrogate>,
        (seed, round): (u64, u32),
        mut after: impl FnMut(Epoch) -> Result<()>,
    ) -> Result<Surrogate> {
        self.check()?;
        let place = Place { seed, round };
        let Some(width) = pairs.first().map(|pair| pair.embedding.len()) else {
            return Err(Error::usage("a surrogate of no pairs: there is nothing to learn from"));
        };
        assert!(pairs.iter().all(|pair| pair.embedding.len() == width), "embeddings of one width");
        if let Some(at) = pairs.iter().position(|pair| !pair.answer.is_finite()) {
            let answer = pairs[at].answer;
            return Err(Error::numerical(format!(
                "answer {at} of the black box is {answer}, no finite number"
            )));
        }
        let answers: Vec<f64> = pairs.iter().map(|pair| pair.answer).collect();
        let teaching = taught(pairs.len());
        let (teachers, mut validating) = pairs.split_at(teaching);
        if validating.is_empty() {
            // One pair has to do both.
            validating = teachers;
        }
        let standard = Standard::of(&answers[..teaching]);
        let (mut networks, mut best_epochs) = (Vec::new(), Vec::new());
        for head in 0..self.heads() {
            let start = match before.filter(|_| self.optimism == Optimism::Bootstrap) {
                Some(before) => {
                    assert_eq!(before.width(), width, "a surrogate of other embeddings");
                    before.networks[head].clone()
                }
                None => first_network(width, seed, head),
            };
            let own = match self.optimism {
                Optimism::Bootstrap => resampled(teachers, place, head),
                Optimism::Ucb(_) | Optimism::Greedy => teachers.iter().collect(),
            };
            let learner = Learner { settings: self, backend, standard, place, head };
            let (network, epoch) = learner.learn(start, &own, validating, &mut after)?;
            networks.push(network);
            best_epochs.push(epoch);
        }
        let learned = Learned {
            pairs: pairs.len(),
            validated: pairs.len() - teaching,
            answers_sha256: hash(&answers),
            best_epochs,
            error: 0.0,
            training_error: 0.0,
        };
        let features = match self.optimism {
            Optimism::Bootstrap => None,
            Optimism::Ucb(_) | Optimism::Greedy => Some(Features::of(&networks[0], pairs, self)?),
        };
        let mut surrogate = Surrogate::new(self.clone(), networks, standard, learned, features);
        let missed = |of: &[Pair]| {
            let off = of.iter().map(|pair| surrogate.predict(&pair.embedding).mean - pair.answer);
            (off.map(|x| x * x).sum::<f64>() / of.len() as f64).sqrt()
        };
        (surrogate.learned.error, surrogate.learned.training_error) = (missed(validating), missed(teachers));
        Ok(surrogate)
    }
}

/// A network that has learned nothing.
fn first_network(width: usize, seed: u64, head: usize) -> Mlp {
    let widths: Vec<usize> = [width].into_iter().chain(HIDDEN).chain([1]).collect();
    Mlp::new(&widths, seed, FIRST_WEIGHTS + 8 * head as u32)
}

/// As many pairs, drawn with replacement.
fn resampled(pairs: &[Pair], place: Place, head: usize) -> Vec<&Pair> {
    let mut uniform = uniforms(place.key(RESAMPLED + head as u32, 0));
    let mut draw = || ((uniform.draw() * pairs.len() as f64) as usize).min(pairs.len() - 1);
    (0..pairs.len()).map(|_| &pairs[draw()]).collect()
}

impl Standard {
    fn of_answer(self, answer: f64) -> f64 {
        (answer - self.mean) / self.deviation
    }
}

/// Trains one head.
struct Learner<'a> {
    settings: &'a Settings,
    backend: &'a dyn Backend,
    standard: Standard,
    place: Place,
    head: usize,
}

impl Learner<'_> {
    /// The network at its best epoch on the pairs that validate, and which that was.
    fn learn(
        &self,
        mut network: Mlp,
        teachers: &[&Pair],
        validating: &[Pair],
        after: &mut impl FnMut(Epoch) -> Result<()>,
    ) -> Result<(Mlp, usize)> {
        let mut adam = Adam::new(self.settings.rate, network.parameters().map(Vec::len));
        let mut best: Option<(f64, usize, Mlp)> = None;
        for epoch in 0..self.settings.epochs {
            let mut at = 0;
            for batch in self.order(teachers.len(), epoch).chunks(self.settings.batch) {
                let batch: Vec<&Pair> = batch.iter().map(|&i| teachers[i]).collect();
                let mut gradients = self.gradients(&network, &batch, epoch, at)?;
                self.shake(&mut gradients, batch.len(), epoch, at);
                adam.step(network.parameters_mut(), &gradients);
                at += batch.len();
            }
            // Without dropout, whose state is part of no network: it is asked for where a network learns.
            let error = self.error(&network, validating);
            if error.is_finite() && best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, epoch, network.clone()));
            }
            after(Epoch { head: self.head, epoch, error })?;
        }
        let (_, epoch, network) = best.ok_or_else(|| {
            Error::numerical("the surrogate diverged: no epoch has a finite error")
                .option("learning_rate")
                .advice("give `learning_rate` a smaller number")
        })?;
        Ok((network, epoch))
    }

    /// The pairs of an epoch in the order in which it sees them.
    fn order(&self, pairs: usize, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..pairs).collect();
        if pairs > self.settings.batch {
            let mut uniform = uniforms(self.place.key(ORDER + self.head as u32, epoch as u32));
            for i in (1..pairs).rev() {
                order.swap(i, ((uniform.draw() * (i + 1) as f64) as usize).min(i));
            }
        }
        order
    }

    /// Mean squared error, of standardised answers.
    fn error(&self, network: &Mlp, pairs: &[Pair]) -> f64 {
        let map = composed(network);
        let off = |pair: &Pair| map.apply(&pair.embedding)[0] - self.standard.of_answer(pair.answer);
        pairs.iter().map(|pair| off(pair).powi(2)).sum::<f64>() / pairs.len() as f64
    }

    /// Of the mean squared error of a batch, with dropout; `at` pairs of the epoch were before it.
    fn gradients(&self, network: &Mlp, batch: &[&Pair], epoch: usize, at: usize) -> Result<Vec<Vec<f32>>> {
        let (backend, n) = (self.backend, batch.len());
        let tape = Tape::new(backend);
        let layers = network.upload(&tape, true)?;
        let values: Vec<f32> = batch.iter().flat_map(|pair| pair.embedding.iter().copied()).collect();
        let x: Var = backend.upload(Shape::rows(n, values.len() / n), HostSlice::F32(&values))?.into();
        let y = layers.forward(&tape, &x, |layer, h| match DROPOUT.get(layer) {
            Some(&share) => {
                let key = self.place.key(LEFT_OUT + 8 * self.head as u32 + layer as u32, epoch as u32);
                let mask = dropout(&key, share, at * h.shape().c, h.shape().len());
                let row = Shape::vector(mask.len());
                let mask = backend.upload(row, HostSlice::F32(&mask))?;
                // As one row of channels, each element has a factor of its own.
                Ok(tape.channel_affine(&h.reshape(row), &mask, None)?.reshape(h.shape()))
            }
            None => Ok(h),
        })?;
        let answers: Vec<f32> =
            batch.iter().map(|pair| self.standard.of_answer(pair.answer) as f32).collect();
        let answers = backend.upload(Shape::rows(n, 1), HostSlice::F32(&answers))?;
        let factor = 2.0 / n as f32;
        let seed = backend.axpby(factor, y.value(), -factor, &answers)?;
        let host = |g: Option<_>| g.map_or(Ok(Vec::new()), |g| backend.download(&g));
        tape.gradients(&y, seed, &layers.leaves())?.into_iter().map(host).collect()
    }

    /// Adds the noise of Langevin dynamics.
    fn shake(&self, gradients: &mut [Vec<f32>], batch: usize, epoch: usize, at: usize) {
        let Settings { langevin, rate, .. } = self.settings;
        if *langevin == 0.0 {
            return;
        }
        let deviation = (langevin * (rate / batch as f64).sqrt()) as f32;
        let key = self.place.key(LANGEVIN + self.head as u32, epoch as u32);
        let parameters: usize = gradients.iter().map(Vec::len).sum();
        // Batches of an epoch are told apart by the first of their pairs.
        let mut from = at / self.settings.batch * parameters;
        for gradient in gradients {
            let mut noise = vec![0.0; gradient.len()];
            fill_normals_at(&key, from, &mut noise);
            gradient.iter_mut().zip(&noise).for_each(|(g, z)| *g += deviation * z);
            from += gradient.len();
        }
    }
}

/// Numbers of a block of Philox here: 16 bits each.
const PER_BLOCK: usize = 8;

/// Factors of dropout, elements `from .. from + n` of a stream: 0 for a `share` of them, and `1 / (1 -
/// share)` for the others. The share is rounded to 16 bits.
fn dropout(key: &Key, share: f64, from: usize, n: usize) -> Vec<f32> {
    let (below, factor) = ((share * 65536.0).round() as u16, (1.0 / (1.0 - share)) as f32);
    let seed = [key.seed as u32, (key.seed >> 32) as u32];
    let mut factors = Vec::with_capacity(n + 2 * PER_BLOCK);
    let first = from / PER_BLOCK;
    for block in first..(from + n).div_ceil(PER_BLOCK) {
        let words = philox(key.counter(block as u32), seed);
        let halves = words.into_iter().flat_map(|word| [word as u16, (word >> 16) as u16]);
        factors.extend(halves.map(|bits| if bits < below { 0.0 } else { factor }));
    }
    factors.drain(..from - first * PER_BLOCK);
    factors.truncate(n);
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fifth is left out and the others make up for it, the same whichever part of the stream is asked for.
    /// 100000 draws: a standard error of 0.0013.
    #[test]
    fn dropout_keeps_the_mean() {
        let key = Place { seed: 3, round: 1 }.key(LEFT_OUT, 7);
        let all = dropout(&key, 0.2, 0, 100_000);
        assert!(all.iter().all(|f| *f == 0.0 || *f == 1.25));
        let mean = all.iter().map(|f| f64::from(*f)).sum::<f64>() / all.len() as f64;
        println!("mean {mean:.4}");
        assert!((mean - 1.0).abs() < 0.008, "{mean}");
        assert_eq!(dropout(&key, 0.2, 1003, 50), all[1003..1053]);
    }

    /// Dropout acts in every epoch, also behind a validation, which itself has none: of one pair the weights
    /// of units that an epoch's mask leaves out have no gradient, and all others have one. (The authors'
    /// program leaves it out from the first validation on: docs/spec.md 8.6.)
    #[test]
    fn dropout_acts_in_every_epoch() {
        let backend = crate::cpu::Cpu::new();
        let settings = Settings::new(Optimism::Greedy);
        let standard = Standard { mean: 0.0, deviation: 1.0 };
        let place = Place { seed: 3, round: 2 };
        let learner = Learner { settings: &settings, backend: &backend, standard, place, head: 0 };
        let network = first_network(8, 3, 0);
        let pair = Pair { embedding: vec![0.5; 8], answer: 40.0 };
        let validated = learner.error(&network, std::slice::from_ref(&pair));
        let mut masks = Vec::new();
        for epoch in 0..4 {
            assert_eq!(learner.error(&network, std::slice::from_ref(&pair)), validated, "no dropout");
            let gradients = learner.gradients(&network, &[&pair], epoch, 0).expect("gradients");
            let mask = dropout(&place.key(LEFT_OUT, epoch as u32), DROPOUT[0], 0, HIDDEN[0]);
            let of_unit = gradients[0].chunks(8).map(|row| row.iter().any(|g| *g != 0.0));
            assert!(of_unit.eq(mask.iter().map(|factor| *factor > 0.0)), "epoch {epoch}");
            masks.push(mask);
        }
        masks.dedup();
        assert_eq!(masks.len(), 4, "a mask of its own for each epoch");
    }
}
