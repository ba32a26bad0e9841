//! Reverse mode over coarse operations. A [`Tensor`] is a constant; a [`Var`] may depend on what is being
//! differentiated, and the type says so. Each operation (see `ops.rs`) pushes its transpose as a closure, and
//! what the closure captures is exactly what is kept. One loop accumulates cotangents, so no rule can
//! overwrite another's.

use std::cell::RefCell;
use std::fmt::Display;

use crate::backend::Backend;
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// A tensor on a [`Tape`]. With recording off, or when nothing it depends on is watched, it is only its
/// value.
///
/// Operations of the tape (see the module [`ops`](crate::ops)) take a `Var` and follow the gradient.
/// Operations of a [`Backend`] take a [`Tensor`], which is a constant. A `Var` does not turn into a `Tensor`
/// by itself, so the place where a gradient is dropped on purpose says so, with [`Var::value`] or
/// [`Var::detach`]:
///
/// ```
/// use das_cuda::{Result, backend::Backend, tape::Var, tensor::Tensor};
/// fn constant(backend: &dyn Backend, x: &Var) -> Result<Tensor> {
///     backend.scale(2.0, x.value())
/// }
/// ```
///
/// Without that word it does not compile:
///
/// ```compile_fail,E0308
/// use das_cuda::{Result, backend::Backend, tape::Var, tensor::Tensor};
/// fn constant(backend: &dyn Backend, x: &Var) -> Result<Tensor> {
///     backend.scale(2.0, x)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    node: Option<usize>,
}

impl Var {
    /// The shape of the value.
    pub fn shape(&self) -> Shape {
        self.value.shape()
    }
    /// The value alone. What is computed from it is a constant: no gradient flows back through it.
    pub fn value(&self) -> &Tensor {
        &self.value
    }
    /// The value alone, as [`Var::value`], without the handle to the tape.
    pub fn into_value(self) -> Tensor {
        self.value
    }
    /// The same elements as a constant, which no gradient flows back through.
    pub fn detach(&self) -> Var {
        Var::from(self.value.clone())
    }
    /// The node that takes its cotangent, if it is watched.
    pub(crate) fn node(&self) -> Option<usize> {
        self.node
    }
    /// The same elements under another shape of as many; free, and followed by the gradient.
    #[track_caller]
    pub fn reshape(&self, shape: Shape) -> Var {
        Var { value: self.value.reshape(shape), node: self.node }
    }
}

/// Constants take part in any operation.
impl From<Tensor> for Var {
    fn from(value: Tensor) -> Var {
        Var { value, node: None }
    }
}

/// The cotangents an operation hands to its inputs: `(node, dx)`.
pub(crate) type Cotangents = Vec<(usize, Tensor)>;
type Transpose<'a> = Box<dyn FnOnce(&dyn Backend, Tensor) -> Result<Cotangents> + 'a>;

/// What is computed again on the way back instead of being kept, from nothing to most. The gradient is the
/// same to the bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recompute {
    /// Nothing: inputs of non-linear operations are kept.
    #[default]
    Nothing,
    /// The wide layer inside the feed-forward part of the UNet's transformer blocks.
    FeedForward,
    /// Queries, keys and values of their attention as well. What attention makes of them is kept.
    Projections,
    /// Everything inside residual and transformer blocks of UNet and decoder: their inputs are kept.
    Blocks,
}

/// Records operations and runs them backwards. `'a` bounds what transposes may borrow (models, for
/// checkpointing).
pub struct Tape<'a> {
    backend: &'a dyn Backend,
    nodes: Option<RefCell<Vec<Option<Transpose<'a>>>>>,
    recompute: Recompute,
    /// Where ranges begin and end among the nodes, so that the way back is named as well.
    marks: RefCell<Vec<Mark>>,
}

/// The beginning (no name) or the end of a range before node `at`.
struct Mark {
    at: usize,
    end_of: Option<String>,
}

/// A range of [`Tape::range`] that ends with its scope.
pub struct Range<'r, 'a> {
    tape: &'r Tape<'a>,
    name: String,
}

impl Drop for Range<'_, '_> {
    fn drop(&mut self) {
        self.tape.backend.range_end();
        self.tape.mark(Some(std::mem::take(&mut self.name)));
    }
}

