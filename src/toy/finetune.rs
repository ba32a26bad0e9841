//! Baselines that train the network on the reward (docs/spec.md 9): backpropagation through the chain, with
//! and without the score of the target (DDS), and a policy gradient (DDPO).

use rayon::prelude::*;

use super::closed_form::points_of;
use super::network::{Layers, time_of, with_time};
use super::{HIDDEN, Network, Toy};
use crate::backend::Backend;
use crate::ddim::Schedule;
use crate::error::Result;
use crate::mlp::Adam;
use crate::noise::{Key, Purpose, fill_normals};
use crate::smc::math::exp;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// What is trained, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Policy gradient on the trajectories' log-probabilities with the divergence of every step in the
    /// advantage (DDPO, Black et al. 2024, with KL).
    Ddpo,
    /// Backpropagation of the reward and the divergence through the chain.
    Backprop,
    /// Denoising diffusion sampler (Vargas, Grathwohl, Doucet 2023): the same loss for `eps(x, t) + c(t) grad
    /// log p_tar(x)`, from a network that has learned nothing.
    Dds,
    /// The same from the trained network.
    DdsTrained,
}

/// Trajectories of an epoch.
const SAMPLES: usize = 256;
/// A ratio of probabilities beyond 1 by more than this teaches nothing more.
const RATIO: f64 = 1e-4;
/// The first stream of the scale `c(t)`, and those of states and noise.
const SCALE: u32 = 8;
const STATES: u32 = 32;

impl Baseline {
    /// All of them.
    pub const ALL: [Baseline; 4] = [Baseline::Ddpo, Baseline::Backprop, Baseline::Dds, Baseline::DdsTrained];

    /// As typed.
    pub const fn name(self) -> &'static str {
        match self {
            Baseline::Ddpo => "ddpo",
            Baseline::Backprop => "backprop",
            Baseline::Dds => "dds",
            Baseline::DdsTrained => "dds-trained",
        }
    }

    /// The reference's number of epochs for this toy.
    pub fn epochs(self, toy: &Toy) -> usize {
        match self {
            Baseline::Ddpo => 1000,
            Baseline::Backprop if toy.dimensions() == 3 => 300,
            Baseline::Backprop => 500,
            Baseline::Dds => 300,
            Baseline::DdsTrained => 200,
        }
    }

    fn steers(self) -> bool {
        matches!(self, Baseline::Dds | Baseline::DdsTrained)
    }
}

/// What multiplies the score of the target, and its alpha.
#[derive(Clone, Debug, PartialEq)]
pub struct Steering {
    /// `c(t)` from `t / 1000`.
    pub scale: Network,
    /// Of the target `p(x) exp(r(x) / alpha)`.
    pub alpha: f64,
}

impl Steering {
    /// 1 -> 64 -> 64 -> 1; the last layer begins with weights of Xavier's normal law at gain 0.01 and bias
    /// -0.1.
    fn new(alpha: f64, seed: u64) -> Steering {
        let mut scale = Network::of([1, HIDDEN, HIDDEN, 1], seed, SCALE);
        if let Some((weight, bias)) = scale.0.layers.last_mut() {
            let key = Key { seed, prompt: SCALE + 3, particle: 0, step: 0, purpose: Purpose::Fit };
            fill_normals(&key, weight);
            let deviation = 0.01 * (2.0 / (HIDDEN + 1) as f64).sqrt();
            weight.iter_mut().for_each(|w| *w = (deviation * f64::from(*w)) as f32);
            bias.fill(-0.1);
        }
        Steering { scale, alpha }
    }

    /// `eps + c(t) grad log p_tar(x)`; no gradient flows through the score of the target.
    ///
    /// # Errors
    /// From the device.
    pub fn add(&self, tape: &Tape<'_>, scale: &Layers, toy: &Toy, x: &Var, eps: &Var, t: i64) -> Result<Var> {
        let (backend, d) = (tape.backend(), toy.dimensions());
        let put = |n: usize, values: &[f32]| -> Result<Var> {
            Ok(backend.upload(Shape::rows(n, 1), HostSlice::F32(values))?.into())
        };
        let points = points_of(&backend.download(x.value())?, d);
        let score: Vec<f32> = points
            .par_iter()
            .map_init(Vec::new, |room, x| {
                let (of_data, of_reward) = (toy.law.score(x, room), toy.reward.gradient(x));
                std::array::from_fn::<f64, 3, _>(|i| of_data[i] + of_reward[i] / self.alpha)
            })
            .collect::<Vec<_>>()
            .iter()
            .flat_map(|score| score[..d].iter().map(|v| *v as f32))
            .collect();
        // The scale, one number, is the weight of a linear layer of one input and one output.
        let c = scale.forward(tape, &put(1, &[time_of(t)])?)?;
        let steered = tape.learned_linear(&put(score.len(), &score)?, &c, &put(1, &[0.0])?)?;
        tape.add(eps, &steered.reshape(eps.shape()))
    }
}

