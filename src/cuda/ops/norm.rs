//! Normalisations on the GPU: launchers of kernels/norm.cu.

use super::layout::{BLOCK, IN_FLIGHT, RowLayout, access};
use crate::backend::{GroupNorm, Saved};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Act, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

params! {
    /// How a group norm is laid out: kernels/group.cuh.
    pub struct GroupParams {
        pub samples: i32,
        pub rows: i32,
        pub c: i32,
        pub groups: i32,
        pub width: i32,
        pub columns: i32,
        pub lanes: i32,
        pub blocks: i32,
        pub block_rows: i32,
        pub block_groups: i32,
        pub spread: i32,
        pub silu: i32,
        pub vectorized: i32,
        pub eps: f32,
        pub share: f64,
    }
    pub struct NormParams {
        pub rows: i64,
        pub c: i32,
        pub eps: f32,
        pub share: f32,
    }
}

kernels! {
    /// The kernels of norm.cu.
    pub struct Table from "norm" {
        fn group_sums(x: In<Act>, partial: Out<f32>, p: GroupParams);
        fn group_finish(x: In<Act>, partial: In<f32>, saved: Out<f32>, p: GroupParams);
        fn group_apply(
            x: In<Act>, gamma: In<Act>, beta: In<Act>, saved: In<f32>,
            y: Out<Act>, p: GroupParams
        );
        fn group_vjp_sums(
            x: In<Act>, gamma: In<Act>, beta: In<Act>, saved: In<f32>, dy: In<Act>,
            partial: Out<f32>, p: GroupParams
        );
        fn group_vjp_finish(saved: In<f32>, partial: In<f32>, means: Out<f32>, p: GroupParams);
        fn group_vjp_apply(
            x: In<Act>, gamma: In<Act>, beta: In<Act>, saved: In<f32>, dy: In<Act>, means: In<f32>,
            dx: Out<Act>, p: GroupParams
        );
        fn group_norm(
            x: In<Act>, gamma: In<Act>, beta: In<Act>,
            y: Out<Act>, saved: Out<f32>, p: GroupParams
        );
        fn group_norm_vjp(
            x: In<Act>, gamma: In<Act>, beta: In<Act>, saved: In<f32>, dy: In<Act>,
            dx: Out<Act>, p: GroupParams
        );
        fn layer_norm(
            x: In<Act>, gamma: In<Act>, beta: In<Act>,
            y: Out<Act>, saved: Out<f32>, p: NormParams
        );
        fn layer_norm_any(
            x: In<Act>, gamma: In<Act>, beta: In<Act>,
            y: Out<Act>, saved: Out<f32>, p: NormParams
        );
        fn layer_norm_vjp(
            x: In<Act>, gamma: In<Act>, saved: In<f32>, dy: In<Act>,
            dx: Out<Act>, p: NormParams
        );
        fn layer_norm_vjp_any(
            x: In<Act>, gamma: In<Act>, saved: In<f32>, dy: In<Act>,
            dx: Out<Act>, p: NormParams
        );
        fn l2_norm(x: In<Act>, y: Out<Act>, p: NormParams);
        fn l2_norm_vjp(x: In<Act>, dy: In<Act>, dx: Out<Act>, p: NormParams);
    }
}

/// Numbers saved per group or row: mean, what its rounding lost, 1/std.
const SAVED: usize = 3;
/// Shared memory of a block that every GPU gives, bytes: 99 KiB, of which one may be reserved.
const SHARED: usize = 98 << 10;
/// What a block holds of its groups is at most this where it has a choice: then four and more blocks take
/// turns on a multiprocessor at reading, adding and writing.
const HELD: usize = 24 << 10;
/// A block that streams has at least this many bytes to read, against what it costs to start it and to add up
/// its threads; less where multiprocessors would have no two.
const STREAMED: usize = 32 << 10;
/// Blocks per multiprocessor, where there is enough to do: eight or so run at once, so the last ones leave
/// little idle.
const BLOCKS: usize = 32;

