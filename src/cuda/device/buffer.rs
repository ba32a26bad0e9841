//! Device memory with a meaning: elements of one type. Results are `Act` where their rows are whole packets
//! (channels a multiple of 8) and f32 otherwise; statistics are f32 always.

use std::sync::{Arc, Mutex};

use cudarc::driver::CudaSlice;

use super::account::Account;
use super::elem::Elem;
use super::pointer::{In, Out};
use crate::error::Result;
use crate::tensor::Tensor;

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
    F32,
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
    pub fn new(memory: CudaSlice<u8>, address: u64, elem: Elem, len: usize, account: Arc<Account>) -> Buffer {
        account.add(memory.len() as u64);
        Buffer { memory, address, elem, len, account, forms: Mutex::default() }
    }

    pub fn elem(&self) -> Elem {
        self.elem
    }
    /// In device memory.
    pub fn address(&self) -> u64 {
        self.address
    }
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn memory(&self) -> &CudaSlice<u8> {
        &self.memory
    }
    pub fn memory_mut(&mut self) -> &mut CudaSlice<u8> {
        &mut self.memory
    }

    /// For a kernel that reads `T`; `elem` is what the kernel's image takes `T` for.
    #[track_caller]
    pub fn read<T>(&self, elem: Elem) -> In<'_, T> {
        assert_eq!(self.elem, elem, "a buffer of {} given as {}", self.elem.name(), elem.name());
        In::new(self.address)
    }

    /// For a kernel that writes `T`.
    #[track_caller]
    pub fn write<T>(&mut self, elem: Elem) -> Out<'_, T> {
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
    pub fn words_mut(&mut self) -> Out<'_, u32> {
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
