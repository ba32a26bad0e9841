//! Attention without a score matrix, for heads of at most 160 channels in whole packets, 16-bit types:
//! launchers of kernels/flash.cu and kernels/flash_vjp.cu.

use super::params::{AttentionParams, Operands};
use crate::cuda::ctx::{Cuda, Kernels};
use crate::cuda::device::{Act, Buffer, In, Out, PACKET};
use crate::cuda::launch::{Image, Launch, kernels};
use crate::error::Result;

kernels! {
    /// The kernels of flash.cu, by the widest head they take.
    pub struct Forward from "flash" {
        fn flash_32(q: In<Act>, kv: In<Act>, kv_of: In<u32>, y: Out<Act>, lse: Out<f32>, p: AttentionParams);
        fn flash_40(q: In<Act>, kv: In<Act>, kv_of: In<u32>, y: Out<Act>, lse: Out<f32>, p: AttentionParams);
        fn flash_64(q: In<Act>, kv: In<Act>, kv_of: In<u32>, y: Out<Act>, lse: Out<f32>, p: AttentionParams);
        fn flash_80(q: In<Act>, kv: In<Act>, kv_of: In<u32>, y: Out<Act>, lse: Out<f32>, p: AttentionParams);
        fn flash_96(q: In<Act>, kv: In<Act>, kv_of: In<u32>, y: Out<Act>, lse: Out<f32>, p: AttentionParams);
        fn flash_128(q: In<Act>, kv: In<Act>, kv_of: In<u32>, y: Out<Act>, lse: Out<f32>, p: AttentionParams);
        fn flash_160(q: In<Act>, kv: In<Act>, kv_of: In<u32>, y: Out<Act>, lse: Out<f32>, p: AttentionParams);
    }
}

kernels! {
    /// The kernels of flash_vjp.cu.
    pub struct Vjp from "flash_vjp" {
        fn flash_keys_vjp_32(
            qkv: In<Act>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dqkv: Out<Act>, p: AttentionParams,
        );
        fn flash_keys_vjp_40(
            qkv: In<Act>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dqkv: Out<Act>, p: AttentionParams,
        );
        fn flash_keys_vjp_64(
            qkv: In<Act>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dqkv: Out<Act>, p: AttentionParams,
        );
        fn flash_keys_vjp_80(
            qkv: In<Act>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dqkv: Out<Act>, p: AttentionParams,
        );
        fn flash_keys_vjp_96(
            qkv: In<Act>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dqkv: Out<Act>, p: AttentionParams,
        );
        fn flash_keys_vjp_128(
            qkv: In<Act>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dqkv: Out<Act>, p: AttentionParams,
        );
        fn flash_keys_vjp_160(
            qkv: In<Act>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dqkv: Out<Act>, p: AttentionParams,
        );
        fn flash_queries_vjp_32(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dq: Out<Act>,
            p: AttentionParams,
        );
        fn flash_queries_vjp_40(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dq: Out<Act>,
            p: AttentionParams,
        );
        fn flash_queries_vjp_64(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dq: Out<Act>,
            p: AttentionParams,
        );
        fn flash_queries_vjp_80(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dq: Out<Act>,
            p: AttentionParams,
        );
        fn flash_queries_vjp_96(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dq: Out<Act>,
            p: AttentionParams,
        );
        fn flash_queries_vjp_128(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dq: Out<Act>,
            p: AttentionParams,
        );
        fn flash_queries_vjp_160(
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dq: Out<Act>,
            p: AttentionParams,
        );
    }
}

/// Both files.
#[derive(Debug)]
pub struct Tables {
    forward: Forward,
    vjp: Vjp,
}

impl Tables {
    pub fn load(image: &Image<'_>) -> Result<Tables> {
        Ok(Tables { forward: Forward::load(image)?, vjp: Vjp::load(image)? })
    }
}

/// Widths the kernels are made for; a narrower head is filled up with zeros in shared memory.
const WIDTHS: [usize; 7] = [32, 40, 64, 80, 96, 128, 160];
/// Warps per block, and rows of a tensor core's product.
const WARPS: usize = 4;
const ROWS: usize = 16;

/// The kernels' width for a head of `d` channels, if they can.
pub fn width(d: usize) -> Option<usize> {
    WIDTHS.into_iter().find(|&w| d <= w && d.is_multiple_of(PACKET))
}

/// The kernels' width for these heads.
#[track_caller]
fn width_of(x: &Operands<'_>) -> usize {
    let Some(width) = width(x.p.d as usize) else { panic!("heads of {} channels in flash attention", x.p.d) };
    width
}

/// Grid and shared memory of blocks of `block` of the `rows` tokens, which hold `shared` rows of a head, and
/// `more` bytes.
#[track_caller]
fn launch(x: &Operands<'_>, width: usize, rows: i32, block: usize, shared: usize, more: usize) -> Launch {
    // As `Rows` of attention.cuh.
    let stride = width.next_multiple_of(16) + 8;
    let blocks = (rows as usize).div_ceil(block);
    let grid = Launch::grid(blocks, x.p.heads as usize, x.samples, 32 * WARPS as u32);
    grid.shared(2 * stride * shared + more)
}