/// How a group norm is launched.
#[derive(Debug)]
struct Plan {
    params: GroupParams,
    launch: Launch,
    /// Elements of an access.
    access: usize,
    /// A block holds its groups whole.
    whole: bool,
}

/// A block of `threads` that holds whole groups, `columns` accesses of every `lanes`-th row.
struct Whole {
    groups: usize,
    columns: usize,
    lanes: usize,
    threads: usize,
    /// Bytes of the tensors in shared memory, and of everything.
    held: usize,
    shared: usize,
}

impl Whole {
    /// `groups` whole groups of `rows` rows, `size` bytes for each place; `None` where they do not fit.
    fn new(groups: usize, width: usize, rows: usize, access: usize, size: usize) -> Option<Whole> {
        let columns = groups * width / access;
        // Four accesses each, where there are as many.
        let threads = (rows * columns).div_ceil(IN_FLIGHT).clamp(64, BLOCK as usize).max(columns);
        let threads = threads.next_multiple_of(32);
        let lanes = threads / columns;
        let held = rows.div_ceil(lanes) * threads * access * size;
        let shared = held + 4 * (access * threads + groups * (2 * width + SAVED));
        let fits = threads <= BLOCK as usize && shared <= SHARED;
        fits.then_some(Whole { groups, columns, lanes, threads, held, shared })
    }