impl<'a> Tape<'a> {
    /// A tape that records.
    pub fn new(backend: &'a dyn Backend) -> Tape<'a> {
        Tape::recomputing(backend, Recompute::Nothing)
    }
    /// A tape that records, and keeps less than all of it: see [`Tape::section`] and
    /// [`Tape::self_attention_of`].
    pub fn recomputing(backend: &'a dyn Backend, recompute: Recompute) -> Tape<'a> {
        Tape { backend, nodes: Some(RefCell::new(Vec::new())), recompute, marks: RefCell::default() }
    }
    /// Inference: the same operations, nothing kept.
    pub fn off(backend: &'a dyn Backend) -> Tape<'a> {
        Tape { backend, nodes: None, recompute: Recompute::Nothing, marks: RefCell::default() }
    }

    /// Names what follows for profilers, forward and, as `name'`, on the way back.
    pub fn range(&self, name: impl Display) -> Range<'_, 'a> {
        let name = name.to_string();
        self.backend.range_start(&name);
        self.mark(None);
        Range { tape: self, name }
    }

    fn mark(&self, end_of: Option<String>) {
        if let Some(nodes) = &self.nodes {
            self.marks.borrow_mut().push(Mark { at: nodes.borrow().len(), end_of });
        }
    }

    /// `f(x)`; as [`Tape::checkpoint`] if this tape recomputes sections of the kind `at` or more.
    /// The gradient has the same bits in both cases: what `f` hands to `x` is added up by itself.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn section(
        &self,
        at: Recompute,
        x: Var,
        f: impl Fn(&Tape<'a>, Var) -> Result<Var> + 'a,
    ) -> Result<Var> {
        if self.recomputes(at) && self.records(&x) {
            self.checkpoint(&x, move |tape, x| f(tape, x.clone()))
        } else {
            f(self, self.alias(x))
        }
    }

    /// The same value, whose cotangents add up apart from the others of `x`.
    pub(crate) fn alias(&self, x: Var) -> Var {
        let Some(node) = x.node else { return x };
        self.push(x.into_value(), true, |_| Box::new(move |_, dx| Ok(vec![(node, dx)])))
    }

    /// Whether this tape computes again what is of the kind `at`: it recomputes that or more.
    pub(crate) fn recomputes(&self, at: Recompute) -> bool {
        self.recompute >= at
    }

    /// Whether what is made of `x` will be differentiated.
    pub(crate) fn records(&self, x: &Var) -> bool {
        self.nodes.is_some() && x.node.is_some()
    }

    /// The device that computes. What it computes beside the tape is a constant.
    pub fn backend(&self) -> &'a dyn Backend {
        self.backend
    }

    /// A leaf whose gradient [`Tape::gradient`] can return.
    pub fn watch(&self, value: Tensor) -> Var {
        self.push(value, true, |_| Box::new(|_, _| Ok(Vec::new())))
    }

    /// Records an operation's result. `make` is called only if the result will be differentiated.
    pub(crate) fn push(
        &self,
        value: Tensor,
        watched: bool,
        make: impl FnOnce(usize) -> Transpose<'a>,
    ) -> Var {
        let node = match &self.nodes {
            Some(nodes) if watched => {
                let mut nodes = nodes.borrow_mut();
                let id = nodes.len();
                nodes.push(Some(make(id)));
                Some(id)
            }
            _ => None,
        };
        Var { value, node }
    }

    /// Cotangent of `leaf` for the cotangent `seed` of `y`. Consumes the tape; saved tensors are freed as the
    /// loop passes them. `None` if `y` does not depend on `leaf`. `seed` has the shape of `y`, the result
    /// that of `leaf`.
    ///
    /// # Errors
    /// Of the backend, such as memory that does not suffice.
    #[track_caller]
    pub fn gradient(self, y: &Var, seed: Tensor, leaf: &Var) -> Result<Option<Tensor>> {
        Ok(self.gradients(y, seed, &[leaf])?.pop().flatten())
    }

    /// The same for several leaves, in their order: one pass back for all.
    ///
    /// # Errors
    /// As [`Tape::gradient`].
    #[track_caller]
    pub fn gradients(self, y: &Var, seed: Tensor, leaves: &[&Var]) -> Result<Vec<Option<Tensor>>> {
        assert_eq!(y.shape(), seed.shape(), "the seed is shaped like what is differentiated");
        let wanted: Vec<Option<usize>> = leaves.iter().map(|leaf| leaf.node).collect();
        let last = wanted.iter().flatten().min().copied();
        let (Some(nodes), Some(top), Some(last)) = (self.nodes, y.node, last) else {
            return Ok(vec![None; leaves.len()]);
        };
        let mut nodes = nodes.into_inner();
        let mut cotangents: Vec<Option<Tensor>> = vec![None; top + 1];
        cotangents[top] = Some(seed);
        nodes.truncate(top + 1);
        let mut marks = self.marks.into_inner();
        let mut open = 0_usize;
        while nodes.len() > last + 1 {
            let id = nodes.len() - 1;
            while let Some(mark) = marks.pop_if(|mark| mark.at > id) {
                match mark.end_of {
                    Some(name) => {
                        self.backend.range_start(&format!("{name}'"));
                        open += 1;
                    }
                    None if open > 0 => {
                        self.backend.range_end();
                        open -= 1;
                    }
                    None => {}
                }
            }
            let transpose = nodes.pop().flatten();
            // What is asked for stays; what hands it on is a leaf.
            if wanted.contains(&Some(id)) {
                continue;
            }
            let (Some(dy), Some(transpose)) = (cotangents[id].take(), transpose) else { continue };
            for (parent, dx) in transpose(self.backend, dy)? {
                let slot = &mut cotangents[parent];
                *slot = Some(match slot.take() {
                    None => dx,
                    Some(sum) => {
                        let dx = dx.reshape(sum.shape());
                        self.backend.axpby(1.0, &sum, 1.0, &dx)?
                    }
                });
            }
        }
        (0..open).for_each(|_| self.backend.range_end());
        let taken = |leaf: &Option<usize>| leaf.and_then(|id| cotangents.get(id).cloned().flatten());
        Ok(wanted.iter().map(taken).collect())
    }
}