/// `y`, and the log-sum-exp where it is wanted.
pub fn forward(
    cuda: &Cuda,
    kernels: &Kernels,
    x: &Operands<'_>,
    y: &mut Buffer,
    lse: Option<&mut Buffer>,
) -> Result<()> {
    let width = width_of(x);
    // As `Forward` of flash.cu: two stages of keys and values; the queries, and later results, lie over the
    // second.
    let block = ROWS * WARPS * if width <= 80 { 2 } else { 1 };
    let keys = if width == 80 || width > 96 { 32 } else { 64 };
    let launch = launch(x, width, x.p.queries, block, 2 * keys + block.max(2 * keys), 0);
    let (d, t, p) = (&cuda.device, &tables(kernels).forward, x.p);
    let (q, kv, kv_of) = (kernels.read(x.q), kernels.read(x.kv), x.kv_of());
    let (y, lse) = (kernels.write(y), lse.map_or_else(Out::none, Buffer::f32_mut));
    match width {
        32 => t.flash_32(d, launch, q, kv, kv_of, y, lse, p),
        40 => t.flash_40(d, launch, q, kv, kv_of, y, lse, p),
        64 => t.flash_64(d, launch, q, kv, kv_of, y, lse, p),
        80 => t.flash_80(d, launch, q, kv, kv_of, y, lse, p),
        96 => t.flash_96(d, launch, q, kv, kv_of, y, lse, p),
        128 => t.flash_128(d, launch, q, kv, kv_of, y, lse, p),
        160 => t.flash_160(d, launch, q, kv, kv_of, y, lse, p),
        _ => unreachable!("widths are those of WIDTHS"),
    }
}

/// dk and dv of self-attention, into their places in `dx`.
pub fn keys_vjp(
    cuda: &Cuda,
    kernels: &Kernels,
    x: &Operands<'_>,
    dy: &Buffer,
    [lse, dot]: [&Buffer; 2],
    dx: &mut Buffer,
) -> Result<()> {
    let width = width_of(x);
    // As `Keys` of flash_vjp.cu: keys and values, two stages of q and dy, and of two numbers per query.
    let block = ROWS * WARPS * if width <= 64 { 2 } else { 1 };
    let queries = 32;
    let numbers = 2 * 2 * queries * size_of::<f32>();
    let launch = launch(x, width, x.p.keys, block, 2 * block + 4 * queries, numbers);
    let (d, t, p) = (&cuda.device, &tables(kernels).vjp, x.p);
    let (qkv, dy, dx) = (kernels.read(x.kv), kernels.read(dy), kernels.write(dx));
    let (lse, dot) = (lse.f32(), dot.f32());
    match width {
        32 => t.flash_keys_vjp_32(d, launch, qkv, dy, lse, dot, dx, p),
        40 => t.flash_keys_vjp_40(d, launch, qkv, dy, lse, dot, dx, p),
        64 => t.flash_keys_vjp_64(d, launch, qkv, dy, lse, dot, dx, p),
        80 => t.flash_keys_vjp_80(d, launch, qkv, dy, lse, dot, dx, p),
        96 => t.flash_keys_vjp_96(d, launch, qkv, dy, lse, dot, dx, p),
        128 => t.flash_keys_vjp_128(d, launch, qkv, dy, lse, dot, dx, p),
        160 => t.flash_keys_vjp_160(d, launch, qkv, dy, lse, dot, dx, p),
        _ => unreachable!("widths are those of WIDTHS"),
    }
}

/// dq, laid out as q is. `numbers` are log-sum-exp and dot; without them the kernel finds them first.
pub fn queries_vjp(
    cuda: &Cuda,
    kernels: &Kernels,
    x: &Operands<'_>,
    dy: &Buffer,
    numbers: Option<[&Buffer; 2]>,
    dq: &mut Buffer,
) -> Result<()> {
    let width = width_of(x);
    // As `Queries` of flash_vjp.cu: two stages of keys and values; q and dy lie over the second and behind
    // it.
    let block = ROWS * WARPS * if width <= 64 { 2 } else { 1 };
    let keys = if width == 80 || width == 96 { 64 } else { 32 };
    let launch = launch(x, width, x.p.queries, block, 2 * keys + 2 * block.max(keys), 0);
    let (d, t, p) = (&cuda.device, &tables(kernels).vjp, x.p);
    let (q, kv, kv_of) = (kernels.read(x.q), kernels.read(x.kv), x.kv_of());
    let (dy, dq) = (kernels.read(dy), kernels.write(dq));
    let [lse, dot] = numbers.map_or([In::none(), In::none()], |n| n.map(Buffer::f32));
    match width {
        32 => t.flash_queries_vjp_32(d, launch, q, kv, kv_of, dy, lse, dot, dq, p),
        40 => t.flash_queries_vjp_40(d, launch, q, kv, kv_of, dy, lse, dot, dq, p),
        64 => t.flash_queries_vjp_64(d, launch, q, kv, kv_of, dy, lse, dot, dq, p),
        80 => t.flash_queries_vjp_80(d, launch, q, kv, kv_of, dy, lse, dot, dq, p),
        96 => t.flash_queries_vjp_96(d, launch, q, kv, kv_of, dy, lse, dot, dq, p),
        128 => t.flash_queries_vjp_128(d, launch, q, kv, kv_of, dy, lse, dot, dq, p),
        160 => t.flash_queries_vjp_160(d, launch, q, kv, kv_of, dy, lse, dot, dq, p),
        _ => unreachable!("widths are those of WIDTHS"),
    }
}

fn tables(kernels: &Kernels) -> &Tables {
    let Some(tables) = &kernels.flash else { panic!("flash attention is for 16-bit types") };
    tables
}
