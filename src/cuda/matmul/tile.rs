//! Chooses the tile of tensor.cu for a product, and the number of parts that its sum is split into, by a
//! small model of the GPU's time. The choice depends on the shape and the kind of GPU only, so that runs
//! repeat themselves.

use crate::cuda::device::Limits;

/// A kernel of tensor.cu.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    pub rows: usize,
    pub columns: usize,
    pub threads: u32,
    /// Blocks that fit on one multiprocessor at once, by registers.
    resident: usize,
    /// Speed with that many blocks, relative to the largest tile. Smaller tiles wait longer for shared memory
    /// and L2.
    full: f64,
    /// The share of that speed which one block reaches alone, as no other block computes while it waits.
    alone: f64,
}

/// In the order of the families of `tensor_core::Table`. Speeds are estimates from bytes per product; no GPU
/// has confirmed them.
pub const TILES: [Tile; 5] = [
    Tile { rows: 256, columns: 128, threads: 256, resident: 1, full: 1.0, alone: 1.0 },
    Tile { rows: 128, columns: 160, threads: 128, resident: 2, full: 1.0, alone: 0.7 },
    Tile { rows: 128, columns: 128, threads: 128, resident: 2, full: 0.95, alone: 0.7 },
    Tile { rows: 128, columns: 64, threads: 128, resident: 3, full: 0.75, alone: 0.5 },
    Tile { rows: 64, columns: 64, threads: 128, resident: 4, full: 0.6, alone: 0.4 },
];

/// Channels in a step of the sum: `BK` of tensor.cu.
pub const STEP: usize = 32;
/// Stages of shared memory: `STAGES` of tensor.cu.
const STAGES: usize = 4;

/// Shared memory that the driver reserves in every block, bytes.
const RESERVED: usize = 1 << 10;

impl Tile {
    /// Blocks that fit on one multiprocessor at once, by registers and shared memory.
    fn resident_on(&self, gpu: Limits) -> usize {
        self.resident.min(gpu.shared / (self.shared() + RESERVED)).max(1)
    }

    /// Bytes of dynamic shared memory: the stages, and two numbers for each row.
    pub fn shared(&self) -> usize {
        STAGES * (self.rows + self.columns) * 2 * STEP + 8 * self.rows
    }
}

/// What the model knows of a product.
#[derive(Clone, Debug)]
pub struct Work {
    /// For each class, the number of rows and of steps of the sum.
    pub classes: Vec<(usize, usize)>,
    pub columns: usize,
    /// Elements of the result.
    pub len: usize,
}

/// A tile, and the number of parts of the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Index into [`TILES`].
    pub tile: usize,
    pub splits: usize,
}

/// Multiply-adds per clock of one multiprocessor's tensor cores.
const RATE: f64 = 1024.0;
/// Clocks that a block spends before its first product and after its last.
const ENDS: f64 = 2000.0;
/// Clocks that one more launch costs, and bytes of memory moved per clock.
const LAUNCH: f64 = 4000.0;
const MEMORY: f64 = 2500.0;
/// Most bytes that the parts of a split sum may take.
const PARTS: usize = 256 << 20;
/// Fewest steps of the sum that are worth a block.
const FEWEST: usize = 6;

impl Work {
    /// Estimated time of a plan, in clocks.
    fn clocks(&self, plan: Plan, gpu: Limits) -> f64 {
        let tile = &TILES[plan.tile];
        let held = tile.resident_on(gpu);
        let across = self.columns.div_ceil(tile.columns);
        let (mut blocks, mut steps) = (0, 0.0);
        for &(rows, depth) in &self.classes {
            let tiles = rows.div_ceil(tile.rows) * across;
            blocks += tiles * plan.splits;
            steps += (tiles * depth) as f64;
        }
        if blocks == 0 {
            return 0.0;
        }
        let most = blocks.div_ceil(gpu.multiprocessors);
        let idle = (tile.resident - most.min(held)) as f64 / (tile.resident - 1).max(1) as f64;
        let speed = tile.full * (1.0 - (1.0 - tile.alone) * idle);
        let step = (tile.rows * tile.columns * STEP) as f64 / RATE / speed;
        let block = steps / blocks as f64 * step + ENDS / held as f64;
        let finish =
            if plan.splits > 1 { LAUNCH + (self.len * 4 * 2 * plan.splits) as f64 / MEMORY } else { 0.0 };
        most as f64 * block + finish
    }

    /// The best plan.
    pub fn plan(&self, gpu: Limits) -> Plan {
        let longest = self.classes.iter().map(|c| c.1).max().unwrap_or(0);
        let most = (longest / FEWEST).min(PARTS / (4 * self.len).max(1)).clamp(1, 32);
        let plans = (0..TILES.len()).flat_map(|tile| (1..=most).map(move |splits| Plan { tile, splits }));
        let timed = plans.map(|plan| (self.clocks(plan, gpu), plan));
        let best = timed.min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(Plan { tile: TILES.len() - 1, splits: 1 }, |(_, plan)| plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Limits = Limits { multiprocessors: 132, shared: 228 << 10 };
    const RTX_4090: Limits = Limits { multiprocessors: 128, shared: 100 << 10 };

    /// Of blocks with 75 KiB each, two fit into 228 KiB and one into 100.
    #[test]
    fn fewer_blocks_fit_into_less_shared_memory() {
        let held = |gpu| TILES.map(|tile| tile.resident_on(gpu));
        assert_eq!(held(H100), [1, 2, 2, 3, 4]);
        assert_eq!(held(RTX_4090), [1, 1, 1, 2, 2]);
    }

    /// A 3x3 convolution of `rows` pixels from `c` channels to `columns`.
    fn work(rows: usize, c: usize, columns: usize) -> Work {
        Work { classes: vec![(rows, 9 * c.div_ceil(STEP))], columns, len: rows * columns }
    }

    #[test]
    fn large_products_take_large_tiles() {
        let plan = work(16 * 512 * 512, 128, 128).plan(H100);
        assert_eq!((TILES[plan.tile].columns, plan.splits), (128, 1));
        let plan = work(32 * 64 * 64, 320, 320).plan(H100);
        assert_eq!((TILES[plan.tile].columns, plan.splits), (160, 1));
    }

    #[test]
    fn few_tiles_are_split() {
        let plan = work(2 * 8 * 8, 1280, 1280).plan(H100);
        let tile = TILES[plan.tile];
        let blocks = 128_usize.div_ceil(tile.rows) * 1280_usize.div_ceil(tile.columns) * plan.splits;
        assert!((100..=132 * 4).contains(&blocks), "{plan:?} makes {blocks} blocks");
    }

    #[test]
    fn narrow_products_take_narrow_tiles() {
        assert_eq!(TILES[work(512 * 512, 128, 3).plan(H100).tile].columns, 64);
    }

    #[test]
    fn empty_products_have_a_plan() {
        assert_eq!(work(0, 8, 8).plan(H100).splits, 1);
    }
}
