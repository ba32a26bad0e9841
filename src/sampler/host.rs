//! Weighing on the host, by any backend's particle operations: each step is over before the next is queued.

use std::collections::VecDeque;

use super::{Compat, Options};
use crate::backend::{Advance, Backend, Particles, StepEngine, StepInput, StepReport};
use crate::error::Result;
use crate::noise::{Key, Purpose, uniforms};
use crate::smc::{self, Event, Population, Rules, Weighed};
use crate::tensor::Tensor;

/// See [`StepEngine`].
pub struct Host<'a> {
    backend: &'a dyn Backend,
    rules: Rules,
    alpha: f64,
    compat: Compat,
    seed: u64,
    prompts: Vec<u32>,
    particles: usize,
    populations: Vec<Population>,
    /// `log p - log m` of the last move of each slot.
    log_ratio: Vec<f64>,
    report: VecDeque<StepReport>,
}

/// One event of one prompt.
pub struct Weighing<'a> {
    pub rules: &'a Rules,
    pub event: Event,
    pub alpha: f64,
    /// These three key the uniforms.
    pub seed: u64,
    pub prompt: u32,
    pub step: u32,
}

impl Weighing<'_> {
    /// One log ratio and one plain reward per particle.
    pub fn weigh(&self, population: &Population, log_ratio: &[f64], rewards: &[f64]) -> Weighed {
        let (seed, prompt, step) = (self.seed, self.prompt, self.step);
        let mut stream = uniforms(Key { seed, prompt, particle: 0, step, purpose: Purpose::Resample });
        let potential: Vec<f64> = rewards.iter().map(|r| r / self.alpha).collect();
        smc::weigh(self.rules, population, self.event, log_ratio, &potential, &mut || stream.draw())
    }
}

impl<'a> Host<'a> {
    pub fn new(backend: &'a dyn Backend, options: &Options) -> Host<'a> {
        let (prompts, particles) = (options.prompts.clone(), options.particles);
        Host {
            backend,
            rules: options.rules,
            alpha: options.alpha,
            compat: options.compat,
            seed: options.seed,
            populations: vec![Population::new(particles); prompts.len()],
            log_ratio: vec![0.0; prompts.len() * particles],
            report: VecDeque::new(),
            prompts,
            particles,
        }
    }

    /// One event of all prompts.
    fn weigh(&mut self, event: Event, step: u32, rewards: &[f64]) -> Vec<Weighed> {
        let Host { rules, alpha, seed, particles, compat, .. } = self;
        let sides = self.populations.iter_mut().zip(&self.prompts);
        let slots = self.log_ratio.chunks_exact(*particles).zip(rewards.chunks_exact(*particles));
        sides
            .zip(slots)
            .map(|((population, &prompt), (log_ratio, rewards))| {
                let weighing = Weighing { rules, event, alpha: *alpha, seed: *seed, prompt, step };
                let mut weighed = weighing.weigh(population, log_ratio, rewards);
                if *compat == Compat::Reference {
                    weighed.psi.clone_from(&weighed.twist);
                }
                *population = population.after(&weighed);
                weighed
            })
            .collect()
    }

    /// `grad` with every row that is not finite made zero.
    fn finite_rows(&self, grad: &Tensor, norms: &[f64]) -> Result<Tensor> {
        if norms.iter().all(|n| n.is_finite()) {
            return Ok(grad.clone());
        }
        // Row `norms.len()` of the stack is zero.
        let zero = self.backend.zeros(grad.shape().with_n(1))?;
        let row = |(slot, norm): (usize, &f64)| if norm.is_finite() { slot } else { norms.len() } as u32;
        let rows: Vec<u32> = norms.iter().enumerate().map(row).collect();
        self.backend.gather(&self.backend.stack(&[grad, &zero])?, &rows)
    }

    /// Gathers and moves all particles.
    fn advance(
        &self,
        particles: Particles<'_>,
        ancestors: &[u32],
        strength: &[f32],
        advance: Advance<'_>,
    ) -> Result<(Tensor, Vec<f64>)> {
        match self.compat {
            Compat::Paper => self.backend.advance(particles, ancestors, strength, advance),
            Compat::Reference => {
                let x0 = self.backend.gather(particles.x0, ancestors)?;
                let eps = self.backend.gather(particles.eps, ancestors)?;
                let stay: Vec<u32> = (0..ancestors.len() as u32).collect();
                self.backend.advance(Particles { x0: &x0, eps: &eps, ..particles }, &stay, strength, advance)
            }
        }
    }
}

impl StepEngine for Host<'_> {
    fn submit(&mut self, input: StepInput<'_>) -> Result<Tensor> {
        let StepInput { x, particles, event, advance } = input;
        let mut report = StepReport {
            states: self.backend.squared_norms(x)?,
            noises: self.backend.squared_norms(particles.eps)?,
            ..StepReport::default()
        };
        if let Some((event, scores)) = event {
            report.rewards = scores.download(self.backend)?;
            assert_eq!(report.rewards.len(), advance.ids.len(), "one reward per particle");
            for (reward, (state, noise)) in
                report.rewards.iter_mut().zip(report.states.iter().zip(&report.noises))
            {
                // A clamp may have hidden it from the reward.
                if !(reward.is_finite() && state.is_finite() && noise.is_finite()) {
                    *reward = f64::NAN;
                }
            }
            report.weighed = self.weigh(event, advance.step, &report.rewards);
        }
        let grad = match particles.grad {
            Some(grad) => {
                report.grads = self.backend.squared_norms(grad)?;
                Some(self.finite_rows(grad, &report.grads)?)
            }
            None => None,
        };
        let particles = Particles { grad: grad.as_ref(), ..particles };
        let slots = advance.ids.len() as u32;
        let (ancestors, strength) = if report.weighed.is_empty() {
            ((0..slots).collect(), vec![0.0; slots as usize])
        } else {
            let firsts = (0..slots).step_by(self.particles);
            let prompts = report.weighed.iter().zip(firsts);
            let ancestors = prompts.flat_map(|(w, first)| w.ancestors.iter().map(move |a| first + a));
            let strength = report
                .weighed
                .iter()
                .flat_map(|w| std::iter::repeat_n((w.lambda_next / self.alpha) as f32, self.particles));
            (ancestors.collect::<Vec<u32>>(), strength.collect())
        };
        let (x, log_ratio) = self.advance(particles, &ancestors, &strength, advance)?;
        self.log_ratio.clone_from(&log_ratio);
        report.log_ratio = log_ratio;
        self.report.push_back(report);
        Ok(x)
    }

    #[track_caller]
    fn collect(&mut self) -> Result<StepReport> {
        let Some(report) = self.report.pop_front() else { panic!("no input has been queued") };
        Ok(report)
    }

    fn lookahead(&self) -> usize {
        0
    }
}
