//! Who makes a product with gathered rows: the library, our kernels on tensor cores, or those without. Linear maps
//! and convolutions come here as a gather (gather.rs) and a weight.

use std::path::Path;

use super::autotune::{Contest, Outcome};
use super::problem::{CLASSES, Output, Problem, Product, TAPS, Then, apart, ended};
use super::tensor_core::Table;
use super::tile::{Plan, TILES};
use crate::backend::Epilogue;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::PACKET;
use crate::error::Result;
use crate::tensor::Tensor;

impl Cuda {
    /// With cuBLASLt where that is found, for those linear maps in 16 bits which it makes clearly faster.
    /// What earlier runs chose stays; without the library results depend on our kernels only.
    pub fn with_cublas(self) -> Cuda {
        let contest = self.tensor.as_ref().and_then(|_| Contest::new(&self));
        Cuda { contest, ..self }
    }

    /// With the choices between cuBLASLt and our kernels read from and added to this file, not the usual one;
    /// without one, they are made anew.
    pub fn with_choices(self, file: Option<&Path>) -> Cuda {
        Cuda { contest: self.contest.map(|contest| contest.choices(file)), ..self }
    }

    /// What was chosen between cuBLASLt and our kernels, where the times were taken by this device; `None`
    /// without the library.
    pub fn contests(&self) -> Option<Vec<Outcome>> {
        self.contest.as_ref().map(Contest::outcomes)
    }

    /// Every matrix product and convolution with tile `tile` of [`Cuda::TILES`] and the sum in `splits`
    /// parts, to measure and to test them.
    pub fn with_plan(self, tile: usize, splits: usize) -> Cuda {
        Cuda { plan: Some(Plan { tile, splits }), ..self }
    }
    /// How many tiles there are.
    pub const TILES: usize = TILES.len();
}

impl Product<'_> {
    /// The result: `Act` or f32 as its channels say.
    ///
    /// # Errors
    /// Memory or driver.
    #[track_caller]
    pub fn run(self, cuda: &Cuda) -> Result<Tensor> {
        self.made(cuda, None).map(|(y, _)| y)
    }

    /// The same and then `epilogue`, in one pass on tensor cores; with what the epilogue was given if `keep`.
    ///
    /// # Errors
    /// Memory or driver.
    #[track_caller]
    pub fn run_then(self, cuda: &Cuda, epilogue: Epilogue, keep: bool) -> Result<Output> {
        assert!(!self.turned && !self.wide, "what follows is for plain products");
        let then = Some((epilogue, keep));
        if ended(self.out, then).c.is_multiple_of(PACKET) {
            self.made(cuda, then)
        } else {
            apart(cuda, self.run(cuda)?, then)
        }
    }

    #[track_caller]
    fn made(self, cuda: &Cuda, then: Then) -> Result<Output> {
        let out = self.out;
        if let Some(bias) = self.bias {
            let b = bias.shape();
            assert!(b.c == out.c && [1, out.n].contains(&b.n), "bias {b} for {} samples of {}", out.n, out.c);
        }
        if let Some(add) = self.add {
            assert_eq!(add.shape().len(), out.len(), "what is added has the result's shape");
        }
        let (x, w) = (self.x.shape(), self.w.shape());
        let columns = if self.turned { w.c } else { w.n };
        let depth = if self.turned { w.n } else { w.c };
        assert!(columns >= out.c && depth <= x.c, "a product of {x} and {w} for {out}");
        let packets = x.c.is_multiple_of(PACKET) && w.c.is_multiple_of(PACKET);
        let taps = self.gather.classes.iter().flat_map(|c| c.taps).max().unwrap_or(0);
        match &cuda.tensor {
            Some(table) if packets && taps <= TAPS && self.gather.classes.len() <= CLASSES => {
                match self.by_library(cuda, table, then)? {
                    Some(made) => Ok(made),
                    None => self.on_tensor_cores(cuda, table, then),
                }
            }
            _ => apart(cuda, self.plain(cuda)?, then),
        }
    }

    /// A plain matrix product, if the library is there to compete for it.
    fn by_library(self, cuda: &Cuda, table: &Table, then: Then) -> Result<Option<Output>> {
        let Some(contest) = &cuda.contest else { return Ok(None) };
        let (act, out, x, w) = (cuda.elem(), self.out, self.x.shape(), self.w.shape());
        let pixels = self.gather.is_point() && [x.n, x.h, x.w] == [out.n, out.h, out.w];
        let [columns, depth] = if self.turned { [w.c, w.n] } else { [w.n, w.c] };
        let whole = columns == out.c && depth == x.c && w.tokens() == 1 && !out.is_empty();
        if cuda.plan.is_some()
            || self.bias_each()
            || self.wide
            || cuda.elem_of(out) != act
            || !pixels
            || !whole
        {
            return Ok(None);
        }
        let (bias, add) = (self.cast(cuda, self.bias, act)?, self.cast(cuda, self.add, act)?);
        let (x, w) = (cuda.cast(self.x, act)?, cuda.cast_weight(self.w, act)?);
        let (turned, rows) = (self.turned, out.positions());
        let key = Problem { rows, columns, depth, turned, bias: bias.is_some(), add: add.is_some(), then };
        let same = Product { x: &x, w: &w, bias: bias.as_ref(), add: add.as_ref(), ..self };
        let own = || same.on_tensor_cores(cuda, table, then);
        let operands = [Some(&x), Some(&w), bias.as_ref(), add.as_ref()];
        let (y, given) = contest.product(cuda, key, operands, &own, &|y| apart(cuda, y, then))?;
        Ok(Some((y.reshape(ended(out, then)), given.map(|given| given.reshape(out)))))
    }
}
