//! Every matrix product and convolution with every tile, its sum whole and in parts: what the choice in
//! `src/cuda/matmul/tile.rs` is measured by.

use std::time::Duration;

use das_cuda::Result;
use das_cuda::cuda::Cuda;
use serde_json::json;

use crate::cases::{Case, Op};
use crate::ops::Ready;
use crate::say;
use crate::sd15::label;
use crate::timing::{Effort, time};

/// Elements of a result whose tiles keep the largest GPU busy for some rounds: splitting their sums only
/// costs.
const MANY: usize = 128 * 128 * 132 * 4;

/// A line for each case, direction and plan.
pub fn run(mut cuda: Cuda, cases: impl Iterator<Item = Case>, effort: Effort) -> Result<()> {
    let effort = match effort {
        Effort::Measure(_) => Effort::Measure(Duration::ZERO),
        Effort::Touch => Effort::Touch,
    };
    for case in cases.filter(|case| matches!(case.op, Op::Linear { .. } | Op::Conv { .. })) {
        let ready = Ready::new(&case, &cuda)?;
        for vjp in [false, true] {
            let results = if vjp { case.op.inputs(case.kind)[0].shape } else { ready.result() };
            let splits = if results.len() > MANY { &[1][..] } else { &[1, 2, 4, 8] };
            for (tile, &splits) in (0..Cuda::TILES).flat_map(|tile| splits.iter().map(move |s| (tile, s))) {
                cuda = cuda.with_plan(tile, splits);
                let once = || if vjp { ready.vjp(&cuda) } else { ready.forward(&cuda) };
                let mut line = time(&cuda, effort, once)?.json();
                line["kind"] = json!("tile");
                line["label"] = json!(label(&case));
                line["vjp"] = json!(vjp);
                line["tile"] = json!(tile);
                line["splits"] = json!(splits);
                say(line);
            }
        }
    }
    Ok(())
}
