//! `devices` and `doctor`: what this machine has, and whether it computes what it should.

use std::thread;
use std::time::Instant;

use clap::Parser;

use super::args::{Cli, Command};
use super::options::Options;
use super::session::{self, Draw, Session};
use super::values::Device;
use super::{help, output};
use crate::cuda;
use crate::error::{Error, Result};
use crate::session::memory;

/// Mean reward of the known-answer run on the CPU in single precision. In bf16 it is 0.003 away there.
const ANSWER: f64 = 7.4967;

/// How far a device's mean reward may be from [`ANSWER`]: other orders of sums, then other roundings of activations.
const TOLERANCE: [(&str, f64); 2] = [("fp32", 0.005), ("bf16", 0.05)];

/// The devices, one per line; of a GPU that cannot be used, why.
///
/// # Errors
/// Of standard output.
pub fn devices() -> Result<()> {
    output::line(processor())?;
    match cuda::count() {
        Ok(count) => (0..count).try_for_each(|ordinal| output::line(gpu(ordinal))),
        Err(_) => Ok(()),
    }
}

fn processor() -> String {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    format!("cpu       {processors} processors, {} of memory", gigabytes(memory::total()))
}

fn gpu(ordinal: usize) -> String {
    let device = Device::Cuda(ordinal).to_string();
    match (cuda::info(ordinal), cuda::usable(ordinal)) {
        (Err(e), _) => format!("{device:<9} {}", e.message()),
        (Ok(info), usable) => {
            let (major, minor) = info.capability;
            let not = usable.err().map_or(String::new(), |e| format!("; cannot be used: {}", e.message()));
            let memory = gigabytes(info.memory);
            format!("{device:<9} {}, compute capability {major}.{minor}, {memory} of memory{not}", info.name)
        }
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// The whole check, a line for each finding.
///
/// # Errors
/// [`ErrorKind::Device`](crate::ErrorKind::Device) if a device that can be used does not compute what it should; of
/// standard output.
pub fn run() -> Result<()> {
    let line = |name: &str, what: String| output::line(format_args!("{name:<10} {what}"));
    line("program", help::version().replace('\n', "; "))?;
    output::line(processor())?;
    if let Some(free) = memory::available() {
        line("free", format!("{} of memory", gigabytes(free)))?;
    }
    let found = |yes: bool, no: &str| if yes { "found".to_string() } else { format!("not found: {no}") };
    let driver = cuda::driver_version().map(|(major, minor)| format!("knows CUDA {major}.{minor}"));
    line(
        "driver",
        driver.unwrap_or_else(|| "not found: there is no NVIDIA GPU, or no driver for it".into()),
    )?;
    line("NVRTC", found(cuda::has_nvrtc(), "only needed where the kernels are not in the program"))?;
    line("cuBLASLt", found(cuda::has_cublaslt(), "never needed; it makes some products faster"))?;
    line("cache", cache())?;
    let gpus = cuda::count().unwrap_or_default();
    (0..gpus).try_for_each(|ordinal| output::line(gpu(ordinal)))?;
    let mut devices = vec![(Device::Cpu, "fp32")];
    for ordinal in (0..gpus).filter(|ordinal| cuda::usable(*ordinal).is_ok()) {
        devices.extend(TOLERANCE.map(|(dtype, _)| (Device::Cuda(ordinal), dtype)));
    }
    let mut wrong = Vec::new();
    for (device, dtype) in devices {
        let began = Instant::now();
        let tolerance = TOLERANCE.iter().find(|(name, _)| *name == dtype).map_or(0.0, |(_, value)| *value);
        let (good, said) = match answer(device, dtype) {
            Ok(answer) => {
                let good = (answer - ANSWER).abs() <= tolerance;
                let verdict = if good { "right" } else { "WRONG" };
                (good, format!("{verdict}: reward {answer:.4}, known {ANSWER:.4} +- {tolerance}"))
            }
            Err(e) => (false, format!("FAILED: {e}")),
        };
        line("known run", format!("{device} {dtype} {said} ({:.1} s)", began.elapsed().as_secs_f64()))?;
        if !good {
            wrong.push(format!("{device} {dtype}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::device(format!("{} did not compute what is known", wrong.join(", "))).fix(
        "update the driver, try --no-cublas and --no-graph with `sample`, and report what `doctor` says",
    ))
}

/// Where what is compiled and timed on this machine is kept, and whether it can be.
fn cache() -> String {
    let Some(folder) = cuda::cache() else {
        return "none: neither XDG_CACHE_HOME nor HOME is set; kernels compiled here are not kept".into();
    };
    let files = std::fs::read_dir(&folder).map_or(0, Iterator::count);
    let written = std::fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(&folder));
    match written {
        Ok(_) => format!("{}, {files} files", folder.display()),
        Err(e) => format!("{}, {files} files, cannot be written: {e}", folder.display()),
    }
}

/// Mean reward of a small run of the embedded model on a device.
fn answer(device: Device, dtype: &str) -> Result<f64> {
    let typed = ["das-cuda", "sample", "-p", "a red star", "--particles", "4", "--steps", "4"];
    let device = device.to_string();
    let more = ["--device", &device, "--dtype", dtype, "--micro-batch", "2"];
    let command = Cli::try_parse_from(typed.iter().chain(&more)).map(|cli| cli.command);
    let Ok(Command::Sample(args)) = command else { unreachable!("as written above") };
    let options = Options::resolve(&args)?;
    let opened = options.device.open(options.dtype, &options.machine)?;
    let mut session = Session::open(&*opened.backend, &options)?;
    let (schedule, kl) = (session.schedule.clone(), session.kl);
    let (target, _) = session.target(&options, &options.prompts[0], 0)?;
    let draw = Draw { index: 0, seed: options.seed };
    let sampler = session::sampler(&*opened.backend, &target, &schedule, &options, kl, draw, None)?;
    let rewards = sampler.run()?.swap_remove(0).rewards;
    Ok(rewards.iter().sum::<f64>() / rewards.len() as f64)
}
