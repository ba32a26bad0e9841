//! The scales of rewards, measured on plain pictures; and what that costs.

use super::Session;
use super::builder::SessionBuilder;
use super::normalise::{Normalise, PlainScores, check_weights, dealt, deviations};
use super::options::{Prompt, SampleOptions};
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::meter::Counts;
use crate::reward::Sum;

impl SessionBuilder {
    /// Counts what measuring the scales takes, once for all of `prompts`; `None` where nothing is measured.
    ///
    /// # Errors
    /// As the measurement itself.
    pub fn plan_normalise(&self, prompts: &[Prompt], options: &SampleOptions) -> Result<Option<Plan>> {
        let Some(Normalise::Measured(pictures)) = self.normalise else { return Ok(None) };
        self.check_normalise()?;
        options.check_prompts(prompts)?;
        let mut all: Option<Plan> = None;
        for (place, count) in dealt(prompts.len(), pictures) {
            let plan = self.plan(&prompts[place], &options.plain(place, count))?;
            all = Some(match all {
                None => plan,
                Some(all) => together(all, &plan),
            });
        }
        Ok(all)
    }
}

/// One plan after the other.
fn together(a: Plan, b: &Plan) -> Plan {
    let sum = |mut a: Counts, b: &Counts| {
        a.flops = a.flops.saturating_add(b.flops);
        a.bytes = a.bytes.saturating_add(b.bytes);
        a.calls += b.calls;
        b.by_family.iter().for_each(|(family, work)| *a.by_family.entry(*family).or_default() += *work);
        b.by_operation.iter().for_each(|(name, work)| *a.by_operation.entry(name).or_default() += *work);
        a
    };
    Plan {
        counts: sum(a.counts, &b.counts),
        sampling: sum(a.sampling, &b.sampling),
        peak: a.peak.max(b.peak),
        evaluations: a.evaluations + b.evaluations,
        gradients: a.gradients + b.gradients,
        ..a
    }
}

