//! Products with gathered rows on the GPU: launchers of kernels/tensor.cu, and of `plain` and `finish` of
//! gemm.cu. Linear maps and convolutions come here as a gather (gather.rs) and a weight.

use std::path::Path;

use super::Cuda;
use super::buffer::{Buffer, Elem, PACKET};
use super::contest::{Contest, Outcome};
use super::cublaslt::Key;
use super::gather::{Class, Gather};
use super::gemm::FinishParams;
use super::kernels::{Act, In, Launch, Out, kernels, params};
use super::tile::{Plan, STEP, TILES, Work};
use crate::backend::{Activation, Backend, Epilogue};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// Classes that one launch holds.
const CLASSES: usize = 16;
/// Taps along an axis that fit into a row's mask in tensor.cu.
const TAPS: usize = 16;
/// Rows and columns of `plain`'s tile.
const PLAIN: usize = 64;

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
}

kernels! {
    /// The kernels of tensor.cu, for 16-bit elements only.
    pub struct Table from "tensor" {
        fn product_256x128(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn product_128x160(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn product_128x128(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn product_128x64(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn product_64x64(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_256x128(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_128x160(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_128x128(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_128x64(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
        fn turned_64x64(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            z: Out<f32>,
            p: ProductParams,
        );
    }
}

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

/// A result, and what its epilogue was given where that is kept.
pub type Ended = (Tensor, Option<Tensor>);
/// What follows, and whether what it is given is kept.
type Then = Option<(Epilogue, bool)>;

/// As in product.cuh.
fn number(epilogue: Epilogue) -> i32 {
    match epilogue {
        Epilogue::Activate(Activation::Silu) => 1,
        Epilogue::Activate(Activation::Gelu) => 2,
        Epilogue::Activate(Activation::QuickGelu) => 3,
        Epilogue::Geglu => 4,
    }
}

/// The shape of what comes out of a product `out` with what follows.
fn ended(out: Shape, then: Then) -> Shape {
    if matches!(then, Some((Epilogue::Geglu, _))) { out.with_c(out.c / 2) } else { out }
}

/// What follows as a pass of its own.
fn apart(cuda: &Cuda, given: Tensor, then: Then) -> Result<Ended> {
    let Some((epilogue, keep)) = then else { return Ok((given, None)) };
    let y = match epilogue {
        Epilogue::Activate(f) => cuda.activate(&given, f)?,
        Epilogue::Geglu => cuda.geglu(&given)?,
    };
    Ok((y, keep.then_some(given)))
}

#[track_caller]
fn small(n: usize) -> i32 {
    let Ok(n) = i32::try_from(n) else { panic!("{n} is beyond the 32-bit numbers of a product") };
    n
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
    pub fn run_then(self, cuda: &Cuda, epilogue: Epilogue, keep: bool) -> Result<Ended> {
        assert!(!self.turned && !self.wide, "what follows is for plain products");
        let then = Some((epilogue, keep));
        if ended(self.out, then).c.is_multiple_of(PACKET) {
            self.made(cuda, then)
        } else {
            apart(cuda, self.run(cuda)?, then)
        }
    }

    #[track_caller]
    fn made(self, cuda: &Cuda, then: Then) -> Result<Ended> {
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
    fn by_library(self, cuda: &Cuda, table: &Table, then: Then) -> Result<Option<Ended>> {
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
        let key = Key { rows, columns, depth, turned, bias: bias.is_some(), add: add.is_some(), then };
        let same = Product { x: &x, w: &w, bias: bias.as_ref(), add: add.as_ref(), ..self };
        let own = || same.on_tensor_cores(cuda, table, then);
        let operands = [Some(&x), Some(&w), bias.as_ref(), add.as_ref()];
        let (y, given) = contest.product(cuda, key, operands, &own, &|y| apart(cuda, y, then))?;
        Ok(Some((y.reshape(ended(out, then)), given.map(|given| given.reshape(out)))))
    }

    fn on_tensor_cores(self, cuda: &Cuda, table: &Table, then: Then) -> Result<Ended> {
        let (act, out) = (cuda.elem(), self.out);
        let kernels = cuda.kernels(act);
        let (x, w) = (cuda.cast(self.x, act)?, cuda.cast_weight(self.w, act)?);
        let target = if self.wide { Elem::F32 } else { cuda.elem_of(out) };
        let plan = self.plan(cuda);
        let tile = TILES[plan.tile];
        let epilogue = then.map_or(0, |(epilogue, _)| number(epilogue));
        let p = ProductParams {
            epilogue,
            ..self.params(&self.gather.classes, [tile.rows, tile.columns], plan.splits)
        };
        let blocks = p.tiles_m as usize * p.tiles_n as usize;
        let launch = Launch::grid(blocks, plan.splits, self.gather.classes.len(), tile.threads);
        let launch = launch.shared(tile.shared());
        let start = match (self.turned, plan.tile) {
            (false, 0) => Table::product_256x128,
            (false, 1) => Table::product_128x160,
            (false, 2) => Table::product_128x128,
            (false, 3) => Table::product_128x64,
            (false, _) => Table::product_64x64,
            (true, 0) => Table::turned_256x128,
            (true, 1) => Table::turned_128x160,
            (true, 2) => Table::turned_128x128,
            (true, 3) => Table::turned_128x64,
            (true, _) => Table::turned_64x64,
        };
        let (x, w) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&w)));
        if target == act && plan.splits == 1 {
            let (bias, add) = (self.cast(cuda, self.bias, act)?, self.cast(cuda, self.add, act)?);
            let [bias, add] = [&bias, &add].map(|t| read(cuda, t, act));
            let (mut y, mut given) = self.places(cuda, act, then)?;
            let (to, kept) =
                (kernels.write(&mut y), given.as_mut().map_or_else(Out::none, |y| kernels.write(y)));
            start(table, &cuda.device, launch, x, w, bias, add, to, kept, Out::none(), p)?;
            return Ok(self.wrapped(cuda, y, given, then));
        }
        let mut z = cuda.device.alloc(Elem::F32, plan.splits * out.len())?;
        let (none, nowhere) = (In::none, Out::none);
        start(table, &cuda.device, launch, x, w, none(), none(), nowhere(), nowhere(), z.f32_mut(), p)?;
        let ends = self.bias.is_some() || self.add.is_some() || then.is_some();
        if target == Elem::F32 && plan.splits == 1 && !ends {
            return Ok((cuda.wrap(out, z), None));
        }
        self.finish(cuda, &z, plan.splits, target, then)
    }

    /// Memory for the result, and for what its epilogue is given.
    fn places(self, cuda: &Cuda, elem: Elem, then: Then) -> Result<(Buffer, Option<Buffer>)> {
        let keep = then.is_some_and(|(_, keep)| keep);
        Ok((cuda.alloc(elem, ended(self.out, then))?, keep.then(|| cuda.alloc(elem, self.out)).transpose()?))
    }

    fn wrapped(self, cuda: &Cuda, y: Buffer, given: Option<Buffer>, then: Then) -> Ended {
        (cuda.wrap(ended(self.out, then), y), given.map(|given| cuda.wrap(self.out, given)))
    }

    /// Adds the parts of `z`, bias and addend, and does what follows.
    fn finish(self, cuda: &Cuda, z: &Buffer, splits: usize, target: Elem, then: Then) -> Result<Ended> {
        let (bias, add) = (self.cast(cuda, self.bias, target)?, self.cast(cuda, self.add, target)?);
        let [bias, add] = [&bias, &add].map(|t| read(cuda, t, target));
        let (mut y, mut given) = self.places(cuda, target, then)?;
        let p = FinishParams {
            len: self.out.len() as i64,
            columns: small(self.out.c),
            splits: small(splits),
            per_sample: if self.bias_each() { small(self.out.tokens()) } else { 0 },
            epilogue: then.map_or(0, |(epilogue, _)| number(epilogue)),
        };
        let (kernels, launch) = (cuda.kernels(target), Launch::cover(self.out.len().div_ceil(PACKET), 256));
        let (to, kept) = (kernels.write(&mut y), given.as_mut().map_or_else(Out::none, |y| kernels.write(y)));
        kernels.gemm.finish(&cuda.device, launch, z.f32(), bias, add, to, kept, p)?;
        Ok(self.wrapped(cuda, y, given, then))
    }

    /// Without tensor cores: in `Act` if everything is, else in f32.
    fn plain(self, cuda: &Cuda) -> Result<Tensor> {
        let target = if self.wide { Elem::F32 } else { cuda.elem_of(self.out) };
        let all = [Some(self.x), Some(self.w), self.bias, self.add];
        let narrow = all.iter().flatten().all(|t| cuda.buffer(t).elem() == target);
        let elem = if narrow { target } else { Elem::F32 };
        let kernels = cuda.kernels(elem);
        let (x, w) = (cuda.cast(self.x, elem)?, cuda.cast_weight(self.w, elem)?);
        let (bias, add) = (self.cast(cuda, self.bias, elem)?, self.cast(cuda, self.add, elem)?);
        let mut y = cuda.alloc(elem, self.out)?;
        for classes in self.gather.classes.chunks(CLASSES) {
            let p = self.params(classes, [PLAIN, PLAIN], 1);
            let blocks = p.tiles_m as usize * p.tiles_n as usize;
            let launch = Launch::grid(blocks, 1, classes.len(), 128);
            let (x, w) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&w)));
            let [bias, add] = [&bias, &add].map(|t| read(cuda, t, elem));
            let (y, turned) = (kernels.write(&mut y), i32::from(self.turned));
            kernels.gemm.plain(&cuda.device, launch, x, w, bias, add, y, turned, p)?;
        }
        cuda.cast(&cuda.wrap(self.out, y), target)
    }

    fn cast(self, cuda: &Cuda, t: Option<&Tensor>, elem: Elem) -> Result<Option<Tensor>> {
        t.map(|t| cuda.cast(t, elem)).transpose()
    }

    fn bias_each(self) -> bool {
        self.bias.is_some_and(|b| b.shape().n > 1)
    }

    fn rows(self, class: &Class) -> usize {
        self.out.n * class.grid[0] * class.grid[1]
    }

    fn plan(self, cuda: &Cuda) -> Plan {
        if let Some(plan) = cuda.plan {
            return plan;
        }
        let steps = self.x.shape().c.div_ceil(STEP);
        let class = |c: &Class| (self.rows(c), c.taps[0] * c.taps[1] * steps);
        let classes = self.gather.classes.iter().map(class).collect();
        let work = Work { classes, columns: self.out.c, len: self.out.len() };
        work.plan(cuda.device.gpu())
    }

    fn params(self, classes: &[Class], tile: [usize; 2], splits: usize) -> ProductParams {
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
fn read<'a>(cuda: &Cuda, t: &'a Option<Tensor>, elem: Elem) -> In<'a, Act> {
    t.as_ref().map_or_else(In::none, |t| cuda.buffer(t).read(elem))
}
