//! Where to compute, and in which precision.

use std::fmt;
use std::str::FromStr;

use super::memory;
use crate::cpu::{Cpu, Round};
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, Elem};
use crate::engine::EngineBackend;
use crate::error::{Error, Result};
use crate::meter::Meter;

/// A device by its name: `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The first GPU if it is usable, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU by its number in the driver's order.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Error;
    fn from_str(text: &str) -> Result<Device> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(Device::Cuda(ordinal)),
                _ => Err(Error::usage(format!("unknown device \"{text}\""))
                    .option("device")
                    .advice("expected auto, cpu, cuda (the first GPU) or cuda:N")),
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.pad("auto"),
            Device::Cpu => f.pad("cpu"),
            Device::Cuda(ordinal) => f.pad(&format!("cuda:{ordinal}")),
        }
    }
}

/// Type of weights and intermediate results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Dtype {
    /// Single precision
    #[cfg_attr(feature = "cli", value(name = "fp32"))]
    F32,
    /// bfloat16 (on the CPU every result is rounded to it and the arithmetic stays f32)
    Bf16,
    /// Half precision (on the CPU every result is rounded to it and the arithmetic stays f32)
    #[cfg_attr(feature = "cli", value(name = "fp16"))]
    F16,
}

/// A device ready for work.
pub(super) struct Opened {
    pub backend: Box<dyn EngineBackend>,
    /// Bytes that can still be taken, where that is known.
    pub available: Option<u64>,
}

/// How a GPU is used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    pub max_memory: Option<u64>,
    pub no_graph: bool,
    pub no_cublas: bool,
}

impl Device {
    /// The device that is meant, never [`Device::Auto`]; and for `Auto` a line that says which it is, and
    /// why.
    pub fn resolve(self) -> (Device, Option<String>) {
        match self {
            Device::Auto => first_gpu(),
            given => (given, None),
        }
    }

    /// The type where it is left open: f32 on the processor, bf16 on a GPU, which has the range of f32 that
    /// gradients need at the speed of f16.
    pub fn default_dtype(self) -> Dtype {
        match self {
            Device::Cuda(_) => Dtype::Bf16,
            Device::Auto | Device::Cpu => Dtype::F32,
        }
    }

    /// Whether opening this device will first compile the kernels, which takes a minute or more: a GPU, by a
    /// program that was built without compiled kernels, and without finding any kept from before.
    pub fn compiles_kernels(self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => crate::cuda::compiles(),
            _ => false,
        }
    }

    pub(super) fn open(self, dtype: Dtype, machine: Machine) -> Result<Opened> {
        match self.resolve().0 {
            Device::Cuda(ordinal) => open_cuda(ordinal, dtype, machine),
            Device::Auto | Device::Cpu => {
                let round = match dtype {
                    Dtype::F32 => None,
                    Dtype::Bf16 => Some(Round::Bf16),
                    Dtype::F16 => Some(Round::F16),
                };
                Ok(Opened { backend: Box::new(Cpu::with_rounding(round)), available: memory::available() })
            }
        }
    }

    /// The device without a session, in f32, for what needs neither a model nor a reward.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device): no such GPU, or one that cannot be used.
    #[cfg(feature = "cli")]
    pub(crate) fn bare(self) -> Result<Box<dyn EngineBackend>> {
        Ok(self.open(Dtype::F32, Machine::default())?.backend)
    }

    /// The meter that counts as this device does.
    pub fn meter(self, dtype: Dtype) -> Meter {
        match (self, dtype) {
            (Device::Cuda(_), Dtype::F32) => Meter::of_packets(4),
            (Device::Cuda(_), Dtype::Bf16 | Dtype::F16) => Meter::of_packets(2),
            (Device::Auto | Device::Cpu, Dtype::F32) => Meter::new(),
            (Device::Auto | Device::Cpu, Dtype::Bf16 | Dtype::F16) => Meter::of_rounding(),
        }
    }
}

#[cfg(feature = "cuda")]
fn first_gpu() -> (Device, Option<String>) {
    match crate::cuda::usable(0) {
        Ok(gpu) => {
            let device = Device::Cuda(0);
            (device, Some(format!("computing on {device} {} (`device` cpu: on the processor)", gpu.name)))
        }
        Err(why) => (Device::Cpu, Some(format!("computing on the CPU: {}", why.message()))),
    }
}

#[cfg(not(feature = "cuda"))]
fn first_gpu() -> (Device, Option<String>) {
    (Device::Cpu, Some("computing on the CPU: this program was built without CUDA".into()))
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize, dtype: Dtype, machine: Machine) -> Result<Opened> {
    let elem = match dtype {
        Dtype::F32 => Elem::F32,
        Dtype::Bf16 => Elem::Bf16,
        Dtype::F16 => Elem::F16,
    };
    let mut cuda = Cuda::open(ordinal, elem)?;
    if machine.no_graph {
        cuda = cuda.without_graphs();
    }
    if !machine.no_cublas {
        cuda = cuda.with_cublas();
    }
    let free = cuda.free_memory()?;
    let available = machine.max_memory.map_or(free, |most| most.min(free));
    Ok(Opened { backend: Box::new(cuda), available: Some(available) })
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize, _: Dtype, _: Machine) -> Result<Opened> {
    Err(Error::device(format!("GPU {ordinal} cannot be used: this program was built without CUDA"))
        .option("device")
        .advice("build with the feature cuda, or use `device` cpu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", ""] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}
