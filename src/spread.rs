//! The particles of a run over several devices. Each device has a copy of the model and the rewards and
//! evaluates a share of the particles; the first, the home, has the latents, the weights and the random
//! numbers, and does everything else. Since an answer depends on its own particle alone, the shares decide
//! nothing beyond the rounding of a device, and on the CPU not a bit.
//!
//! At every step the latents travel out, and noise, clean latents and gradients back: 4 times a latent, for a
//! particle of SD 1.5 at 512 x 512 0.26 MB beside 8 10^12 operations of the UNet and its way back. Weights,
//! rewards and ancestors are a few bytes.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use crate::backend::{Backend, ParticleId};
use crate::ddim;
use crate::error::Result;
use crate::sampler::{Evaluation, FinalScores, Need, Scores, Target};
use crate::target::Diffusion;
use crate::tensor::{HostSlice, Shape, Tensor};

/// A target on one device or several.
pub struct Spread<'a> {
    home: Part<'a>,
    others: Vec<Part<'a>>,
}

/// A device with its copy of model and rewards.
pub struct Part<'a> {
    /// That [`Part::target`] computes on.
    pub backend: &'a dyn Backend,
    /// Of the same model, rewards and prompts on every device.
    pub target: Diffusion<'a>,
}

/// What a device answers of its share: tensors, which go home, and what is on the host.
type Answer<T> = (Vec<Tensor>, T);

/// Tensors on the way home.
type Travelling = Vec<(Shape, Vec<f32>)>;

impl<'a> Spread<'a> {
    /// Over the device of `home`, which the sampler computes on, and the `others`.
    pub fn new(home: Part<'a>, others: Vec<Part<'a>>) -> Spread<'a> {
        Spread { home, others }
    }

    /// As [`Diffusion::two_branches`].
    pub fn two_branches(&self) -> bool {
        self.home.target.two_branches()
    }

    /// As [`Diffusion::images`], at home.
    ///
    /// # Errors
    /// From the device.
    pub fn images(&self, latents: &Tensor) -> Result<Vec<Tensor>> {
        self.home.target.images(latents)
    }

    /// Does `f(device, latents, identities)` for every device's share of the states `x`, at the same time.
    /// Returns its tensors at home, each stacked over all shares in order, and the rest of each answer. Of
    /// several errors the first in the order of the states counts.
    fn on_shares<T: Send>(
        &self,
        x: &Tensor,
        ids: &[ParticleId],
        f: impl Fn(&Part<'_>, &Tensor, &[ParticleId]) -> Result<Answer<T>> + Sync,
    ) -> Result<(Vec<Tensor>, Vec<T>)> {
        let home = self.home.backend;
        let mut shares = shares(ids.len(), 1 + self.others.len()).into_iter();
        let own = shares.next().unwrap_or_default();
        let (values, shape) = (&home.download(x)?, x.shape());
        let f = &f;
        let (of_home, of_others) = thread::scope(|scope| {
            let outbound = self.others.iter().zip(shares).filter(|(_, share)| !share.is_empty());
            let others: Vec<_> = outbound
                .map(|(part, share)| {
                    scope.spawn(move || -> Result<(Travelling, T)> {
                        let values = &values[share.start * shape.sample()..share.end * shape.sample()];
                        let x = part.backend.upload(shape.with_n(share.len()), HostSlice::F32(values))?;
                        let (tensors, rest) = f(part, &x, &ids[share])?;
                        let values =
                            tensors.iter().map(|tensor| Ok((tensor.shape(), part.backend.download(tensor)?)));
                        Ok((values.collect::<Result<_>>()?, rest))
                    })
                })
                .collect();
            let slots: Vec<u32> = (0..own.len() as u32).collect();
            let of_home = home.gather(x, &slots).and_then(|x| f(&self.home, &x, &ids[own]));
            (of_home, others.into_iter().map(joined).collect::<Vec<_>>())
        });
        let (tensors, rest) = of_home?;
        let mut columns: Vec<Vec<Tensor>> = tensors.into_iter().map(|tensor| vec![tensor]).collect();
        let mut rests = vec![rest];
        for answer in of_others {
            let (tensors, rest) = answer?;
            for (column, (shape, values)) in columns.iter_mut().zip(tensors) {
                column.push(home.upload(shape, HostSlice::F32(&values))?);
            }
            rests.push(rest);
        }
        let stacked = columns.iter().map(|column| home.stack(&column.iter().collect::<Vec<_>>()));
        Ok((stacked.collect::<Result<_>>()?, rests))
    }
}

/// The end of a thread. One that panicked goes on to do so here.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// `count` states in order, as evenly as can be; the first shares are the larger ones.
fn shares(count: usize, devices: usize) -> Vec<Range<usize>> {
    let (each, more) = (count / devices, count % devices);
    let first = |device: usize| device * each + device.min(more);
    (0..devices).map(|device| first(device)..first(device + 1)).collect()
}

impl Target for Spread<'_> {
    fn latent(&self) -> Shape {
        self.home.target.latent()
    }

    fn evaluate(&self, x: &Tensor, ids: &[ParticleId], step: &ddim::Step, need: Need) -> Result<Evaluation> {
        if self.others.is_empty() {
            return self.home.target.evaluate(x, ids, step, need);
        }
        let (tensors, _) = self.on_shares(x, ids, |part, x, ids| {
            let Evaluation { eps, x0, reward, grad, correction } =
                part.target.evaluate(x, ids, step, need)?;
            let reward = match reward {
                Some(Scores::Device(scores)) => Some(scores),
                Some(Scores::Host(_)) => unreachable!("networks score on their device"),
                None => None,
            };
            Ok(([eps, x0].into_iter().chain(reward).chain(grad).chain(correction).collect(), ()))
        })?;
        let mut tensors = tensors.into_iter();
        let mut next = || tensors.next();
        let (Some(eps), Some(x0)) = (next(), next()) else { panic!("noise and clean latent at least") };
        Ok(Evaluation { eps, x0, reward: next().map(Scores::Device), grad: next(), correction: next() })
    }

    fn finish(&self, x: &Tensor, ids: &[ParticleId]) -> Result<FinalScores> {
        if self.others.is_empty() {
            return self.home.target.finish(x, ids);
        }
        let (mut tensors, rests) = self.on_shares(x, ids, |part, x, ids| {
            let FinalScores { images, reward, parts } = part.target.finish(x, ids)?;
            Ok((vec![images], (reward, parts)))
        })?;
        let mut rests = rests.into_iter();
        let (mut reward, mut parts) = rests.next().unwrap_or_default();
        for (more, others) in rests {
            reward.extend(more);
            parts.iter_mut().zip(others).for_each(|((_, all), (_, more))| all.extend(more));
        }
        Ok(FinalScores { images: tensors.swap_remove(0), reward, parts })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        for note in [&self.home].into_iter().chain(&self.others).flat_map(|part| part.target.notes()) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }

    fn without_gradient(&self) -> Option<String> {
        self.home.target.without_gradient()
    }

    fn without_correction(&self) -> Option<String> {
        self.home.target.without_correction()
    }
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn every_state_is_in_one_share() {
        for count in 0..20 {
            for devices in 1..6 {
                let shares = shares(count, devices);
                assert_eq!(shares.len(), devices);
                let all: Vec<usize> = shares.iter().cloned().flatten().collect();
                assert_eq!(all, Vec::from_iter(0..count), "{count} over {devices}");
                let sizes: Vec<usize> = shares.iter().map(ExactSizeIterator::len).collect();
                assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[0] - sizes[devices - 1] <= 1, "{sizes:?}");
            }
        }
    }
}
