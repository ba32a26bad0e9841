//! Where to compute: the processor or one GPU, opened as a backend, with what memory it has.

use super::args::Machine;
use super::output;
use super::values::{Bytes, Device, DeviceChoice, Dtype};
use crate::cpu::{Cpu, Round};
use crate::cuda::{self, Cuda, Elem, compiles};
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::meter::Meter;
use crate::session::memory;

/// The device that is meant, and for `auto` a line that says which it is.
pub fn choose(choice: DeviceChoice) -> (Device, Option<String>) {
    match choice {
        DeviceChoice::Given(device) => (device, None),
        DeviceChoice::Auto => match cuda::usable(0) {
            Ok(gpu) => {
                let device = Device::Cuda(0);
                (device, Some(format!("computing on {device} {} (--device cpu: on the processor)", gpu.name)))
            }
            Err(why) => (Device::Cpu, Some(format!("computing on the CPU: {}", why.message()))),
        },
    }
}

impl Device {
    /// The type of activations where the user leaves it open.
    pub fn default_dtype(self) -> Dtype {
        match self {
            Device::Cpu => Dtype::Fp32,
            // The range of f32, which gradients need, at the speed of f16.
            Device::Cuda(_) => Dtype::Bf16,
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device): see [`Cuda::open`].
    pub fn open(self, dtype: Dtype, machine: &Machine) -> Result<Opened> {
        let limit = |free: Option<u64>| match (free, machine.max_vram) {
            (Some(free), Some(Bytes(most))) => Some(free.min(most)),
            (free, most) => free.or(most.map(|Bytes(most)| most)),
        };
        match self {
            Device::Cpu => {
                let round = match dtype {
                    Dtype::Fp32 => None,
                    Dtype::Bf16 => Some(Round::Bf16),
                    Dtype::Fp16 => Some(Round::F16),
                };
                let backend = Box::new(Cpu::with_rounding(round));
                Ok(Opened { backend, available: memory::available() })
            }
            Device::Cuda(ordinal) => {
                let elem = match dtype {
                    Dtype::Fp32 => Elem::F32,
                    Dtype::Bf16 => Elem::Bf16,
                    Dtype::Fp16 => Elem::F16,
                };
                if compiles() {
                    output::note("compiling the kernels for this GPU, once: this takes a minute or more");
                }
                let mut cuda = Cuda::open(ordinal, elem)?;
                if machine.no_graph {
                    cuda = cuda.without_graphs();
                }
                if !machine.no_cublas {
                    cuda = cuda.with_cublas();
                }
                let free = cuda.free_memory()?;
                Ok(Opened { backend: Box::new(cuda), available: limit(Some(free)) })
            }
        }
    }

    /// The meter that counts as this device does.
    pub fn meter(self, dtype: Dtype) -> Meter {
        match (self, dtype) {
            (Device::Cpu, _) => Meter::new(),
            (Device::Cuda(_), Dtype::Fp32) => Meter::of_packets(4),
            (Device::Cuda(_), Dtype::Bf16 | Dtype::Fp16) => Meter::of_packets(2),
        }
    }
}

/// A device ready for work.
pub struct Opened {
    pub backend: Box<dyn EngineBackend>,
    /// Bytes that can still be taken, where that is known.
    pub available: Option<u64>,
}
