//! The one shape and the one handle. Every tensor is contiguous `(n, h, w, c)`; what holds its elements is
//! the backend's business and opaque to everyone else. Cloning a tensor clones a handle, never the data.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytemuck::{Pod, allocation};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Sizes of a contiguous tensor `(n, h, w, c)`, channels innermost. An image is its token sequence:
/// `(n, h, w, c)` and `(n, 1, h*w, c)` are the same bytes. A linear weight is `(out, 1, 1, in)`, a
/// convolution's `(out, kh, kw, in)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Samples of the batch.
    pub n: usize,
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Channels, innermost in memory.
    pub c: usize,
}

/// Channels of a packet: 16 bytes of 16-bit numbers.
pub const PACKET: usize = 8;

impl Shape {
    /// Whether rows are whole packets. Where a device computes in 16 bits, tensors of such shapes are of 16
    /// bits, and all others, such as latents, pictures and scores, are f32; but the tokens of a transformer
    /// that sums over its layers are f32, and what is made of them by anything but a product
    /// ([`Elements`](crate::op::Elements)).
    pub const fn in_packets(self) -> bool {
        self.c.is_multiple_of(PACKET)
    }
    /// `(n, h, w, c)`.
    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Shape {
        Shape { n, h, w, c }
    }
    /// `(n, 1, 1, c)`.
    pub const fn rows(n: usize, c: usize) -> Shape {
        Shape::new(n, 1, 1, c)
    }
    /// `(1, 1, 1, c)`.
    pub const fn vector(c: usize) -> Shape {
        Shape::new(1, 1, 1, c)
    }
    /// Elements.
    pub const fn len(self) -> usize {
        self.n * self.h * self.w * self.c
    }
    /// Whether there is no element.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
    /// Positions per sample, `h * w`.
    pub const fn tokens(self) -> usize {
        self.h * self.w
    }
    /// Elements per sample, `h * w * c`.
    pub const fn sample(self) -> usize {
        self.h * self.w * self.c
    }
    /// Whether it is that of a matrix or a kernel, which the CPU keeps in the type of its file.
    pub const fn is_matrix(self) -> bool {
        self.n > 1
    }
    /// Rows of the matrix `(n*h*w, c)`.
    pub const fn positions(self) -> usize {
        self.n * self.h * self.w
    }
    /// The same for `n` samples.
    pub const fn with_n(self, n: usize) -> Shape {
        Shape { n, ..self }
    }
    /// The same with `c` channels.
    pub const fn with_c(self, c: usize) -> Shape {
        Shape { c, ..self }
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}, {}, {})", self.n, self.h, self.w, self.c)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A constant tensor: a shape and a handle to a backend's storage.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    data: Arc<dyn Any + Send + Sync>,
}

impl Tensor {
    /// Wraps a backend's storage.
    pub fn new<T: Any + Send + Sync>(shape: Shape, data: T) -> Tensor {
        Tensor { shape, data: Arc::new(data) }
    }
    /// Its sizes `(n, h, w, c)`.
    pub fn shape(&self) -> Shape {
        self.shape
    }
    /// The backend's storage, if it is of type `T`.
    pub fn data<T: Any>(&self) -> Option<&T> {
        self.data.downcast_ref()
    }
    /// The same elements under another shape of the same length.
    #[track_caller]
    pub fn reshape(&self, shape: Shape) -> Tensor {
        assert_eq!(self.shape.len(), shape.len(), "reshape {} to {}", self.shape, shape);
        Tensor { shape, data: self.data.clone() }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{}", self.shape)
    }
}

/// Elements on the host, in the type a file stores them in.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum HostSlice<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    BF16(&'a [bf16]),
}

/// Elements on the host that nobody else owns, in the type a file stores them in.
#[derive(Clone, Debug)]
pub enum OwnedSlice {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// IEEE half precision.
    F16(Vec<f16>),
    /// bfloat16.
    BF16(Vec<bf16>),
}

impl OwnedSlice {
    /// The elements.
    pub fn as_slice(&self) -> HostSlice<'_> {
        match self {
            OwnedSlice::F32(x) => HostSlice::F32(x),
            OwnedSlice::F16(x) => HostSlice::F16(x),
            OwnedSlice::BF16(x) => HostSlice::BF16(x),
        }
    }
}

/// Elements that a thread copies at a time. Most of the time goes into the pages of the copy, which the
/// system clears as they are first written.
const COPIED: usize = 1 << 16;

/// The parts one behind the other, each element written by `write(part, first, to)`; `None` where there is no
/// memory for them.
fn try_concat<P: Copy + Sync, T: Pod + Send>(
    parts: &[P],
    len: impl Fn(P) -> usize,
    write: impl Fn(P, usize, &mut [T]) + Sync,
) -> Option<Vec<T>> {
    let mut all = allocation::try_zeroed_vec(parts.iter().map(|part| len(*part)).sum()).ok()?;
    let mut rest = all.as_mut_slice();
    for &part in parts {
        let (to, behind) = rest.split_at_mut(len(part));
        to.par_chunks_mut(COPIED).enumerate().for_each(|(i, to)| write(part, i * COPIED, to));
        rest = behind;
    }
    Some(all)
}

