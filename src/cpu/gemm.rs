//! Matrix products on the host. One kernel serves linear layers, convolutions and attention: the right factor
//! is packed into panels of whole vectors, the left factor is read in place, row by row, through [`Left`]. A
//! row may consist of several pieces (the taps of a convolution), so no patch matrix is ever built.
//!
//! A tile of the output (eight rows by two vectors) stays in registers for the whole depth. Per step of depth
//! it loads two vectors and eight broadcast scalars for 16 multiply-adds, so it is bound by arithmetic, and
//! panels stream from the second-level cache. Taller tiles would need more registers than there are:
//! compilers load all broadcasts first. Every element is summed in the order of the depth, however work is
//! split.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Cpu;
use super::buffer::Buffer;
use crate::error::Result;
use crate::tensor::{HostSlice, Shape, Tensor};

/// Vectors in a tile's row.
const VECTORS: usize = 2;
/// Rows of a task, about: its part of the left factor should stay in the second-level cache while panels
/// pass.
const BAND: usize = 96;
/// Rows of a tile.
pub const TALL: usize = 8;
/// Multiply-adds worth handing to another thread.
const TASK: usize = 1 << 18;

/// The left factor: `rows` rows of `taps * width` elements, in `taps` pieces.
pub trait Left: Sync {
    fn rows(&self) -> usize;
    fn taps(&self) -> usize;
    fn width(&self) -> usize;
    /// What finding a row's pieces needs, computed once per tile.
    fn at(&self, row: usize) -> usize;
    /// Piece `tap` of the row at `at`, `width` elements.
    fn piece(&self, at: usize, tap: usize) -> &[f32];
    /// The output's row that takes the result.
    fn target(&self, row: usize) -> usize;
    /// The bias's row.
    fn sample(&self, row: usize) -> usize;
}

/// Rows `row * stride .. + width` of a slice.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub x: &'a [f32],
    pub rows: usize,
    pub width: usize,
    pub stride: usize,
    /// Rows that share a row of the bias, and the row of the first.
    pub per_bias: usize,
    pub first: usize,
}

impl<'a> Rows<'a> {
    /// All rows share one row of a bias.
    pub fn new(x: &'a [f32], rows: usize, width: usize, stride: usize) -> Rows<'a> {
        Rows { x, rows, width, stride, per_bias: usize::MAX, first: 0 }
    }
    /// Some of the rows.
    pub fn part(self, rows: Range<usize>) -> Rows<'a> {
        assert!(rows.end <= self.rows);
        Rows { x: &self.x[rows.start * self.stride..], rows: rows.len(), ..self }
    }
}

impl Left for Rows<'_> {
    #[inline(always)]
    fn rows(&self) -> usize {
        self.rows
    }
    #[inline(always)]
    fn taps(&self) -> usize {
        1
    }
    #[inline(always)]
    fn width(&self) -> usize {
        self.width
    }
    #[inline(always)]
    fn at(&self, row: usize) -> usize {
        row * self.stride
    }
    #[inline(always)]
    fn piece(&self, at: usize, _: usize) -> &[f32] {
        &self.x[at..at + self.width]
    }
    #[inline(always)]
    fn target(&self, row: usize) -> usize {
        row
    }
    #[inline(always)]
    fn sample(&self, row: usize) -> usize {
        (self.first + row) / self.per_bias
    }
}

/// Where the right factor's element of depth `k` and column `j` stands in a weight.
#[derive(Clone, Copy)]
pub enum Order {
    /// At `j * stride + k`: the depth is contiguous.
    Columns(usize),
    /// At `k * stride + j`: a row is contiguous.
    Rows(usize),
}

/// Elements of one packed vector on this machine.
fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// Shape of a packed right factor: `depth` by `columns`. Panel after panel, each `depth` rows of two vectors;
/// a last panel whose columns fit into one vector is one vector wide.
#[derive(Clone, Copy)]
pub struct Panels {
    pub depth: usize,
    pub columns: usize,
    lanes: usize,
}

