//! Diffusion models in closed form: the law of the data is known, and with it the noise a perfect network
//! would predict, the reward and its gradient. The sampler runs them like any other target, on the real
//! backend.

#![allow(dead_code)]

use std::sync::Mutex;

use das_cuda::backend::ParticleId;
use das_cuda::ddim::{Schedule, Step};
use das_cuda::engine::EngineBackend;
use das_cuda::error::Result;
use das_cuda::sampler::{Evaluation, FinalScores, Need, Scores, Target};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use das_cuda::toy::Toy;
use rayon::prelude::*;

/// What a perfect model says of one state of `D` numbers.
#[derive(Clone, Copy, Debug)]
pub struct Seen<const D: usize> {
    pub x0: [f64; D],
    pub eps: [f64; D],
    pub reward: f64,
    pub grad: [f64; D],
}

/// A law of the data with a reward.
pub trait Law<const D: usize>: Send + Sync {
    fn evaluate(&self, x: [f64; D], step: &Step) -> Seen<D>;
    /// Of a final state.
    fn reward(&self, x: [f64; D]) -> f64;
}

/// Spoils what is seen of a particle: (step's timestep or 0 at the end, particle, what is seen).
pub type Spoil<'a, const D: usize> = Box<dyn Fn(i64, ParticleId, &mut Seen<D>) + Send + Sync + 'a>;

/// What stands in for the correction of the noise by classifier-free guidance.
pub fn correction<const D: usize>(seen: &Seen<D>) -> [f64; D] {
    std::array::from_fn(|i| 0.5 * (seen.eps[i] + seen.x0[i]))
}

/// A law as a target.
pub struct Closed<'a, const D: usize, L> {
    pub backend: &'a dyn EngineBackend,
    pub law: L,
    pub spoil: Option<Spoil<'a, D>>,
    pub evaluations: Mutex<Vec<(i64, Need)>>,
    pub without_gradient: Option<String>,
    pub without_correction: Option<String>,
}

impl<'a, const D: usize, L: Law<D>> Closed<'a, D, L> {
    pub fn new(backend: &'a dyn EngineBackend, law: L) -> Self {
        Closed {
            backend,
            law,
            spoil: None,
            evaluations: Mutex::new(Vec::new()),
            without_gradient: None,
            without_correction: None,
        }
    }

    pub fn states(&self, x: &Tensor) -> Result<Vec<[f64; D]>> {
        let host = self.backend.download(x)?;
        Ok(host.chunks_exact(D).map(|x| std::array::from_fn(|i| f64::from(x[i]))).collect())
    }

    fn upload<'s>(&self, rows: impl Iterator<Item = &'s [f64; D]>) -> Result<Tensor> {
        let flat: Vec<f32> = rows.flatten().map(|&v| v as f32).collect();
        self.backend.upload(Shape::rows(flat.len() / D, D), HostSlice::F32(&flat))
    }
}

impl<const D: usize, L: Law<D>> Target for Closed<'_, D, L> {
    fn latent(&self) -> Shape {
        Shape::vector(D)
    }

    fn evaluate(&self, x: &Tensor, ids: &[ParticleId], step: &Step, need: Need) -> Result<Evaluation> {
        self.evaluations.lock().unwrap().push((step.t, need));
        let states = self.states(x)?;
        let law = &self.law;
        let mut seen: Vec<Seen<D>> = states.par_iter().map(|&x| law.evaluate(x, step)).collect();
        if let Some(spoil) = &self.spoil {
            seen.iter_mut().zip(ids).for_each(|(seen, &id)| spoil(step.t, id, seen));
        }
        Ok(Evaluation {
            eps: self.upload(seen.iter().map(|s| &s.eps))?,
            x0: self.upload(seen.iter().map(|s| &s.x0))?,
            reward: (need >= Need::Reward).then(|| Scores::Host(seen.iter().map(|s| s.reward).collect())),
            grad: match need {
                Need::Gradient | Need::Correction => Some(self.upload(seen.iter().map(|s| &s.grad))?),
                Need::Noise | Need::Reward => None,
            },
            // Any vector that differs from state to state will do: half of the noise and of the clean state.
            correction: match need {
                Need::Correction => {
                    Some(self.upload(seen.iter().map(correction).collect::<Vec<_>>().iter())?)
                }
                _ => None,
            },
        })
    }

    fn finish(&self, x: &Tensor, ids: &[ParticleId]) -> Result<FinalScores> {
        let states = self.states(x)?;
        let zero = [0.0; D];
        let end = |x: [f64; D]| Seen { x0: x, eps: zero, reward: self.law.reward(x), grad: zero };
        let mut seen: Vec<Seen<D>> = states.into_iter().map(end).collect();
        if let Some(spoil) = &self.spoil {
            seen.iter_mut().zip(ids).for_each(|(seen, &id)| spoil(0, id, seen));
        }
        let reward: Vec<f64> = seen.iter().map(|s| s.reward).collect();
        let parts = vec![("closed form".to_string(), reward.clone())];
        Ok(FinalScores { images: x.clone(), reward, parts })
    }

    fn without_gradient(&self) -> Option<String> {
        self.without_gradient.clone()
    }

    fn without_correction(&self) -> Option<String> {
        self.without_correction.clone()
    }
}

