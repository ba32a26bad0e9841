//! Each operation of `sd15.rs` on the GPU: forward and transpose.

use std::sync::LazyLock;

use das_cuda::Result;
use das_cuda::backend::Backend;
use das_cuda::cuda::Cuda;
use das_cuda::meter::Meter;
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use half::bf16;
use serde_json::{Value, json};

use crate::cases::{Case, Input, Kind};
use crate::folder::normal;
use crate::sd15::label;
use crate::timing::{Effort, time};

/// Operations and bytes by the meter.
#[derive(Clone, Copy)]
pub struct Work {
    pub flops: u64,
    pub bytes: u64,
}

/// A case with everything it needs on a device.
pub struct Ready<'a> {
    pub case: &'a Case,
    inputs: Vec<Tensor>,
    results: Vec<Tensor>,
    dy: Option<Tensor>,
}

impl<'a> Ready<'a> {
    pub fn new(case: &'a Case, backend: &dyn Backend) -> Result<Ready<'a>> {
        let inputs: Vec<Tensor> =
            case.op.inputs(case.kind).iter().map(|i| upload(backend, i)).collect::<Result<_>>()?;
        let results = case.forward(backend, &inputs)?;
        let dy = (case.op.differentiable() > 0).then(|| random(backend, results[0].shape())).transpose()?;
        Ok(Ready { case, inputs, results, dy })
    }

    pub fn forward(&self, backend: &dyn Backend) -> Result<()> {
        self.case.forward(backend, &self.inputs).map(drop)
    }

    /// Shape of the result.
    pub fn result(&self) -> Shape {
        self.results[0].shape()
    }

    /// Whether there is a transpose.
    pub fn has_vjp(&self) -> bool {
        self.dy.is_some()
    }

    pub fn vjp(&self, backend: &dyn Backend) -> Result<()> {
        match &self.dy {
            Some(dy) => self.case.vjp(backend, &self.inputs, &self.results, dy).map(drop),
            None => Ok(()),
        }
    }
}

/// Normal numbers.
pub fn random(backend: &dyn Backend, shape: Shape) -> Result<Tensor> {
    upload(backend, &Input { shape, kind: Kind::Randn, scale: 1.0, shift: 0.0 })
}

/// Random numbers as in the tests' inputs, but made quickly: a large tensor repeats some million of them, on
/// the device.
fn upload(backend: &dyn Backend, input: &Input) -> Result<Tensor> {
    const POOL: usize = 1 << 22;
    static NORMALS: LazyLock<Vec<f32>> = LazyLock::new(|| (0..POOL as u64).map(normal).collect());
    static NARROW: LazyLock<Vec<bf16>> =
        LazyLock::new(|| NORMALS.iter().map(|x| bf16::from_f32(*x)).collect());
    let (len, plain) = (input.shape.len(), (input.scale, input.shift) == (1.0, 0.0));
    let mut times = len.div_ceil(POOL).max(1);
    while len % times != 0 {
        times += 1;
    }
    let part = len / times;
    let shape = if times == 1 { input.shape } else { Shape::new(1, 1, 1, part) };
    let made = if plain && times > 1 {
        backend.upload(shape, HostSlice::BF16(&NARROW[..part]))?
    } else {
        let all: Vec<f32> = NORMALS[..part].iter().map(|x| x * input.scale + input.shift).collect();
        backend.upload(shape, HostSlice::F32(&all))?
    };
    if times == 1 { Ok(made) } else { Ok(backend.repeat(&made, times)?.reshape(input.shape)) }
}

/// What the meter says of a case on a device whose elements have `bytes`.
pub fn work(case: &Case, bytes: u64) -> Result<(Work, Option<Work>)> {
    let meter = Meter::of_packets(bytes);
    let inputs: Vec<Tensor> =
        case.op.inputs(case.kind).iter().map(|i| meter.zeros(i.shape)).collect::<Result<_>>()?;
    let count = |f: &mut dyn FnMut() -> Result<()>| -> Result<Work> {
        meter.reset_counts();
        f()?;
        let counts = meter.counts();
        Ok(Work { flops: counts.flops, bytes: counts.bytes })
    };
    let mut results = Vec::new();
    let forward = count(&mut || case.forward(&meter, &inputs).map(|r| results = r))?;
    if case.op.differentiable() == 0 {
        return Ok((forward, None));
    }
    let dy = meter.zeros(results[0].shape())?;
    let vjp = count(&mut || case.vjp(&meter, &inputs, &results, &dy).map(drop))?;
    Ok((forward, Some(vjp)))
}

/// Times a case; `vjp` says which way.
pub fn measure(cuda: &Cuda, ready: &Ready<'_>, vjp: bool, effort: Effort) -> Result<Value> {
    let (forward, back) = work(ready.case, cuda.elem().size() as u64)?;
    let work = if vjp { back.unwrap_or(forward) } else { forward };
    let times = time(cuda, effort, || if vjp { ready.vjp(cuda) } else { ready.forward(cuda) })?;
    let mut line = times.json();
    line["flops"] = json!(work.flops);
    line["bytes"] = json!(work.bytes);
    Ok(line)
}

/// The line that PyTorch's script reads.
pub fn describe(case: &Case) -> Value {
    let shape = |i: &Input| json!([i.shape.n, i.shape.h, i.shape.w, i.shape.c]);
    let inputs: Vec<Value> = case.op.inputs(case.kind).iter().map(shape).collect();
    let params = case.to_json().map_or(Value::Null, |line| line["params"].clone());
    json!({
        "label": label(case), "op": case.op.name(), "params": params, "inputs": inputs,
        "wrt": case.op.differentiable(),
    })
}
