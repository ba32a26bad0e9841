//! Memory of the host backend: buffers that return to a pool when dropped, so that a step does not pay the
//! operating system for pages again, and the exact count of bytes alive.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use half::{bf16, f16};
use memmap2::MmapMut;

use super::parallel::parallel_rows;
use crate::backend::{Memory, out_of_memory};
use crate::error::Result;
use crate::tensor::{HostSlice, OwnedSlice};

/// A 16-bit type to round results to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To bfloat16.
    Bf16,
    /// To IEEE half precision.
    F16,
}

impl Round {
    /// Rounds every element to the nearest, ties to even.
    pub fn apply(self, x: &mut [f32]) {
        parallel_rows(
            x,
            1,
            #[inline(always)]
            |_, x| {
                for x in x {
                    *x = match self {
                        Round::Bf16 => bf16::from_f32(*x).to_f32(),
                        Round::F16 => f16::from_f32(*x).to_f32(),
                    };
                }
            },
        );
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Round::Bf16 => "bf16",
            Round::F16 => "f16",
        })
    }
}

/// Elements from which on a block is mapped by itself instead of lying in the heap: 4 MiB of them. The heap
/// of the C library does not give back what lies between living blocks, 6 % of the memory of Stable Diffusion
/// 1.5. Smaller blocks hardly count, and the heap is faster for them.
const LARGE: usize = 1 << 20;

/// Memory of the system.
#[derive(Debug)]
enum Block {
    Heap(Vec<f32>),
    Mapped(MmapMut),
}

impl Default for Block {
    fn default() -> Block {
        Block::Heap(Vec::new())
    }
}

impl Block {
    /// `len` zeros.
    fn new(len: usize) -> Result<Block> {
        if len < LARGE {
            let mut data = Vec::new();
            data.try_reserve_exact(len).map_err(|e| out_of_memory(len).because(e))?;
            data.resize(len, 0.0);
            return Ok(Block::Heap(data));
        }
        let size = len.checked_mul(size_of::<f32>()).ok_or_else(|| out_of_memory(len))?;
        MmapMut::map_anon(size).map(Block::Mapped).map_err(|e| out_of_memory(len).because(e))
    }
    fn elements(&self) -> &[f32] {
        match self {
            Block::Heap(data) => data,
            Block::Mapped(data) => bytemuck::cast_slice(data),
        }
    }
    fn elements_mut(&mut self) -> &mut [f32] {
        match self {
            Block::Heap(data) => data,
            Block::Mapped(data) => bytemuck::cast_slice_mut(data),
        }
    }
}

/// Elements on the host.
#[derive(Debug)]
pub struct Buffer {
    /// May hold more.
    block: Block,
    len: usize,
    pool: Arc<Pool>,
    /// Whether the elements are never rounded to 16 bits, whatever the shape.
    pub wide: bool,
}

impl Buffer {
    pub fn elements(&self) -> &[f32] {
        &self.block.elements()[..self.len]
    }
    pub fn elements_mut(&mut self) -> &mut [f32] {
        &mut self.block.elements_mut()[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free(std::mem::take(&mut self.block), self.len);
    }
}

/// Elements in the 16-bit type that a file has them in.
#[derive(Debug)]
pub struct Stored {
    data: OwnedSlice,
    pool: Arc<Pool>,
    /// In f32, for operations that read no other.
    widened: OnceLock<Vec<f32>>,
}

impl Stored {
    pub fn elements(&self) -> HostSlice<'_> {
        self.data.as_slice()
    }
    pub fn widened(&self) -> &[f32] {
        self.widened.get_or_init(|| self.elements().to_f32().into_owned())
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.pool.lock().memory.live -= self.elements().bytes();
    }
}

/// Buffers to use again.
#[derive(Debug, Default)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Idle buffers by capacity, in elements.
    idle: BTreeMap<usize, Vec<Block>>,
    idle_bytes: u64,
    memory: Memory,
    /// Most bytes ever alive: idle and live together stay below it.
    most: u64,
}

fn bytes(elements: usize) -> u64 {
    (elements as u64).saturating_mul(size_of::<f32>() as u64)
}

impl State {
    fn take(&mut self, bytes: u64) {
        self.memory.live += bytes;
        self.memory.peak = self.memory.peak.max(self.memory.live);
        self.most = self.most.max(self.memory.live);
    }

