//! Device memory with a meaning: elements of one type. Results are `Act` where their rows are whole packets (channels a
//! multiple of 8) and f32 otherwise; statistics are f32 always.

use std::sync::{Arc, Mutex};

use cudarc::driver::CudaSlice;

use super::device::Account;
use super::kernels::{In, Out};
use crate::error::Result;
use crate::tensor::Tensor;

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

/// What else a weight is kept as, made at its first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Input channels filled up with zeros to whole packets.
    Padded,
    /// Kernel positions that meet on one pixel of an enlarged image summed.
    Folded,
    /// Rows of whole patches, filled up to whole packets.
    Patches,
    /// Copied as f32, for an operation on f32 tensors.
    Wide,
}

/// Elements in device memory, freed in stream order.
pub struct Buffer {
    memory: CudaSlice<u8>,
    address: u64,
    elem: Elem,
    len: usize,
    account: Arc<Account>,
    forms: Mutex<Vec<(Form, Tensor)>>,
}

impl Buffer {
    pub(super) fn new(
        memory: CudaSlice<u8>,
        address: u64,
        elem: Elem,
        len: usize,
        account: Arc<Account>,
    ) -> Buffer {
        account.add(memory.len() as u64);
        Buffer { memory, address, elem, len, account, forms: Mutex::default() }
    }

    pub fn elem(&self) -> Elem {
        self.elem
    }
    /// In device memory.
    pub(super) fn address(&self) -> u64 {
        self.address
    }
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }
    pub(super) fn memory(&self) -> &CudaSlice<u8> {
        &self.memory
    }
    pub(super) fn memory_mut(&mut self) -> &mut CudaSlice<u8> {
        &mut self.memory
    }

    /// For a kernel that reads `T`; `elem` is what the kernel's image takes `T` for.
    #[track_caller]
    pub(super) fn read<T>(&self, elem: Elem) -> In<'_, T> {
        assert_eq!(self.elem, elem, "a buffer of {} given as {}", self.elem.name(), elem.name());
        In::new(self.address)
    }

    /// For a kernel that writes `T`.
    #[track_caller]
    pub(super) fn write<T>(&mut self, elem: Elem) -> Out<'_, T> {
        assert_eq!(self.elem, elem, "a buffer of {} given as {}", self.elem.name(), elem.name());
        Out::new(self.address)
    }

    /// As `const float*`.
    #[track_caller]
    pub fn f32(&self) -> In<'_, f32> {
        self.read(Elem::F32)
    }
    #[track_caller]
    pub fn f32_mut(&mut self) -> Out<'_, f32> {
        self.write(Elem::F32)
    }
    /// The whole memory as words, whatever it holds.
    pub(super) fn words_mut(&mut self) -> Out<'_, u32> {
        Out::new(self.address)
    }
    /// As `const uint32_t*`.
    #[track_caller]
    pub fn u32(&self) -> In<'_, u32> {
        self.read(Elem::U32)
    }

    /// This weight in another form; `make` is called once.
    pub fn form(&self, form: Form, make: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        let mut forms = self.forms.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, made)) = forms.iter().find(|(f, _)| *f == form) {
            return Ok(made.clone());
        }
        let made = make()?;
        forms.push((form, made.clone()));
        Ok(made)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.account.remove(self.memory.len() as u64);
    }
}
