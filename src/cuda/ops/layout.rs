//! The layout of threads over the tensors of memory-bound kernels, for kernels/access.cuh.

use crate::cuda::device::Elem;
use crate::cuda::launch::Launch;

/// Loads that a thread issues before it uses the first: `IN_FLIGHT` of access.cuh.
pub const IN_FLIGHT: usize = 4;
/// Threads of a block, unless a kernel needs another number.
pub const BLOCK: u32 = 256;
/// Most threads of a block of a kernel over rows: the `__launch_bounds__` of these kernels.
const MOST: usize = 384;

/// Elements of one access: 16 bytes of them if all `sizes` (channels, offsets, lengths) are multiples of
/// that, else one element.
pub fn access(elem: Elem, sizes: &[usize]) -> usize {
    let wide = 16 / elem.size();
    if sizes.iter().all(|n| n.is_multiple_of(wide)) { wide } else { 1 }
}

/// A launch over `n` elements, with `each` accesses of `access` elements per thread.
#[track_caller]
pub fn flat(n: usize, access: usize, each: usize) -> Launch {
    Launch::cover(n.div_ceil(access * each), BLOCK)
}

/// The layout of a block's threads over the rows of a tensor. A thread keeps its column, which is `access`
/// channels.
#[derive(Clone, Copy, Debug)]
pub struct RowLayout {
    /// Elements of an access.
    pub access: usize,
    /// Columns that a block covers.
    pub columns: usize,
    /// Rows that it covers at once.
    pub lanes: usize,
    /// Blocks side by side that together cover a row.
    pub chunks: usize,
    pub threads: u32,
}

impl RowLayout {
    /// For rows of `c` channels; `others` are further sizes that must be multiples of an access.
    #[track_caller]
    pub fn new(elem: Elem, c: usize, others: &[usize]) -> RowLayout {
        let access = access(elem, &[&[c], others].concat());
        assert!(elem == Elem::F32 || access > 1, "rows of {c} {} are not whole packets", elem.name());
        let all = (c / access).max(1);
        let chunks = all.div_ceil(MOST);
        let columns = all.div_ceil(chunks);
        let lanes = (BLOCK as usize / columns).max(1);
        let threads = (columns * lanes).next_multiple_of(32) as u32;
        RowLayout { access, columns, lanes, chunks, threads }
    }

    /// Whether accesses are of 16 bytes, as a parameter of kernels.
    pub fn vectorized(&self) -> i32 {
        i32::from(self.access > 1)
    }

    /// A launch over `rows` rows, of blocks with `IN_FLIGHT` times `lanes` rows each.
    #[track_caller]
    pub fn launch(&self, rows: usize) -> Launch {
        Launch::grid(rows.div_ceil(self.lanes * IN_FLIGHT), self.chunks, 1, self.threads)
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
                let layout = RowLayout::new(elem, c, &[]);
                assert_eq!(layout.access, if c % wide == 0 { wide } else { 1 });
                assert!(layout.columns * layout.chunks * layout.access >= c, "{c}: {layout:?}");
                assert!(
                    layout.columns * layout.lanes <= layout.threads as usize
                        && layout.threads as usize <= MOST
                );
                // Whole warps cost at most a fifth.
                assert!(5 * layout.columns * layout.lanes >= 4 * layout.threads as usize, "{c}: {layout:?}");
            }
        }
        assert_eq!(RowLayout::new(Elem::F32, 320, &[2]).access, 1);
    }
}