    /// The best block for `x`, if some groups fit.
    fn best(
        x: Shape,
        elem: Elem,
        groups: usize,
        inputs: usize,
        access: usize,
        units: usize,
    ) -> Option<Whole> {
        let (rows, width) = (x.tokens(), x.c / groups);
        // The fewest groups that are whole accesses.
        let unit = access / gcd(width, access);
        let whole = |some: usize| Whole::new(some, width, rows, access, elem.size() * inputs);
        let blocks = |some: usize| x.n * groups / some;
        // More groups make longer runs of memory, until there are too few blocks or these hold too much.
        let some = (unit..=groups).step_by(unit).filter(|&some| groups.is_multiple_of(some));
        let more =
            some.filter(|&some| blocks(some) >= 2 * units).filter_map(whole).filter(|w| w.held <= HELD);
        // Large ones are worth it only where they keep every multiprocessor busy.
        let least = || whole(unit).filter(|w| w.held <= HELD || blocks(unit) >= units);
        more.last().or_else(least)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The largest power of two up to 32 that `threads` have for each of `groups`.
fn spread(threads: usize, groups: usize) -> i32 {
    1 << (threads / groups).clamp(1, 32).ilog2()
}

impl Plan {
    /// For `x`, read together with `inputs - 1` tensors of its shape, on a GPU of so many multiprocessors.
    #[track_caller]
    fn new(x: Shape, elem: Elem, norm: GroupNorm, inputs: usize, multiprocessors: usize) -> Plan {
        let (groups, rows) = (norm.groups, x.tokens());
        assert!(!x.is_empty(), "a group norm of nothing: {x}");
        let (width, layout) = (x.c / groups, RowLayout::new(elem, x.c, &[]));
        let params = GroupParams {
            samples: x.n as i32,
            rows: rows as i32,
            c: x.c as i32,
            groups: groups as i32,
            width: width as i32,
            columns: layout.columns as i32,
            lanes: layout.lanes as i32,
            blocks: 1,
            block_rows: rows as i32,
            block_groups: groups as i32,
            spread: spread(layout.threads as usize, groups),
            silu: i32::from(norm.silu),
            vectorized: layout.vectorized(),
            eps: norm.eps,
            share: 1.0 / (rows * width) as f64,
        };
        if let Some(of) = Whole::best(x, elem, groups, inputs, layout.access, multiprocessors) {
            let blocks = groups / of.groups;
            let params = GroupParams {
                columns: of.columns as i32,
                lanes: of.lanes as i32,
                blocks: blocks as i32,
                block_groups: of.groups as i32,
                spread: spread(of.threads, of.groups),
                ..params
            };
            let launch = Launch::line(blocks * x.n, of.threads as u32).shared(of.shared);
            return Plan { params, launch, access: layout.access, whole: true };
        }
        // Whole walks, so that no thread idles while others end.
        let walked = layout.lanes * IN_FLIGHT / inputs;
        let fewest = STREAMED.div_ceil(x.c * elem.size());
        let even = (rows * x.n).div_ceil(multiprocessors * BLOCKS);
        let some = (rows * x.n).div_ceil(2 * multiprocessors);
        let block_rows = fewest.min(some).max(even).next_multiple_of(walked);
        let blocks = rows.div_ceil(block_rows);
        let params = GroupParams { blocks: blocks as i32, block_rows: block_rows as i32, ..params };
        let launch = Launch::line(blocks * x.n, layout.threads);
        Plan { params, launch, access: layout.access, whole: false }
    }

    /// The launch that sums: every thread's channels, then two numbers for each channel.
    #[track_caller]
    fn sums(&self) -> Launch {
        let shared = 4 * (self.access * self.launch.block as usize + 2 * self.params.c as usize);
        assert!(shared <= SHARED, "a group norm of {} channels", self.params.c);
        self.launch.shared(shared)
    }

    /// A warp for every group of every sample.
    fn finish(&self) -> Launch {
        Launch::cover((self.params.samples * self.params.groups) as usize * 32, BLOCK)
    }

    /// Elements of the sums of all blocks.
    fn partial(&self) -> usize {
        let p = &self.params;
        2 * p.samples as usize * p.blocks as usize * p.groups as usize
    }
}

/// Shape of what [`group_norm`] saves.
fn group_saved(x: Shape, norm: GroupNorm) -> Shape {
    Shape::new(x.n, 1, norm.groups, SAVED)
}

pub fn group_norm(
    cuda: &Cuda,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    norm: GroupNorm,
) -> Result<(Tensor, Saved)> {
    let (shape, elem, device) = (x.shape(), cuda.buffer(x).elem(), &cuda.device);
    let kernels = cuda.kernels(elem);
    let (gamma, beta) = (cuda.cast_weight(gamma, elem)?, cuda.cast_weight(beta, elem)?);
    let saved_shape = group_saved(shape, norm);
    let mut y = cuda.alloc(elem, shape)?;
    let mut saved = cuda.alloc(Elem::F32, saved_shape)?;
    if !shape.is_empty() {
        let plan = Plan::new(shape, elem, norm, 1, device.multiprocessors());
        let (table, p) = (&kernels.norm, plan.params);
        let x = kernels.read(cuda.buffer(x));
        let (gamma, beta) = (kernels.read(cuda.buffer(&gamma)), kernels.read(cuda.buffer(&beta)));
        if plan.whole {
            let y = kernels.write(&mut y);
            table.group_norm(device, plan.launch, x, gamma, beta, y, saved.f32_mut(), p)?;
        } else {
            let mut partial = device.alloc(Elem::F32, plan.partial())?;
            table.group_sums(device, plan.sums(), x, partial.f32_mut(), p)?;
            table.group_finish(device, plan.finish(), x, partial.f32(), saved.f32_mut(), p)?;
            table.group_apply(device, plan.launch, x, gamma, beta, saved.f32(), kernels.write(&mut y), p)?;
        }
    }
    Ok((cuda.wrap(shape, y), cuda.wrap(saved_shape, saved)))
}

pub fn group_norm_vjp(
    cuda: &Cuda,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    norm: GroupNorm,
) -> Result<Tensor> {
    let (shape, device) = (x.shape(), &cuda.device);
    let elem = cuda.common(&[x, dy], &[]);
    let kernels = cuda.kernels(elem);
    let (x, dy) = (cuda.cast(x, elem)?, cuda.cast(dy, elem)?);
    let (gamma, beta) = (cuda.cast_weight(gamma, elem)?, cuda.cast_weight(beta, elem)?);
    let mut dx = cuda.alloc(elem, shape)?;
    if shape.is_empty() {
        return Ok(cuda.wrap(shape, dx));
    }
    let plan = Plan::new(shape, elem, norm, 2, device.multiprocessors());
    let (table, p) = (&kernels.norm, plan.params);
    let (x, dy, saved) =
        (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&dy)), cuda.buffer(saved).f32());
    let (gamma, beta) = (kernels.read(cuda.buffer(&gamma)), kernels.read(cuda.buffer(&beta)));
    if plan.whole {
        let dx = kernels.write(&mut dx);
        table.group_norm_vjp(device, plan.launch, x, gamma, beta, saved, dy, dx, p)?;
    } else {
        let mut partial = device.alloc(Elem::F32, plan.partial())?;
        let mut means = device.alloc(Elem::F32, 2 * shape.n * norm.groups)?;
        table.group_vjp_sums(device, plan.sums(), x, gamma, beta, saved, dy, partial.f32_mut(), p)?;
        table.group_vjp_finish(device, plan.finish(), saved, partial.f32(), means.f32_mut(), p)?;
        let dx = kernels.write(&mut dx);
        table.group_vjp_apply(device, plan.launch, x, gamma, beta, saved, dy, means.f32(), dx, p)?;
    }
    Ok(cuda.wrap(shape, dx))
}

