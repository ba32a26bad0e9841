//! What a run will cost, counted by running the same program on the meter, which computes nothing; and the
//! options that the cost decides.

use std::hint::black_box;
use std::time::Instant;

use super::builder::SessionBuilder;
use super::device::Device;
use super::loaded::Loaded;
use super::options::{Checkpointing, Prompt, SampleOptions};
use super::run::Samples;
use crate::backend::Backend;
use crate::cpu::Cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::meter::{Counts, Meter};
use crate::method::{Bootstrap, Conclusion, Das, Method, best_of_n_at_equal_cost};
use crate::model::pipeline::LongPrompts;
use crate::reward::Reward;
use crate::target::Recompute;
use crate::tensor::{HostSlice, Shape};

/// The cost of one prompt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// All of it.
    pub counts: Counts,
    /// Of sampling alone, without the scores that are only reported.
    pub sampling: Counts,
    /// Most bytes alive at once, weights included.
    pub peak: u64,
    /// Bytes of the weights.
    pub weights: u64,
    /// Evaluations of the UNet, of all populations.
    pub evaluations: u64,
    /// How many of them are differentiated.
    pub gradients: u64,
    /// Particles per network call.
    pub micro_batch: usize,
}

impl SessionBuilder {
    /// Counts one prompt's run on the meter: loading, all of its steps, and the scores of the final images.
    /// No device is opened.
    ///
    /// # Errors
    /// As the run itself.
    pub fn plan(&self, prompt: &Prompt, options: &SampleOptions) -> Result<Plan> {
        let meter = self.device.meter(self.resolved_dtype());
        let loaded = Loaded::open(&meter, self)?;
        count_in(loaded, &meter, prompt, options, false)
    }

    /// Decides what the options leave open and only the cost can tell; see
    /// [`Session::settle`](super::Session::settle). `available` is the memory that may be taken, in bytes;
    /// where it is not known, it is taken to be enough.
    ///
    /// # Errors
    /// As the run itself.
    pub fn settle(
        &self,
        prompt: &Prompt,
        options: &SampleOptions,
        available: Option<u64>,
    ) -> Result<(SampleOptions, Vec<String>)> {
        options.check()?;
        let options = self.at_equal_cost(prompt, options.clone())?;
        let options = self.fitting(prompt, options, available)?;
        let mut notes = Vec::new();
        if options.checkpointing != Checkpointing::Auto {
            return Ok((options, notes));
        }
        let mut chosen = options.clone().checkpointing(Checkpointing::Off);
        for more in [Checkpointing::FeedForward, Checkpointing::Projections, Checkpointing::On] {
            let Some(note) = self.peak_above(prompt, &chosen, available)? else { break };
            if notes.is_empty() {
                notes.push(note);
            }
            chosen = options.clone().checkpointing(more);
        }
        Ok((chosen, notes))
    }

    /// Bytes that a run could take. A GPU is opened to be asked, unless [`SessionBuilder::max_memory`] says
    /// it: so that a run can be planned for a GPU of another machine.
    ///
    /// # Errors
    /// Of the device.
    pub fn available_memory(&self) -> Result<Option<u64>> {
        match (self.device.resolve().0, self.machine.max_memory) {
            (Device::Cuda(_), Some(most)) => Ok(Some(most)),
            (device @ Device::Cuda(_), None) => {
                Ok(device.open(self.resolved_dtype(), self.machine)?.available)
            }
            _ => Ok(super::memory::available()),
        }
    }

