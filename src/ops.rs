//! The operations models are written in: each forward beside its transpose. A `Var` argument is
//! differentiable, a `Tensor` argument is a constant.

use crate::backend::{Activation, AffineClamp, Attention, Conv, Epilogue, Filter, GroupNorm};
use crate::error::Result;
use crate::tape::{Tape, Var};
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
        vjp: impl FnOnce(&dyn crate::backend::Backend, Tensor) -> Result<Tensor> + 'a,
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

    /// `x w^T + b + add`; see [`Backend::linear`](crate::backend::Backend::linear).
    #[track_caller]
    pub fn linear(&self, x: &Var, w: &Tensor, b: Option<&Tensor>, add: Option<&Var>) -> Result<Var> {
        assert_eq!((w.shape().h, w.shape().w, w.shape().c), (1, 1, x.shape().c), "linear {}", x.shape());
        let y = self.backend().linear(x.value(), w, b, add.map(Var::value))?;
        let w = w.clone();
        Ok(self.with_add(x, y, add, move |backend, dy| backend.linear_vjp(dy, &w)))
    }

    /// `x w^T + b`, then `epilogue`; see [`Backend::linear_epilogue`](crate::backend::Backend::linear_epilogue).
    #[track_caller]
    pub fn linear_epilogue(
        &self,
        x: &Var,
        w: &Tensor,
        b: Option<&Tensor>,
        epilogue: Epilogue,
    ) -> Result<Var> {
        assert_eq!((w.shape().h, w.shape().w, w.shape().c), (1, 1, x.shape().c), "linear {}", x.shape());
        let (y, given) = self.backend().linear_epilogue(x.value(), w, b, epilogue, self.records(x))?;
        let w = w.clone();
        Ok(self.unary(x, y, move |b, dy| {
            let Some(given) = given else { panic!("what is differentiated was recorded") };
            let dy = match epilogue {
                Epilogue::Activate(f) => b.activate_vjp(&given, &dy, f)?,
                Epilogue::Geglu => b.geglu_vjp(&given, &dy)?,
            };
            drop(given);
            b.linear_vjp(&dy, &w)
        }))
    }

    /// Convolution; see [`Backend::conv`](crate::backend::Backend::conv).
    #[track_caller]
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
        vjp: impl FnOnce(&dyn crate::backend::Backend, &Tensor) -> Result<Tensor> + 'a,
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

    #[track_caller]
    pub fn group_norm(&self, x: &Var, gamma: &Tensor, beta: &Tensor, norm: GroupNorm) -> Result<Var> {
        assert_eq!(x.shape().c % norm.groups, 0, "{} channels in {} groups", x.shape().c, norm.groups);
        let (y, saved) = self.backend().group_norm(x.value(), gamma, beta, norm)?;
        let (xv, gamma, beta) = (x.value().clone(), gamma.clone(), beta.clone());
        Ok(self.unary(x, y, move |b, dy| b.group_norm_vjp(&xv, &gamma, &beta, &saved, &dy, norm)))
    }

    pub fn layer_norm(&self, x: &Var, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<Var> {
        let (y, saved) = self.backend().layer_norm(x.value(), gamma, beta, eps)?;
        let (xv, gamma) = (x.value().clone(), gamma.clone());
        Ok(self.unary(x, y, move |b, dy| b.layer_norm_vjp(&xv, &gamma, &saved, &dy)))
    }

    pub fn l2_norm(&self, x: &Var) -> Result<Var> {
        let y = self.backend().l2_norm(x.value())?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.l2_norm_vjp(&xv, &dy)))
    }

    #[track_caller]
    pub fn self_attention(&self, qkv: &Var, attention: Attention) -> Result<Var> {
        assert_eq!(
            qkv.shape().c % (3 * attention.heads),
            0,
            "qkv {} in {} heads",
            qkv.shape(),
            attention.heads
        );
        let (y, saved) = self.backend().self_attention(qkv.value(), attention)?;
        let (x, out) = (qkv.value().clone(), y.clone());
        Ok(self.unary(qkv, y, move |b, dy| b.self_attention_vjp(&x, &out, &saved, &dy, attention)))
    }

    #[track_caller]
    pub fn cross_attention(&self, q: &Var, kv: &Tensor, kv_of: &[u32], attention: Attention) -> Result<Var> {
        assert_eq!(kv_of.len(), q.shape().n, "one key row per sample");
        assert_eq!(kv.shape().c, 2 * q.shape().c, "q {} and kv {}", q.shape(), kv.shape());
        let y = self.backend().cross_attention(q.value(), kv, kv_of, attention)?;
        let (qv, kv, kv_of) = (q.value().clone(), kv.clone(), kv_of.to_vec());
        Ok(self.unary(q, y, move |b, dy| b.cross_attention_vjp(&qv, &kv, &kv_of, &dy, attention)))
    }

    pub fn activate(&self, x: &Var, f: Activation) -> Result<Var> {
        let y = self.backend().activate(x.value(), f)?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.activate_vjp(&xv, &dy, f)))
    }

    #[track_caller]
    pub fn geglu(&self, x: &Var) -> Result<Var> {
        assert_eq!(x.shape().c % 2, 0, "geglu of {}", x.shape());
        let y = self.backend().geglu(x.value())?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.geglu_vjp(&xv, &dy)))
    }

    /// `a x + b y`.
    #[track_caller]
    pub fn axpby(&self, a: f32, x: &Var, b: f32, y: &Var) -> Result<Var> {
        assert_eq!(x.shape(), y.shape(), "a sum of unlike shapes");
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

    /// `k0 x + k1 y` with coefficients on the device; see [`Backend::blend`](crate::backend::Backend::blend).
    #[track_caller]
    pub fn blend(&self, k: &Tensor, x: &Var, y: &Var) -> Result<Var> {
        assert_eq!((x.shape(), k.shape()), (y.shape(), Shape::vector(2)), "a sum of unlike shapes");
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

    pub fn add(&self, x: &Var, y: &Var) -> Result<Var> {
        self.axpby(1.0, x, 1.0, y)
    }

    /// `a x`.
    pub fn scale(&self, a: f32, x: &Var) -> Result<Var> {
        let y = self.backend().scale(a, x.value())?;
        Ok(self.unary(x, y, move |b, dy| b.scale(a, &dy)))
    }

    /// `min(max(a x + b, lo), hi)`.
    pub fn affine_clamp(&self, x: &Var, map: AffineClamp) -> Result<Var> {
        let y = self.backend().affine_clamp(x.value(), map)?;
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |b, dy| b.affine_clamp_vjp(&xv, &dy, map)))
    }

    /// `x * gain + shift` per channel.
    pub fn channel_affine(&self, x: &Var, gain: &Tensor, shift: Option<&Tensor>) -> Result<Var> {
        let y = self.backend().channel_affine(x.value(), gain, shift)?;
        let gain = gain.clone();
        Ok(self.unary(x, y, move |b, dy| b.channel_affine(&dy, &gain, None)))
    }

    /// `[x, y]` along the channels.
    #[track_caller]
    pub fn concat(&self, x: &Var, y: &Var) -> Result<Var> {
        let (sx, sy) = (x.shape(), y.shape());
        assert_eq!((sx.n, sx.h, sx.w), (sy.n, sy.h, sy.w), "concat of {sx} and {sy}");
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

    /// Channels `from..from+c`.
    #[track_caller]
    pub fn slice(&self, x: &Var, from: usize, c: usize) -> Result<Var> {
        let total = x.shape().c;
        assert!(from + c <= total, "channels {from}..{} of {}", from + c, x.shape());
        let y = self.backend().slice(x.value(), from, c)?;
        Ok(self.unary(x, y, move |b, dy| b.slice_vjp(&dy, from, total)))
    }

    /// The batch `times` over.
    pub fn repeat(&self, x: &Var, times: usize) -> Result<Var> {
        let y = self.backend().repeat(x.value(), times)?;
        Ok(self.unary(x, y, move |b, dy| b.repeat_vjp(&dy, times)))
    }

    /// Classifier-free guidance over `[uncond, cond]`.
    #[track_caller]
    pub fn cfg_combine(&self, x: &Var, s: f32) -> Result<Var> {
        assert_eq!(x.shape().n % 2, 0, "guidance wants [uncond, cond], got {}", x.shape());
        let y = self.backend().cfg_combine(x.value(), s)?;
        Ok(self.unary(x, y, move |b, dy| b.cfg_combine_vjp(&dy, s)))
    }

    /// Class token (if given) before the tokens, plus positions: `(n, h, w, c) -> (n, 1, tokens, c)`.
    #[track_caller]
    pub fn embed(&self, x: &Var, token: Option<&Tensor>, position: &Tensor) -> Result<Var> {
        let shape = x.shape();
        let tokens = shape.tokens() + usize::from(token.is_some());
        assert_eq!((position.shape().w, position.shape().c), (tokens, shape.c), "positions of {shape}");
        let y = self.backend().embed(x.value(), token, position)?;
        Ok(self.unary(x, y, move |b, dy| b.embed_vjp(&dy, shape)))
    }

    /// Token `at[i]` of sample `i`.
    #[track_caller]
    pub fn take_token(&self, x: &Var, at: &[u32]) -> Result<Var> {
        let shape = x.shape();
        assert_eq!(at.len(), shape.n, "one token per sample");
        let y = self.backend().take_token(x.value(), at)?;
        let at = at.to_vec();
        Ok(self.unary(x, y, move |b, dy| b.take_token_vjp(&dy, &at, shape)))
    }

    /// Antialiased resize.
    pub fn resize(&self, x: &Var, h: usize, w: usize, filter: Filter) -> Result<Var> {
        let shape = x.shape();
        let y = self.backend().resize(x.value(), h, w, filter)?;
        Ok(self.unary(x, y, move |b, dy| b.resize_vjp(&dy, shape, filter)))
    }

    /// Runs `f` without keeping its intermediates and runs it again when its transpose is wanted: one more
    /// forward for memory. `f` must depend on `x` alone and be deterministic.
    pub fn checkpoint(
        &self,
        x: &Var,
        f: impl for<'t> Fn(&Tape<'t>, &Var) -> Result<Var> + 'a,
    ) -> Result<Var> {
        let y = f(&Tape::off(self.backend()), &x.detach())?.into_value();
        let xv = x.value().clone();
        Ok(self.unary(x, y, move |backend, dy| {
            let tape = Tape::new(backend);
            let leaf = tape.watch(xv);
            let y = f(&tape, &leaf)?;
            let shape = leaf.shape();
            match tape.gradient(&y, dy, &leaf)? {
                Some(dx) => Ok(dx.reshape(shape)),
                None => backend.zeros(shape),
            }
        }))
    }
}
