//! Where to compute: the processor or one GPU, opened as a backend, with what memory it has.

use std::fmt;
use std::str::FromStr;

use super::args::{Dtype, Machine};
use super::memory;
use crate::backend::Backend;
use crate::cpu::{Cpu, Round};
use crate::cuda::{Cuda, Elem, compiles};
use crate::error::Result;
use crate::meter::Meter;

/// A device by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// Its number in the driver's order.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;
    fn from_str(s: &str) -> Result<Device, String> {
        match s {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => match s.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(Device::Cuda(ordinal)),
                _ => Err("expected `cpu`, `cuda` (the first GPU) or `cuda:N`".into()),
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// A number of bytes as it is typed: `20G`, `800M`, `20.5GiB`; a plain number is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;
    fn from_str(s: &str) -> Result<Bytes, String> {
        let wrong = || format!("expected a size such as 20G or 800M, not `{s}`");
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match s[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "kib" => 1024.0,
            "mib" => 1_048_576.0,
            "gib" => 1_073_741_824.0,
            _ => return Err(wrong()),
        };
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        let bytes = number * factor;
        if (1.0..1e18).contains(&bytes) { Ok(Bytes(bytes as u64)) } else { Err(wrong()) }
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
                    eprintln!("compiling the kernels for this GPU, once: this takes a minute or more");
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
    pub backend: Box<dyn Backend>,
    /// Bytes that can still be taken, where that is known.
    pub available: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", ""] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_in_any_unit() {
        for (text, bytes) in [
            ("20G", 20_000_000_000),
            ("800M", 800_000_000),
            ("1.5GiB", 1_610_612_736),
            ("4096", 4096),
            ("1kb", 1000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for wrong in ["", "G", "-1G", "0", "1T", "nanG", "1e30G"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }
}
