//! What an operation makes of its inputs, and what it costs.

use crate::tensor::{Shape, Tensor};

/// What kind of work an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Convolutions with kernels larger than 1x1.
    Conv,
    /// Linear layers and 1x1 convolutions.
    Linear,
    /// Attention of tokens to tokens of the same image or text.
    SelfAttention,
    /// Attention of tokens to constant keys and values.
    CrossAttention,
    /// Group, layer and Euclidean norms.
    Norm,
    /// Maps of each element by itself.
    Pointwise,
    /// Moving and resampling elements.
    Image,
    /// Noise and moves of particles.
    Particle,
}

/// An operation on given inputs as data: shapes of what it makes, and what it costs. Made by the function of
/// [`op`](crate::op) that has the operation's name, which checks the inputs' shapes.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// What kind of work it is.
    pub family: Family,
    /// Shape of the result; of no elements where the result is numbers on the host.
    pub output: Shape,
    /// Shape of what is saved for the transpose besides, in f32 on every device.
    pub saved: Option<Shape>,
    /// Numbers that are returned to the host.
    pub numbers: usize,
    /// Two per multiply-add of matrix products. Convolutions count padded taps as if they were pixels.
    pub flops: u64,
    /// Tensors that are read in whole; see [`Description::read`].
    pub reads: [Option<&'a Tensor>; 5],
    /// Further tensors that are read in whole: those of a list of any length.
    pub parts: &'a [&'a Tensor],
    /// How many times as much as the result is read of tensors of which only a part is read.
    pub excerpts: usize,
    /// What decides the type of the result's elements.
    pub elements: Elements<'a>,
    /// Elements of f32 scratch space that the CPU backend takes for the length of the call.
    pub scratch: usize,
}

/// What decides the type of a result's elements where a device computes in 16 bits. A tensor that is f32
/// although its shape is one of 16 bits ([`Shape::in_packets`]) is called wide.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// Its shape does.
    OfShape,
    /// They are f32: the result is wide.
    F32,
    /// The result is wide if this tensor is.
    As(&'a Tensor),
    /// The result is wide if a tensor is that is read in whole.
    AsRead,
}

/// Columns of a packed factor are padded to whole vectors; 16 is the widest, narrower ones waste less.
const LANES: usize = 16;

impl<'a> Description<'a> {
    pub(super) fn new<const N: usize>(family: Family, output: Shape, reads: [&'a Tensor; N]) -> Self {
        let mut list = [None; 5];
        list.iter_mut().zip(reads).for_each(|(slot, x)| *slot = Some(x));
        Description {
            family,
            output,
            saved: None,
            numbers: 0,
            flops: 0,
            reads: list,
            parts: &[],
            excerpts: 0,
            elements: match family {
                Family::Norm | Family::Pointwise | Family::Image => Elements::AsRead,
                _ => Elements::OfShape,
            },
            scratch: 0,
        }
    }

    /// Reads these too, where they are given.
    pub(super) fn also_reading<const N: usize>(mut self, more: [Option<&'a Tensor>; N]) -> Self {
        let mut slots = self.reads.iter_mut().filter(|slot| slot.is_none());
        for x in more.into_iter().flatten() {
            let Some(slot) = slots.next() else { panic!("an operation reads at most five tensors") };
            *slot = Some(x);
        }
        self
    }

    pub(super) fn saving(self, saved: Shape) -> Self {
        Description { saved: Some(saved), ..self }
    }

    pub(super) fn returning(self, numbers: usize) -> Self {
        Description { numbers, ..self }
    }

    pub(super) fn reading_parts(self, parts: &'a [&'a Tensor]) -> Self {
        Description { parts, ..self }
    }

    pub(super) fn reading_excerpts(self, excerpts: usize) -> Self {
        Description { excerpts, ..self }
    }

    /// Reads of `x` as much as the result is.
    pub(super) fn reading_excerpt_of(self, x: &'a Tensor) -> Self {
        Description { excerpts: 1, elements: Elements::As(x), ..self }
    }

    pub(super) fn making_f32(self) -> Self {
        Description { elements: Elements::F32, ..self }
    }

    /// Adds this to a product: with a wide addend the sum is wide.
    pub(super) fn adding(self, add: Option<&'a Tensor>) -> Self {
        Description { elements: add.map_or(self.elements, Elements::As), ..self }.also_reading([add])
    }

    /// Two per multiply-add of a product of these sizes, `times` over. Images of the largest sizes that can
    /// be asked for need more work than 64 bits count: then it is their maximum.
    pub(super) fn products(self, times: usize, sizes: &[usize]) -> Self {
        let multiply = |product: u64, &size: &usize| product.saturating_mul(size as u64);
        Description { flops: sizes.iter().fold(2 * times as u64, multiply), ..self }
    }

    /// Matrix products on the host first copy their right factor `(depth, columns)` into whole vectors.
    pub(super) fn packing(self, depth: usize, columns: usize) -> Self {
        Description { scratch: depth * columns.next_multiple_of(LANES), ..self }
    }

    pub(super) fn with_scratch(self, elements: usize) -> Self {
        Description { scratch: elements, ..self }
    }

    /// Whether the result is wide (see [`Elements`]); `is_wide` tells it of a tensor that is read.
    pub fn makes_wide(&self, is_wide: impl Fn(&Tensor) -> bool) -> bool {
        match self.elements {
            Elements::OfShape => false,
            Elements::F32 => true,
            Elements::As(x) => is_wide(x),
            Elements::AsRead => self.read().any(is_wide),
        }
    }

    /// Every tensor that is read in whole.
    pub fn read(&self) -> impl Iterator<Item = &'a Tensor> {
        self.reads.into_iter().flatten().chain(self.parts.iter().copied())
    }
}
