//! Which operation of a guided step takes how long: marks of the GPU around every one, next to what the meter
//! counts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use das_cuda::Result;
use das_cuda::cuda::Cuda;
use das_cuda::cuda::testing::Mark;
use das_cuda::meter::Meter;
use serde_json::json;

use crate::model::Model;
use crate::observe::Observed;
use crate::say;

/// An operation and what it was given.
type Key = (&'static str, String);

#[derive(Default)]
struct Call {
    calls: u64,
    flops: u64,
    bytes: u64,
    time: Duration,
}

fn lock<T>(x: &Mutex<T>) -> MutexGuard<'_, T> {
    x.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says each different operation of a step of one micro-batch: how often, how long, how much. What is between
/// operations is left out, and every one is timed with its start by the host, so small ones seem longer than
/// in a graph.
pub fn profile(
    cuda: &Cuda,
    model: &Model,
    meter: &Meter,
    counted: &Model,
    micro_batch: usize,
    rounds: u32,
) -> Result<()> {
    let mut calls = count(meter, counted, micro_batch)?;
    for (key, from, to) in marks(cuda, model, micro_batch, rounds)? {
        calls.entry(key).or_default().time += cuda.between(&from, &to)? / rounds;
    }
    for ((op, arguments), call) in calls {
        say(json!({
            "kind": "call", "op": op, "arguments": arguments, "micro_batch": micro_batch, "calls": call.calls,
            "ms": call.time.as_secs_f64() * 1e3, "flops": call.flops, "bytes": call.bytes,
        }));
    }
    Ok(())
}

fn count(meter: &Meter, model: &Model, micro_batch: usize) -> Result<BTreeMap<Key, Call>> {
    let calls = Mutex::new(BTreeMap::<Key, Call>::new());
    let before = || meter.reset_counts();
    let after = |op, arguments| {
        let (counts, mut calls) = (meter.counts(), lock(&calls));
        let call = calls.entry((op, arguments)).or_default();
        call.calls += 1;
        call.flops += counts.flops;
        call.bytes += counts.bytes;
    };
    let watched = Observed { backend: meter, before: &before, after: &after };
    let target = model.target(&watched, micro_batch)?;
    // The text was encoded on the way.
    lock(&calls).clear();
    model.evaluate(&target, &model.latents(meter, micro_batch)?)?;
    drop(target);
    Ok(calls.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn marks(cuda: &Cuda, model: &Model, micro_batch: usize, rounds: u32) -> Result<Vec<(Key, Mark, Mark)>> {
    let marks = Mutex::new(Vec::new());
    // Operations come one after another.
    let start = Mutex::new(None);
    let before = || *lock(&start) = cuda.mark().ok();
    let after = |op, arguments| {
        if let (Some(from), Ok(to)) = (lock(&start).take(), cuda.mark()) {
            lock(&marks).push(((op, arguments), from, to));
        }
    };
    let watched = Observed { backend: cuda, before: &before, after: &after };
    let target = model.target(&watched, micro_batch)?;
    let x = model.latents(cuda, micro_batch)?;
    // The first look makes what is made once.
    model.evaluate(&target, &x)?;
    lock(&marks).clear();
    for _ in 0..rounds {
        model.evaluate(&target, &x)?;
    }
    drop(target);
    Ok(marks.into_inner().unwrap_or_else(PoisonError::into_inner))
}
