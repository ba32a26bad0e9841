//! `das-cuda sample` from end to end: the shapes model on a GPU against the same run on the CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

use crate::device;
use crate::note;
use crate::parity::error;

/// The program; on the stand-in it sees one GPU.
fn program() -> Command {
    let mut command = Command::cargo_bin("das-cuda").unwrap();
    if !device::gpu_required() {
        command.envs(das_cuda_emulator::environment());
    }
    command
}

/// A small run: every kind of step.
const RUN: [&str; 8] = ["sample", "-q", "-p", "a large red star", "--save-latents", "--particles", "2", "-o"];
/// A quarter of the shipped model's pictures: what is run at their own size takes minutes.
const SMALL: [&str; 4] = ["-W", "32", "-H", "32"];
const WHOLE: [&str; 4] = ["-W", "64", "-H", "64"];
/// One resampling at least.
const ALWAYS: [&str; 2] = ["--ess-threshold", "1"];

struct Run {
    dir: PathBuf,
    stderr: String,
}

impl Run {
    fn new(mut command: Command, out: &Path, more: &[&str]) -> Run {
        let size = if more.contains(&"-W") { &[][..] } else { &SMALL };
        let steps = if more.contains(&"--steps") { &[][..] } else { &["--steps", "3"] };
        let Output { status, stderr, .. } =
            command.args(RUN).arg(out).args([size, steps, more].concat()).output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert!(status.success(), "{more:?}: exit {:?}: {stderr}", status.code());
        Run { dir: out.join("0000-a-large-red-star"), stderr }
    }

