//! The parts of `tools/gpu-check` that are Rust, each a process of its own. Results go to standard output, a
//! line of JSON for each as soon as it is there.
//!
//!     list                       the cases, for PyTorch's script (needs no GPU)
//!     operations                 the operations of the tests' table (needs no GPU)
//!     folder PATH                a model of full size with random weights (needs no GPU)
//!     once                       each case of the tests' table and of ops, forward and transpose, once: for
//!                                a sanitizer
//!     ops                        times of the cases
//!     tiles                      times of products with every tile
//!     autotune                   times of linear maps by our kernels and by cuBLASLt
//!     copy                       bandwidth of a copy
//!     hot                        the operations that take most of a step, forward and transpose, once: for
//!                                ncu
//!     step PATH                  a guided step with the model of `folder`
//!     see PATH                   what comes out of a step, for comparison with PyTorch
//!     see-cpu PATH               the same on the CPU (needs no GPU)
//!     smc                        weighing and resampling
//!
//! Options: `--dtype bf16|f16|f32`, `--only OP,OP` (or DAS_OPS), `--tiny` for where nothing can be measured,
//! `--micro-batch N,N`, `--budget-ms N` for each measurement, `--cublas` for linear maps by cuBLASLt where it
//! is faster.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use das_cuda::backend::{Backend, Record};
use das_cuda::cpu::Cpu;
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::tensor::Shape;
use das_cuda::{Error, Result};
use serde_json::json;

use crate::cases::{self, Case, Op};
use crate::model::{self, Model};
use crate::timing::{Effort, Times};
use crate::{autotune, folder, ops, say, sd15, smc, step, tiles};

struct Options {
    path: PathBuf,
    elem: Elem,
    only: Vec<String>,
    tiny: bool,
    micro_batches: Vec<usize>,
    budget: Duration,
    cublas: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options {
            path: PathBuf::new(),
            elem: Elem::Bf16,
            only: list(&std::env::var("DAS_OPS").unwrap_or_default()),
            tiny: false,
            micro_batches: vec![16, 4, 1],
            budget: Duration::from_millis(60),
            cublas: false,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| wrong(name));
            match name.as_str() {
                "--tiny" => options.tiny = true,
                "--cublas" => options.cublas = true,
                "--only" => options.only = list(value()?),
                "--budget-ms" => {
                    options.budget = Duration::from_millis(value()?.parse().map_err(|_| wrong(name))?);
                }
                "--micro-batch" => {
                    let numbers: std::result::Result<_, _> =
                        list(value()?).iter().map(|n| n.parse()).collect();
                    options.micro_batches = numbers.map_err(|_| wrong(name))?;
                }
                "--dtype" => {
                    let all = [Elem::Bf16, Elem::F16, Elem::F32];
                    let name = value()?;
                    let known = all.into_iter().find(|e| e.name() == name);
                    options.elem = known.ok_or_else(|| wrong(name))?;
                }
                path if !path.starts_with('-') => options.path = path.into(),
                other => return Err(wrong(other)),
            }
        }
        Ok(options)
    }

    fn cases(&self) -> impl Iterator<Item = Case> {
        sd15::cases(self.tiny).into_iter().filter(|case| self.selects(case))
    }

    fn selects(&self, case: &Case) -> bool {
        self.only.is_empty() || self.only.iter().any(|op| op == case.op.name())
    }

    fn effort(&self) -> Effort {
        if self.tiny { Effort::Touch } else { Effort::Measure(self.budget) }
    }

    fn open(&self) -> Result<Cuda> {
        let cuda = Cuda::open(0, self.elem)?;
        Ok(if self.cublas { cuda.with_cublas() } else { cuda })
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|part| !part.is_empty()).map(String::from).collect()
}

fn wrong(argument: &str) -> Error {
    Error::usage(format!("--check: {argument} is not understood")).advice("see benches/cuda/check.rs")
}

