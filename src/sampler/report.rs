//! Reads the engine's reports: what was not finite, and the record of each prompt.

use super::{NonFinite, OnNan, PromptStep, Quantity, Sampler};
use crate::backend::ParticleId;
use crate::engine::StepReport;
use crate::error::{Error, Result};
use crate::method::Conclusion;
use crate::smc::{Weighed, Weights};

impl Sampler<'_> {
    /// Reads the report of the step to yield.
    pub(super) fn absorb(&mut self, report: &StepReport) -> Result<(Vec<PromptStep>, Vec<NonFinite>)> {
        let non_finite = self.find_non_finite(report)?;
        let particles = self.particles();
        let (mut records, mut dead) = (Vec::with_capacity(self.families.len()), Vec::new());
        for b in 0..self.families.len() {
            let slots = b * particles..(b + 1) * particles;
            let of_prompt = |list: &[f64]| list.get(slots.clone()).unwrap_or_default().to_vec();
            let record = match report.weighed.get(b) {
                Some(weighed) => self.record_weighed(b, weighed.clone(), of_prompt(&report.rewards)),
                None => self.record_unweighed(b, of_prompt(&report.rewards)),
            };
            dead.extend(record.ancestors.iter().map(|&a| self.dead[slots.start + a as usize]));
            let grad_norm = of_prompt(&report.grads).into_iter().map(f64::sqrt).collect();
            let chosen = self.chosen.get(slots.clone()).unwrap_or_default().to_vec();
            let divergence = of_prompt(&self.divergence);
            records.push(self.with_known_z(PromptStep { grad_norm, chosen, divergence, ..record }));
        }
        self.dead = dead;
        self.chosen.clear();
        self.divergence.clear();
        Ok((records, non_finite))
    }

    /// What was not finite in the step to yield.
    fn find_non_finite(&mut self, report: &StepReport) -> Result<Vec<NonFinite>> {
        let mut non_finite = Vec::new();
        let finite = |list: &[f64], slot: usize| list.get(slot).is_none_or(|x| x.is_finite());
        for slot in 0..self.ids.len() {
            let quantity = match (finite(&report.states, slot), finite(&report.noises, slot)) {
                (false, _) => Quantity::Latent,
                (true, false) => Quantity::Noise,
                (true, true) => Quantity::Reward,
            };
            if quantity != Quantity::Reward || !finite(&report.rewards, slot) {
                self.mark_dead(slot, quantity, &mut non_finite);
            }
        }
        for (slot, norm) in report.grads.iter().enumerate() {
            // One that is held has been reported.
            let held = self.options.holds(self.next, self.schedule.len());
            if !norm.is_finite() && !self.dead[slot] && !held {
                non_finite.push(self.non_finite_at(slot, Quantity::Gradient));
            }
        }
        self.abort_on(&non_finite)?;
        Ok(non_finite)
    }

    fn non_finite_at(&self, slot: usize, quantity: Quantity) -> NonFinite {
        let ParticleId { prompt, particle } = self.ids[slot];
        NonFinite { step: self.next, prompt, particle, quantity }
    }

    /// Marks the slot dead; records the event unless it was dead already.
    fn mark_dead(&mut self, slot: usize, quantity: Quantity, non_finite: &mut Vec<NonFinite>) {
        if !std::mem::replace(&mut self.dead[slot], true) {
            non_finite.push(self.non_finite_at(slot, quantity));
        }
    }

    fn abort_on(&self, non_finite: &[NonFinite]) -> Result<()> {
        match (self.options.on_nan, non_finite) {
            (OnNan::Abort, [first, ..]) => {
                let more = non_finite.len() - 1;
                let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                let notes: String = self.target.notes().iter().map(|note| format!("; {note}")).collect();
                let advice = match first.quantity {
                    Quantity::Reward => {
                        "`on_nan` drop goes on without the particles concerned; see why the reward gave no number \
                         for that image; `dtype` fp32 has more range"
                    }
                    _ => "`on_nan` drop goes on without the particles concerned; `dtype` fp32 has more range",
                };
                Err(Error::numerical(format!("{first}{more}{notes}")).option("on_nan").advice(advice))
            }
            _ => Ok(()),
        }
    }

    /// The record of prompt `b` where it was weighed.
    fn record_weighed(&mut self, b: usize, weighed: Weighed, reward: Vec<f64>) -> PromptStep {
        let last = self.next == self.passes.len();
        if !last {
            let linear = |list: &[f64]| Weights::new(list).weights().to_vec();
            let draw =
                weighed.resampled.then(|| (linear(&weighed.log_weights), linear(&weighed.next_log_weights)));
            self.families[b].push(&weighed.ancestors, draw);
        }
        let (mut log_weights, mut ess) = (weighed.log_weights, weighed.ess);
        let conclusion = self.options.method.conclusion();
        if last && conclusion != Conclusion::Weigh {
            let weights = conclusion.weights(&reward, &Weights::new(&log_weights));
            (log_weights, ess) = (weights.log_weights().to_vec(), weights.ess());
        }
        PromptStep {
            prompt: self.options.prompts[b],
            lambda: weighed.lambda,
            lambda_next: weighed.lambda_next,
            log_weights,
            log_w_increment: weighed.increment,
            ess,
            resampled: weighed.resampled,
            ancestors: weighed.ancestors,
            reward,
            grad_norm: Vec::new(),
            chosen: Vec::new(),
            divergence: Vec::new(),
            log_z_increment: weighed.log_z_increment,
            log_z: self.engine.state().populations[b].log_z,
            roots_alive: self.families[b].roots_alive(),
            collapsed: weighed.collapsed,
        }
    }

    /// The record of prompt `b` where nothing was weighed.
    fn record_unweighed(&mut self, b: usize, reward: Vec<f64>) -> PromptStep {
        let particles = self.particles();
        let ancestors: Vec<u32> = (0..particles as u32).collect();
        self.families[b].push(&ancestors, None);
        let population = &self.engine.state().populations[b];
        let holds = self.options.holds(self.next, self.schedule.len());
        let held = self.held.as_ref().filter(|_| holds);
        PromptStep {
            prompt: self.options.prompts[b],
            lambda_next: held.map_or(0.0, |held| held.lambdas[b]),
            log_weights: population.log_weights.clone(),
            log_w_increment: vec![0.0; particles],
            ess: Weights::new(&population.log_weights).ess(),
            ancestors,
            reward,
            log_z: population.log_z,
            roots_alive: self.families[b].roots_alive(),
            ..PromptStep::default()
        }
    }

    /// The record without weights and an estimate of Z, where the method makes none.
    fn with_known_z(&self, record: PromptStep) -> PromptStep {
        if self.options.method.estimates_z() {
            return record;
        }
        PromptStep {
            log_w_increment: vec![0.0; record.log_weights.len()],
            log_z: f64::NAN,
            log_z_increment: f64::NAN,
            collapsed: false,
            ..record
        }
    }
}
