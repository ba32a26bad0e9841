//! Runs a product with gathered rows by cuBLASLt, by our kernels on tensor cores, or by those without. Linear
//! maps and convolutions come here as a gather (gather.rs) and a weight.

use std::path::Path;

use super::autotune::{Autotuner, Outcome};
use super::problem::{CLASSES, Fused, Output, Problem, Product, TAPS, epilogue_pass, output_shape};
use super::tensor_core::Table;
use super::tile::{Plan, TILES};
use crate::backend::Epilogue;
use crate::cuda::ctx::Cuda;
use crate::error::Result;
use crate::tensor::Tensor;

impl Cuda {
    /// Also considers cuBLASLt, where it is found, for linear maps in 16 bits: it makes those for which it is
    /// clearly faster than our kernels. Decisions of earlier runs are read from a cache file. Without the
    /// library, results depend on our kernels only.
    pub fn with_cublas(self) -> Cuda {
        let autotuner = self.tensor.as_ref().and_then(|_| Autotuner::new(&self));
        Cuda { autotuner, ..self }
    }

    /// Reads the decisions between cuBLASLt and our kernels from this file and adds to it, in place of the
    /// usual one; with `None`, every decision is made anew and none is kept.
    pub fn with_autotune_cache(self, file: Option<&Path>) -> Cuda {
        Cuda { autotuner: self.autotuner.map(|autotuner| autotuner.with_cache(file)), ..self }
    }

    /// The decisions between cuBLASLt and our kernels that this process timed itself; `None` without the
    /// library.
    pub fn autotune_outcomes(&self) -> Option<Vec<Outcome>> {
        self.autotuner.as_ref().map(Autotuner::outcomes)
    }

    /// Makes every matrix product and convolution with tile `tile` (below [`Cuda::TILES`]) and the sum split
    /// into `splits` parts. For tests and measurements.
    #[doc(hidden)]
    pub fn with_plan(self, tile: usize, splits: usize) -> Cuda {
        Cuda { plan: Some(Plan { tile, splits }), ..self }
    }
    /// How many tiles there are.
    #[doc(hidden)]
    pub const TILES: usize = TILES.len();
}

impl Product<'_> {
    /// The product without an epilogue: 16-bit or f32 as its channels say.
    ///
    /// # Errors
    /// Memory or driver.
    #[track_caller]
    pub fn run(self, cuda: &Cuda) -> Result<Tensor> {
        self.dispatch(cuda, None).map(|(y, _)| y)
    }

    /// The product and its epilogue, which tensor cores fuse; with the pre-activation if `keep`.
    ///
    /// # Errors
    /// Memory or driver.
    #[track_caller]
    pub fn run_epilogue(self, cuda: &Cuda, epilogue: Epilogue, keep: bool) -> Result<Output> {
        assert!(!self.transposed && !self.f32_output, "an epilogue belongs to a forward product");
        let epilogue = Some((epilogue, keep));
        if output_shape(self.out, epilogue).in_packets() {
            self.dispatch(cuda, epilogue)
        } else {
            epilogue_pass(cuda, self.run(cuda)?, epilogue)
        }
    }

    #[track_caller]
    fn dispatch(self, cuda: &Cuda, epilogue: Fused) -> Result<Output> {
        let out = self.out;
        if let Some(bias) = self.bias {
            let b = bias.shape();
            assert!(b.c == out.c && [1, out.n].contains(&b.n), "bias {b} for {} samples of {}", out.n, out.c);
        }
        if let Some(add) = self.add {
            assert_eq!(add.shape().len(), out.len(), "what is added has the result's shape");
        }
        let (x, w) = (self.x.shape(), self.w.shape());
        let columns = if self.transposed { w.c } else { w.n };
        let depth = if self.transposed { w.n } else { w.c };
        assert!(columns >= out.c && depth <= x.c, "a product of {x} and {w} for {out}");
        let packets = x.in_packets() && w.in_packets();
        let taps = self.gather.classes.iter().flat_map(|c| c.taps).max().unwrap_or(0);
        match &cuda.tensor {
            Some(table) if packets && taps <= TAPS && self.gather.classes.len() <= CLASSES => {
                match self.autotuned(cuda, table, epilogue)? {
                    Some(output) => Ok(output),
                    None => self.on_tensor_cores(cuda, table, epilogue),
                }
            }
            _ => epilogue_pass(cuda, self.simt(cuda)?, epilogue),
        }
    }

    /// A matrix product without a gather, by whichever of cuBLASLt and our kernels the autotuner picks;
    /// `None` where the library is not there or cannot make it.
    fn autotuned(self, cuda: &Cuda, table: &Table, epilogue: Fused) -> Result<Option<Output>> {
        let Some(autotuner) = &cuda.autotuner else { return Ok(None) };
        let (act, out, x, w) = (cuda.elem(), self.out, self.x.shape(), self.w.shape());
        let pixels = self.gather.is_point() && [x.n, x.h, x.w] == [out.n, out.h, out.w];
        let [columns, depth] = if self.transposed { [w.c, w.n] } else { [w.n, w.c] };
        let whole = columns == out.c && depth == x.c && w.tokens() == 1 && !out.is_empty();
        if cuda.plan.is_some()
            || self.bias_each()
            || self.f32_output
            || cuda.elem_of(out) != act
            || !pixels
            || !whole
        {
            return Ok(None);
        }
        let (bias, add) = (self.cast(cuda, self.bias, act)?, self.cast(cuda, self.add, act)?);
        let (x, w) = (cuda.cast(self.x, act)?, cuda.cast_weight(self.w, act)?);
        let (transposed, rows) = (self.transposed, out.positions());
        let problem =
            Problem { rows, columns, depth, transposed, bias: bias.is_some(), add: add.is_some(), epilogue };
        let cast = Product { x: &x, w: &w, bias: bias.as_ref(), add: add.as_ref(), ..self };
        let own = || cast.on_tensor_cores(cuda, table, epilogue);
        let operands = [Some(&x), Some(&w), bias.as_ref(), add.as_ref()];
        let finish = |y| epilogue_pass(cuda, y, epilogue);
        let (y, kept) = autotuner.product(cuda, problem, operands, &own, &finish)?;
        Ok(Some((y.reshape(output_shape(out, epilogue)), kept.map(|kept| kept.reshape(out)))))
    }
}
