//! `plan`: what a run will cost, counted by running the same program on the meter, which computes nothing.

use std::hint::black_box;
use std::time::Instant;

use serde_json::json;

use super::args::Switch;
use super::options::Options;
use super::session::{self, Session};
use super::{memory, output};
use crate::backend::Backend;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::meter::{Counts, Meter};
use crate::proposal::{Proposal, best_of_n_at_equal_cost};
use crate::reward::Reward;
use crate::tensor::{HostSlice, Shape};

/// The cost of one prompt.
pub struct Plan {
    /// All of it.
    pub counts: Counts,
    /// Of sampling alone, without the scores that are only reported.
    pub sampling: Counts,
    /// Most bytes alive at once, weights included.
    pub peak: u64,
    pub weights: u64,
    pub evaluations: u64,
    pub micro_batch: usize,
}

/// Counts one prompt's run on the meter: loading, all of its steps, and the scores of the final images.
///
/// # Errors
/// As the run itself.
pub fn count(options: &Options) -> Result<Plan> {
    let meter = Meter::new();
    let mut session = Session::open(&meter, options)?;
    let weights = meter.memory().live;
    let (schedule, kl) = (session.schedule.clone(), session.kl);
    let evaluations = session::evaluations(options, &session.pipeline);
    let micro_batch = session.micro_batch(options);
    let (guide, _) = session.guide(options, &options.prompts[0], 0)?;
    meter.reset_counts();
    let population = session::sampler(&meter, &guide, &schedule, options, kl, 0, None)?.run()?.swap_remove(0);
    let sampling = meter.counts();
    drop(guide);
    session.judge(options, &population.images, &session::pictures(&meter, &population.images)?)?;
    Ok(Plan {
        counts: meter.counts(),
        sampling,
        peak: meter.memory().peak,
        weights,
        evaluations,
        micro_batch,
    })
}

/// The options that will run: what they leave to the cost is decided.
///
/// # Errors
/// As [`count`].
pub fn settle(options: Options) -> Result<Options> {
    let options = at_equal_cost(options)?;
    let checkpointing = match options.checkpointing {
        Switch::Auto if needs_checkpointing(&options, memory::available())? => Switch::On,
        Switch::Auto => Switch::Off,
        given => given,
    };
    Ok(Options { checkpointing, ..options })
}

/// For `best-of-n`, the number of plain chains that cost what the particles cost when guided (by gradients, or by
/// resampling alone if the reward has none). Other proposals are left alone.
fn at_equal_cost(options: Options) -> Result<Options> {
    if options.proposal != Proposal::BestOfN {
        return Ok(options);
    }
    let mut plain = Options { chains: 1, eval_rewards: Vec::new(), ..options.clone() };
    let cost = count(&plain)?.sampling.flops as f64;
    let differentiable = Session::open(&Meter::new(), &plain)?.reward.differentiable();
    plain.proposal = if differentiable { Proposal::Das } else { Proposal::Bootstrap };
    plain.rules = plain.proposal.rules(plain.steps);
    let ratio = count(&plain)?.sampling.flops as f64 / cost;
    Ok(Options { chains: best_of_n_at_equal_cost(options.particles, ratio), ..options })
}

/// Whether keeping all activations would take more than the memory `available`. Where that is not known, it is taken
/// to be enough.
fn needs_checkpointing(options: &Options, available: Option<u64>) -> Result<bool> {
    let Some(available) = available.filter(|_| session::differentiates(options.proposal)) else {
        return Ok(false);
    };
    // Every guided step takes the same memory. A chain of one may have no noise, which guidance refuses.
    let short = Options { steps: options.steps.min(2), checkpointing: Switch::Off, ..options.clone() };
    let peak = count(&short)?.peak;
    if peak > available {
        output::note(format_args!(
            "note: checkpointing, because keeping activations would take {:.1} GB and {:.1} GB are free",
            peak as f64 / 1e9,
            available as f64 / 1e9
        ));
    }
    Ok(peak > available)
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
    let options = settle(options)?;
    let plan = count(&options)?;
    let prompts = options.prompts.len() as u64;
    let seconds = seconds(&plan.counts)? * prompts as f64;
    output::line(if options.json {
        as_json(&options, &plan, prompts, seconds)
    } else {
        as_text(&options, &plan, prompts, seconds)
    })
}

fn as_json(options: &Options, plan: &Plan, prompts: u64, seconds: f64) -> String {
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
        "particles": options.chains,
        "micro_batch": plan.micro_batch,
        "checkpointing": options.checkpointing == Switch::On,
        "unet_evaluations": plan.evaluations * prompts,
        "gradient": session::differentiates(options.proposal),
        "flops": plan.counts.flops * prompts,
        "bytes_moved": plan.counts.bytes * prompts,
        "weight_bytes": plan.weights,
        "peak_bytes": plan.peak,
        "seconds": seconds,
        "per_prompt": families,
    });
    line.to_string()
}

fn as_text(options: &Options, plan: &Plan, prompts: u64, seconds: f64) -> String {
    let gradient = if session::differentiates(options.proposal) { ", each with its gradient" } else { "" };
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    [
        format!("prompts            {prompts}"),
        format!("particles          {} per prompt, {} per network call", options.chains, plan.micro_batch),
        format!("UNet evaluations   {}{gradient}", plan.evaluations * prompts),
        format!("arithmetic         {:.3} TFLOP", (plan.counts.flops * prompts) as f64 / 1e12),
        format!(
            "peak memory        {:.0} MB, of which weights {:.0} MB",
            megabytes(plan.peak),
            megabytes(plan.weights)
        ),
        format!("time               about {seconds:.0} s on this processor"),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn options(more: &[&str]) -> Options {
        let small = ["das-cuda", "plan", "-p", "a", "--particles", "2", "--steps", "3"];
        let Command::Plan(args) = Cli::parse_from(small.iter().chain(more)).command else {
            unreachable!("as written above")
        };
        Options::resolve(&args).expect("valid")
    }

    #[test]
    fn activations_are_kept_if_there_is_room() {
        let das = options(&[]);
        let peak = count(&das).expect("a plan").peak;
        assert!(!needs_checkpointing(&das, Some(peak)).expect("a plan"));
        assert!(needs_checkpointing(&das, Some(peak - 1)).expect("a plan"));
        assert!(!needs_checkpointing(&das, None).expect("a plan"), "nothing is known");
        let plain = options(&["--proposal", "none"]);
        assert!(!needs_checkpointing(&plain, Some(0)).expect("a plan"), "nothing is kept anyway");
    }
}
