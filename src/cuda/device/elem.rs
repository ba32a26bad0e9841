//! Element types of device memory.

/// Element type in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// 32-bit floats.
    F32,
    /// 32-bit integers: indices, counters, halves of 64-bit numbers.
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
