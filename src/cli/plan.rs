//! `plan`: what a run will cost, counted by running the same program on the meter, which computes nothing.

use std::hint::black_box;
use std::time::Instant;

use serde_json::json;

use super::options::Options;
use super::output;
use super::session::{self, Draw, Session};
use super::values::{Auto, Bytes, Device, Switch};
use crate::backend::Backend;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::meter::{Counts, Meter};
use crate::method::{Bootstrap, Conclusion, Das, Method, best_of_n_at_equal_cost};
use crate::reward::Reward;
use crate::run::SCHEMA;
use crate::session::memory;
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

/// Counts one draw of a prompt on the meter: loading, all of its steps, and the scores of the final images.
///
/// # Errors
/// As the run itself.
pub fn count(options: &Options) -> Result<Plan> {
    let meter = options.device.meter(options.dtype);
    let session = Session::open(&meter, options)?;
    count_in(session, &meter, options)
}

/// The cost of another method with the run's options, whether or not the run's chain suits that method: a guided method
/// refuses a chain without noise, which costs what a chain with noise costs.
fn count_instead(options: &Options, proposal: &'static dyn Method) -> Result<Plan> {
    let meter = options.device.meter(options.dtype);
    let mut session = Session::open(&meter, options)?;
    session.schedule.steps.iter_mut().for_each(|step| step.variance = 1.0);
    let rules = proposal.rules(options.steps);
    count_in(session, &meter, &Options { proposal, rules, ..options.clone() })
}