    /// On a GPU, the largest micro-batch (all particles, a half, a quarter, ...) whose predicted peak fits
    /// into the memory `available`; one particle where none does. Larger is faster there: more tiles than the
    /// GPU has processors, and weights are read once for all.
    fn fitting(
        &self,
        prompt: &Prompt,
        options: SampleOptions,
        available: Option<u64>,
    ) -> Result<SampleOptions> {
        let (None, Device::Cuda(_), Some(available)) = (options.micro_batch, self.device, available) else {
            return Ok(options);
        };
        let mut micro_batch = options.first_chains().div_ceil(1 + self.peers.len());
        loop {
            let tried = options.clone().micro_batch(micro_batch);
            // The meter does not know the scratch space of kernels and what weights are kept as besides: 4 %
            // of the peak of the shapes model.
            if micro_batch == 1 || self.peak(prompt, &tried)? / 16 * 17 <= available {
                return Ok(tried);
            }
            micro_batch = micro_batch.div_ceil(2);
        }
    }

    /// Refuses settled options on the CPU whose run needs more memory than is `available`: at least that of
    /// all its `pictures`, which counting would take too. A GPU refuses by itself what it cannot hold.
    pub(super) fn refuse_too_large(
        &self,
        prompt: &Prompt,
        options: &SampleOptions,
        pictures: u64,
        available: Option<u64>,
    ) -> Result<()> {
        let (Device::Cpu, Some(available)) = (self.device, available) else { return Ok(()) };
        let (least, peak) = match pictures > available {
            true => ("at least ", pictures),
            // Every peer has a copy of it all in the same memory.
            false => ("", self.peak(prompt, options)?.saturating_mul(1 + self.peers.len() as u64)),
        };
        if peak <= available {
            return Ok(());
        }
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        let checkpointing = match options.differentiates() && options.recompute() != Recompute::Blocks {
            true => "set `checkpointing` on, ",
            false => "",
        };
        let what = format!(
            "this run needs {least}{:.1} GB of memory at its peak, and {:.1} GB are free",
            gigabytes(peak),
            gigabytes(available)
        );
        let devices = if self.peers.is_empty() { "" } else { "name fewer devices, " };
        Err(Error::new(ErrorKind::Memory, what).advice(format!(
            "{devices}ask for smaller images with `width` and `height`, {checkpointing}or give `micro_batch` or `particles` \
             a smaller number"
        )))
    }

    /// Most bytes alive at once in a run. Every guided step takes the same memory; a chain of one may have no
    /// noise, which guidance refuses.
    fn peak(&self, prompt: &Prompt, options: &SampleOptions) -> Result<u64> {
        let mut short = options.clone().steps(options.steps.min(2));
        if options.candidates_per_particle() != 1.0 {
            // The first step thins, the second is guided.
            short = short.thin_at(0.0);
        }
        if options.method.shifts() {
            // A narrow window may hold no step of so short a chain.
            short = short.guidance_window((0.0, 1.0));
        }
        Ok(self.plan(prompt, &short)?.peak)
    }

    /// For `best-of-n`, the number of plain chains that cost what the particles cost when guided (by
    /// gradients, or by resampling alone if the reward has none). Other methods are left alone.
    fn at_equal_cost(&self, prompt: &Prompt, options: SampleOptions) -> Result<SampleOptions> {
        if options.method.conclusion() != Conclusion::Best || options.chains.is_some() {
            return Ok(options);
        }
        let particles = options.particles;
        // Of every prompt alike, however long it is.
        let plain = SampleOptions {
            chains: Some(particles),
            populations: 1,
            latents: None,
            long_prompts: LongPrompts::Cut,
            ..options.clone()
        };
        let alone = SessionBuilder { eval_rewards: Vec::new(), ..self.clone() };
        let cost = alone.plan(prompt, &plain)?.sampling.flops as f64;
        let meter = self.device.meter(self.resolved_dtype());
        let loaded = Loaded::open(&meter, &alone)?;
        let method: &'static dyn Method = if loaded.reward.differentiable() { &Das } else { &Bootstrap };
        let guided = plain.by_method(method);
        // A guided method refuses a chain without noise, which costs what a chain with noise costs.
        let guided = count_in(loaded, &meter, prompt, &guided, true)?;
        let chains = best_of_n_at_equal_cost(particles, guided.sampling.flops as f64 / cost);
        Ok(SampleOptions { chains: Some(chains), ..options })
    }