/// Threads of a block of the kernels on rows, a warp per row.
const ROW_BLOCK: u32 = 128;
/// Channels of a row that a warp holds in registers.
const HELD_CHANNELS: usize = 1280;

fn rows(x: Shape, eps: f32) -> (Launch, NormParams) {
    let p = NormParams { rows: x.positions() as i64, c: x.c as i32, eps, share: 1.0 / x.c as f32 };
    (Launch::cover(x.positions() * 32, ROW_BLOCK), p)
}

/// Whether a warp holds a row of `c` channels.
fn is_held(elem: Elem, c: usize) -> bool {
    access(elem, &[c]) > 1 && c <= HELD_CHANNELS
}

pub fn layer_norm(
    cuda: &Cuda,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f32,
) -> Result<(Tensor, Saved)> {
    let (shape, elem, device) = (x.shape(), cuda.buffer(x).elem(), &cuda.device);
    let kernels = cuda.kernels(elem);
    let (gamma, beta) = (cuda.cast_weight(gamma, elem)?, cuda.cast_weight(beta, elem)?);
    let saved_shape = shape.with_c(SAVED);
    let mut y = cuda.alloc(elem, shape)?;
    let mut saved = cuda.alloc(Elem::F32, saved_shape)?;
    let x = kernels.read(cuda.buffer(x));
    let (gamma, beta) = (kernels.read(cuda.buffer(&gamma)), kernels.read(cuda.buffer(&beta)));
    let (to, (launch, p)) = (kernels.write(&mut y), rows(shape, eps));
    if is_held(elem, shape.c) {
        kernels.norm.layer_norm(device, launch, x, gamma, beta, to, saved.f32_mut(), p)?;
    } else {
        kernels.norm.layer_norm_any(device, launch, x, gamma, beta, to, saved.f32_mut(), p)?;
    }
    Ok((cuda.wrap(shape, y), cuda.wrap(saved_shape, saved)))
}

pub fn layer_norm_vjp(cuda: &Cuda, x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Result<Tensor> {
    let (shape, device) = (x.shape(), &cuda.device);
    let elem = cuda.common(&[x, dy], &[]);
    let (kernels, gamma) = (cuda.kernels(elem), cuda.cast_weight(gamma, elem)?);
    let (x, dy) = (cuda.cast(x, elem)?, cuda.cast(dy, elem)?);
    let mut dx = cuda.alloc(elem, shape)?;
    let (x, dy) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&dy)));
    let (gamma, saved) = (kernels.read(cuda.buffer(&gamma)), cuda.buffer(saved).f32());
    let (to, (launch, p)) = (kernels.write(&mut dx), rows(shape, 0.0));
    if is_held(elem, shape.c) {
        kernels.norm.layer_norm_vjp(device, launch, x, gamma, saved, dy, to, p)?;
    } else {
        kernels.norm.layer_norm_vjp_any(device, launch, x, gamma, saved, dy, to, p)?;
    }
    Ok(cuda.wrap(shape, dx))
}

