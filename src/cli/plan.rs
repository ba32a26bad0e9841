//! `plan`: prints what a run will cost.

use serde_json::json;

use super::options::Options;
use super::output;
use super::values::typed;
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
    let normalise = options.builder.plan_normalise(&options.prompts, &sample)?;
    let options = &Options { sample, ..options.clone() };
    if let (Device::Cpu, Some(free)) = (options.devices.0[0], available.filter(|free| plan.peak > *free)) {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        output::note(format_args!(
            "warning: the peak of {:.1} GB is more than the {:.1} GB of memory that are free here",
            gigabytes(plan.peak),
            gigabytes(free)
        ));
    }
    let draws = options.prompts.len() * options.count;
    let (prompts, dealt) = (draws as u64, options.devices.dealt(draws));
    let seconds = match options.devices.0[0] {
        // Small products say nothing about a GPU, and large ones are a benchmark.
        Device::Cuda(_) => None,
        _ => {
            let once = normalise.as_ref().map_or(Ok(0.0), |once| seconds(&once.counts))?;
            Some(seconds(&plan.counts)? * prompts as f64 + once)
        }
    };
    let whole = Whole { plan: &plan, once: normalise.as_ref(), prompts, at_once: dealt.len(), seconds };
    output::line(if options.json { whole.as_json(options) } else { whole.as_text(options) })
}

/// All that a command will cost.
struct Whole<'a> {
    /// Of one draw of a prompt.
    plan: &'a Plan,
    /// Of the plain pictures to normalise on, once for all prompts.
    once: Option<&'a Plan>,
    prompts: u64,
    /// Draws that are made at the same time, each on devices of its own.
    at_once: usize,
    seconds: Option<f64>,
}

impl Whole<'_> {
    /// A number of the plan for all prompts, and what is done once.
    fn all(&self, of: fn(&Plan) -> u64) -> u64 {
        of(self.plan).saturating_mul(self.prompts).saturating_add(self.once.map_or(0, of))
    }

    fn peak(&self) -> u64 {
        self.plan.peak.max(self.once.map_or(0, |once| once.peak))
    }

    fn as_json(&self, options: &Options) -> String {
        let Whole { plan, prompts, seconds, .. } = self;
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
            "devices": options.devices.0.len(),
            "draws_at_once": self.at_once,
            "particles": options.sample.chains(),
            "first_chains": options.sample.first_chains(),
            "populations": options.populations,
            "micro_batch": plan.micro_batch,
            "checkpointing": typed(options.sample.checkpointing_settled()),
            "unet_evaluations": self.all(|plan| plan.evaluations),
            "unet_gradients": self.all(|plan| plan.gradients),
            "gradient": options.sample.differentiates(),
            "flops": self.all(|plan| plan.counts.flops),
            "bytes_moved": self.all(|plan| plan.counts.bytes),
            "weight_bytes": plan.weights,
            "peak_bytes": self.peak(),
            "normalise": self.once.map(|once| json!({
                "unet_evaluations": once.evaluations,
                "flops": once.counts.flops,
            })),
            "seconds": seconds,
            "per_prompt": families,
        });
        line.to_string()
    }

    fn as_text(&self, options: &Options) -> String {
        let Whole { plan, prompts, seconds, once, at_once } = self;
        let gradient = match plan.gradients {
            0 => String::new(),
            all if all == plan.evaluations => ", each with its gradient".to_string(),
            some => format!(", {} of them with their gradient", some.saturating_mul(*prompts)),
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
        let devices = options.devices.0.len();
        // The first draw may have a device fewer than the last.
        let each = options.sample.first_chains().div_ceil(devices / at_once);
        let spread = match (devices, devices / at_once) {
            (1, _) => None,
            (_, 1) => Some(format!("devices            {devices}, {at_once} prompts at the same time")),
            _ => Some(format!(
                "devices            {devices}, {at_once} of the prompts at the same time, on each device at most {each} \
                 of the particles of one"
            )),
        };
        let lines = [
            format!("prompts            {prompts}"),
            format!(
                "particles          {populations}{} per prompt{candidates}, {} per network call",
                options.sample.chains(),
                plan.micro_batch
            ),
            format!("UNet evaluations   {}{gradient}", self.all(|plan| plan.evaluations)),
            format!("arithmetic         {:.3} TFLOP", self.all(|plan| plan.counts.flops) as f64 / 1e12),
            format!(
                "peak memory        {:.0} MB, of which weights {:.0} MB{}",
                megabytes(self.peak()),
                megabytes(plan.weights),
                if devices > 1 { ", on each device at most" } else { "" }
            ),
        ];
        let once = once.map(|once| {
            let flops = once.counts.flops as f64 / 1e12;
            format!("to normalise       {} of the evaluations, {flops:.3} TFLOP, once", once.evaluations)
        });
        let time = seconds.map(|s| format!("time               about {s:.0} s on this processor"));
        lines.into_iter().chain(spread).chain(once).chain(time).collect::<Vec<_>>().join("\n")
    }
}