impl Panels {
    pub fn new(depth: usize, columns: usize) -> Panels {
        Panels { depth, columns, lanes: lanes() }
    }
    fn wide(self) -> usize {
        VECTORS * self.lanes
    }
    pub fn count(self) -> usize {
        self.columns.div_ceil(self.wide())
    }
    /// Width of panel `p` in elements, padding included.
    fn width(self, p: usize) -> usize {
        let left = self.columns - p * self.wide();
        if left > self.lanes { self.wide() } else { self.lanes }
    }
    /// Elements of all panels.
    pub fn len(self) -> usize {
        match self.count() {
            0 => 0,
            count => self.depth * ((count - 1) * self.wide() + self.width(count - 1)),
        }
    }

    /// Packs one matrix of the whole depth, on this thread.
    pub fn pack(self, w: &[f32], order: Order) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        let panels = out.chunks_mut((self.depth * self.wide()).max(1)).enumerate();
        Arch::new().dispatch(
            #[inline(always)]
            || {
                panels
                    .for_each(|(p, out)| self.pack_panel(p, out, self.depth, HostSlice::F32(w), order, &[0]));
            },
        );
        out
    }

    /// Packs the sum of the matrices that start at `from` in `w` into depth `at .. at + depth` of all panels,
    /// on all threads.
    pub fn pack_sum(
        self,
        out: &mut [f32],
        at: usize,
        depth: usize,
        w: HostSlice<'_>,
        order: Order,
        from: &[usize],
    ) {
        let panel = self.depth * self.wide();
        let work = |(p, out): (usize, &mut [f32])| {
            let width = self.width(p);
            let out = &mut out[at * width..(at + depth) * width];
            Arch::new().dispatch(
                #[inline(always)]
                || self.pack_panel(p, out, depth, w, order, from),
            );
        };
        if self.columns * depth < TASK / 4 {
            out.chunks_mut(panel).enumerate().for_each(work);
        } else {
            out.par_chunks_mut(panel).enumerate().for_each(work);
        }
    }

    #[inline(always)]
    fn pack_panel(
        self,
        p: usize,
        out: &mut [f32],
        depth: usize,
        w: HostSlice<'_>,
        order: Order,
        from: &[usize],
    ) {
        /// Elements that are converted to f32 at a time, if they are not f32: as many as stay in the
        /// first-level cache with what they are written to.
        const BLOCK: usize = 64;
        let mut converted = [0.0; BLOCK];
        let (first, width) = (p * self.wide(), self.width(p));
        let columns = (self.columns - first).min(width);
        if columns < width {
            out.fill(0.0);
        }
        for (term, &from) in from.iter().enumerate() {
            match order {
                Order::Rows(stride) => {
                    for (k, out) in out.chunks_exact_mut(width).enumerate() {
                        let row = w.part(from + k * stride + first, &mut converted[..columns]);
                        let out = &mut out[..columns];
                        if term == 0 {
                            out.copy_from_slice(row);
                        } else {
                            out.iter_mut().zip(row).for_each(|(o, w)| *o += w);
                        }
                    }
                }
                Order::Columns(stride) => {
                    for (block, out) in out.chunks_mut(BLOCK * width).enumerate() {
                        let depth = (depth - block * BLOCK).min(BLOCK);
                        for j in 0..columns {
                            let at = from + (first + j) * stride + block * BLOCK;
                            let column = w.part(at, &mut converted[..depth]);
                            let out = out[j..].iter_mut().step_by(width);
                            if term == 0 {
                                out.zip(column).for_each(|(o, w)| *o = *w);
                            } else {
                                out.zip(column).for_each(|(o, w)| *o += *w);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What is added to a product before it is stored.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    /// Rows of the bias (zero stride: one for all).
    pub bias: Option<(&'a [f32], usize)>,
    /// Same layout as the output.
    pub add: Option<&'a [f32]>,
    /// Adds to what the output holds.
    pub accumulate: bool,
}

impl Finish<'_> {
    /// Nothing, into an output that holds nothing yet or to be added to.
    pub fn plain(accumulate: bool) -> Finish<'static> {
        Finish { bias: None, add: None, accumulate }
    }
}

/// The product of `left` and packed panels on one thread. Output row `target` starts at `target * stride`;
/// column `j` of panel range `panels` lands at `j - first column of the range`.
pub struct Product<'a, L> {
    pub left: &'a L,
    pub shape: Panels,
    pub right: &'a [f32],
    pub panels: Range<usize>,
    pub finish: Finish<'a>,
    pub out: &'a mut [f32],
    pub stride: usize,
}

impl<L: Left> Product<'_, L> {
    pub fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl<L: Left> WithSimd for Product<'_, L> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let wide = self.shape.wide();
        for p in self.panels.clone() {
            let width = self.shape.width(p);
            let panel = &self.right[p * wide * self.shape.depth..][..width * self.shape.depth];
            let panel = S::as_simd_f32s(panel).0;
            let rows = self.left.rows();
            let mut row = 0;
            while row < rows {
                let left = rows - row;
                row += match (left, width > self.shape.lanes) {
                    (8.., true) if S::REGISTER_COUNT >= 32 => self.tile::<S, 8, 2>(simd, p, row, panel),
                    (8.., false) => self.tile::<S, 8, 1>(simd, p, row, panel),
                    (4.., true) => self.tile::<S, 4, 2>(simd, p, row, panel),
                    (4.., false) => self.tile::<S, 4, 1>(simd, p, row, panel),
                    (_, true) => self.tile::<S, 1, 2>(simd, p, row, panel),
                    (_, false) => self.tile::<S, 1, 1>(simd, p, row, panel),
                };
            }
        }
    }
}

/// The body for every `i` below the constant, as straight-line code, so that arrays stay in registers.
macro_rules! unrolled {
    ($i:ident < $m:ident, $body:block) => { unrolled!($i < $m, $body, 0 1 2 3 4 5 6 7) };
    ($i:ident < $m:ident, $body:block, $($n:literal)*) => {
        $(if $n < $m {
            let $i = $n;
            $body
        })*
    };
}

/// Most elements of a tile's row: two vectors of 16.
const WIDEST: usize = 32;

impl<L: Left> Product<'_, L> {
    /// Rows `row .. row + M` of panel `p`; returns `M`.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(
        &mut self,
        simd: S,
        p: usize,
        row: usize,
        panel: &[S::f32s],
    ) -> usize {
        let width = self.left.width();
        let mut acc = [[simd.splat_f32s(0.0); V]; M];
        let mut at = [self.left.at(row); M];
        for (i, at) in at.iter_mut().enumerate() {
            *at = self.left.at(row + i);
        }
        for tap in 0..self.left.taps() {
            let mut a = [self.left.piece(at[0], tap); M];
            unrolled!(i < M, {
                a[i] = &self.left.piece(at[i], tap)[..width];
            });
            let b = &panel[tap * width * V..][..width * V];
            for k in 0..width {
                let b = &b[k * V..][..V];
                unrolled!(i < M, {
                    let a = simd.splat_f32s(a[i][k]);
                    for v in 0..V {
                        acc[i][v] = simd.mul_add_e_f32s(a, b[v], acc[i][v]);
                    }
                });
            }
        }
        // The loop below indexes its rows, so they must be in memory; a copy leaves the sums above in
        // registers.
        let mut rows = [[simd.splat_f32s(0.0); V]; M];
        unrolled!(i < M, {
            rows[i] = acc[i];
        });
        let first = p * self.shape.wide();
        let columns = (self.shape.columns - first).min(V * S::F32_LANES);
        let column = first - self.panels.start * self.shape.wide();
        for (i, acc) in rows.iter().enumerate() {
            let at = self.left.target(row + i) * self.stride + column;
            let out = &mut self.out[at..][..columns];
            let bias = self.finish.bias.map(|(bias, stride)| {
                let sample = if stride == 0 { 0 } else { self.left.sample(row + i) };
                &bias[sample * stride + first..][..columns]
            });
            let add = self.finish.add.map(|add| &add[at..][..columns]);
            if columns == V * S::F32_LANES {
                let (out, _) = S::as_mut_simd_f32s(out);
                let bias = bias.map(|b| S::as_simd_f32s(b).0);
                let add = add.map(|a| S::as_simd_f32s(a).0);
                for v in 0..V {
                    let mut sum = acc[v];
                    if self.finish.accumulate {
                        sum = simd.add_f32s(out[v], sum);
                    }
                    if let Some(bias) = bias {
                        sum = simd.add_f32s(sum, bias[v]);
                    }
                    if let Some(add) = add {
                        sum = simd.add_f32s(sum, add[v]);
                    }
                    out[v] = sum;
                }
            } else {
                let mut sums = [0.0; WIDEST];
                S::as_mut_simd_f32s(&mut sums).0[..V].copy_from_slice(acc);
                for j in 0..columns {
                    let mut sum = sums[j];
                    if self.finish.accumulate {
                        sum += out[j];
                    }
                    if let Some(bias) = bias {
                        sum += bias[j];
                    }
                    if let Some(add) = add {
                        sum += add[j];
                    }
                    out[j] = sum;
                }
            }
        }
        M
    }
}

