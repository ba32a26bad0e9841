//! How a kernel is declared and launched. `kernels!` lists the kernels of one `.cu` file with typed arguments and makes
//! a method of each; `params!` declares the structs they take by value. `tests/kernels.rs` compares both with the
//! text of the `.cu` files, so that an argument cannot change on one side only.
//!
//! A launcher (the functions of `gemm.rs`, `norm.rs`, ...) owns grid, block, shared memory and the asserts on shapes; the
//! one launch is in `call.rs`.

/// `kernels! { pub struct Table from "file" { fn name(x: In<Act>, y: Out<f32>, p: Params); } }`: the kernels of
/// kernels/file.cu, each a method `table.name(device, launch, x, y, p)`.
macro_rules! kernels {
    ($(#[$meta:meta])* pub struct $Table:ident from $file:literal {
        $( $(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?); )*
    }) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $Table { $( $name: cudarc::driver::CudaFunction, )* }

        impl $Table {
            #[allow(unused_variables)]
            pub fn load(image: &$crate::cuda::launch::Image<'_>) -> $crate::error::Result<$Table> {
                let module = image.module($file)?;
                Ok($Table { $( $name: image.function(&module, $file, stringify!($name))?, )* })
            }

            $(
                $(#[$doc])*
                #[allow(clippy::too_many_arguments)]
                pub fn $name(
                    &self,
                    device: &$crate::cuda::device::Device,
                    launch: $crate::cuda::launch::Launch,
                    $($arg: $kind,)*
                ) -> $crate::error::Result<()> {
                    let mut call = $crate::cuda::launch::Call::new(device, &self.$name);
                    $( call.argument(&$arg); )*
                    call.launch(device, launch)
                }
            )*
        }
    };
}
pub(in crate::cuda) use kernels;

/// A struct that a kernel takes by value: plain numbers and arrays of them, laid out as in C.
macro_rules! params {
    ($( $(#[$meta:meta])* pub struct $Name:ident { $( $(#[$doc:meta])* pub $field:ident: $kind:ty, )* } )*) => { $(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $Name { $( $(#[$doc])* pub $field: $kind, )* }
        // SAFETY: numbers only, in C's layout, as the kernel declares them (tests/kernels.rs).
        #[allow(unsafe_code)]
        unsafe impl cudarc::driver::DeviceRepr for $Name {}
    )* };
}
pub(in crate::cuda) use params;
