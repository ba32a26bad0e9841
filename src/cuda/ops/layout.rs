//! How the threads of memory-bound kernels lie over tensors: what kernels/access.cuh is told.

use crate::cuda::device::Elem;
use crate::cuda::launch::Launch;

/// Accesses that a thread has under way: `AHEAD` of access.cuh.
pub const AHEAD: usize = 4;
/// Threads of a block where nothing asks for another number.
pub const BLOCK: u32 = 256;
/// Most threads of a block of a kernel on rows: their `__launch_bounds__`.
const MOST: usize = 384;

/// Elements of one access: 16 bytes where all of `sizes` (channels, offsets, lengths) are whole ones, else
/// one.
pub fn access(elem: Elem, sizes: &[usize]) -> usize {
    let wide = 16 / elem.size();
    if sizes.iter().all(|n| n.is_multiple_of(wide)) { wide } else { 1 }
}

/// Blocks for `n` elements, `each` accesses of `access` elements per thread.
#[track_caller]
pub fn flat(n: usize, access: usize, each: usize) -> Launch {
    Launch::cover(n.div_ceil(access * each), BLOCK)
}

/// Threads of a block over the rows of a tensor: a thread keeps its column, a run of `access` channels.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Elements of an access.
    pub access: usize,
    /// Columns a block covers.
    pub columns: usize,
    /// Rows it covers at once.
    pub lanes: usize,
    /// Blocks side by side that cover a row.
    pub chunks: usize,
    pub threads: u32,
}

impl Walk {
    /// Over rows of `c` channels; `others` are further sizes that an access must fit.
    #[track_caller]
    pub fn new(elem: Elem, c: usize, others: &[usize]) -> Walk {
        let access = access(elem, &[&[c], others].concat());
        assert!(elem == Elem::F32 || access > 1, "rows of {c} {} are not whole packets", elem.name());
        let all = (c / access).max(1);
        let chunks = all.div_ceil(MOST);
        let columns = all.div_ceil(chunks);
        let lanes = (BLOCK as usize / columns).max(1);
        let threads = (columns * lanes).next_multiple_of(32) as u32;
        Walk { access, columns, lanes, chunks, threads }
    }

    /// Whether accesses are of 16 bytes, for the kernel.
    pub fn wide(&self) -> i32 {
        i32::from(self.access > 1)
    }

    /// Blocks that walk `AHEAD` times over `lanes` rows.
    #[track_caller]
    pub fn launch(&self, rows: usize) -> Launch {
        Launch::grid(rows.div_ceil(self.lanes * AHEAD), self.chunks, 1, self.threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_covers_every_column_and_few_threads_idle() {
        for (elem, wide) in [(Elem::Bf16, 8), (Elem::F32, 4)] {
            for c in (1..300).chain([320, 640, 960, 1280, 1920, 2560, 5120, 10240]) {
                if elem != Elem::F32 && c % wide != 0 {
                    continue;
                }
                let walk = Walk::new(elem, c, &[]);
                assert_eq!(walk.access, if c % wide == 0 { wide } else { 1 });
                assert!(walk.columns * walk.chunks * walk.access >= c, "{c}: {walk:?}");
                assert!(walk.columns * walk.lanes <= walk.threads as usize && walk.threads as usize <= MOST);
                // Whole warps cost at most a fifth.
                assert!(5 * walk.columns * walk.lanes >= 4 * walk.threads as usize, "{c}: {walk:?}");
            }
        }
        assert_eq!(Walk::new(Elem::F32, 320, &[2]).access, 1);
    }
}