/// `N(0, variance)` data and the reward `slope x`; its look at a state is the reward of the predicted clean
/// state.
#[derive(Clone, Copy, Debug)]
pub struct Gaussian {
    pub variance: f64,
    pub slope: f64,
}

impl Gaussian {
    /// d x0 / d x and d eps / d x.
    fn slopes(&self, alpha_bar: f64) -> (f64, f64) {
        let total = alpha_bar * self.variance + 1.0 - alpha_bar;
        (alpha_bar.sqrt() * self.variance / total, (1.0 - alpha_bar).sqrt() / total)
    }

    /// d (mean of the next state) / d x.
    pub fn transition(&self, step: &Step) -> f64 {
        let (x0, eps) = self.slopes(step.alpha_bar);
        step.mean.apply(x0, eps)
    }

    /// Variance of the plain chain's end.
    pub fn end(&self, schedule: &Schedule) -> f64 {
        schedule.steps.iter().fold(1.0, |v, step| self.transition(step).powi(2) * v + step.variance)
    }
}

impl Law<1> for Gaussian {
    fn evaluate(&self, [x]: [f64; 1], step: &Step) -> Seen<1> {
        let (x0, eps) = self.slopes(step.alpha_bar);
        Seen { x0: [x0 * x], eps: [eps * x], reward: self.slope * x0 * x, grad: [self.slope * x0] }
    }
    fn reward(&self, [x]: [f64; 1]) -> f64 {
        self.slope * x
    }
}

/// The same data, with the exact twist: the expected reward at the end of the chain, and the gradient that
/// makes the proposal optimal, which is that at the next state.
pub struct Lookahead {
    pub law: Gaussian,
    pub schedule: Schedule,
}

impl Law<1> for Lookahead {
    fn evaluate(&self, x: [f64; 1], step: &Step) -> Seen<1> {
        let later = self.schedule.steps.iter().filter(|s| s.t < step.t);
        let next: f64 = self.law.slope * later.map(|s| self.law.transition(s)).product::<f64>();
        let reward = next * self.law.transition(step) * x[0];
        Seen { reward, grad: [next], ..self.law.evaluate(x, step) }
    }
    fn reward(&self, x: [f64; 1]) -> f64 {
        self.law.reward(x)
    }
}

/// The paper's first toy (docs/spec.md 9), as the library has it.
#[derive(Clone, Debug)]
pub struct Grid(Toy);

impl Grid {
    pub fn new() -> Grid {
        Grid(Toy::gmm1())
    }
}

impl Law<2> for Grid {
    fn evaluate(&self, x: [f64; 2], step: &Step) -> Seen<2> {
        let of = |p: [f64; 3]| [p[0], p[1]];
        let seen = self.0.law.see(&self.0.reward, &[x[0], x[1], 0.0], step.alpha_bar, &mut Vec::new());
        Seen { x0: of(seen.x0), eps: of(seen.eps), reward: seen.reward, grad: of(seen.grad) }
    }
    fn reward(&self, x: [f64; 2]) -> f64 {
        self.0.reward.value(&[x[0], x[1], 0.0])
    }
}

/// Mean and standard error of independent values.
pub fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// Whether two independent estimates differ by less than five standard errors (false alarm: 6e-7).
pub fn agree(a: (f64, f64), b: (f64, f64)) -> bool {
    (a.0 - b.0).abs() < 5.0 * a.1.hypot(b.1)
}
