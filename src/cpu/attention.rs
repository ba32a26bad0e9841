//! Attention on the host.

use super::Cpu;
use crate::backend::{Attention, Saved};
use crate::error::Result;
use crate::tensor::Tensor;

pub fn self_attention(_: &Cpu, _: &Tensor, _: Attention) -> Result<(Tensor, Saved)> {
    unimplemented!()
}
pub fn self_attention_vjp(
    _: &Cpu,
    _: &Tensor,
    _: &Tensor,
    _: &Saved,
    _: &Tensor,
    _: Attention,
) -> Result<Tensor> {
    unimplemented!()
}
pub fn cross_attention(_: &Cpu, _: &Tensor, _: &Tensor, _: &[u32], _: Attention) -> Result<Tensor> {
    unimplemented!()
}
pub fn cross_attention_vjp(
    _: &Cpu,
    _: &Tensor,
    _: &Tensor,
    _: &[u32],
    _: &Tensor,
    _: Attention,
) -> Result<Tensor> {
    unimplemented!()
}
