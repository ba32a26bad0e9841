//! The CUDA backend on a GPU: every operation at the sizes of Stable Diffusion 1.5, forward and transpose,
//! and a guided step of the model in the library. Times are the GPU's own. Without a GPU it says so and does
//! nothing.
//!
//!     cargo bench --bench cuda            # everything
//!     cargo bench --bench cuda -- conv    # what has `conv` in its name
//!
//! `--check PART` is what `tools/gpu-check` runs: the same work, a line of JSON for each result.

mod autotune;
#[path = "../../tests/common/cases.rs"]
mod cases;
mod check;
mod folder;
mod model;
mod observe;
mod ops;
mod profile;
mod sd15;
mod smc;
mod step;
mod tiles;
mod timing;

use std::process::ExitCode;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use das_cuda::backend::{Backend, ParticleId};
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::ddim::Schedule;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::noise::Purpose;
use das_cuda::reward::{self, Reward};
use das_cuda::sampler::{Need, Target};
use das_cuda::tape::Recompute;
use das_cuda::target::{Diffusion, Gradient, Settings};
use das_cuda::{Error, Result};
use serde_json::Value;

/// Writes a result at once, so that it is kept even if what follows fails.
fn say(line: Value) {
    println!("{line}");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == "--check" => check::run(rest),
        _ => benches(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", das_cuda::cli::report(&error));
            ExitCode::from(das_cuda::cli::exit_code(&error))
        }
    }
}

/// The GPU, unless there is none and none is required.
fn open(elem: Elem) -> Result<Option<Cuda>> {
    let required = std::env::var("DAS_CUDA_REQUIRE_GPU").is_ok_and(|v| v == "1");
    match das_cuda::cuda::count() {
        Err(why) if !required => {
            eprintln!("cuda: nothing is measured: {why}");
            Ok(None)
        }
        _ => Cuda::open(0, elem).map(Some),
    }
}

fn benches(arguments: &[String]) -> Result<()> {
    let Some(cuda) = open(Elem::Bf16)? else { return Ok(()) };
    let mut criterion = Criterion::default().configure_from_args();
    // Criterion filters too late: setting up a large case costs more than measuring it.
    let wanted = arguments.iter().find(|a| !a.starts_with('-')).cloned().unwrap_or_default();
    for case in sd15::cases(false) {
        let label = sd15::label(&case);
        if !format!("{}/{label}", case.op.name()).contains(&wanted) {
            continue;
        }
        let ready = ops::Ready::new(&case, &cuda)?;
        let (forward, back) = ops::work(&case, cuda.elem().size() as u64)?;
        let mut group = criterion.benchmark_group(case.op.name());
        let mut bench = |name: &str, work: ops::Work, f: &dyn Fn() -> Result<()>| {
            group.throughput(match work.flops {
                0 => Throughput::Bytes(work.bytes),
                flops => Throughput::Elements(flops),
            });
            group.bench_function(name, |b| {
                b.iter_custom(|n| elapsed(&cuda, n, f).expect("it ran while it was set up"));
            });
        };
        bench(&label, forward, &|| ready.forward(&cuda));
        if let Some(back) = back {
            bench(&format!("{label}, transpose"), back, &|| ready.vjp(&cuda));
        }
        group.finish();
    }
    if "guided step".contains(&wanted) {
        guided_step(&mut criterion, &cuda)?;
    }
    criterion.final_summary();
    Ok(())
}

fn elapsed(cuda: &Cuda, times: u64, f: &dyn Fn() -> Result<()>) -> Result<Duration> {
    cuda.elapsed(|| (0..times).try_for_each(|_| f()))
}

/// One guided step of 16 particles with the model in the library.
fn guided_step(criterion: &mut Criterion, cuda: &Cuda) -> Result<()> {
    const PARTICLES: u32 = 16;
    // From the source tree: 20 MB less in an executable that travels.
    let folder = ModelFolder::open(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/shapes").as_ref(), None)?;
    let pipeline = Pipeline::load(cuda, &folder)?;
    let mut reward = reward::open(&["aesthetic".parse()?], folder.source(), cuda)?;
    reward.prepare(cuda, &["a star".into()])?;
    let schedule = Schedule::new(&pipeline.scheduler, 50, 1.0)?;
    let Some(step) = schedule.steps.get(25) else { return Err(Error::usage("a chain of 50 steps")) };
    let size = pipeline.size(None, None)?;
    let texts =
        pipeline.encode(cuda, &[Prompt { text: "a star", negative: None }], size, 5.0, LongPrompts::Cut)?;
    let settings = Settings {
        cfg_scale: 5.0,
        micro_batch: PARTICLES as usize,
        recompute: Recompute::Nothing,
        gradient: Gradient::State,
    };
    let target = Diffusion::new(cuda, &pipeline, &reward, texts, vec![0], size, settings);
    let ids: Vec<ParticleId> = (0..PARTICLES).map(|particle| ParticleId { prompt: 0, particle }).collect();
    let x = cuda.normals(size.latent.with_n(ids.len()), 0, 0, Purpose::Initial, &ids)?;
    let mut group = criterion.benchmark_group("guided step");
    group.throughput(Throughput::Elements(PARTICLES.into()));
    group.bench_function("shapes, 16 particles", |b| {
        let evaluation = || target.evaluate(&x, &ids, step, Need::Gradient).map(drop);
        b.iter_custom(|n| elapsed(cuda, n, &evaluation).expect("an evaluation"));
    });
    group.finish();
    Ok(())
}
