//! The step engine for any backend: weighs on the host and moves by the backend's particle operations. Each
//! step is over before the next is submitted.

use rayon::prelude::*;

use super::{Compat, Options};
use crate::backend::{Advance, Backend, Particles};
use crate::engine::{EngineState, FinalInput, StepEngine, StepInput, StepReport, sound_rewards};
use crate::error::Result;
use crate::noise::{Key, Purpose, uniforms};
use crate::smc::{self, Event, Rules, Weighed};
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
    state: EngineState,
    report: Option<StepReport>,
}

impl<'a> Host<'a> {
    /// An engine for `particles` of each prompt.
    pub fn new(backend: &'a dyn Backend, options: &Options, particles: usize) -> Host<'a> {
        let prompts = options.prompts.clone();
        Host {
            backend,
            rules: options.rules,
            // Of a method whose alpha may be 0 the weights mean nothing.
            alpha: if options.alpha > 0.0 { options.alpha } else { 1.0 },
            compat: options.compat,
            seed: options.seed,
            state: EngineState::new(prompts.len(), particles),
            report: None,
            prompts,
            particles,
        }
    }

    /// One event of all prompts; `rewards` of all slots.
    fn weigh(&self, event: Event, step: u32, rewards: &[f64]) -> Vec<Weighed> {
        let ratios = self.state.log_ratio.par_chunks_exact(self.particles);
        let slots = ratios.zip(rewards.par_chunks_exact(self.particles));
        let prompts = self.state.populations.par_iter().zip(&self.prompts);
        prompts
            .zip(slots)
            .map(|((population, &prompt), (log_ratio, rewards))| {
                let key = Key { seed: self.seed, prompt, particle: 0, step, purpose: Purpose::Resample };
                let mut stream = uniforms(key);
                let potential: Vec<f64> = rewards.iter().map(|r| r / self.alpha).collect();
                let draw = &mut || stream.draw();
                let mut weighed = smc::weigh(&self.rules, population, event, log_ratio, &potential, draw);
                if self.compat == Compat::Reference {
                    weighed.psi.clone_from(&weighed.twist);
                }
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

    /// `x + shift g` of each slot.
    fn shifted(&self, x: &Tensor, grad: &Tensor, shift: &[f64]) -> Result<Tensor> {
        assert_eq!(shift.len(), x.shape().n, "one shift per particle");
        let slot = |(slot, &shift): (usize, &f64)| {
            let row = [slot as u32];
            let (x, grad) = (self.backend.gather(x, &row)?, self.backend.gather(grad, &row)?);
            self.backend.axpby(1.0, &x, shift as f32, &grad)
        };
        let rows: Vec<Tensor> = shift.iter().enumerate().map(slot).collect::<Result<_>>()?;
        self.backend.stack(&rows.iter().collect::<Vec<_>>())
    }

    /// Ancestor (index into the batch) and strength of the guidance of each slot, for a move after what
    /// `report` says, by gradients that are `held` or its own.
    fn choices(&self, report: &StepReport, held: &[f64], advance: &Advance<'_>) -> (Vec<u32>, Vec<f32>) {
        let ancestors = report.ancestors(report.states.len());
        let decided: Vec<f64> = report.weighed.iter().map(|weighed| weighed.lambda_next).collect();
        let lambdas = if decided.is_empty() { held } else { &decided };
        if lambdas.is_empty() {
            let strength = vec![0.0; ancestors.len()];
            return (ancestors, strength);
        }
        let bound = self.rules.drift_bound(f64::from(advance.kappa), f64::from(advance.variance));
        let per_prompt = ancestors.len() / self.prompts.len();
        let strength = (0..ancestors.len()).map(|slot| {
            // Whose gradient moves the particle in this slot.
            let from = match self.compat {
                Compat::Paper => ancestors[slot] as usize,
                Compat::Reference => slot,
            };
            let squared_norm = report.grads.get(from).copied().unwrap_or_default();
            smc::strength(lambdas[slot / per_prompt], self.alpha, bound, squared_norm)
        });
        let strength = strength.collect();
        (ancestors, strength)
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
        assert!(self.report.is_none(), "the step before has not been collected");
        let StepInput { x, particles, event, held, shift, look, advance } = input;
        let mut report = StepReport {
            states: self.backend.squared_norms(x)?,
            noises: self.backend.squared_norms(particles.eps)?,
            ..StepReport::default()
        };
        if let Some(scores) = event.map(|(_, scores)| scores).or(look) {
            let rewards = scores.download(self.backend)?;
            assert_eq!(rewards.len(), report.states.len(), "one reward per particle");
            report.rewards = sound_rewards(rewards, &[&report.states, &report.noises]);
        }
        if let Some((event, _)) = event {
            report.weighed = self.weigh(event, advance.step, &report.rewards);
        }
        let grad = match particles.grad {
            Some(grad) => {
                report.grads = self.backend.squared_norms(grad)?;
                Some(self.finite_rows(grad, &report.grads)?)
            }
            None => None,
        };
        let proposed = grad.as_ref().filter(|_| shift.is_empty());
        let particles = Particles { grad: proposed, ..particles };
        let (ancestors, strength) = self.choices(&report, held, &advance);
        let (x, log_ratio) = self.advance(particles, &ancestors, &strength, advance)?;
        let x = match grad.filter(|_| !shift.is_empty()) {
            Some(grad) => self.shifted(&x, &grad, shift)?,
            None => x,
        };
        self.particles = log_ratio.len() / self.prompts.len();
        self.state.advance(&report.weighed, log_ratio);
        self.report = Some(report);
        Ok(x)
    }

    #[track_caller]
    fn collect(&mut self) -> Result<StepReport> {
        let Some(report) = self.report.take() else { panic!("no step is under way") };
        Ok(report)
    }

    fn lookahead(&self) -> usize {
        0
    }

    fn finish(&mut self, input: FinalInput<'_>) -> Result<StepReport> {
        assert!(self.report.is_none(), "the step before has not been collected");
        let states = self.backend.squared_norms(input.x)?;
        let rewards = sound_rewards(input.rewards.to_vec(), &[&states]);
        let weighed = self.weigh(Event::Final, input.step, &rewards);
        self.state.advance(&weighed, vec![0.0; rewards.len()]);
        Ok(StepReport { states, rewards, weighed, ..StepReport::default() })
    }

    fn state(&self) -> &EngineState {
        &self.state
    }

    fn restore(&mut self, state: EngineState) -> Result<()> {
        self.particles = state.log_ratio.len() / self.prompts.len();
        (self.state, self.report) = (state, None);
        Ok(())
    }
}
