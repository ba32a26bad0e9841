//! `plan`: what a run will cost, counted by running the same program on the meter, which computes nothing.

use std::hint::black_box;
use std::time::Instant;

use serde_json::json;

use super::options::Options;
use super::prompts::Prompt;
use super::session::{self, Session};
use crate::backend::Backend;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::meter::{Counts, Meter};
use crate::proposal::{Proposal, best_of_n_at_equal_cost};
use crate::reward::Reward;
use crate::tensor::{HostSlice, Shape};

/// The cost of one prompt.
pub struct Plan {
    pub counts: Counts,
    /// Most bytes alive at once, weights included.
    pub peak: u64,
    pub weights: u64,
    pub evaluations: u64,
    pub micro_batch: usize,
    pub particles: usize,
}

/// Counts one prompt's run: all of its steps, on the meter.
///
/// # Errors
/// As the run itself.
pub fn count(options: &Options) -> Result<Plan> {
    let meter = Meter::new();
    let mut session = Session::open(&meter, options)?;
    let weights = meter.memory().live;
    let prompt = Prompt { text: String::new(), negative: String::new() };
    let prompt = options.prompts.first().unwrap_or(&prompt);
    let (schedule, kl) = (session.schedule.clone(), session.kl);
    let evaluations = session::evaluations(options, &session.pipeline);
    let micro_batch = session.micro_batch(options);
    let (guide, _) = session.guide(options, prompt, 0)?;
    meter.reset_counts();
    meter.reset_peak();
    session::sampler(&meter, &guide, &schedule, options, kl, 0, None)?.run()?;
    Ok(Plan {
        counts: meter.counts(),
        peak: meter.memory().peak,
        weights,
        evaluations,
        micro_batch,
        particles: options.particles,
    })
}

/// The options of the plain chains that cost what these particles cost when guided (by gradients, or by
/// resampling alone if the reward has none): `best-of-n` becomes a number of particles. Other proposals are left
/// alone.
///
/// # Errors
/// As [`count`].
pub fn at_equal_cost(mut options: Options) -> Result<Options> {
    if options.proposal != Proposal::BestOfN {
        return Ok(options);
    }
    let mut plain = Options { particles: 1, eval_rewards: Vec::new(), ..options.clone() };
    let cost = count(&plain)?.counts.flops as f64;
    let differentiable = Session::open(&Meter::new(), &plain)?.reward.differentiable();
    plain.proposal = if differentiable { Proposal::Das } else { Proposal::Bootstrap };
    plain.rules = plain.proposal.rules(plain.steps);
    let ratio = count(&plain)?.counts.flops as f64 / cost;
    options.particles = best_of_n_at_equal_cost(options.particles, ratio);
    Ok(options)
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

/// The command.
///
/// # Errors
/// As [`count`].
pub fn run(options: Options) -> Result<()> {
    let json = options.json;
    let prompts = options.prompts.len() as u64;
    let options = at_equal_cost(options)?;
    let plan = count(&options)?;
    let seconds = seconds(&plan.counts)? * prompts as f64;
    let flops = plan.counts.flops * prompts;
    if json {
        let families: serde_json::Map<_, _> = plan
            .counts
            .by_family
            .iter()
            .map(|(family, work)| {
                let work = json!({"flops": work.flops, "bytes": work.bytes, "calls": work.calls});
                (format!("{family:?}").to_lowercase(), work)
            })
            .collect();
        let line = json!({
            "prompts": prompts,
            "particles": plan.particles,
            "micro_batch": plan.micro_batch,
            "unet_evaluations": plan.evaluations * prompts,
            "gradient": session::differentiates(options.proposal),
            "flops": flops,
            "bytes_moved": plan.counts.bytes * prompts,
            "weight_bytes": plan.weights,
            "peak_bytes": plan.peak,
            "seconds": seconds,
            "per_prompt": families,
        });
        println!("{line}");
        return Ok(());
    }
    let gradient = if session::differentiates(options.proposal) { ", each with its gradient" } else { "" };
    println!("prompts            {prompts}");
    println!("particles          {} per prompt, {} per network call", plan.particles, plan.micro_batch);
    println!("UNet evaluations   {}{gradient}", plan.evaluations * prompts);
    println!("arithmetic         {:.3} TFLOP", flops as f64 / 1e12);
    println!(
        "peak memory        {:.0} MB, of which weights {:.0} MB",
        plan.peak as f64 / 1e6,
        plan.weights as f64 / 1e6
    );
    println!("time               about {seconds:.0} s on this processor");
    Ok(())
}
