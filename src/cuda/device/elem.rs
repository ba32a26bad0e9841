//! Element types of device memory.

/// Channels in a packet of `act.cuh`.
pub const PACKET: usize = 8;

/// Element type in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    Bf16,
    F16,
    F32,
    U32,
}

impl Elem {
    /// Bytes.
    pub const fn size(self) -> usize {
        match self {
            Elem::Bf16 | Elem::F16 => 2,
            Elem::F32 | Elem::U32 => 4,
        }
    }
    /// As in the names of kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Elem::Bf16 => "bf16",
            Elem::F16 => "f16",
            Elem::F32 => "f32",
            Elem::U32 => "u32",
        }
    }
}
