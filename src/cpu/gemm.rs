//! Matrix products on the host.

use super::Cpu;
use crate::error::Result;
use crate::tensor::Tensor;

pub fn linear(_: &Cpu, _: &Tensor, _: &Tensor, _: Option<&Tensor>, _: Option<&Tensor>) -> Result<Tensor> {
    unimplemented!()
}
pub fn linear_vjp(_: &Cpu, _: &Tensor, _: &Tensor) -> Result<Tensor> {
    unimplemented!()
}