    fn latents(&self) -> Vec<f32> {
        let bytes = fs::read(self.dir.join("latents.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        bytemuck::pod_collect_to_vec(file.tensor("latents").unwrap().data())
    }

    /// A list of every line of the trace that has one; it is null where nothing was computed.
    fn trace(&self, key: &str) -> Vec<f32> {
        let text = fs::read_to_string(self.dir.join("trace.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let all: Vec<f32> = lines
            .flat_map(|line| line[key].as_array().cloned().unwrap_or_default())
            .map(|v| v.as_f64().unwrap() as f32)
            .collect();
        assert!(!all.is_empty(), "no line of the trace has a list {key}");
        all
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("run.json")).unwrap()).unwrap()
    }
}

fn cpu(out: &Path, more: &[&str]) -> Run {
    Run::new(Command::cargo_bin("das-cuda").unwrap(), out, &[&["--device", "cpu"], more].concat())
}

/// In f32, with graphs and without: the same ancestors, and latents and rewards that differ by the order of
/// additions. A chain of about 300 operations per network, each off by U sqrt(terms) with up to 1000 terms,
/// adds up to 6e-8 * 32 * sqrt(3 * 300) = 6e-5 per step like a random walk; three steps and a gradient in
/// each: 3e-4. Measured on the stand-in: rewards 2.2e-7, log-weights 7.8e-6, lengths of gradients 3.3e-5,
/// latents 3.1e-6.
fn a_run_in_f32_is_that_of_the_cpu() {
    let (size, dir, tolerance) = (WHOLE, TempDir::new().unwrap(), 3e-4);
    let command = program();
    let graphs = Run::new(
        command,
        &dir.path().join("graphs"),
        &[&size[..], &ALWAYS, &["--device", "cuda:0", "--dtype", "fp32"]].concat(),
    );
    let launches = program();
    let flags = [&size[..], &ALWAYS, &["--device", "cuda:0", "--dtype", "fp32", "--no-graph"]].concat();
    let launches = Run::new(launches, &dir.path().join("launches"), &flags);
    let host = cpu(&dir.path().join("cpu"), &[&size[..], &ALWAYS].concat());
    assert!(graphs.record()["device"].as_str().unwrap().starts_with("cuda:0 "), "{}", graphs.record());
    for key in ["ancestors", "reward", "log_weights", "grad_norm"] {
        assert_eq!(graphs.trace(key), launches.trace(key), "{key}: with graphs, and without");
        let difference = error(&graphs.trace(key), &host.trace(key));
        note!("{key}: {difference:.1e}");
        assert!(difference < tolerance, "{key}: {difference:.1e}");
    }
    assert_eq!(graphs.trace("ancestors"), host.trace("ancestors"));
    assert_eq!(graphs.latents(), launches.latents(), "with graphs, and without");
    let difference = error(&graphs.latents(), &host.latents());
    note!("latents: {difference:.1e}");
    assert!(difference < tolerance, "latents: {difference:.1e}");
}

/// In 16 bits the rewards are no worse than those of the CPU backend that rounds every result: at most twice
/// as far from the exact run. Latents are f32 here and rounded there.
fn a_run_in_16_bits_is_as_good_as_rounding_allows() {
    in_16_bits(SMALL);
}

fn a_whole_run_in_16_bits_is_as_good_as_rounding_allows() {
    in_16_bits(WHOLE);
}

fn in_16_bits(size: [&str; 4]) {
    let dir = TempDir::new().unwrap();
    let plain = [&size[..], &["--proposal", "none"]].concat();
    let exact = cpu(&dir.path().join("exact"), &plain);
    for dtype in ["bf16", "fp16"] {
        let flags = [&plain[..], &["--dtype", dtype]].concat();
        let honest = cpu(&dir.path().join(format!("cpu-{dtype}")), &flags);
        let flags = [&flags[..], &["--device", "cuda"]].concat();
        let device = Run::new(program(), &dir.path().join(dtype), &flags);
        let [found, allowed] = [&device, &honest].map(|run| error(&run.latents(), &exact.latents()));
        note!("{dtype}: latents off by {found:.1e}, honestly rounded {allowed:.1e}");
        assert!(found <= 2.0 * allowed, "{dtype}: {found:.1e} > 2 x {allowed:.1e}");
    }
}

/// With cuBLASLt: as good, its choices stay for the next run, and none is used where it is switched off.
fn a_run_with_cublas_is_as_good_and_repeats_itself() {
    device::stand_in_only("whether there is a library, and who wins, is the machine's");
    let dir = TempDir::new().unwrap();
    let exact = cpu(&dir.path().join("exact"), &["--proposal", "none"]);
    let honest = cpu(&dir.path().join("honest"), &["--proposal", "none", "--dtype", "bf16"]);
    let run = |name: &str, more: &[&str]| {
        let mut command = program();
        command.env("DAS_CUBLAS_STAND_IN", "1").env("XDG_CACHE_HOME", dir.path());
        let flags = [&["--proposal", "none", "--device", "cuda"][..], more].concat();
        Run::new(command, &dir.path().join(name), &flags)
    };
    // Of kernels nothing is kept here that counts: a program built without nvcc keeps those it compiled.
    let choices = || {
        let files = fs::read_dir(dir.path().join("das-cuda")).into_iter().flatten().flatten();
        files.filter(|file| file.file_name().to_string_lossy().starts_with("products-")).count()
    };
    let own = run("own", &["--no-cublas"]);
    assert_eq!((own.record()["cublas"].clone(), choices()), (Value::Bool(false), 0));
    let library = run("library", &[]);
    assert_eq!((library.record()["cublas"].clone(), choices()), (Value::Bool(true), 1));
    assert_ne!(library.latents(), own.latents(), "the library made nothing");
    assert_eq!(run("again", &[]).latents(), library.latents());
    let [found, allowed] = [&library, &honest].map(|run| error(&run.latents(), &exact.latents()));
    note!("latents off by {found:.1e}, honestly rounded {allowed:.1e}");
    assert!(found <= 2.0 * allowed, "{found:.1e} > 2 x {allowed:.1e}");
}

/// What does not fit is done in halves, and said.
fn where_memory_does_not_suffice_the_micro_batch_is_halved() {
    device::stand_in_only("the memory of a GPU cannot be made small");
    let dir = TempDir::new().unwrap();
    let plenty = program();
    // Activations are most where the UNet is differentiated, and every step is alike.
    let gradients = ["--gradient", "state", "--gradient-every", "1"];
    let run = ["--steps", "2", "--device", "cuda", "--dtype", "fp32", "--micro-batch", "2"];
    let run = [&WHOLE[..], &run, &gradients].concat();
    let flags = [&run[..], &["--no-graph"]].concat();
    let whole = Run::new(plenty, &dir.path().join("whole"), &flags);
    assert!(!whole.stderr.contains("memory"), "{}", whole.stderr);
    let line = fs::read_to_string(whole.dir.join("trace.jsonl")).unwrap();
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let peak = line["peak_bytes"].as_u64().unwrap();
    let mut tight = program();
    // Weights are most of it: nine tenths of the peak hold one particle but not two.
    tight.env("DAS_STAND_IN_MEMORY", (peak * 9 / 10).to_string());
    let halves = Run::new(tight, &dir.path().join("halves"), &flags);
    assert!(halves.stderr.contains("going on with 1"), "{}", halves.stderr);
    let difference = error(&halves.latents(), &whole.latents());
    assert!(difference < 3e-4, "latents: {difference:.1e}");

    // What graphs hold is not in the way of the next prompt, whose first look is none yet. Twice the memory
    // of activations is not there.
    let mut graphs = program();
    graphs.env("DAS_STAND_IN_MEMORY", (peak * 106 / 100).to_string());
    let flags = [&run[..], &["-p", "a small blue ring"]].concat();
    let both = Run::new(graphs, &dir.path().join("both"), &flags);
    assert!(!both.stderr.contains("memory"), "{}", both.stderr);
    assert_eq!(both.latents(), whole.latents(), "with graphs, and without");
}

/// One particle on each of two GPUs is what one GPU makes of one particle at a time, and a prompt on each
/// what one GPU makes of both. The stand-in refuses work with another device's memory.
fn several_gpus_make_what_one_makes() {
    device::stand_in_only("most machines have one GPU");
    let dir = TempDir::new().unwrap();
    let run = |name: &str, flags: &[&str]| {
        let mut command = program();
        command.env("DAS_STAND_IN_DEVICES", "2");
        Run::new(
            command,
            &dir.path().join(name),
            &[&ALWAYS[..], &["--dtype", "fp32", "--no-cublas"], flags].concat(),
        )
    };
    let one = run("one", &["--device", "cuda:1", "--micro-batch", "1"]);
    let both = run("both", &["--device", "cuda:0,cuda:1"]);
    assert_eq!(both.latents(), one.latents());
    for key in ["ancestors", "reward", "log_weights", "grad_norm"] {
        assert_eq!(both.trace(key), one.trace(key), "{key}");
    }
    let device = both.record()["device"].as_str().unwrap().to_string();
    assert!(device.starts_with("cuda:0 ") && device.contains(", cuda:1 "), "{device}");
    let second = ["-p", "a small blue ring", "--micro-batch", "2"];
    let each = run("each", &[&second[..], &["--device", "cuda:1,cuda:0"]].concat());
    let alone = run("alone", &[&second[..], &["--device", "cuda:0"]].concat());
    assert_eq!(each.latents(), alone.latents());
    let records = ["0000-a-large-red-star", "0001-a-small-blue-ring"].map(|folder| {
        let record = fs::read_to_string(dir.path().join("each").join(folder).join("run.json")).unwrap();
        serde_json::from_str::<Value>(&record).unwrap()["device_choice"].clone()
    });
    assert_ne!(records[0], records[1], "a prompt on each");
}

/// Kernels compiled on the GPU's machine, as in a binary built without nvcc.
fn kernels_can_be_compiled_at_run_time() {
    let dir = TempDir::new().unwrap();
    let mut command = program();
    command.env("DAS_CUDA_NVRTC", "1").env("XDG_CACHE_HOME", dir.path());
    let flags = ["--device", "cuda", "--proposal", "none"];
    Run::new(command, &dir.path().join("out"), &flags);
    let kept = fs::read_dir(dir.path().join("das-cuda")).unwrap().count();
    assert!(kept > 10, "{kept} images are kept for the next run");
}

fn without_a_gpu_the_error_says_what_to_do() {
    device::stand_in_only("this machine has a GPU");
    let dir = TempDir::new().unwrap();
    let run = |mut command: Command, flags: &[&str]| {
        let Output { status, stderr, .. } =
            command.args(RUN).arg(dir.path().join("out")).args(flags).output().unwrap();
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    };
    let mut no_driver = Command::cargo_bin("das-cuda").unwrap();
    no_driver.env_remove("LD_LIBRARY_PATH");
    let (code, text) = run(no_driver, &["--device", "cuda"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("fix: ") && text.contains("--device cpu"), "{text}");
    let no_device = program();
    let (code, text) = run(no_device, &["--device", "cuda:7"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("no GPU 7") && text.contains("--device cuda:0"), "{text}");
    let mut silent = program();
    silent.env("DAS_STAND_IN_NO_DEVICE", "1");
    let (code, text) = run(silent, &["--device", "cuda"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("nvidia-smi"), "{text}");
}

/// `das-cuda toy` with networks that learn, sample and are tuned on the GPU, against the CPU. The device is
/// part of the design, so neither goes on in the other's folder.
fn a_toy_is_that_of_the_cpu() {
    let dir = TempDir::new().unwrap();
    let run = |device: &str, out: &str| {
        let small = "--learn 200 --epochs 5 --tuning-epochs 1 --populations 2 --particles 12 --seeds 1 -q";
        let methods = ["--methods", "none,das,guidance,ddpo,dds-trained"];
        let mut command = program();
        command.current_dir(dir.path()).args(["toy", "gmm1", "-o", out, "--device", device]);
        command.args(small.split(' ')).args(methods).output().unwrap()
    };
    for (device, out) in [("cpu", "cpu"), ("cuda:0", "gpu")] {
        let ran = run(device, out);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    let rewards = |out: &str| -> Vec<f32> {
        let text = fs::read_to_string(dir.path().join(out).join("runs.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|run| run["reward"].as_f64().unwrap() as f32).collect()
    };
    let (found, truth) = (rewards("gpu"), rewards("cpu"));
    let error = error(&found, &truth);
    note!("rewards {error:.1e} apart: {found:?}");
    assert_eq!(truth.len(), 6);
    // Rounding of 1e-7 a step, over some hundred steps of training and sampling that do not diverge.
    assert!(error < 1e-3, "{found:?} {truth:?}");
    let other = run("cuda:0", "cpu");
    assert!(!other.status.success());
}

crate::tests![
    a_toy_is_that_of_the_cpu,
    a_run_in_f32_is_that_of_the_cpu,
    a_run_in_16_bits_is_as_good_as_rounding_allows,
    #[ignore = "half a minute on the stand-in"]
    a_whole_run_in_16_bits_is_as_good_as_rounding_allows,
    a_run_with_cublas_is_as_good_and_repeats_itself,
    where_memory_does_not_suffice_the_micro_batch_is_halved,
    several_gpus_make_what_one_makes,
    kernels_can_be_compiled_at_run_time,
    without_a_gpu_the_error_says_what_to_do,
];
