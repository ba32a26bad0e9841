//! A matrix product with gathered rows, as data: its operands, what follows it, the numbers that the kernels
//! take, and the problem that names it in the cache of choices.

use super::gather::{Class, Gather};
use crate::backend::{Activation, Backend, Epilogue};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Act, Buffer, Elem, In};
use crate::cuda::launch::params;
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// Classes that one launch holds.
pub const CLASSES: usize = 16;
/// Taps along an axis that fit into a row's mask in tensor.cu.
pub const TAPS: usize = 16;

params! {
    /// A product: see kernels/product.cuh.
    pub struct ProductParams {
        pub samples: i32,
        pub out_h: i32,
        pub out_w: i32,
        pub columns: i32,
        pub step_out: i32,
        pub in_h: i32,
        pub in_w: i32,
        pub channels: i32,
        pub step_in: i32,
        pub dstep: i32,
        pub depth: i32,
        pub right_row: i32,
        pub right_y: i32,
        pub right_x: i32,
        pub bias_each: i32,
        pub splits: i32,
        pub tiles_m: i32,
        pub tiles_n: i32,
        pub epilogue: i32,
        pub grid_h: [i32; 16],
        pub grid_w: [i32; 16],
        pub out_y: [i32; 16],
        pub out_x: [i32; 16],
        pub in_y: [i32; 16],
        pub in_x: [i32; 16],
        pub taps_y: [i32; 16],
        pub taps_x: [i32; 16],
        pub right_at: [i32; 16],
    }
    /// How parts of a product become a result.
    pub struct FinishParams {
        pub len: i64,
        pub columns: i32,
        pub splits: i32,
        pub per_sample: i32,
        pub epilogue: i32,
    }
}

/// `y = gathered x * w + bias + add`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub gather: &'a Gather,
    pub x: &'a Tensor,
    /// `(rows, kh, kw, c)`: a row makes a column of `y` from the channels `c`; or where it is `turned`,
    /// belongs to a channel of `x` and adds to the columns `c`.
    pub w: &'a Tensor,
    pub turned: bool,
    /// `(1|n, 1, 1, out)`.
    pub bias: Option<&'a Tensor>,
    pub add: Option<&'a Tensor>,
    pub out: Shape,
    /// The result in f32, whatever its channels.
    pub wide: bool,
}

/// `y (rows, columns) = x (rows, depth) w + bias + add`, `w` as in `Product`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub turned: bool,
    pub bias: bool,
    pub add: bool,
    /// What follows, and whether what it is given is kept. The library leaves that to a pass of ours.
    pub then: Option<(Epilogue, bool)>,
}

/// A result, and what its epilogue was given where that is kept.
pub type Output = (Tensor, Option<Tensor>);
/// What follows, and whether what it is given is kept.
pub type Then = Option<(Epilogue, bool)>;

/// As in product.cuh.
pub fn number(epilogue: Epilogue) -> i32 {
    match epilogue {
        Epilogue::Activate(Activation::Silu) => 1,
        Epilogue::Activate(Activation::Gelu) => 2,
        Epilogue::Activate(Activation::QuickGelu) => 3,
        Epilogue::Geglu => 4,
    }
}

/// The shape of what comes out of a product `out` with what follows.
pub fn ended(out: Shape, then: Then) -> Shape {
    if matches!(then, Some((Epilogue::Geglu, _))) { out.with_c(out.c / 2) } else { out }
}

/// What follows as a pass of its own.
pub fn apart(cuda: &Cuda, given: Tensor, then: Then) -> Result<Output> {
    let Some((epilogue, keep)) = then else { return Ok((given, None)) };
    let y = match epilogue {
        Epilogue::Activate(f) => cuda.activate(&given, f)?,
        Epilogue::Geglu => cuda.geglu(&given)?,
    };
    Ok((y, keep.then_some(given)))
}

#[track_caller]
pub fn small(n: usize) -> i32 {
    let Ok(n) = i32::try_from(n) else { panic!("{n} is beyond the 32-bit numbers of a product") };
    n
}

impl Product<'_> {
    /// Memory for the result, and for what its epilogue is given.
    pub fn places(self, cuda: &Cuda, elem: Elem, then: Then) -> Result<(Buffer, Option<Buffer>)> {
        let keep = then.is_some_and(|(_, keep)| keep);
        Ok((cuda.alloc(elem, ended(self.out, then))?, keep.then(|| cuda.alloc(elem, self.out)).transpose()?))
    }

    pub fn wrapped(self, cuda: &Cuda, y: Buffer, given: Option<Buffer>, then: Then) -> Output {
        (cuda.wrap(ended(self.out, then), y), given.map(|given| cuda.wrap(self.out, given)))
    }

    pub fn cast(self, cuda: &Cuda, t: Option<&Tensor>, elem: Elem) -> Result<Option<Tensor>> {
        t.map(|t| cuda.cast(t, elem)).transpose()
    }

    pub fn bias_each(self) -> bool {
        self.bias.is_some_and(|b| b.shape().n > 1)
    }

    pub fn rows(self, class: &Class) -> usize {
        self.out.n * class.grid[0] * class.grid[1]
    }

    pub fn params(self, classes: &[Class], tile: [usize; 2], splits: usize) -> ProductParams {
        let (out, x, w, gather) = (self.out, self.x.shape(), self.w.shape(), self.gather);
        // Offsets that the kernels form in 32 bits.
        small(out.positions());
        small(x.positions());
        small(w.len());
        small(out.n * out.c);
        let rows = classes.iter().map(|c| self.rows(c)).max().unwrap_or(0);
        let each = |f: &dyn Fn(&Class) -> isize| {
            let mut all = [0; CLASSES];
            for (to, class) in all.iter_mut().zip(classes) {
                *to = f(class) as i32;
            }
            all
        };
        ProductParams {
            samples: small(out.n),
            out_h: small(out.h),
            out_w: small(out.w),
            columns: small(out.c),
            step_out: small(gather.step_out),
            in_h: small(x.h),
            in_w: small(x.w),
            channels: small(x.c),
            step_in: small(gather.step_in),
            dstep: gather.dstep as i32,
            depth: small(if self.turned { w.n } else { w.c }),
            right_row: small(w.sample()),
            right_y: small(gather.kernel_step * w.w * w.c),
            right_x: small(gather.kernel_step * w.c),
            bias_each: i32::from(self.bias_each()),
            splits: small(splits),
            tiles_m: small(rows.div_ceil(tile[0])),
            tiles_n: small(out.c.div_ceil(tile[1])),
            epilogue: 0,
            grid_h: each(&|c| c.grid[0] as isize),
            grid_w: each(&|c| c.grid[1] as isize),
            out_y: each(&|c| c.out[0] as isize),
            out_x: each(&|c| c.out[1] as isize),
            in_y: each(&|c| c.first[0]),
            in_x: each(&|c| c.first[1]),
            taps_y: each(&|c| c.taps[0] as isize),
            taps_x: each(&|c| c.taps[1] as isize),
            right_at: each(&|c| ((c.kernel[0] * w.w + c.kernel[1]) * w.c) as isize),
        }
    }
}

/// An optional tensor as `const Act*` of the kernels over `elem`.
pub fn read<'a>(cuda: &Cuda, t: &'a Option<Tensor>, elem: Elem) -> In<'a, Act> {
    t.as_ref().map_or_else(In::none, |t| cuda.buffer(t).read(elem))
}