fn count_in(mut session: Session<'_>, meter: &Meter, options: &Options) -> Result<Plan> {
    let weights = meter.memory().live;
    let (schedule, kl) = (session.schedule.clone(), session.kl);
    let evaluations = session::evaluations(options, &session.pipeline);
    let micro_batch = session.micro_batch(options);
    let (target, _) = session.target(options, &options.prompts[0], 0)?;
    meter.reset_counts();
    let draw = Draw { index: 0, seed: options.seed };
    let population =
        session::sampler(meter, &target, &schedule, options, kl, draw, None)?.run()?.swap_remove(0);
    let sampling = meter.counts();
    drop(target);
    session.judge(options, &population.images, &session::pictures(meter, &population.images)?)?;
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
pub fn settle(options: Options, available: Option<u64>) -> Result<Options> {
    let options = fitting(at_equal_cost(options)?, available)?;
    let checkpointing = match options.checkpointing {
        Switch::Auto if needs_checkpointing(&options, available)? => Switch::On,
        Switch::Auto => Switch::Off,
        given => given,
    };
    Ok(Options { checkpointing, ..options })
}

/// On a GPU, the largest micro-batch (all particles, a half, a quarter, ...) whose predicted peak fits into the memory
/// `available`; one particle where none does. Larger is faster there: more tiles than the GPU has processors, and
/// weights are read once for all.
fn fitting(options: Options, available: Option<u64>) -> Result<Options> {
    let (Auto::Auto, Device::Cuda(_), Some(available)) = (options.micro_batch, options.device, available)
    else {
        return Ok(options);
    };
    let mut micro_batch = options.chains;
    loop {
        let tried = Options { micro_batch: Auto::Exactly(micro_batch), ..options.clone() };
        // The meter does not know the scratch space of kernels and what weights are kept as besides: 4 % of the peak of
        // the shapes model.
        if micro_batch == 1 || peak(&tried)? / 16 * 17 <= available {
            return Ok(tried);
        }
        micro_batch = micro_batch.div_ceil(2);
    }
}

/// Most bytes alive at once in a run. Every guided step takes the same memory; a chain of one may have no noise, which
/// guidance refuses.
fn peak(options: &Options) -> Result<u64> {
    let checkpointing = if options.checkpointing == Switch::On { Switch::On } else { Switch::Off };
    Ok(count(&Options { steps: options.steps.min(2), checkpointing, ..options.clone() })?.peak)
}

/// For `best-of-n`, the number of plain chains that cost what the particles cost when guided (by gradients, or by
/// resampling alone if the reward has none). Other proposals are left alone.
fn at_equal_cost(options: Options) -> Result<Options> {
    if options.proposal.conclusion() != Conclusion::Best {
        return Ok(options);
    }
    let plain = Options { chains: 1, eval_rewards: Vec::new(), ..options.clone() };
    let cost = count(&plain)?.sampling.flops as f64;
    let differentiable = Session::open(&options.device.meter(options.dtype), &plain)?.reward.differentiable();
    let guided: &'static dyn Method = if differentiable { &Das } else { &Bootstrap };
    let ratio = count_instead(&plain, guided)?.sampling.flops as f64 / cost;
    Ok(Options { chains: best_of_n_at_equal_cost(options.particles, ratio), ..options })
}

/// Whether keeping all activations would take more than the memory `available`. Where that is not known, it is taken
/// to be enough.
fn needs_checkpointing(options: &Options, available: Option<u64>) -> Result<bool> {
    let Some(available) = available.filter(|_| options.proposal.differentiates()) else {
        return Ok(false);
    };
    let peak = peak(options)?;
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
    if !options.quiet {
        options.notes.iter().for_each(output::note);
    }
    let available = available(&options)?;
    let options = settle(options, available)?;
    let plan = count(&options)?;
    let prompts = (options.prompts.len() * options.count) as u64;
    let seconds = match options.device {
        Device::Cpu => Some(seconds(&plan.counts)? * prompts as f64),
        // Small products say nothing about a GPU, and large ones are a benchmark.
        Device::Cuda(_) => None,
    };
    output::line(if options.json {
        as_json(&options, &plan, prompts, seconds)
    } else {
        as_text(&options, &plan, prompts, seconds)
    })
}

/// Bytes that the run could take. A GPU is opened to be asked, unless `--max-vram` says it: so that a run can be planned
/// for a GPU of another machine.
fn available(options: &Options) -> Result<Option<u64>> {
    match (options.device, options.machine.max_vram) {
        (Device::Cpu, _) => Ok(memory::available()),
        (Device::Cuda(_), Some(Bytes(most))) => Ok(Some(most)),
        (device @ Device::Cuda(_), None) => Ok(device
            .open(options.dtype, &options.machine)
            .map_err(|e| e.fix("say how much memory the GPU will have, --max-vram 24G, to plan without it"))?
            .available),
    }
}

fn as_json(options: &Options, plan: &Plan, prompts: u64, seconds: Option<f64>) -> String {
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
        "schema": SCHEMA,
        "prompts": prompts,
        "particles": options.chains,
        "micro_batch": plan.micro_batch,
        "checkpointing": options.checkpointing == Switch::On,
        "unet_evaluations": plan.evaluations * prompts,
        "gradient": options.proposal.differentiates(),
        "flops": plan.counts.flops * prompts,
        "bytes_moved": plan.counts.bytes * prompts,
        "weight_bytes": plan.weights,
        "peak_bytes": plan.peak,
        "seconds": seconds,
        "per_prompt": families,
    });
    line.to_string()
}

fn as_text(options: &Options, plan: &Plan, prompts: u64, seconds: Option<f64>) -> String {
    let gradient = if options.proposal.differentiates() { ", each with its gradient" } else { "" };
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let lines = [
        format!("prompts            {prompts}"),
        format!("particles          {} per prompt, {} per network call", options.chains, plan.micro_batch),
        format!("UNet evaluations   {}{gradient}", plan.evaluations * prompts),
        format!("arithmetic         {:.3} TFLOP", (plan.counts.flops * prompts) as f64 / 1e12),
        format!(
            "peak memory        {:.0} MB, of which weights {:.0} MB",
            megabytes(plan.peak),
            megabytes(plan.weights)
        ),
    ];
    let time = seconds.map(|s| format!("time               about {s:.0} s on this processor"));
    lines.into_iter().chain(time).collect::<Vec<_>>().join("\n")
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
