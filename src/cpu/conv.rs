//! Convolutions on the host.

use super::Cpu;
use crate::backend::Conv;
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

pub fn conv(
    _: &Cpu,
    _: &Tensor,
    _: &Tensor,
    _: Option<&Tensor>,
    _: Option<&Tensor>,
    _: Conv,
) -> Result<Tensor> {
    unimplemented!()
}
pub fn conv_vjp(_: &Cpu, _: &Tensor, _: &Tensor, _: Shape, _: Conv) -> Result<Tensor> {
    unimplemented!()
}
