//! Attention without a score matrix, for 16-bit heads of at most 160 channels in whole packets: launchers of
//! kernels/flash.cu and kernels/flash_vjp.cu.

use super::params::{AttentionParams, Operands};
use crate::cuda::ctx::{Cuda, Kernels};
use crate::cuda::device::{Act, Buffer, In, Out};
use crate::cuda::launch::{Image, Launch, kernels};
use crate::error::Result;
use crate::tensor::PACKET;

kernels! {
    /// The kernels of flash.cu, in the order of [`FORWARD`].
    pub struct Forward from "flash" {
        family flash [flash_32, flash_40, flash_64, flash_80, flash_96, flash_128, flash_160](
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, y: Out<Act>, lse: Out<f32>, p: AttentionParams,
        );
    }
}

kernels! {
    /// The kernels of flash_vjp.cu, in the order of [`KEYS_VJP`] and [`QUERIES_VJP`].
    pub struct Vjp from "flash_vjp" {
        family keys [
            flash_keys_vjp_32, flash_keys_vjp_40, flash_keys_vjp_64, flash_keys_vjp_80, flash_keys_vjp_96,
            flash_keys_vjp_128, flash_keys_vjp_160
        ](qkv: In<Act>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dqkv: Out<Act>, p: AttentionParams);
        family queries [
            flash_queries_vjp_32, flash_queries_vjp_40, flash_queries_vjp_64, flash_queries_vjp_80,
            flash_queries_vjp_96, flash_queries_vjp_128, flash_queries_vjp_160
        ](
            q: In<Act>, kv: In<Act>, kv_of: In<u32>, dy: In<Act>, lse: In<f32>, dot: In<f32>, dq: Out<Act>,
            p: AttentionParams,
        );
    }
}

/// The kernels of both files.
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

/// What a kernel is compiled for: heads of at most `d` channels (narrower ones are padded with zeros in
/// shared memory), `blocks` row blocks of 16 rows per warp, and tiles of `tile` rows of the other side.
#[derive(Clone, Copy, Debug)]
struct Head {
    d: usize,
    blocks: usize,
    tile: usize,
}

const fn head(d: usize, blocks: usize, tile: usize) -> Head {
    Head { d, blocks, tile }
}

/// `FLASH` of flash.cu: row blocks of queries, tiles of keys.
const FORWARD: [Head; 7] = [
    head(32, 2, 64),
    head(40, 2, 64),
    head(64, 2, 64),
    head(80, 2, 32),
    head(96, 1, 64),
    head(128, 1, 32),
    head(160, 1, 32),
];
/// `FLASH_KEYS_VJP` of flash_vjp.cu: row blocks of keys, tiles of queries.
const KEYS_VJP: [Head; 7] = [
    head(32, 2, 32),
    head(40, 2, 32),
    head(64, 2, 32),
    head(80, 1, 32),
    head(96, 1, 32),
    head(128, 1, 32),
    head(160, 1, 32),
];
/// `FLASH_QUERIES_VJP` of flash_vjp.cu: row blocks of queries, tiles of keys.
const QUERIES_VJP: [Head; 7] = [
    head(32, 2, 32),
    head(40, 2, 32),
    head(64, 2, 32),
    head(80, 1, 64),
    head(96, 1, 64),
    head(128, 1, 32),
    head(160, 1, 32),
];
/// Warps per block: `WARPS` of attention.cuh.
const WARPS: usize = 4;
/// Rows of a tensor core's product.
const ROWS: usize = 16;

impl Head {
    /// Rows that a block owns.
    fn block(self) -> usize {
        ROWS * WARPS * self.blocks
    }

    /// Grid and shared memory of blocks that own `rows` tokens together and hold `shared` rows of a head and
    /// `more` bytes.
    #[track_caller]
    fn launch(self, x: &Operands<'_>, rows: i32, shared: usize, more: usize) -> Launch {
        // `Rows::STRIDE` of attention.cuh.
        let stride = self.d.next_multiple_of(16) + 8;
        let blocks = (rows as usize).div_ceil(self.block());
        let grid = Launch::grid(blocks, x.p.heads as usize, x.samples, 32 * WARPS as u32);
        grid.shared(2 * stride * shared + more)
    }
}

/// Which kernels take heads of `d` channels: an index into the tables; `None` if none do.
pub fn width(d: usize) -> Option<usize> {
    FORWARD.iter().position(|head| d <= head.d && d.is_multiple_of(PACKET))
}

/// The same for heads that the caller has found to fit.
#[track_caller]
fn width_of(x: &Operands<'_>) -> usize {
    let Some(width) = width(x.p.d as usize) else { panic!("heads of {} channels in flash attention", x.p.d) };
    width
}

/// `y`, and the log-sum-exp unless `lse` is `None`.
pub fn forward(
    cuda: &Cuda,
    kernels: &Kernels,
    x: &Operands<'_>,
    y: &mut Buffer,
    lse: Option<&mut Buffer>,
) -> Result<()> {
    let width = width_of(x);
    let head = FORWARD[width];
    // Two stages of keys and values. The queries, and later the results, overlay the second.
    let shared = 2 * head.tile + head.block().max(2 * head.tile);
    let launch = head.launch(x, x.p.queries, shared, 0);
    let (q, kv, kv_of) = (kernels.read(x.q), kernels.read(x.kv), x.kv_of());
    let (y, lse) = (kernels.write(y), lse.map_or_else(Out::none, Buffer::f32_mut));
    tables(kernels).forward.flash(width, &cuda.device, launch, q, kv, kv_of, y, lse, x.p)
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
    let head = KEYS_VJP[width];
    // Keys and values, and two stages of q and dy with two numbers per query.
    let numbers = 2 * 2 * head.tile * size_of::<f32>();
    let launch = head.launch(x, x.p.keys, 2 * head.block() + 4 * head.tile, numbers);
    let (qkv, dy, dx) = (kernels.read(x.kv), kernels.read(dy), kernels.write(dx));
    tables(kernels).vjp.keys(width, &cuda.device, launch, qkv, dy, lse.f32(), dot.f32(), dx, x.p)
}

/// dq, in the layout of q. `numbers` are the log-sum-exp and dot; without them the kernel computes them
/// first.
pub fn queries_vjp(
    cuda: &Cuda,
    kernels: &Kernels,
    x: &Operands<'_>,
    dy: &Buffer,
    numbers: Option<[&Buffer; 2]>,
    dq: &mut Buffer,
) -> Result<()> {
    let width = width_of(x);
    let head = QUERIES_VJP[width];
    // Two stages of keys and values. q and dy overlay the second and lie behind it.
    let shared = 2 * head.tile + 2 * head.block().max(head.tile);
    let launch = head.launch(x, x.p.queries, shared, 0);
    let (q, kv, kv_of) = (kernels.read(x.q), kernels.read(x.kv), x.kv_of());
    let (dy, dq) = (kernels.read(dy), kernels.write(dq));
    let [lse, dot] = numbers.map_or([In::none(), In::none()], |n| n.map(Buffer::f32));
    tables(kernels).vjp.queries(width, &cuda.device, launch, q, kv, kv_of, dy, lse, dot, dq, x.p)
}

/// The flash kernels of `kernels`.
#[track_caller]
fn tables(kernels: &Kernels) -> &Tables {
    let Some(tables) = &kernels.flash else { panic!("flash attention is for 16-bit types") };
    tables
}