/// What a baseline has made.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuned {
    /// What predicts the noise.
    pub network: Network,
    /// Of DDS.
    pub steering: Option<Steering>,
}

impl Tuned {
    fn leaves<'v>(layers: &'v Layers, scale: Option<&'v Layers>) -> Vec<&'v Var> {
        layers.leaves().into_iter().chain(scale.into_iter().flat_map(Layers::leaves)).collect()
    }

    fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        let scale = self.steering.as_mut().map(|steering| &mut steering.scale);
        self.network.parameters_mut().chain(scale.into_iter().flat_map(Network::parameters_mut))
    }
}

/// A transition as the tape needs it: `x' = signal x + noise eps + sqrt(variance) z`.
#[derive(Clone, Copy)]
struct Move {
    t: i64,
    signal: f64,
    noise: f64,
    variance: f64,
}

/// A baseline on its way.
pub struct Finetune<'a> {
    /// Trains.
    pub backend: &'a dyn Backend,
    /// Reward and law.
    pub toy: &'a Toy,
    /// The chain.
    pub schedule: &'a Schedule,
    /// The trained network: the model that the divergence is from.
    pub model: &'a Network,
    /// Weight of the divergence.
    pub alpha: f64,
    /// Keys all random numbers.
    pub seed: u64,
}

