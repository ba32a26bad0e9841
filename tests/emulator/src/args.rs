//! Arguments of a launch: their bytes, and whether they are pointers a kernel may write through.

use std::ffi::c_void;
use std::marker::PhantomData;

use bytemuck::{NoUninit, Pod};

use crate::Guarded;
use crate::library::Kernel;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Value,
    Const,
    Mut,
}

/// One argument. From `&Guarded` (for `const T*`), `&mut Guarded` (for `T*`), a number, or [`Arg::value`].
pub struct Arg<'a> {
    // u128: parameter structs hold nothing that needs more than 16 bytes of alignment.
    words: Vec<u128>,
    size: usize,
    kind: Kind,
    lives: PhantomData<&'a ()>,
}

impl<'a> Arg<'a> {
    fn new(bytes: &[u8], kind: Kind) -> Self {
        let mut words = vec![0u128; bytes.len().div_ceil(16).max(1)];
        bytemuck::cast_slice_mut::<u128, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Arg { words, size: bytes.len(), kind, lives: PhantomData }
    }

    /// A parameter struct, or any other value.
    pub fn value<T: NoUninit>(value: T) -> Self {
        Self::new(bytemuck::bytes_of(&value), Kind::Value)
    }

    /// A null pointer.
    pub fn null() -> Self {
        Self::new(&0usize.to_ne_bytes(), Kind::Mut)
    }

    /// The buffer from element `offset` on, to read.
    pub fn at<T: Pod>(buffer: &'a Guarded<T>, offset: usize) -> Self {
        assert!(offset <= buffer.len());
        Self::new(&(buffer.as_ptr().wrapping_add(offset) as usize).to_ne_bytes(), Kind::Const)
    }

    /// The buffer from element `offset` on, to write.
    pub fn at_mut<T: Pod>(buffer: &'a mut Guarded<T>, offset: usize) -> Self {
        assert!(offset <= buffer.len());
        Self::new(&(buffer.as_mut_ptr().wrapping_add(offset) as usize).to_ne_bytes(), Kind::Mut)
    }

    /// An address, for a buffer that several arguments share (a result in the place of an operand). Not
    /// checked.
    pub fn address<T>(address: *mut T) -> Self {
        Self::new(&(address as usize).to_ne_bytes(), Kind::Mut)
    }

    pub(crate) fn place(&self) -> *mut c_void {
        self.words.as_ptr().cast_mut().cast()
    }
}

impl<'a, T: Pod> From<&'a Guarded<T>> for Arg<'a> {
    fn from(buffer: &'a Guarded<T>) -> Self {
        Arg::at(buffer, 0)
    }
}
impl<'a, T: Pod> From<&'a mut Guarded<T>> for Arg<'a> {
    fn from(buffer: &'a mut Guarded<T>) -> Self {
        Arg::at_mut(buffer, 0)
    }
}
macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl From<$t> for Arg<'_> {
            fn from(x: $t) -> Self { Arg::value(x) }
        }
    )*};
}
numbers!(i32, u32, i64, u64, f32, f64);

/// `args![&x, &mut y, 3i32, Arg::value(params)]`
#[macro_export]
macro_rules! args {
    ($($a:expr),* $(,)?) => { [$($crate::Arg::from($a)),*] };
}

/// Whether the arguments are those of the kernel.
pub(crate) fn matches(kernel: &Kernel, args: &[Arg]) -> Result<(), String> {
    if args.len() != kernel.parameters.len() {
        return Err(format!("{} arguments for {} parameters", args.len(), kernel.parameters.len()));
    }
    for (i, (arg, parameter)) in args.iter().zip(&kernel.parameters).enumerate() {
        if arg.size != parameter.size as usize {
            return Err(format!("argument {i} has {} bytes, the parameter {}", arg.size, parameter.size));
        }
        let pointer = parameter.pointee != 0;
        if pointer != (arg.kind != Kind::Value) {
            let [a, b] = if pointer { ["a value", "a pointer"] } else { ["a pointer", "a value"] };
            return Err(format!("argument {i} is {a}, the parameter {b}"));
        }
        if pointer && arg.kind == Kind::Const && parameter.is_const == 0 {
            return Err(format!("argument {i} is borrowed to read, the parameter is no pointer to const"));
        }
    }
    Ok(())
}