/// The parts if all are of half precision.
fn halves<'a>(parts: &[HostSlice<'a>]) -> Option<Vec<&'a [f16]>> {
    parts.iter().map(|part| if let HostSlice::F16(x) = part { Some(*x) } else { None }).collect()
}

/// The parts if all are bfloat16.
fn brains<'a>(parts: &[HostSlice<'a>]) -> Option<Vec<&'a [bf16]>> {
    parts.iter().map(|part| if let HostSlice::BF16(x) = part { Some(*x) } else { None }).collect()
}

impl<'a> HostSlice<'a> {
    /// A copy; `None` where there is no memory for it.
    pub(crate) fn try_to_owned(self) -> Option<OwnedSlice> {
        HostSlice::try_concat(&[self])
    }
    /// The parts one behind the other, as f32 where they are not all of one type; `None` where there is no
    /// memory for them.
    pub(crate) fn try_concat(parts: &[HostSlice<'a>]) -> Option<OwnedSlice> {
        fn copy<T: Pod>(from: &[T], first: usize, to: &mut [T]) {
            to.copy_from_slice(&from[first..][..to.len()]);
        }
        if let Some(parts) = halves(parts) {
            return try_concat(&parts, <[f16]>::len, copy).map(OwnedSlice::F16);
        }
        if let Some(parts) = brains(parts) {
            return try_concat(&parts, <[bf16]>::len, copy).map(OwnedSlice::BF16);
        }
        let widen = |from: HostSlice<'_>, first, to: &mut [f32]| from.range(first, to.len()).write(to);
        try_concat(parts, HostSlice::len, widen).map(OwnedSlice::F32)
    }
    /// Bytes of an element in what [`try_concat`](HostSlice::try_concat) makes.
    pub(crate) fn bytes_together(parts: &[HostSlice<'_>]) -> u64 {
        if halves(parts).is_some() || brains(parts).is_some() { 2 } else { 4 }
    }
    /// Their bytes.
    pub fn bytes(self) -> u64 {
        let each = if matches!(self, HostSlice::F32(_)) { 4 } else { 2 };
        self.len() as u64 * each
    }
    /// All elements as f32 into `to`, which is as long.
    pub(crate) fn write(self, to: &mut [f32]) {
        match self {
            HostSlice::F32(x) => to.copy_from_slice(x),
            HostSlice::F16(x) => x.convert_to_f32_slice(to),
            HostSlice::BF16(x) => x.convert_to_f32_slice(to),
        }
    }
    /// Elements `from .. from + len`.
    pub(crate) fn range(self, from: usize, len: usize) -> HostSlice<'a> {
        match self {
            HostSlice::F32(x) => HostSlice::F32(&x[from..][..len]),
            HostSlice::F16(x) => HostSlice::F16(&x[from..][..len]),
            HostSlice::BF16(x) => HostSlice::BF16(&x[from..][..len]),
        }
    }
    /// Elements `from .. from + to.len()` in f32: a part of the slice itself, or converted into `to`.
    pub(crate) fn part<'b>(self, from: usize, to: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self.range(from, to.len()) {
            HostSlice::F32(x) => x,
            narrow => {
                narrow.write(to);
                to
            }
        }
    }
    /// Elements.
    pub fn len(self) -> usize {
        match self {
            HostSlice::F32(x) => x.len(),
            HostSlice::F16(x) => x.len(),
            HostSlice::BF16(x) => x.len(),
        }
    }
    /// Whether there is no element.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
    /// The elements as f32, which holds all three types exactly.
    pub fn to_f32(self) -> Cow<'a, [f32]> {
        match self {
            HostSlice::F32(x) => Cow::Borrowed(x),
            narrow => {
                let mut all = vec![0.0; narrow.len()];
                narrow.write(&mut all);
                Cow::Owned(all)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_type_keep_it_and_others_become_f32() {
        // Longer than what one thread copies.
        let long: Vec<f32> = (0..COPIED + 3).map(|i| (i % 2048) as f32).collect();
        let half = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
        let (a, b) = (half(&long), half(&[1.5, -2.0]));
        let brain = [bf16::from_f32(3.0)];
        let all: Vec<f32> = long.iter().copied().chain([1.5, -2.0]).collect();
        match HostSlice::try_concat(&[HostSlice::F16(&a), HostSlice::F16(&b)]).unwrap() {
            OwnedSlice::F16(x) => assert_eq!(x, half(&all)),
            other => panic!("{other:?}"),
        }
        match HostSlice::try_concat(&[HostSlice::BF16(&brain), HostSlice::BF16(&brain)]).unwrap() {
            OwnedSlice::BF16(x) => assert_eq!(x, [brain[0]; 2]),
            other => panic!("{other:?}"),
        }
        let mixed = [HostSlice::F32(&long), HostSlice::F16(&b), HostSlice::BF16(&brain)];
        let bytes = [&mixed[..], &mixed[1..], &mixed[1..2], &mixed[2..]].map(HostSlice::bytes_together);
        assert_eq!(bytes, [4, 4, 2, 2]);
        match HostSlice::try_concat(&mixed).unwrap() {
            OwnedSlice::F32(x) => assert_eq!(x, [&all[..], &[3.0]].concat()),
            other => panic!("{other:?}"),
        }
    }
}