    /// Why activations should be computed again, if keeping all of them would take more than the memory
    /// `available`.
    fn peak_above(
        &self,
        prompt: &Prompt,
        options: &SampleOptions,
        available: Option<u64>,
    ) -> Result<Option<String>> {
        let Some(available) = available.filter(|_| options.differentiates()) else { return Ok(None) };
        let peak = self.peak(prompt, options)?;
        Ok((peak > available).then(|| {
            format!(
                "activations are computed again (`checkpointing`), because keeping them would take {:.1} GB and {:.1} GB are free",
                peak as f64 / 1e9,
                available as f64 / 1e9
            )
        }))
    }
}

impl SampleOptions {
    /// Whether the method differentiates the networks.
    pub fn differentiates(&self) -> bool {
        self.method.differentiates()
    }
}

/// Counts a run of what is loaded on the meter; with `noisy` along a chain that adds noise at every step.
fn count_in(
    mut loaded: Loaded,
    meter: &Meter,
    prompt: &Prompt,
    options: &SampleOptions,
    noisy: bool,
) -> Result<Plan> {
    let weights = meter.memory().live;
    let micro_batch = options.micro_batch_for(loaded.size(options)?);
    let mut schedule = loaded.schedule(options)?;
    let (evaluations, gradients) = loaded.evaluations(options);
    if noisy {
        schedule.steps.iter_mut().for_each(|step| step.variance = 1.0);
    }
    let prompts = [prompt.clone()];
    let run = loaded.start_chain(meter, &mut [], &prompts, options, &schedule, Vec::new())?;
    meter.reset_counts();
    let samples: Vec<Samples> = run.conclude()?;
    let sampling = meter.counts();
    for samples in &samples {
        loaded.judge(meter, samples, 0, options)?;
    }
    Ok(Plan {
        counts: meter.counts(),
        sampling,
        peak: meter.memory().peak,
        weights,
        evaluations,
        gradients,
        micro_batch,
    })
}

/// Seconds that `counts` will take on this processor, from the rate of a short product and a short sum. Small
/// operations do not reach either rate, so this is a lower bound for small networks and close for large ones.
///
/// # Errors
/// Of the backend.
pub fn seconds(counts: &Counts) -> Result<f64> {
    let cpu = Cpu::new();
    let ones = |shape: Shape| cpu.upload(shape, HostSlice::F32(&vec![1.0; shape.len()]));
    let (x, w) = (ones(Shape::rows(1024, 512))?, ones(Shape::rows(512, 512))?);
    let flops = 2.0 * 1024.0 * 512.0 * 512.0 / fastest(|| cpu.linear(&x, &w, None, None).map(drop))?;
    let a = ones(Shape::rows(1 << 12, 1 << 10))?;
    let bytes = 12.0 * a.shape().len() as f64 / fastest(|| cpu.axpby(1.0, &a, 1.0, &a).map(drop))?;
    Ok(counts.flops as f64 / flops + counts.bytes as f64 / bytes)
}