impl Session {
    /// Draws the plain pictures that [`Normalise::Measured`] asks for, of `prompts`, along the chain of
    /// `options`, and makes the standard deviation of each term of the reward on them its scale. `on_step` is
    /// called before every step with the number of all steps and the evaluations of the UNet that the step
    /// takes (as [`Run::next_evaluations`](super::Run::next_evaluations)), and may end it. Nothing is drawn,
    /// and nothing returned, where no scales are to be measured, or they have been. [`Session::sample`]
    /// measures by itself, on its own prompts, where this was not called; the same prompts and options give
    /// the same scales.
    ///
    /// # Errors
    /// Those of [`Session::sample`] and of `on_step`; [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming
    /// the reward, where one is constant or not finite on the pictures.
    pub fn measure_scales(
        &mut self,
        prompts: &[Prompt],
        options: &SampleOptions,
        mut on_step: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<Vec<PlainScores>> {
        self.builder.check_normalise()?;
        let pictures = match self.builder.normalise {
            Some(Normalise::Measured(pictures)) if self.scales().is_none() => pictures,
            _ => return Ok(Vec::new()),
        };
        options.check_prompts(prompts)?;
        let mut scores = Vec::new();
        let dealt = dealt(prompts.len(), pictures);
        let steps = (dealt.len() * (options.step_count() + 1)) as u64;
        for (place, count) in dealt {
            let options = options.plain(place, count);
            let (options, notes) = self.settle(&prompts[place], &options)?;
            let one = std::slice::from_ref(&prompts[place]);
            let mut run = self.loaded.start(&*self.backend, &mut self.peers, one, &options, notes)?;
            for _ in 0..run.steps() {
                on_step(steps, run.next_evaluations())?;
                run.next().transpose()?;
            }
            let samples = run.whatever_is_left()?.swap_remove(0);
            let held_out = self.judge(&samples, 0, &options)?.held_out;
            let wide = |(name, list): (String, Vec<f32>)| (name, list.into_iter().map(f64::from).collect());
            scores.push(PlainScores {
                prompt: place,
                rewards: samples.population.parts,
                target: Vec::new(),
                held_out: held_out.into_iter().map(wide).collect(),
            });
        }
        let scales = deviations(&scores)?;
        let weights: Vec<f64> = self.loaded.reward.parts().map(|(weight, _)| weight).collect();
        check_weights(&weights, &scales)?;
        self.normalise(&scales);
        scores.iter_mut().for_each(|of| of.target = target(&self.loaded.reward, &of.rewards));
        Ok(scores)
    }

    /// Divides the terms of the reward by these scales from now on, one for each, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for scales that do not fit the rewards.
    pub fn set_scales(&mut self, scales: &[f64]) -> Result<()> {
        let builder = self.builder.clone().normalise(Normalise::Given(scales.to_vec()));
        builder.check_normalise()?;
        self.builder = builder;
        self.normalise(scales);
        Ok(())
    }

    fn normalise(&mut self, scales: &[f64]) {
        self.loaded.reward.normalise(scales);
        self.peers.iter_mut().for_each(|peer| peer.loaded.reward.normalise(scales));
    }

    /// Weighs the terms of the reward so from now on, one weight for each, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for weights that do not fit the rewards.
    pub fn set_weights(&mut self, weights: &[f64]) -> Result<()> {
        let terms = self.loaded.reward.parts().count();
        if weights.len() != terms || weights.iter().any(|w| !w.is_finite()) {
            return Err(Error::usage(format!("weights {weights:?} for {terms} rewards"))
                .option("reward")
                .advice("give one finite weight for each `reward`"));
        }
        self.loaded.reward.reweigh(weights);
        self.peers.iter_mut().for_each(|peer| peer.loaded.reward.reweigh(weights));
        Ok(())
    }

    /// By what the terms of the reward are divided, in their order; `None` where they are not, or it has not
    /// been measured yet.
    pub fn scales(&self) -> Option<&[f64]> {
        self.loaded.reward.scales()
    }
}

/// The weighted sum of each picture's scores.
fn target(reward: &Sum, rewards: &[(String, Vec<f64>)]) -> Vec<f64> {
    let weights: Vec<f64> = reward.parts().map(|(weight, _)| weight).collect();
    let count = rewards.first().map_or(0, |(_, list)| list.len());
    (0..count)
        .map(|i| weights.iter().zip(rewards).map(|(weight, (_, list))| weight * list[i]).sum())
        .collect()
}

#[cfg(all(test, feature = "shapes"))]
mod tests {
    use super::*;
    use crate::session::Device;

    /// A program that only samples gets the scales of the prompts that it samples.
    #[test]
    fn what_was_not_measured_before_the_first_sample_is_measured_then() {
        let builder = Session::builder().device(Device::Cpu).normalise(Normalise::Measured(2));
        let mut session = builder.open().expect("the embedded model");
        let options = session.defaults().particles(2).steps(2);
        assert_eq!(session.scales(), None);
        session.sample("a star", &options).expect("a run").conclude().expect("samples");
        let measured = session.scales().expect("scales").to_vec();
        assert!(measured.len() == 1 && measured[0] > 0.0);
        assert!(
            session.measure_scales(&["a ring".into()], &options, |_, _| Ok(())).expect("nothing").is_empty()
        );
        assert_eq!(session.scales(), Some(&measured[..]), "once");
        session.set_scales(&[0.5]).expect("a scale");
        assert_eq!(session.scales(), Some(&[0.5][..]));
        assert!(session.set_scales(&[0.5, 1.0]).is_err() && session.set_scales(&[0.0]).is_err());
        assert_eq!(session.scales(), Some(&[0.5][..]), "as before");
        session.set_weights(&[3.0]).expect("a weight");
        assert_eq!(session.loaded.reward.parts().map(|(weight, _)| weight).collect::<Vec<_>>(), [6.0]);
        assert!(session.set_weights(&[1.0, 1.0]).is_err() && session.set_weights(&[f64::NAN]).is_err());
        session.sample("a star", &options).expect("a run").conclude().expect("samples");
    }
}