impl Finetune<'_> {
    /// Trains for so many epochs; `after` is told each epoch and its mean reward, and may stop it.
    ///
    /// # Errors
    /// From the device; of `after`.
    pub fn run(
        &self,
        baseline: Baseline,
        epochs: usize,
        mut after: impl FnMut(usize, f64) -> Result<()>,
    ) -> Result<Tuned> {
        let d = self.toy.dimensions();
        let start = if baseline == Baseline::Dds { &Network::new(d, self.seed) } else { self.model };
        let steering = baseline.steers().then(|| Steering::new(self.alpha, self.seed));
        let mut tuned = Tuned { network: start.clone(), steering };
        let rate = match baseline {
            Baseline::Ddpo if d == 3 => 3e-5,
            Baseline::Ddpo => 1e-4,
            _ => 3e-5,
        };
        let sizes: Vec<usize> = tuned.parameters_mut().map(|p| p.len()).collect();
        let mut adam = Adam::new(rate, sizes.into_iter());
        for epoch in 0..epochs {
            let reward = match baseline {
                Baseline::Ddpo => self.policy_epoch(&mut tuned, &mut adam, epoch as u32)?,
                _ => {
                    let (reward, mut gradients) = self.chain_gradient(&tuned, epoch as u32)?;
                    shorten(&mut gradients, 5.0);
                    adam.step(tuned.parameters_mut(), &gradients);
                    reward
                }
            };
            after(epoch, reward)?;
        }
        Ok(tuned)
    }

    fn moves(&self) -> Vec<Move> {
        let of = |step: &crate::ddim::Step| Move {
            t: step.t,
            signal: step.mean.first * step.x0.first,
            noise: step.mean.first * step.x0.second + step.mean.second,
            variance: step.variance,
        };
        self.schedule.steps.iter().map(of).collect()
    }

    /// Noise of a step of an epoch; step 0 is the first state.
    fn normals(&self, epoch: u32, step: usize) -> Vec<f32> {
        let key = Key {
            seed: self.seed,
            prompt: STATES,
            particle: epoch,
            step: step as u32,
            purpose: Purpose::Fit,
        };
        let mut z = vec![0.0; SAMPLES * self.toy.dimensions()];
        fill_normals(&key, &mut z);
        z
    }

    fn put(&self, values: &[f32]) -> Result<Tensor> {
        let d = self.toy.dimensions();
        self.backend.upload(Shape::rows(values.len() / d, d), HostSlice::F32(values))
    }

    /// Mean reward at the end of the chains, and the gradient of the loss
    ///
    /// ```text
    /// -mean r(x_K) + alpha mean sum_k |mu_k - mu_pre,k|^2 / (2 v_k)
    /// ```
    ///
    /// with respect to all parameters, through the whole chain; `mu_pre` is the mean by the model from the
    /// same state. Steps without noise have no divergence.
    fn chain_gradient(&self, tuned: &Tuned, epoch: u32) -> Result<(f64, Vec<Vec<f32>>)> {
        let (tape, d) = (Tape::new(self.backend), self.toy.dimensions());
        let layers = tuned.network.upload(&tape, true)?;
        let steering = tuned.steering.as_ref();
        let scale = steering.map(|steering| steering.scale.upload(&tape, true)).transpose()?;
        let model = self.model.upload(&tape, false)?;
        let mut x: Var = self.put(&self.normals(epoch, 0))?.into();
        // All that the loss is made of, side by side, and its cotangent.
        let (mut all, mut seeds): (Option<Var>, Vec<Vec<f32>>) = (None, Vec::new());
        for (k, step) in self.moves().into_iter().enumerate() {
            let input = with_time(&tape, &x, step.t)?;
            let mut eps = layers.forward(&tape, &input)?;
            if let (Some(steering), Some(scale)) = (steering, &scale) {
                eps = steering.add(&tape, scale, self.toy, &x, &eps, step.t)?;
            }
            if step.variance > 0.0 {
                let off = tape.axpby(1.0, &eps, -1.0, &model.forward(&tape, &input)?)?;
                let weight = self.alpha * step.noise * step.noise / (step.variance * SAMPLES as f64);
                let values = self.backend.download(off.value())?;
                seeds.push(values.iter().map(|v| (weight * f64::from(*v)) as f32).collect());
                all = Some(match all {
                    None => off,
                    Some(all) => tape.concat(&all, &off)?,
                });
            }
            x = tape.axpby(step.signal as f32, &x, step.noise as f32, &eps)?;
            if step.variance > 0.0 {
                let z: Var = self.put(&self.normals(epoch, k + 1))?.into();
                x = tape.axpby(1.0, &x, step.variance.sqrt() as f32, &z)?;
            }
        }
        let ends = points_of(&self.backend.download(x.value())?, d);
        let reward = ends.iter().map(|x| self.toy.reward.value(x)).sum::<f64>() / SAMPLES as f64;
        let towards = ends.iter().flat_map(|x| self.toy.reward.gradient(x).into_iter().take(d));
        seeds.push(towards.map(|g| (-g / SAMPLES as f64) as f32).collect());
        let y = match all {
            None => x,
            Some(all) => tape.concat(&all, &x)?,
        };
        let mut seed = vec![0.0; y.shape().len()];
        for (row, out) in seed.chunks_exact_mut(d * seeds.len()).enumerate() {
            for (part, out) in seeds.iter().zip(out.chunks_exact_mut(d)) {
                out.copy_from_slice(&part[row * d..][..d]);
            }
        }
        let seed = self.backend.upload(y.shape(), HostSlice::F32(&seed))?;
        let gradients = tape.gradients(&y, seed, &Tuned::leaves(&layers, scale.as_ref()))?;
        Ok((reward, self.host(gradients)?))
    }

    fn host(&self, gradients: Vec<Option<Tensor>>) -> Result<Vec<Vec<f32>>> {
        let one = |g: Option<Tensor>| g.map_or(Ok(Vec::new()), |g| self.backend.download(&g));
        gradients.into_iter().map(one).collect()
    }

    /// One epoch of the policy gradient: trajectories by the network as it is, and a step of Adam for every
    /// transition with noise, on the clipped ratio of its probability now and then (PPO). The advantage of a
    /// transition is the standardised reward of its trajectory minus alpha times its divergence from the
    /// model; log-probabilities are sums over coordinates. (The reference adds the divergence, and averages
    /// over coordinates: docs/spec.md 5.35.) Returns the mean reward.
    fn policy_epoch(&self, tuned: &mut Tuned, adam: &mut Adam, epoch: u32) -> Result<f64> {
        struct Taken {
            step: Move,
            from: Vec<f32>,
            mean: Vec<f32>,
            to: Vec<f32>,
            divergence: Vec<f64>,
        }
        let d = self.toy.dimensions();
        let mut x = self.normals(epoch, 0);
        let mut taken = Vec::new();
        for (k, step) in self.moves().into_iter().enumerate() {
            let tape = Tape::off(self.backend);
            let state: Var = self.put(&x)?.into();
            let input = with_time(&tape, &state, step.t)?;
            let of = |network: &Network| -> Result<Vec<f32>> {
                self.backend.download(network.upload(&tape, false)?.forward(&tape, &input)?.value())
            };
            let (own, model) = (of(&tuned.network)?, of(self.model)?);
            let mean = means(&x, &own, step);
            let mut to = mean.clone();
            if step.variance > 0.0 {
                let sigma = step.variance.sqrt() as f32;
                to.iter_mut().zip(self.normals(epoch, k + 1)).for_each(|(x, z)| *x += sigma * z);
                let squares = own.iter().zip(&model).map(|(a, b)| f64::from(a - b) * f64::from(a - b));
                let squares: Vec<f64> = squares.collect();
                let factor = step.noise * step.noise / (2.0 * step.variance);
                let divergence = squares.chunks_exact(d).map(|s| factor * s.iter().sum::<f64>()).collect();
                taken.push(Taken { step, from: x, mean, to: to.clone(), divergence });
            }
            x = to;
        }
        let rewards: Vec<f64> = points_of(&x, d).iter().map(|x| self.toy.reward.value(x)).collect();
        let n = SAMPLES as f64;
        let mean = rewards.iter().sum::<f64>() / n;
        let deviation = (rewards.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>() / (n - 1.0)).sqrt();
        for Taken { step, from, mean: then, to, divergence } in taken {
            let tape = Tape::new(self.backend);
            let layers = tuned.network.upload(&tape, true)?;
            let state: Var = self.put(&from)?.into();
            let eps = layers.forward(&tape, &with_time(&tape, &state, step.t)?)?;
            let now = means(&from, &self.backend.download(eps.value())?, step);
            let mut seed = vec![0.0; now.len()];
            for i in 0..SAMPLES {
                let row = i * d..(i + 1) * d;
                let (now, then, to) = (&now[row.clone()], &then[row.clone()], &to[row.clone()]);
                let advantage = (rewards[i] - mean) / (deviation + 1e-8) - self.alpha * divergence[i];
                let square = |mean: &[f32]| {
                    to.iter().zip(mean).map(|(x, m)| f64::from(x - m) * f64::from(x - m)).sum::<f64>()
                };
                let change = (square(then) - square(now)) / (2.0 * step.variance);
                let ratio = if change > 0.0 { 1.0 / exp(-change) } else { exp(change) };
                // Beyond the clip in the direction of its advantage a transition has no gradient.
                if (advantage > 0.0 && ratio > 1.0 + RATIO) || (advantage < 0.0 && ratio < 1.0 - RATIO) {
                    continue;
                }
                let factor = -advantage * ratio * step.noise / (step.variance * n);
                for ((seed, x), m) in seed[row].iter_mut().zip(to).zip(now) {
                    *seed = (factor * f64::from(x - m)) as f32;
                }
            }
            let seed = self.backend.upload(eps.shape(), HostSlice::F32(&seed))?;
            let mut gradients = self.host(tape.gradients(&eps, seed, &layers.leaves())?)?;
            shorten(&mut gradients, 1.0);
            adam.step(tuned.network.parameters_mut(), &gradients);
        }
        Ok(mean)
    }
}

