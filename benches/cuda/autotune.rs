//! Every linear map by our kernels and by cuBLASLt, where that is found.

use das_cuda::Result;
use das_cuda::cuda::Cuda;
use das_cuda::cuda::testing::{Outcome, Problem};
use serde_json::{Value, json};

use crate::cases::Case;
use crate::ops::Ready;
use crate::say;
use crate::sd15::label;

/// Prints a line for each decision of the autotuner, with the case that called for it.
pub fn run(cuda: &Cuda, cases: impl Iterator<Item = Case>) -> Result<()> {
    let Some(mut before) = cuda.autotune_outcomes().map(|all| all.len()) else {
        eprintln!("no cuBLASLt: libcublasLt.so of CUDA 12 or 13 is not on LD_LIBRARY_PATH");
        return Ok(());
    };
    for case in cases {
        let ready = Ready::new(&case, cuda)?;
        ready.vjp(cuda)?;
        for outcome in cuda.autotune_outcomes().unwrap_or_default().split_off(before) {
            before += 1;
            say(line(&label(&case), &outcome));
        }
    }
    Ok(())
}

fn line(label: &str, outcome: &Outcome) -> Value {
    let Outcome { problem, ours, library, taken } = outcome;
    let Problem { rows, columns, depth, transposed, bias, add, epilogue } = problem;
    json!({
        "kind": "autotune", "label": label, "rows": rows, "columns": columns, "depth": depth, "transposed": transposed,
        "bias": bias, "add": add, "epilogue": epilogue.map(|(f, _)| format!("{f:?}")),
        "flops": 2 * rows * columns * depth, "own_ms": ours.as_secs_f64() * 1e3,
        "library_ms": library.map(|t| t.as_secs_f64() * 1e3), "taken": taken,
    })
}