/// Seconds of the fastest of a few runs.
fn fastest(mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        black_box(f()?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

#[cfg(all(test, feature = "shapes"))]
mod tests {
    use super::*;
    use crate::method::{METHODS, Plain};
    use crate::target::Gradient;

    #[test]
    fn activations_are_kept_if_there_is_room() {
        let builder = SessionBuilder::default().device(Device::Cpu);
        let prompt = Prompt::from("a");
        let das = builder.defaults().particles(2).steps(3);
        let peak = builder.plan(&prompt, &das).expect("a plan").peak;
        let checkpoints = |options: &SampleOptions, available| {
            builder.peak_above(&prompt, options, available).expect("a plan").is_some()
        };
        assert!(!checkpoints(&das, Some(peak)));
        assert!(checkpoints(&das, Some(peak - 1)));
        assert!(!checkpoints(&das, None), "nothing is known");
        let plain = das.method(&Plain);
        assert!(!checkpoints(&plain, Some(0)), "nothing is kept anyway");
    }

    /// Evaluations that are told are those that the networks are asked for, as the operations that only the
    /// UNet does say: with one particle per call, of which the model's own samples do a known number each.
    #[test]
    fn evaluations_that_are_told_are_those_that_are_counted() {
        let builder = SessionBuilder::default().device(Device::Cpu);
        let prompt = Prompt::from("a");
        let base = builder.defaults().particles(2).steps(10).micro_batch(1);
        let counted = |options: &SampleOptions| {
            let plan = builder.plan(&prompt, options).expect("a plan");
            let calls = |name: &str| plan.sampling.by_operation.get(name).map_or(0, |work| work.calls);
            (plan.evaluations, plan.gradients, calls("cross_attention"), calls("cross_attention_vjp"))
        };
        // Both branches are one call, and two evaluations.
        let (plain, none, each, back) = counted(&base.clone().by_method(&Plain));
        assert_eq!((plain, none, each % 20, back), (40, 0, 0, 0));
        let per_call = each / 20;
        let das = base.clone().by_method(&Das).gradient(Gradient::State).gradient_every(1);
        let (_, gradients, _, back) = counted(&das);
        let per_gradient = 2 * back / gradients;
        for &method in METHODS {
            // Chains of best-of-n are settled elsewhere.
            let options = base.clone().by_method(method).duplicates(4);
            let (told, graded, forward, back) = counted(&options);
            assert_eq!((told, graded), (2 * forward / per_call, 2 * back / per_gradient), "{method}");
            let expected = match method.name() {
                // 7 steps once and 3 of 10 three times, of which 3 and one more are guided.
                "freedom" => (2 * 2 * 16, 2 * 2 * 10),
                "svdd" => (2 * 2 * (1 + 4 * 9), 0),
                "dps" => (40, 40),
                "mpgd" | "fk" => (40, 0),
                _ => continue,
            };
            assert_eq!((told, graded), expected, "{method}");
        }
        // A larger chain of the same costs in proportion, as equal cost takes it.
        let cost = |method: &'static dyn Method, n: usize| {
            let options = base.clone().particles(n).by_method(method).duplicates(3);
            builder.plan(&prompt, &options).expect("a plan").sampling.flops
        };
        for &method in METHODS {
            let [one, two, three] = [1, 2, 3].map(|n| cost(method, n));
            let uneven = (three - two) as f64 / (two - one) as f64 - 1.0;
            assert!(uneven.abs() < 1e-4, "{method}: {uneven:e}");
        }
    }

    #[test]
    fn a_run_that_the_memory_cannot_hold_is_refused_with_the_fix() {
        let builder = SessionBuilder::default().device(Device::Cpu);
        let prompt = Prompt::from("a");
        let das = builder.defaults().particles(2).steps(3);
        let peak = builder.plan(&prompt, &das).expect("a plan").peak;
        let refuse = |options: &SampleOptions, available| {
            builder.refuse_too_large(&prompt, options, 1000, available).map_err(|e| (e.kind(), e.to_string()))
        };
        assert_eq!((refuse(&das, Some(peak)), refuse(&das, None)), (Ok(()), Ok(())));
        let (kind, said) = refuse(&das, Some(peak - 1)).expect_err("too large");
        assert_eq!(kind, ErrorKind::Memory);
        for word in ["GB are free", "`width`", "`checkpointing` on", "`micro_batch`"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let gpu = SessionBuilder::default().device(Device::Cuda(0));
        assert!(gpu.refuse_too_large(&prompt, &das, 1000, Some(0)).is_ok(), "a GPU says so itself");
        let (_, said) = refuse(&das.method(&Plain), Some(999)).expect_err("too large");
        assert!(said.contains("at least 0.0 GB") && !said.contains("checkpointing"), "{said}");
    }
}