    /// The smallest idle buffer that holds `len` elements and wastes little.
    fn reuse(&mut self, len: usize) -> Option<Block> {
        let (&capacity, buffers) = self.idle.range_mut(len..=len.saturating_add(len / 8)).next()?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            self.idle.remove(&capacity);
        }
        self.idle_bytes -= bytes(capacity);
        buffer
    }

    /// Takes idle buffers out, largest first, until all fits with `len` elements more into the most that was
    /// ever alive.
    fn shrink(&mut self, len: usize) -> Vec<Block> {
        let mut out = Vec::new();
        let live = self.memory.live.saturating_add(bytes(len));
        while live.saturating_add(self.idle_bytes) > self.most.max(live) {
            let Some((capacity, buffers)) = self.idle.pop_last() else { break };
            self.idle_bytes -= bytes(capacity) * buffers.len() as u64;
            out.extend(buffers);
        }
        out
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters stay right even if a thread died holding the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `len` arbitrary elements; in debug builds they are NaN, so that an operation which forgets one is
    /// seen.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) where the system refuses the memory; nothing is
    /// counted then.
    pub fn alloc(pool: &Arc<Pool>, len: usize) -> Result<Buffer> {
        let (found, surplus) = {
            let mut state = pool.lock();
            let found = state.reuse(len);
            (found, state.shrink(len))
        };
        // Given to the operating system outside the lock.
        drop(surplus);
        let mut block = found.map_or_else(|| Block::new(len), Ok)?;
        if cfg!(debug_assertions) {
            block.elements_mut().fill(f32::NAN);
        }
        pool.lock().take(bytes(len));
        Ok(Buffer { block, len, pool: pool.clone(), wide: false })
    }

    /// Keeps `data` in its own type.
    pub fn store(pool: &Arc<Pool>, data: OwnedSlice) -> Stored {
        let stored = Stored { data, pool: pool.clone(), widened: OnceLock::new() };
        pool.lock().take(stored.elements().bytes());
        stored
    }

    fn free(&self, block: Block, len: usize) {
        let capacity = block.elements().len();
        let mut state = self.lock();
        state.memory.live -= bytes(len);
        if capacity > 0 {
            state.idle_bytes += bytes(capacity);
            state.idle.entry(capacity).or_default().push(block);
        }
    }

    pub fn memory(&self) -> Memory {
        self.lock().memory
    }

    pub fn reset_peak(&self) {
        let mut state = self.lock();
        state.memory.peak = state.memory.live;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_and_peak_bytes_are_exact() {
        let pool = Arc::new(Pool::default());
        let a = Pool::alloc(&pool, 1000).unwrap();
        let b = Pool::alloc(&pool, 24).unwrap();
        assert_eq!(pool.memory(), Memory { live: 4096, peak: 4096 });
        drop(a);
        assert_eq!(pool.memory(), Memory { live: 96, peak: 4096 });
        pool.reset_peak();
        let c = Pool::alloc(&pool, 10).unwrap();
        assert_eq!(pool.memory(), Memory { live: 136, peak: 136 });
        drop((b, c));
        assert_eq!(pool.memory().live, 0);
    }

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = Arc::new(Pool::default());
        for len in [5000, LARGE] {
            let first = Pool::alloc(&pool, len).unwrap();
            let at = first.elements().as_ptr();
            drop(first);
            let again = Pool::alloc(&pool, len - len / 50).unwrap();
            assert_eq!((again.elements().as_ptr(), again.elements().len()), (at, len - len / 50));
        }
    }

    #[test]
    fn idle_buffers_never_add_to_the_most_that_was_alive() {
        let pool = Arc::new(Pool::default());
        for len in [1000, 3000, 2000, 500, 4000] {
            drop(Pool::alloc(&pool, len).unwrap());
            let state = pool.lock();
            assert!(state.memory.live + state.idle_bytes <= state.most.max(bytes(len)));
        }
    }

    #[test]
    fn memory_that_is_not_there_is_an_error_and_is_not_counted() {
        let pool = Arc::new(Pool::default());
        let kept = Pool::alloc(&pool, 10).unwrap();
        // More bytes than addresses, and more elements than bytes can be counted.
        for len in [isize::MAX as usize / 4 + 1, usize::MAX] {
            let error = Pool::alloc(&pool, len).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Memory);
            let text = error.to_string();
            for part in ["GB", "`micro_batch`", "`checkpointing` on", "`width`", "`height`"] {
                assert!(text.contains(part), "{part} is not in: {text}");
            }
        }
        assert_eq!(pool.memory(), Memory { live: 40, peak: 40 });
        drop(kept);
        assert_eq!(pool.memory(), Memory { live: 0, peak: 40 });
    }

    #[test]
    fn rounding_is_to_the_nearest_16_bit_number() {
        let mut x = [1.0 + 1.0 / 512.0, 1.0 / 3.0, 70000.0];
        Round::Bf16.apply(&mut x);
        assert_eq!(x, [1.0, 0.333_984_38, 70144.0]);
        let mut x = [1.0 + 1.0 / 4096.0, 1.0 / 3.0, 70000.0];
        Round::F16.apply(&mut x);
        assert_eq!(x, [1.0, 0.333_251_95, f32::INFINITY]);
    }
}