/// Runs the part that `arguments` name.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((part, rest)) = arguments.split_first() else { return Err(wrong("no part")) };
    let options = Options::parse(rest)?;
    match part.as_str() {
        "list" => {
            options.cases().for_each(|case| say(ops::describe(&case)));
            Ok(())
        }
        "operations" => {
            let names: BTreeSet<_> = cases::small().iter().map(|case| case.op.name()).collect();
            names.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
        "folder" => folder::write(&options.path, options.tiny)
            .map_err(|e| Error::io(format!("{}: cannot be written", options.path.display())).because(e)),
        "once" => once(&options),
        "hot" => hot(&options),
        "ops" => time_ops(&options),
        "tiles" => tiles::run(options.open()?, options.cases(), options.effort()),
        "autotune" => {
            autotune::run(&options.open()?.with_cublas().with_autotune_cache(None), options.cases())
        }
        "copy" => copy(&options),
        "step" => step::run(&options.open()?, &options.path, &options.micro_batches, options.effort()),
        "see" => see(&options.open()?, options.elem.name(), &options.path),
        "see-cpu" => see(&Cpu::new(), "cpu", &options.path),
        "smc" => smc::run(&options.open()?, options.effort()),
        other => Err(wrong(other)),
    }
}

fn see(backend: &dyn Backend, name: &str, folder: &Path) -> Result<()> {
    model::save(backend, &Model::load(backend, folder)?, name, folder, 2)
}

/// Small cases that reach every kernel.
fn once(options: &Options) -> Result<()> {
    let cuda = options.open()?;
    let small = cases::small().into_iter().chain(sd15::cases(true));
    for case in small.filter(|case| options.selects(case)) {
        let ready = ops::Ready::new(&case, &cuda)?;
        ready.forward(&cuda)?;
        ready.vjp(&cuda)?;
    }
    if options.only.is_empty() || options.only.iter().any(|op| op == "weigh") {
        smc::run(&cuda, Effort::Touch)?;
    }
    // What the GPU has found wrong is said here at the latest.
    cuda.elapsed(|| Ok(())).map(drop)
}

/// The convolutions, the product and the attention on which a step spends most of its time.
fn hot(options: &Options) -> Result<()> {
    let cuda = options.open()?;
    let is_hot = |case: &Case| match &case.op {
        Op::Conv { x, out, .. } => x.c == *out && [(512, 128), (64, 320)].contains(&(x.h, x.c)),
        Op::LinearEpilogue { x, .. } => (x.h, x.c) == (64, 320),
        Op::SelfAttention { y, .. } => (y.h, y.c) == (64, 320),
        _ => false,
    };
    for case in options.cases().filter(|case| options.tiny || is_hot(case)) {
        let ready = ops::Ready::new(&case, &cuda)?;
        ready.vjp(&cuda)?;
    }
    cuda.elapsed(|| Ok(())).map(drop)
}

fn time_ops(options: &Options) -> Result<()> {
    let cuda = options.open()?;
    for case in options.cases() {
        let (label, op, dtype) = (sd15::label(&case), case.op.name(), options.elem.name());
        let ready = ops::Ready::new(&case, &cuda)?;
        for vjp in [false, true] {
            if vjp && !ready.has_vjp() {
                continue;
            }
            let mut line = match ops::measure(&cuda, &ready, vjp, options.effort()) {
                Ok(line) => line,
                // Another case may fit.
                Err(e) if e.kind() == das_cuda::ErrorKind::Memory => json!({"error": e.to_string()}),
                Err(e) => return Err(e.context(label)),
            };
            for (key, value) in [("kind", "op"), ("label", &label), ("op", op), ("dtype", dtype)] {
                line[key] = json!(value);
            }
            line["vjp"] = json!(vjp);
            say(line);
        }
    }
    Ok(())
}

/// What moving bytes costs at best: a large copy by the driver. Work that is replayed has its inputs copied
/// to their place.
fn copy(options: &Options) -> Result<()> {
    let cuda = options.open()?;
    let rows = if options.tiny { 1 << 10 } else { 1 << 19 };
    let x = ops::random(&cuda, Shape::rows(rows, 1 << 10))?;
    let tiny = cuda.zeros(Shape::vector(8))?;
    let bytes = 2 * x.shape().len() as u64 * cuda.elem().size() as u64;
    let mut record = Record::default();
    let mut replay = || cuda.replay(&mut record, &[&x], &mut |_| Ok(vec![cuda.scale(1.0, &tiny)?])).map(drop);
    let mut times = Vec::new();
    for _ in 0..if options.tiny { 3 } else { 24 } {
        times.push(cuda.elapsed(&mut replay)?);
    }
    // The first two ran and recorded.
    let mut line = Times(times.split_off(2)).json();
    line["kind"] = json!("copy");
    line["bytes"] = json!(bytes);
    say(line);
    Ok(())
}
