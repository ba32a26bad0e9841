//! The one table of operation cases: every backend operation with several shapes and parameters. Golden
//! files, transpose and difference tests, comparison of backends, the meter and the benches all walk this
//! table.
//!
//! Inputs are made from the case's name by integer arithmetic and exactly rounded f64, so
//! `tools/golden/ops.py` makes the same bits and golden files hold results only.

// Each test and bench uses its part.
#![allow(dead_code, unused_imports)]

mod entry;
mod inputs;
mod large;
mod operations;

use das_cuda::backend::Backend;
use das_cuda::error::Result;
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use serde_json::{Value, json};

pub use entry::{Bias, Entry, LAYER_EPS, advance, ids, strengths};
pub use inputs::{Input, Kind, sampled};
use inputs::{fill, randn};
pub use large::large;
pub use operations::{Op, small};

/// The small cases; `DAS_OPS=conv,linear` keeps those operations only, while working on them.
///
/// # Panics
/// If there is no operation of one of the names.
pub fn chosen() -> Vec<Case> {
    let wanted = std::env::var("DAS_OPS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').map(str::trim).filter(|op| !op.is_empty()).collect();
    let names: std::collections::BTreeSet<_> = small().iter().map(|c| c.op.name()).collect();
    for op in &wanted {
        assert!(names.contains(op), "DAS_OPS: no operation `{op}`; there are {names:?}");
    }
    small().into_iter().filter(|c| wanted.is_empty() || wanted.contains(&c.op.name())).collect()
}

/// One line of the table. Large cases are for benches only.
#[derive(Clone, Debug)]
pub struct Case {
    pub op: Op,
    pub kind: Kind,
    pub large: bool,
}

impl Case {
    /// Names the case, seeds its inputs and keys its goldens.
    pub fn name(&self) -> String {
        format!("{:?} {:?}", self.op, self.kind)
    }

    /// All about its operation.
    pub fn entry(&self) -> Entry<'_> {
        self.op.entry(self.kind)
    }

    /// Has results made by PyTorch.
    pub fn has_golden(&self) -> bool {
        !self.large && self.entry().torch.is_some()
    }

    /// The line of the case list the golden script reads.
    pub fn to_json(&self) -> Option<Value> {
        let entry = self.entry();
        let (torch, params) = entry.torch?;
        let inputs: Vec<Value> = entry
            .inputs
            .iter()
            .map(|i| {
                let s = i.shape;
                json!({
                    "shape": [s.n, s.h, s.w, s.c], "kind": format!("{:?}", i.kind),
                    "scale": i.scale, "shift": i.shift,
                })
            })
            .collect();
        Some(json!({
            "name": self.name(), "op": entry.name, "torch": torch, "params": params, "inputs": inputs,
            "wrt": entry.differentiable,
        }))
    }

    pub fn host_inputs(&self) -> Vec<Vec<f32>> {
        let inputs = self.op.inputs(self.kind);
        inputs.iter().enumerate().map(|(i, input)| fill(input, &format!("{}/{i}", self.name()))).collect()
    }

    /// The cotangent of a result of `len` elements.
    pub fn host_cotangent(&self, len: usize) -> Vec<f32> {
        fill(&randn(Shape::vector(len)), &format!("{}/dy", self.name()))
    }

    /// Uploads `host`, shaped as the inputs are.
    pub fn upload(&self, backend: &dyn Backend, host: &[Vec<f32>]) -> Result<Vec<Tensor>> {
        let inputs = self.op.inputs(self.kind);
        inputs.iter().zip(host).map(|(i, h)| backend.upload(i.shape, HostSlice::F32(h))).collect()
    }

    /// Runs the forward operation: the result first, then what it saved. Particle operations that return
    /// numbers on the host return them as a tensor.
    pub fn forward(&self, backend: &dyn Backend, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        (self.entry().forward)(backend, inputs)
    }

    /// Runs the transpose on the results of [`Case::forward`]: one cotangent per differentiable input.
    pub fn vjp(
        &self,
        backend: &dyn Backend,
        inputs: &[Tensor],
        results: &[Tensor],
        dy: &Tensor,
    ) -> Result<Vec<Tensor>> {
        (self.entry().vjp)(backend, inputs, results, dy)
    }
}
