//! Which tile of tensor.cu makes a product, and in how many parts its sum is split: the choice with the least time in a
//! small model of the GPU. It depends on the shape and the kind of GPU only, so a run repeats itself.

use crate::cuda::device::Limits;

/// A kernel of tensor.cu.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    pub rows: usize,
    pub columns: usize,
    pub threads: u32,
    /// Blocks that one multiprocessor holds at once, by registers.
    resident: usize,
    /// Speed with all of these, relative to the largest tile: what the tensor cores wait for shared memory and the L2.
    full: f64,
    /// Share of that which one block alone reaches: nobody works while it waits.
    alone: f64,
}

/// In the order of `Table`'s kernels. Speeds are estimates from bytes per product, to be measured.
pub const TILES: [Tile; 5] = [
    Tile { rows: 256, columns: 128, threads: 256, resident: 1, full: 1.0, alone: 1.0 },
    Tile { rows: 128, columns: 160, threads: 128, resident: 2, full: 1.0, alone: 0.7 },
    Tile { rows: 128, columns: 128, threads: 128, resident: 2, full: 0.95, alone: 0.7 },
    Tile { rows: 128, columns: 64, threads: 128, resident: 3, full: 0.75, alone: 0.5 },
    Tile { rows: 64, columns: 64, threads: 128, resident: 4, full: 0.6, alone: 0.4 },
];

/// Channels per step of the sum, and stages of shared memory (`BK`, `STAGES`).
pub const STEP: usize = 32;
const STAGES: usize = 4;

/// What every block takes of shared memory besides its own.
const RESERVED: usize = 1 << 10;

impl Tile {
    /// Blocks that one multiprocessor holds at once.
    fn held(&self, gpu: Limits) -> usize {
        self.resident.min(gpu.shared / (self.shared() + RESERVED)).max(1)
    }

    /// Bytes of dynamic shared memory: the stages, target and sample of each row.
    pub fn shared(&self) -> usize {
        STAGES * (self.rows + self.columns) * 2 * STEP + 8 * self.rows
    }
}

/// A product as the model sees it.
#[derive(Clone, Debug)]
pub struct Work {
    /// Rows and steps of the sum of each class.
    pub classes: Vec<(usize, usize)>,
    pub columns: usize,
    /// Elements of the result.
    pub len: usize,
}

/// A tile and the parts of the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Index into [`TILES`].
    pub tile: usize,
    pub splits: usize,
}

/// Multiplications per clock of a multiprocessor.
const RATE: f64 = 1024.0;
/// Clocks before a block's first product and after its last.
const ENDS: f64 = 2000.0;
/// Clocks of one more launch, and bytes per clock of the memory.
const LAUNCH: f64 = 4000.0;
const MEMORY: f64 = 2500.0;
/// Bytes that parts of a sum may take.
const PARTS: usize = 256 << 20;
/// Steps of the sum that are worth a block.
const FEWEST: usize = 6;

impl Work {
    /// Clocks of a plan.
    fn clocks(&self, plan: Plan, gpu: Limits) -> f64 {
        let tile = &TILES[plan.tile];
        let held = tile.held(gpu);
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

    /// Of 75 KiB each, two fit where there are 228 KiB, and one where there are 100.
    #[test]
    fn fewer_blocks_fit_into_less_shared_memory() {
        let held = |gpu| TILES.map(|tile| tile.held(gpu));
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
