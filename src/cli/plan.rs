//! `plan`: prints what a run will cost.

use serde_json::json;

use super::options::Options;
use super::output;
use crate::error::Result;
use crate::run::SCHEMA;
use crate::session::{Device, Plan, seconds};

/// The command.
///
/// # Errors
/// As the run itself.
pub fn run(options: Options) -> Result<()> {
    if !options.quiet {
        options.notes.iter().for_each(output::note);
    }
    // A GPU is asked, unless its memory is given: so that a run can be planned for another machine.
    let available = options
        .builder
        .available_memory()
        .map_err(|e| e.advice("say how much memory the GPU will have, --max-vram 24G, to plan without it"))?;
    // In windows, the longest costs the most.
    let prompt = options.longest();
    let (sample, notes) = options.builder.settle(prompt, &options.sample, available)?;
    notes.iter().for_each(|note| output::note(format_args!("note: {note}")));
    let plan = options.builder.plan(prompt, &sample)?;
    let options = &Options { sample, ..options.clone() };
    let prompts = (options.prompts.len() * options.count) as u64;
    let seconds = match options.device {
        // Small products say nothing about a GPU, and large ones are a benchmark.
        Device::Cuda(_) => None,
        _ => Some(seconds(&plan.counts)? * prompts as f64),
    };
    output::line(match options.json {
        true => as_json(options, &plan, prompts, seconds),
        false => as_text(options, &plan, prompts, seconds),
    })
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
        "particles": options.sample.chains(),
        "first_chains": options.sample.first_chains(),
        "populations": options.populations,
        "micro_batch": plan.micro_batch,
        "checkpointing": options.sample.checkpoints(),
        "unet_evaluations": plan.evaluations.saturating_mul(prompts),
        "unet_gradients": plan.gradients.saturating_mul(prompts),
        "gradient": options.sample.differentiates(),
        "flops": plan.counts.flops.saturating_mul(prompts),
        "bytes_moved": plan.counts.bytes.saturating_mul(prompts),
        "weight_bytes": plan.weights,
        "peak_bytes": plan.peak,
        "seconds": seconds,
        "per_prompt": families,
    });
    line.to_string()
}

fn as_text(options: &Options, plan: &Plan, prompts: u64, seconds: Option<f64>) -> String {
    let gradient = match plan.gradients {
        0 => String::new(),
        all if all == plan.evaluations => ", each with its gradient".to_string(),
        some => format!(", {} of them with their gradient", some.saturating_mul(prompts)),
    };
    let candidates = match options.sample.first_chains() {
        first if first == options.sample.chains() => String::new(),
        first => format!(" from {first} candidates"),
    };
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let populations = match options.populations {
        1 => String::new(),
        several => format!("{several} populations of "),
    };
    let lines = [
        format!("prompts            {prompts}"),
        format!(
            "particles          {populations}{} per prompt{candidates}, {} per network call",
            options.sample.chains(),
            plan.micro_batch
        ),
        format!("UNet evaluations   {}{gradient}", plan.evaluations.saturating_mul(prompts)),
        format!("arithmetic         {:.3} TFLOP", plan.counts.flops.saturating_mul(prompts) as f64 / 1e12),
        format!(
            "peak memory        {:.0} MB, of which weights {:.0} MB",
            megabytes(plan.peak),
            megabytes(plan.weights)
        ),
    ];
    let time = seconds.map(|s| format!("time               about {s:.0} s on this processor"));
    lines.into_iter().chain(time).collect::<Vec<_>>().join("\n")
}
