//! The operations models are written in: each forward beside its transpose. A `Var` argument is
//! differentiable, a `Tensor` argument is a constant. Shapes are those of the backend's operation of the same
//! name, whose [description](crate::op) checks them. Every operation fails where memory or the device fails,
//! and panics where the shapes are wrong.

use crate::backend::{Activation, AffineClamp, Attention, Backend, Conv, Epilogue, Filter, GroupNorm};
use crate::error::Result;
use crate::tape::{Recompute, Tape, Var};
use crate::tensor::{Shape, Tensor};

/// `Some(node)` of each watched input, for closures that hand out cotangents.
macro_rules! watched {
    ($($x:expr),+) => { [$($x.node()),+].iter().any(Option::is_some) };
}

impl<'a> Tape<'a> {
    /// An operation of one differentiable input whose transpose is `vjp(backend, dy)`.
    fn unary(
        &self,
        x: &Var,
        y: Tensor,
        vjp: impl FnOnce(&dyn Backend, Tensor) -> Result<Tensor> + 'a,
    ) -> Var {
        let node = x.node();
        let (shape_x, shape_y) = (x.shape(), y.shape());
        self.push(y, node.is_some(), move |_| {
            Box::new(move |backend, dy| {
                let dx = vjp(backend, dy.reshape(shape_y))?;
                debug_assert_eq!(dx.shape().len(), shape_x.len());
                Ok(node.map(|n| (n, dx)).into_iter().collect())
            })
        })
    }