pub fn l2_norm(cuda: &Cuda, x: &Tensor) -> Result<Tensor> {
    let (shape, elem) = (x.shape(), cuda.buffer(x).elem());
    let kernels = cuda.kernels(elem);
    let mut y = cuda.alloc(elem, shape)?;
    let (to, (launch, p)) = (kernels.write(&mut y), rows(shape, 0.0));
    kernels.norm.l2_norm(&cuda.device, launch, kernels.read(cuda.buffer(x)), to, p)?;
    Ok(cuda.wrap(shape, y))
}

pub fn l2_norm_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let shape = x.shape();
    let elem = cuda.common(&[x, dy], &[]);
    let (kernels, x, dy) = (cuda.kernels(elem), cuda.cast(x, elem)?, cuda.cast(dy, elem)?);
    let mut dx = cuda.alloc(elem, shape)?;
    let (from, from_dy) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&dy)));
    let (to, (launch, p)) = (kernels.write(&mut dx), rows(shape, 0.0));
    kernels.norm.l2_norm_vjp(&cuda.device, launch, from, from_dy, to, p)?;
    Ok(cuda.wrap(shape, dx))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of Stable Diffusion 1.5 and XL, its decoder, and odd ones.
    const SIZES: &[(usize, usize, usize)] = &[
        (4096, 320, 32),
        (4096, 960, 32),
        (1024, 640, 32),
        (1024, 1920, 32),
        (256, 1280, 32),
        (256, 2560, 32),
        (64, 1280, 32),
        (64, 2560, 32),
        (262_144, 128, 32),
        (262_144, 256, 32),
        (16_384, 512, 32),
        (64, 64, 16),
        (4096, 16, 4),
        (1640, 24, 1),
        (1, 8, 2),
        (144, 3328, 32),
        (25, 4096, 1),
    ];

    #[test]
    fn plans_cover_every_row_and_group_and_fit_every_gpu() {
        let mut both = [0, 0];
        for &(tokens, c, groups) in SIZES {
            let norm = GroupNorm { groups, eps: 1e-5, silu: true };
            for (n, inputs, units) in [(1, 1, 16), (2, 2, 108), (16, 1, 132), (32, 2, 132)] {
                for elem in [Elem::Bf16, Elem::F32] {
                    let plan = Plan::new(Shape::new(n, 1, tokens, c), elem, norm, inputs, units);
                    let (p, threads) = (&plan.params, plan.launch.block as usize);
                    let at = |x: i32| x as usize;
                    assert!(at(p.columns) * at(p.lanes) <= threads && threads.is_multiple_of(32));
                    assert_eq!(plan.launch.grid[0] as usize, n * at(p.blocks));
                    assert!(at(p.spread).is_power_of_two() && at(p.spread) <= 32);
                    if plan.whole {
                        assert_eq!(p.blocks * p.block_groups, p.groups);
                        assert_eq!(p.columns * plan.access as i32, p.block_groups * p.width);
                        assert!(plan.launch.shared as usize <= SHARED && threads <= BLOCK as usize);
                    } else {
                        let rows = at(p.blocks) * at(p.block_rows);
                        assert!(rows >= tokens && rows - at(p.block_rows) < tokens, "{p:?}");
                        assert!(plan.sums().shared as usize <= SHARED);
                    }
                    both[usize::from(plan.whole)] += 1;
                }
            }
        }
        assert!(both[0] > 20 && both[1] > 20, "{both:?}");
    }
}
