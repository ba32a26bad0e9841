//! One guided step with a model of full size and random weights: how long, how much memory, which operation
//! how long, and what comes out.

use std::path::Path;
use std::time::{Duration, Instant};

use das_cuda::Result;
use das_cuda::backend::Backend;
use das_cuda::cuda::Cuda;
use das_cuda::engine::EngineBackend;
use das_cuda::meter::Meter;
use serde_json::{Value, json};

use crate::model::{self, Model};
use crate::observe::Observed;
use crate::profile::profile;
use crate::say;
use crate::timing::{Effort, Times};

/// Everything; lines of JSON as it goes.
pub fn run(cuda: &Cuda, folder: &Path, micro_batches: &[usize], effort: Effort) -> Result<()> {
    let dtype = cuda.elem().name();
    let begin = Instant::now();
    let model = Model::load(cuda, folder)?;
    let weights = cuda.memory().live;
    say(json!({"kind": "load", "dtype": dtype, "seconds": begin.elapsed().as_secs_f64(), "bytes": weights}));
    let meter = Meter::of_packets(cuda.elem().size() as u64);
    let counted = Model::load(&meter, folder)?;
    // What comes out is of more use than how fast it is, if there is time for one only.
    model::save(cuda, &model, dtype, folder, 2)?;
    let mut largest = 1;
    for &micro_batch in micro_batches {
        let plan = plan(&meter, &counted, micro_batch)?;
        for graph in [true, false] {
            let mut line = match timed(cuda, &model, micro_batch, graph, effort) {
                Ok(line) => line,
                Err(e) => {
                    let error = e.to_string();
                    say(json!({"kind": "step", "micro_batch": micro_batch, "graph": graph, "error": error}));
                    continue;
                }
            };
            line["dtype"] = json!(dtype);
            line["plan"] = plan.clone();
            say(line);
            largest = largest.max(micro_batch);
        }
    }
    let rounds = if matches!(effort, Effort::Measure(_)) { 3 } else { 1 };
    profile(cuda, &model, &meter, &counted, largest, rounds)
}

/// Operations and memory that the meter foretells.
fn plan(meter: &Meter, model: &Model, micro_batch: usize) -> Result<Value> {
    let target = model.target(meter, micro_batch)?;
    let x = model.latents(meter, micro_batch)?;
    meter.reset_counts();
    meter.reset_peak();
    model.evaluate(&target, &x)?;
    let counts = meter.counts();
    Ok(json!({
        "flops": counts.flops, "bytes": counts.bytes, "calls": counts.calls, "peak": meter.memory().peak,
    }))
}

/// Steps with the particles of one micro-batch. The look ends with the host reading rewards, so the host's
/// clock and the GPU's agree but for the start.
fn timed(cuda: &Cuda, model: &Model, micro_batch: usize, graph: bool, effort: Effort) -> Result<Value> {
    let plain = Observed { backend: cuda, before: &|| (), after: &|_, _| () };
    let backend: &dyn EngineBackend = if graph { cuda } else { &plain };
    let target = model.target(backend, micro_batch)?;
    let x = model.latents(cuda, micro_batch)?;
    cuda.reset_peak();
    let begin = Instant::now();
    model.evaluate(&target, &x)?;
    let first = begin.elapsed();
    let peak = cuda.memory().peak;
    // Recorded in the second, if at all.
    let begin = Instant::now();
    model.evaluate(&target, &x)?;
    let second = begin.elapsed();
    let (least, budget) = match effort {
        Effort::Measure(budget) => (3, budget),
        Effort::Touch => (1, Duration::ZERO),
    };
    let (begin, mut wall, mut gpu) = (Instant::now(), Vec::new(), Vec::new());
    while wall.len() < least || begin.elapsed() < budget {
        let start = Instant::now();
        gpu.push(cuda.elapsed(|| model.evaluate(&target, &x).map(drop))?);
        wall.push(start.elapsed());
    }
    let wall = Times(wall);
    Ok(json!({
        "kind": "step", "micro_batch": micro_batch, "graph": graph,
        "ms_per_particle": wall.median().as_secs_f64() * 1e3 / micro_batch as f64,
        "wall": wall.json(), "gpu": Times(gpu).json(), "peak": peak,
        "first_ms": first.as_secs_f64() * 1e3, "second_ms": second.as_secs_f64() * 1e3,
    }))
}