/// `signal x + noise eps`.
fn means(x: &[f32], eps: &[f32], step: Move) -> Vec<f32> {
    let (signal, noise) = (step.signal as f32, step.noise as f32);
    x.iter().zip(eps).map(|(x, e)| signal * x + noise * e).collect()
}

/// Scales the gradients of all parameters together down to a Euclidean length of at most `most`.
fn shorten(gradients: &mut [Vec<f32>], most: f64) {
    let length = gradients.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
    if length > most {
        let factor = (most / length) as f32;
        gradients.iter_mut().flatten().for_each(|g| *g *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;
    use crate::toy::chain;

    fn loss(of: &Finetune<'_>, tuned: &Tuned, epoch: u32) -> f64 {
        // The same chain, in f64 but for the network.
        let tape = Tape::off(of.backend);
        let (layers, model) =
            (tuned.network.upload(&tape, false).unwrap(), of.model.upload(&tape, false).unwrap());
        let steering = tuned.steering.as_ref().map(|s| (s, s.scale.upload(&tape, false).unwrap()));
        let mut x: Vec<f64> = of.normals(epoch, 0).iter().map(|v| f64::from(*v)).collect();
        let mut total = 0.0;
        for (k, step) in of.moves().into_iter().enumerate() {
            let flat: Vec<f32> = x.iter().map(|v| *v as f32).collect();
            let state: Var = of.put(&flat).unwrap().into();
            let input = with_time(&tape, &state, step.t).unwrap();
            let mut eps = layers.forward(&tape, &input).unwrap();
            if let Some((s, scale)) = &steering {
                eps = s.add(&tape, scale, of.toy, &state, &eps, step.t).unwrap();
            }
            let eps = of.backend.download(eps.value()).unwrap();
            let other = of.backend.download(model.forward(&tape, &input).unwrap().value()).unwrap();
            let z = of.normals(epoch, k + 1);
            for i in 0..x.len() {
                let off = f64::from(eps[i]) - f64::from(other[i]);
                if step.variance > 0.0 {
                    total += of.alpha * (step.noise * off).powi(2) / (2.0 * step.variance * SAMPLES as f64);
                }
                x[i] = step.signal * x[i]
                    + step.noise * f64::from(eps[i])
                    + step.variance.sqrt() * f64::from(z[i]);
            }
        }
        let ends = x.chunks_exact(2).map(|x| of.toy.reward.value(&[x[0], x[1], 0.0])).sum::<f64>();
        total - ends / SAMPLES as f64
    }

    /// Gradients through the chain against difference quotients of the loss along random directions, for
    /// backpropagation and (where no gradient flows through the score, so only along the scale's last bias at
    /// a chain of one step) DDS. In f32 with a chain of twenty steps; measured: 2e-4 of the
    /// slope, and 1e-3 where it is 0.015.
    #[test]
    fn gradients_through_the_chain_are_those_of_differences() {
        let (cpu, toy) = (Cpu::new(), Toy::gmm1());
        let model = Network::new(2, 1);
        let whole = chain().expect("a chain");
        for (steps, steers) in [(20, false), (1, true)] {
            let schedule = Schedule { steps: whole.steps[60..60 + steps].to_vec() };
            let of = Finetune {
                backend: &cpu,
                toy: &toy,
                schedule: &schedule,
                model: &model,
                alpha: 1.0,
                seed: 2,
            };
            let steering = steers.then(|| Steering::new(1.0, 2));
            let mut tuned = Tuned { network: Network::new(2, 5), steering };
            let gradients = of.chain_gradient(&tuned, 0).expect("a gradient").1;
            assert_eq!(gradients.len(), if steers { 12 } else { 6 });
            let sizes: Vec<usize> = tuned.parameters_mut().map(|p| p.len()).collect();
            assert_eq!(gradients.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
            // Along the gradient itself, of each tensor on its own.
            for (tensor, gradient) in gradients.iter().enumerate() {
                let length = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                if length == 0.0 {
                    continue;
                }
                let h = 2e-3;
                let moved = |by: f64| {
                    let mut there = tuned.clone();
                    let parameters = there.parameters_mut().nth(tensor).expect("a tensor");
                    for (p, g) in parameters.iter_mut().zip(gradient) {
                        *p += (by * f64::from(*g) / length) as f32;
                    }
                    loss(&of, &there, 0)
                };
                let slope = (moved(h) - moved(-h)) / (2.0 * h);
                println!("steps {steps}, tensor {tensor}: {slope:.5} and {length:.5}");
                assert!((slope - length).abs() < 0.02 * length + 1e-3, "tensor {tensor}: {slope} {length}");
            }
        }
    }

    /// A few epochs of each baseline change the network, by what the seed says alone.
    #[test]
    fn baselines_depend_on_the_seed_alone() {
        let (cpu, toy, schedule) = (Cpu::new(), Toy::gmm1(), chain().expect("a chain"));
        let model = Network::new(2, 1);
        let tune = |baseline, seed| {
            let of =
                Finetune { backend: &cpu, toy: &toy, schedule: &schedule, model: &model, alpha: 0.01, seed };
            let mut rewards = Vec::new();
            let after = |_, reward| {
                rewards.push(reward);
                Ok(())
            };
            let tuned = of.run(baseline, 4, after).expect("tuned");
            (tuned, rewards)
        };
        for baseline in Baseline::ALL {
            let (first, rewards) = tune(baseline, 3);
            println!("{}: {rewards:.3?}", baseline.name());
            assert_eq!((&first, &rewards), (&tune(baseline, 3).0, &rewards));
            assert_ne!(first, tune(baseline, 4).0);
            assert_eq!(first.steering.is_some(), baseline.steers());
            assert_ne!(first.network, model);
            assert!(rewards.iter().all(|r| r.is_finite()));
        }
    }
}