    /// `x w^T + b + add`; keeps nothing. See [`Backend::linear`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn linear(&self, x: &Var, w: &Tensor, b: Option<&Tensor>, add: Option<&Var>) -> Result<Var> {
        let y = self.backend().linear(x.value(), w, b, add.map(Var::value))?;
        let w = w.clone();
        Ok(self.with_add(x, y, add, move |backend, dy| backend.linear_vjp(dy, &w)))
    }

    /// `x w^T + b` of a layer that learns: weight `w` `(out, 1, 1, in)` and bias `b` `(1, 1, 1, out)` are
    /// differentiable too, where they are watched. Keeps `x` and `w`.
    ///
    /// # Errors
    /// Of the backend.
    pub fn learned_linear(&self, x: &Var, w: &Var, b: &Var) -> Result<Var> {
        let y = self.backend().linear(x.value(), w.value(), Some(b.value()), None)?;
        let (nodes, shape, rows) = ([x.node(), w.node(), b.node()], y.shape(), y.shape().positions());
        let (xv, wv) = (x.value().clone(), w.value().clone());
        Ok(self.push(y, watched!(x, w, b), move |_| {
            Box::new(move |backend, dy| {
                let (dy, mut out, [x, w, b]) = (dy.reshape(shape), Vec::with_capacity(3), nodes);
                if let Some(node) = x {
                    out.push((node, backend.linear_vjp(&dy, &wv)?));
                }
                if let Some(node) = w {
                    out.push((node, backend.linear_weight_vjp(&dy, &xv)?));
                }
                if let Some(node) = b {
                    out.push((node, backend.repeat_vjp(&dy.reshape(Shape::rows(rows, shape.c)), rows)?));
                }
                Ok(out)
            })
        }))
    }

    /// `x w^T + b`, then `epilogue`. Keeps the pre-activation. See [`Backend::linear_epilogue`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn linear_epilogue(
        &self,
        x: &Var,
        w: &Tensor,
        b: Option<&Tensor>,
        epilogue: Epilogue,
    ) -> Result<Var> {
        let (y, pre_activation) =
            self.backend().linear_epilogue(x.value(), w, b, epilogue, self.records(x))?;
        let w = w.clone();
        Ok(self.unary(x, y, move |b, dy| {
            let Some(x) = pre_activation else { panic!("what is differentiated was recorded") };
            let dy = match epilogue {
                Epilogue::Activate(f) => b.activate_vjp(&x, &dy, f)?,
                Epilogue::Geglu => b.geglu_vjp(&x, &dy)?,
            };
            drop(x);
            b.linear_vjp(&dy, &w)
        }))
    }

    /// Convolution of `x` `(n, h, w, in)` with `w` `(out, kh, kw, in)`, plus bias and addend; keeps nothing.
    /// See [`Backend::conv`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn conv(
        &self,
        x: &Var,
        w: &Tensor,
        b: Option<&Tensor>,
        add: Option<&Var>,
        conv: Conv,
    ) -> Result<Var> {
        let y = self.backend().conv(x.value(), w, b, add.map(Var::value), conv)?;
        let (w, shape) = (w.clone(), x.shape());
        Ok(self.with_add(x, y, add, move |backend, dy| backend.conv_vjp(dy, &w, shape, conv)))
    }

    /// A linear map with a fused addition: the addend's cotangent is `dy` itself.
    fn with_add(
        &self,
        x: &Var,
        y: Tensor,
        add: Option<&Var>,
        vjp: impl FnOnce(&dyn Backend, &Tensor) -> Result<Tensor> + 'a,
    ) -> Var {
        let (node, add) = (x.node(), add.and_then(Var::node));
        let shape = y.shape();
        self.push(y, node.is_some() || add.is_some(), move |_| {
            Box::new(move |backend, dy| {
                let dy = dy.reshape(shape);
                let mut out = Vec::with_capacity(2);
                if let Some(node) = node {
                    out.push((node, vjp(backend, &dy)?));
                }
                out.extend(add.map(|add| (add, dy)));
                Ok(out)
            })
        })
    }

    /// Group norm, then an affine map per channel, then SiLU if `norm.silu`; `gamma` and `beta`
    /// `(1, 1, 1, c)`. Keeps `x` and the statistics. See [`Backend::group_norm`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn group_norm(&self, x: &Var, gamma: &Tensor, beta: &Tensor, norm: GroupNorm) -> Result<Var> {
        let (y, saved) = self.backend().group_norm(x.value(), gamma, beta, norm)?;
        let (xv, gamma, beta) = (x.value().clone(), gamma.clone(), beta.clone());
        Ok(self.unary(x, y, move |b, dy| b.group_norm_vjp(&xv, &gamma, &beta, &saved, &dy, norm)))
    }

    /// Layer norm of each row of channels, then an affine map; `gamma` and `beta` `(1, 1, 1, c)`. Keeps `x`
    /// and the statistics. See [`Backend::layer_norm`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn layer_norm(&self, x: &Var, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<Var> {
        let (y, saved) = self.backend().layer_norm(x.value(), gamma, beta, eps)?;
        let (xv, gamma) = (x.value().clone(), gamma.clone());
        Ok(self.unary(x, y, move |b, dy| b.layer_norm_vjp(&xv, &gamma, &saved, &dy)))
    }

    /// Each row of channels divided by its Euclidean length (at least 1e-12). Keeps `x`. See
    /// [`Backend::l2_norm`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn l2_norm(&self, x: &Var) -> Result<Var> {
        let y = self.backend().l2_norm(x.value())?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.l2_norm_vjp(&xv, &dy)))
    }

    /// `(n, h, w, 3c) -> (n, h, w, c)`: attention of the tokens of `qkv` `[q, k, v]` to each other. Keeps
    /// `qkv`, the result and the log-sum-exp of the scores. See [`Backend::self_attention`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn self_attention(&self, qkv: &Var, attention: Attention) -> Result<Var> {
        let (y, saved) = self.backend().self_attention(qkv.value(), attention)?;
        let (x, out) = (qkv.value().clone(), y.clone());
        Ok(self.unary(qkv, y, move |b, dy| b.self_attention_vjp(&x, &out, &saved, &dy, attention)))
    }

    /// Attention of `q` `(n, h, w, c)` to constant keys and values `kv` `(m, 1, tokens, 2c)`; sample `i`
    /// attends to row `kv_of[i]`. Keeps `q`. See [`Backend::cross_attention`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn cross_attention(&self, q: &Var, kv: &Tensor, kv_of: &[u32], attention: Attention) -> Result<Var> {
        let y = self.backend().cross_attention(q.value(), kv, kv_of, attention)?;
        let (qv, kv, kv_of) = (q.value().clone(), kv.clone(), kv_of.to_vec());
        Ok(self.unary(q, y, move |b, dy| b.cross_attention_vjp(&qv, &kv, &kv_of, &dy, attention)))
    }

    /// `f(x)` of each element. Keeps `x`. See [`Backend::activate`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn activate(&self, x: &Var, f: Activation) -> Result<Var> {
        let y = self.backend().activate(x.value(), f)?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.activate_vjp(&xv, &dy, f)))
    }

    /// `(n, h, w, 2c) -> (n, h, w, c)`: `a * gelu(g)` of `x` `[a, g]`. Keeps `x`. See [`Backend::geglu`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn geglu(&self, x: &Var) -> Result<Var> {
        let y = self.backend().geglu(x.value())?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.geglu_vjp(&xv, &dy)))
    }

    /// `a x + b y` of tensors of one shape; keeps nothing. See [`Backend::axpby`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn axpby(&self, a: f32, x: &Var, b: f32, y: &Var) -> Result<Var> {
        let sum = self.backend().axpby(a, x.value(), b, y.value())?;
        let inputs = [(x.node(), a), (y.node(), b)];
        Ok(self.push(sum, watched!(x, y), move |_| {
            Box::new(move |backend, dy| {
                let mut out = Vec::with_capacity(2);
                for (node, factor) in inputs {
                    if let Some(node) = node {
                        out.push((
                            node,
                            if factor == 1.0 { dy.clone() } else { backend.scale(factor, &dy)? },
                        ));
                    }
                }
                Ok(out)
            })
        }))
    }

    /// `k0 x + k1 y` with coefficients `k` `(1, 1, 1, 2)` on the device; keeps nothing. See
    /// [`Backend::blend`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn blend(&self, k: &Tensor, x: &Var, y: &Var) -> Result<Var> {
        let sum = self.backend().blend(k, x.value(), y.value())?;
        let (nodes, k) = ([x.node(), y.node()], k.clone());
        Ok(self.push(sum, watched!(x, y), move |_| {
            Box::new(move |backend, dy| {
                let mut out = Vec::with_capacity(2);
                for (which, node) in nodes.into_iter().enumerate() {
                    if let Some(node) = node {
                        out.push((node, backend.blend_vjp(&k, which, &dy)?));
                    }
                }
                Ok(out)
            })
        }))
    }

    /// `x + y`; see [`Tape::axpby`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn add(&self, x: &Var, y: &Var) -> Result<Var> {
        self.axpby(1.0, x, 1.0, y)
    }

    /// `a x`; keeps nothing. See [`Backend::scale`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn scale(&self, a: f32, x: &Var) -> Result<Var> {
        let y = self.backend().scale(a, x.value())?;
        Ok(self.unary(x, y, move |b, dy| b.scale(a, &dy)))
    }

    /// `min(max(a x + b, lo), hi)`. Keeps `x`. See [`Backend::affine_clamp`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn affine_clamp(&self, x: &Var, map: AffineClamp) -> Result<Var> {
        let y = self.backend().affine_clamp(x.value(), map)?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.affine_clamp_vjp(&xv, &dy, map)))
    }

    /// `limit tanh(x / limit)`. Keeps `x`. See [`Backend::soft_clamp`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn soft_clamp(&self, x: &Var, limit: f32) -> Result<Var> {
        let y = self.backend().soft_clamp(x.value(), limit)?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.soft_clamp_vjp(&xv, &dy, limit)))
    }

    /// `x * gain + shift` per channel, both `(1, 1, 1, c)`. See [`Backend::channel_affine`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn channel_affine(&self, x: &Var, gain: &Tensor, shift: Option<&Tensor>) -> Result<Var> {
        let y = self.backend().channel_affine(x.value(), gain, shift)?;
        let gain = gain.clone();
        Ok(self.unary(x, y, move |b, dy| b.channel_affine(&dy, &gain, None)))
    }

    /// `[x, y]` along the channels. See [`Backend::concat`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn concat(&self, x: &Var, y: &Var) -> Result<Var> {
        let (sx, sy) = (x.shape(), y.shape());
        let out = self.backend().concat(x.value(), y.value())?;
        let (nx, ny) = (x.node(), y.node());
        let shape = out.shape();
        Ok(self.push(out, watched!(x, y), move |_| {
            Box::new(move |backend, dy| {
                let dy = dy.reshape(shape);
                let mut cotangents = Vec::with_capacity(2);
                for (node, from, c) in [(nx, 0, sx.c), (ny, sx.c, sy.c)] {
                    if let Some(node) = node {
                        cotangents.push((node, backend.slice(&dy, from, c)?));
                    }
                }
                Ok(cotangents)
            })
        }))
    }

    /// Channels `from..from + c`. See [`Backend::slice`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn slice(&self, x: &Var, from: usize, c: usize) -> Result<Var> {
        let total = x.shape().c;
        let y = self.backend().slice(x.value(), from, c)?;
        Ok(self.unary(x, y, move |b, dy| b.slice_vjp(&dy, from, total)))
    }

    /// The batch `times` over, whole batch after whole batch. See [`Backend::repeat`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn repeat(&self, x: &Var, times: usize) -> Result<Var> {
        let y = self.backend().repeat(x.value(), times)?;
        Ok(self.unary(x, y, move |b, dy| b.repeat_vjp(&dy, times)))
    }

    /// Classifier-free guidance `u + s (c - u)` of a batch `[u, c]`. See [`Backend::cfg_combine`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn cfg_combine(&self, x: &Var, s: f32) -> Result<Var> {
        let y = self.backend().cfg_combine(x.value(), s)?;
        Ok(self.unary(x, y, move |b, dy| b.cfg_combine_vjp(&dy, s)))
    }

    /// Class token (if given) before the tokens, plus positions: `(n, h, w, c) -> (n, 1, tokens, c)`. See
    /// [`Backend::embed`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn embed(&self, x: &Var, token: Option<&Tensor>, position: &Tensor) -> Result<Var> {
        let shape = x.shape();
        let y = self.backend().embed(x.value(), token, position)?;
        Ok(self.unary(x, y, move |b, dy| b.embed_vjp(&dy, shape)))
    }

    /// Token `at[i]` of sample `i`: `(n, h, w, c) -> (n, 1, 1, c)`. See [`Backend::take_token`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn take_token(&self, x: &Var, at: &[u32]) -> Result<Var> {
        let shape = x.shape();
        let y = self.backend().take_token(x.value(), at)?;
        let at = at.to_vec();
        Ok(self.unary(x, y, move |b, dy| b.take_token_vjp(&dy, &at, shape)))
    }

    /// Antialiased resize to `h` by `w` pixels. See [`Backend::resize`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn resize(&self, x: &Var, h: usize, w: usize, filter: Filter) -> Result<Var> {
        let shape = x.shape();
        let y = self.backend().resize(x.value(), h, w, filter)?;
        Ok(self.unary(x, y, move |b, dy| b.resize_vjp(&dy, shape, filter)))
    }

    /// Runs `f` without keeping its intermediates and runs it again when its transpose is wanted: one more
    /// forward for memory. `f` must depend on `x` alone and be deterministic.
    ///
    /// # Errors
    /// Of the backend.
    pub fn checkpoint(&self, x: &Var, f: impl Fn(&Tape<'a>, &Var) -> Result<Var> + 'a) -> Result<Var> {
        self.recomputed(x, f, |_, y| Ok((y.clone(), ())), |_, _, (), dy| Ok(dy))
    }

    /// [`self_attention`](Tape::self_attention) of `project(x)` `(n, h, w, 3c)`. A tape that recomputes
    /// [projections](Recompute::Projections) keeps `x`, the result and the log-sum-exp of the scores, and
    /// computes `project(x)` again on the way back.
    ///
    /// # Errors
    /// Those of `project`, and of the backend.
    pub fn self_attention_of(
        &self,
        x: &Var,
        attention: Attention,
        project: impl Fn(&Tape<'a>, &Var) -> Result<Var> + 'a,
    ) -> Result<Var> {
        if !self.recomputes(Recompute::Projections) || !self.records(x) {
            return self.self_attention(&project(self, &self.alias(x.clone()))?, attention);
        }
        let attend = |b: &dyn Backend, qkv: &Tensor| {
            let (y, saved) = b.self_attention(qkv, attention)?;
            Ok((y.clone(), (y, saved)))
        };
        self.recomputed(x, project, attend, move |b, qkv, (y, saved), dy| {
            b.self_attention_vjp(qkv, &y, &saved, &dy, attention)
        })
    }

    /// [`cross_attention`](Tape::cross_attention) of `project(x)` `(n, h, w, c)` to `kv`. A tape that
    /// recomputes [projections](Recompute::Projections) keeps `x` alone, and computes `project(x)` again on
    /// the way back.
    ///
    /// # Errors
    /// Those of `project`, and of the backend.
    pub fn cross_attention_of(
        &self,
        x: &Var,
        kv: &Tensor,
        kv_of: &[u32],
        attention: Attention,
        project: impl Fn(&Tape<'a>, &Var) -> Result<Var> + 'a,
    ) -> Result<Var> {
        if !self.recomputes(Recompute::Projections) || !self.records(x) {
            return self.cross_attention(&project(self, &self.alias(x.clone()))?, kv, kv_of, attention);
        }
        let attend = |b: &dyn Backend, q: &Tensor| {
            Ok((b.cross_attention(q, kv, kv_of, attention)?, (kv.clone(), kv_of.to_vec())))
        };
        self.recomputed(x, project, attend, move |b, q, (kv, kv_of), dy| {
            b.cross_attention_vjp(q, &kv, &kv_of, &dy, attention)
        })
    }

    /// What `then` makes of `f(x)`. Keeps `x` and what `then` returns beside its result; `f(x)` is computed
    /// again on the way back, for `transpose`, which takes it, what was kept and the cotangent of the result,
    /// and gives that of `f(x)`.
    fn recomputed<S: 'a>(
        &self,
        x: &Var,
        f: impl Fn(&Tape<'a>, &Var) -> Result<Var> + 'a,
        then: impl FnOnce(&dyn Backend, &Tensor) -> Result<(Tensor, S)>,
        transpose: impl FnOnce(&dyn Backend, &Tensor, S, Tensor) -> Result<Tensor> + 'a,
    ) -> Result<Var> {
        let own = self.backend();
        let (y, saved) = then(own, f(&Tape::off(own), &x.detach())?.value())?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |backend, dy| {
            let tape = Tape::new(own);
            let leaf = tape.watch(xv);
            let y = f(&tape, &leaf)?;
            let dy = transpose(backend, y.value(), saved, dy)?;
            let shape = leaf.shape();
            match tape.gradient(&y, dy, &leaf)? {
                Some(dx) => Ok(dx.reshape(shape)),
                None => backend.zeros(shape),
            }
        }))
    }
}