/// A right factor of `depth` by `columns`, packed by `f(panels, out)`.
pub fn packed(
    cpu: &Cpu,
    depth: usize,
    columns: usize,
    f: impl FnOnce(Panels, &mut [f32]),
) -> Result<(Panels, Buffer)> {
    let panels = Panels::new(depth, columns);
    let mut out = cpu.alloc(Shape::vector(panels.len()))?;
    f(panels, out.elements_mut());
    Ok((panels, out))
}

/// A part of a product: some rows of the output and some panels.
pub struct Part<'a> {
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    /// Elements of those rows and panels, `stride` per row.
    pub out: &'a mut [f32],
    pub stride: usize,
    /// What is added, of the same layout.
    pub add: Option<&'a [f32]>,
}

/// Splits the output into parts on all threads, each a multiple of `unit` rows (but the last); few rows are
/// split by columns as well.
pub fn spread(
    unit: usize,
    panels: Panels,
    add: Option<&[f32]>,
    out: &mut [f32],
    work: impl Fn(Part<'_>) + Sync,
) {
    /// Enough parts for two threads to finish together.
    const PARTS: usize = 8;
    let columns = panels.columns;
    let (rows, count) = (out.len() / columns.max(1), panels.count());
    let cost = rows * panels.depth * columns;
    // Bands of equal size, as many as keep all threads busy to the end.
    let bands = rows.div_ceil(BAND).max(1).next_multiple_of(rayon::current_num_threads());
    let unit = if TALL.is_multiple_of(unit.max(1)) { TALL } else { unit };
    let band = rows.div_ceil(bands).max(TALL).next_multiple_of(unit);
    let groups = (PARTS / rows.div_ceil(band).max(1)).min(cost / TASK).clamp(1, count.max(1));
    if groups == 1 {
        let part = |(i, out): (usize, &mut [f32])| {
            let rows = i * band..i * band + out.len() / columns;
            let add = add.map(|add| &add[rows.start * columns..rows.end * columns]);
            work(Part { rows, panels: 0..count, out, stride: columns, add });
        };
        if cost <= TASK {
            out.chunks_mut(band * columns).enumerate().for_each(part);
        } else {
            out.par_chunks_mut(band * columns).enumerate().for_each(part);
        }
        return;
    }
    let parts: Vec<(Range<usize>, Vec<f32>)> = (0..groups)
        .into_par_iter()
        .map(|g| {
            let range = g * count / groups..(g + 1) * count / groups;
            let (first, end) = (range.start * panels.wide(), (range.end * panels.wide()).min(columns));
            let mut out = vec![0.0; rows * (end - first)];
            let part = Part { rows: 0..rows, panels: range, out: &mut out, stride: end - first, add: None };
            work(part);
            (first..end, out)
        })
        .collect();
    for (range, part) in parts {
        for (row, part) in part.chunks_exact(range.len()).enumerate() {
            let range = row * columns + range.start..row * columns + range.end;
            match add {
                Some(add) => {
                    let sums = out[range.clone()].iter_mut().zip(part).zip(&add[range]);
                    sums.for_each(|((o, p), a)| *o = p + a);
                }
                None => out[range].copy_from_slice(part),
            }
        }
    }
}

/// Bias rows: the elements and the stride between samples.
pub fn bias<'a>(cpu: &Cpu, b: Option<&'a Tensor>) -> Option<(&'a [f32], usize)> {
    b.map(|b| (cpu.view(b), if b.shape().n == 1 { 0 } else { b.shape().c }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wide kernels of `pulp` hang on a feature of the crate that is easily lost.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_widest_vectors_of_this_machine_are_used() {
        let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
        assert!(!wide || lanes() == 16, "{} lanes", lanes());
    }
}
