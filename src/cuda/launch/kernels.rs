//! How kernels are declared. `kernels!` lists the kernels of one `.cu` file with typed arguments and makes a
//! method of each; `params!` declares the structs they take by value. `tests/kernels.rs` compares both with
//! the text of the `.cu` files, so that an argument cannot change on one side only.
//!
//! A launcher (the functions of `ops/norm.rs`, `ops/image.rs`, ...) decides grid, block and shared memory and
//! checks shapes. The one launch is in `call.rs`.

/// `kernels! { pub struct Table from "file" { fn name(x: In<Act>, y: Out<f32>, p: Params); } }`: the kernels
/// of kernels/file.cu, each a method `table.name(device, launch, x, y, p)`.
///
/// `family name [a, b, c](x: In<Act>, p: Params);` declares kernels that take the same arguments, as one
/// method `table.name(which, device, launch, x, p)`, where `which` is an index into the list.
macro_rules! kernels {
    ($(#[$meta:meta])* pub struct $Table:ident from $file:literal { $($body:tt)* }) => {
        kernels! { @parse [$(#[$meta])*] $Table $file [] $($body)* }
    };
    // Every item becomes (documentation) name [kernels] (arguments) with or without an index.
    (@parse $head:tt $Table:ident $file:literal [$($done:tt)*]
        $(#[$doc:meta])* fn $name:ident($($args:tt)*); $($rest:tt)*
    ) => {
        kernels! { @parse $head $Table $file [$($done)* { [$(#[$doc])*] $name [$name] () ($($args)*) }] $($rest)* }
    };
    (@parse $head:tt $Table:ident $file:literal [$($done:tt)*]
        $(#[$doc:meta])* family $name:ident [$($kernel:ident),* $(,)?]($($args:tt)*); $($rest:tt)*
    ) => {
        kernels! { @parse $head $Table $file
            [$($done)* { [$(#[$doc])*] $name [$($kernel),*] (which: usize) ($($args)*) }] $($rest)* }
    };
    (@parse [$(#[$meta:meta])*] $Table:ident $file:literal [$({
        [$(#[$doc:meta])*] $name:ident [$($kernel:ident),*] ($($which:ident: usize)?)
        ($($arg:ident: $kind:ty),* $(,)?)
    })*]) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $Table { $( $name: Vec<cudarc::driver::CudaFunction>, )* }

        impl $Table {
            #[allow(unused_variables)]
            pub fn load(image: &$crate::cuda::launch::Image<'_>) -> $crate::error::Result<$Table> {
                let module = image.module($file)?;
                Ok($Table { $(
                    $name: [$(stringify!($kernel)),*]
                        .iter()
                        .map(|name| image.function(&module, $file, name))
                        .collect::<$crate::error::Result<_>>()?,
                )* })
            }

            $(
                $(#[$doc])*
                #[allow(clippy::too_many_arguments)]
                #[track_caller]
                pub fn $name(
                    &self,
                    $($which: usize,)?
                    device: &$crate::cuda::device::Device,
                    launch: $crate::cuda::launch::Launch,
                    $($arg: $kind,)*
                ) -> $crate::error::Result<()> {
                    let kernel = &self.$name[0 $(+ $which)?];
                    let mut call = $crate::cuda::launch::Call::new(device, kernel);
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
