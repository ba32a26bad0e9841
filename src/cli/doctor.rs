//! `devices` and `doctor`: what this machine has, and whether it computes what it should.

use std::thread;
use std::time::Instant;

use super::values::typed;
use super::{flags, gpus, help, output};
use crate::error::{Error, Result};
use crate::session::{Device, Dtype, Session, memory};
use crate::smc::Tempering;
use crate::smc::temper::default_gamma;
use crate::target::Gradient;

/// Mean reward of the known-answer run on the CPU in single precision. In bf16 it is 0.003 away there.
const ANSWER: f64 = 7.4967;

/// How far a device's mean reward may be from [`ANSWER`]: other orders of sums, then other roundings of
/// activations.
const TOLERANCE: [(Dtype, f64); 2] = [(Dtype::F32, 0.005), (Dtype::Bf16, 0.05)];

/// The devices, one per line; of a GPU that cannot be used, why.
///
/// # Errors
/// Of standard output.
pub fn devices() -> Result<()> {
    output::line(processor())?;
    (0..gpus::count()).try_for_each(|ordinal| output::line(gpus::describe(ordinal)))
}

fn processor() -> String {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    format!("cpu       {processors} processors, {} of memory", gpus::gigabytes(memory::total()))
}

/// The whole check, a line for each finding.
///
/// # Errors
/// [`ErrorKind::Device`](crate::ErrorKind::Device) if a device that can be used does not compute what it
/// should; of standard output.
pub fn run() -> Result<()> {
    let line = |name: &str, what: String| output::line(format_args!("{name:<10} {what}"));
    line("program", help::version().replace('\n', "; "))?;
    output::line(processor())?;
    if let Some(free) = memory::available() {
        line("free", format!("{} of memory", gpus::gigabytes(free)))?;
    }
    gpus::libraries().into_iter().try_for_each(|(name, what)| line(name, what))?;
    (0..gpus::count()).try_for_each(|ordinal| output::line(gpus::describe(ordinal)))?;
    let mut devices = vec![(Device::Cpu, Dtype::F32)];
    for ordinal in (0..gpus::count()).filter(|ordinal| gpus::is_usable(*ordinal)) {
        devices.extend(TOLERANCE.map(|(dtype, _)| (Device::Cuda(ordinal), dtype)));
    }
    let mut wrong = Vec::new();
    for (device, dtype) in devices {
        let began = Instant::now();
        let name = typed(dtype);
        let tolerance = TOLERANCE.iter().find(|(of, _)| *of == dtype).map_or(0.0, |(_, value)| *value);
        let (good, said) = match answer(device, dtype) {
            Ok(answer) => {
                let good = (answer - ANSWER).abs() <= tolerance;
                let verdict = if good { "right" } else { "WRONG" };
                (good, format!("{verdict}: reward {answer:.4}, known {ANSWER:.4} +- {tolerance}"))
            }
            Err(e) => (false, format!("FAILED: {}", flags::report(&e))),
        };
        line("known run", format!("{device} {name} {said} ({:.1} s)", began.elapsed().as_secs_f64()))?;
        if !good {
            wrong.push(format!("{device} {name}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::device(format!("{} did not compute what is known", wrong.join(", "))).advice(
        "update the driver, try --no-cublas and --no-graph with `sample`, and report what `doctor` says",
    ))
}

/// Mean reward of a small run of the embedded model on a device.
fn answer(device: Device, dtype: Dtype) -> Result<f64> {
    let mut session = Session::builder().device(device).dtype(dtype).open()?;
    // All that decides the answer, whatever the defaults are.
    let options = session.defaults().particles(4).steps(4).micro_batch(2).alpha(0.2).ess_threshold(0.5);
    let options = options.max_shift(f64::INFINITY).gradient(Gradient::State).gradient_every(1);
    let options = options.tempering(Tempering::Exp { gamma: default_gamma(4) });
    let samples = session.sample("a red star", &options)?.conclude()?;
    let rewards = &samples[0].population.rewards;
    Ok(rewards.iter().sum::<f64>() / rewards.len() as f64)
}
