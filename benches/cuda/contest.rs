//! Every linear map by our kernels and by cuBLASLt, where that is found.

use das_cuda::Result;
use das_cuda::cuda::{Cuda, Outcome};
use serde_json::{Value, json};

use crate::cases::Case;
use crate::ops::Ready;
use crate::say;
use crate::sd15::label;

/// A line for each contest, with the case that brought it about.
pub fn run(cuda: &Cuda, cases: impl Iterator<Item = Case>) -> Result<()> {
    let Some(mut before) = cuda.contests().map(|all| all.len()) else {
        eprintln!("no cuBLASLt: libcublasLt.so of CUDA 12 or 13 is not on LD_LIBRARY_PATH");
        return Ok(());
    };
    for case in cases {
        let ready = Ready::new(&case, cuda)?;
        ready.vjp(cuda)?;
        for outcome in cuda.contests().unwrap_or_default().split_off(before) {
            before += 1;
            say(line(&label(&case), &outcome));
        }
    }
    Ok(())
}

fn line(label: &str, outcome: &Outcome) -> Value {
    let Outcome { rows, columns, depth, turned, bias, add, then, ours, library, taken } = outcome;
    json!({
        "kind": "contest", "label": label, "rows": rows, "columns": columns, "depth": depth, "turned": turned,
        "bias": bias, "add": add, "then": then.map(|(epilogue, _)| format!("{epilogue:?}")),
        "flops": 2 * rows * columns * depth, "own_ms": ours.as_secs_f64() * 1e3,
        "library_ms": library.map(|t| t.as_secs_f64() * 1e3), "taken": taken,
    })
}
