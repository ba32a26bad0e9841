//! The GPU as a backend's state: the kernels of every operation, and what all launchers share.
//!
//! This file and the launchers know each other: it holds the tables of their kernels, and they take it as
//! their first argument. It is the one place in `cuda` where imports go both ways.

use super::attention::{by_products, flash};
use super::device::{Act, Buffer, Device, Elem, Form, In, Out};
use super::launch::Image;
use super::matmul::autotune::Autotuner;
use super::matmul::{simt, tensor_core, tile};
use super::ops::{conv, image, norm, points, pointwise};
use super::smc::{particle, resample, weigh};
use crate::error::Result;
use crate::tensor::{PACKET, Shape, Tensor};

/// All kernels over one element type.
pub struct Kernels {
    pub(super) elem: Elem,
    pub(super) simt: simt::Table,
    pub(super) conv: conv::Table,
    pub(super) attention: by_products::Table,
    /// Of 16-bit types only.
    pub(super) flash: Option<flash::Tables>,
    pub(super) norm: norm::Table,
    pub(super) pointwise: pointwise::Table,
    pub(super) image: image::Table,
}

impl Kernels {
    fn load(device: &Device, elem: Elem) -> Result<Kernels> {
        let image = Image::new(device, elem);
        Ok(Kernels {
            elem,
            simt: simt::Table::load(&image)?,
            conv: conv::Table::load(&image)?,
            attention: by_products::Table::load(&image)?,
            flash: (elem != Elem::F32).then(|| flash::Tables::load(&image)).transpose()?,
            norm: norm::Table::load(&image)?,
            pointwise: pointwise::Table::load(&image)?,
            image: image::Table::load(&image)?,
        })
    }

    /// A buffer as `const Act*` of these kernels.
    #[track_caller]
    pub(super) fn read<'a>(&self, buffer: &'a Buffer) -> In<'a, Act> {
        buffer.read(self.elem)
    }

    /// A buffer as `Act*` of these kernels.
    #[track_caller]
    pub(super) fn write<'a>(&self, buffer: &'a mut Buffer) -> Out<'a, Act> {
        buffer.write(self.elem)
    }
}

/// A GPU as a device.
pub struct Cuda {
    /// Decides between cuBLASLt and our products on tensor cores. Dropped before the device that it uses.
    pub(super) autotuner: Option<Autotuner>,
    pub(super) device: Device,
    /// Over activations; `None` where these are f32.
    pub(super) act: Option<Kernels>,
    pub(super) f32: Kernels,
    /// Products on tensor cores; `None` where activations are f32.
    pub(super) tensor: Option<tensor_core::Table>,
    /// What every product takes instead of the best plan.
    pub(super) plan: Option<tile::Plan>,
    // Particles are f32 in every run.
    pub(super) particle: particle::Table,
    pub(super) points: points::Table,
    pub(super) weigh: weigh::Table,
    pub(super) resample: resample::Table,
    /// Whether [`Backend::replay`] records.
    pub(super) graphs: bool,
    /// See [`Cuda::with_scores`].
    pub(super) scores: Option<usize>,
}

impl Cuda {
    /// Opens GPU `ordinal` with activations and weights of type `elem`.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device): no driver, no such GPU, one that is too old, or
    /// kernels that cannot be loaded.
    #[track_caller]
    pub fn open(ordinal: usize, elem: Elem) -> Result<Cuda> {
        assert_ne!(elem, Elem::U32, "activations are numbers");
        let device = Device::open(ordinal)?;
        let act = (elem != Elem::F32).then(|| Kernels::load(&device, elem)).transpose()?;
        let f32 = Kernels::load(&device, Elem::F32)?;
        let tensor =
            act.as_ref().map(|_| tensor_core::Table::load(&Image::new(&device, elem))).transpose()?;
        let image = Image::new(&device, Elem::F32);
        let (particle, weigh) = (particle::Table::load(&image)?, weigh::Table::load(&image)?);
        let (resample, points) = (resample::Table::load(&image)?, points::Table::load(&image)?);
        let (graphs, scores) = (true, None);
        let (autotuner, plan) = (None, None);
        Ok(Cuda {
            autotuner,
            device,
            act,
            f32,
            tensor,
            plan,
            particle,
            points,
            weigh,
            resample,
            graphs,
            scores,
        })
    }

    /// Without CUDA graphs: every kernel is launched by itself, which a profiler shows better.
    pub fn without_graphs(self) -> Cuda {
        Cuda { graphs: false, ..self }
    }

    /// How many scores of an attention by matrix products (heads of more than 160 channels, and f32) are in
    /// memory at a time, about; by default as many as fill the GPU, 64 to 256 MB.
    #[doc(hidden)]
    pub fn with_scores(self, scores: usize) -> Cuda {
        Cuda { scores: Some(scores), ..self }
    }

    /// Element type of activations and weights.
    pub fn elem(&self) -> Elem {
        self.act().elem
    }

    /// Bytes of the GPU's memory that are free now.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device), if the driver cannot be asked.
    pub fn free_memory(&self) -> Result<u64> {
        self.device.free_memory()
    }

    pub(super) fn act(&self) -> &Kernels {
        self.act.as_ref().unwrap_or(&self.f32)
    }

    /// The kernels over `elem`.
    #[track_caller]
    pub(super) fn kernels(&self, elem: Elem) -> &Kernels {
        if elem == Elem::F32 {
            return &self.f32;
        }
        assert_eq!(elem, self.act().elem, "this device computes in another type");
        self.act()
    }

    /// The element type of a network's tensor of this shape.
    pub(super) fn elem_of(&self, shape: Shape) -> Elem {
        if shape.in_packets() { self.act().elem } else { Elem::F32 }
    }

    #[track_caller]
    pub(super) fn buffer<'a>(&self, x: &'a Tensor) -> &'a Buffer {
        let Some(buffer) = x.data::<Buffer>() else { panic!("{x:?} belongs to another backend") };
        buffer
    }

    /// Memory for a result. Its elements are arbitrary: the caller must write every one before it is read.
    pub(super) fn alloc(&self, elem: Elem, shape: Shape) -> Result<Buffer> {
        self.device.alloc(elem, shape.len())
    }

    #[track_caller]
    pub(super) fn wrap(&self, shape: Shape, y: Buffer) -> Tensor {
        assert_eq!(shape.len(), y.len(), "a result of another length");
        Tensor::new(shape, y)
    }

    /// The type in which an operation other than a matrix product works on `tensors` and makes `channels`:
    /// that of activations if everything is whole packets of it, else f32.
    pub(super) fn common(&self, tensors: &[&Tensor], channels: &[usize]) -> Elem {
        let act = self.act().elem;
        let narrow = tensors.iter().all(|x| self.buffer(x).elem() == act)
            && channels.iter().all(|c| c.is_multiple_of(PACKET));
        if narrow { act } else { Elem::F32 }
    }

    /// `x` with elements of type `elem`: itself where it is.
    pub(super) fn cast(&self, x: &Tensor, elem: Elem) -> Result<Tensor> {
        if self.buffer(x).elem() == elem { Ok(x.clone()) } else { pointwise::convert(self, x, elem) }
    }

    /// The same for a weight. A copy in f32 is kept with it, so that it is made once.
    pub(super) fn cast_weight(&self, w: &Tensor, elem: Elem) -> Result<Tensor> {
        let buffer = self.buffer(w);
        match (buffer.elem() == elem, elem) {
            (true, _) => Ok(w.clone()),
            (false, Elem::F32) => buffer.form(Form::F32, || pointwise::convert(self, w, elem)),
            (false, _) => pointwise::convert(self, w, elem),
        }
    }

    /// A tensor with the same elements in memory of its own.
    pub(super) fn copy(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.wrap(x.shape(), self.alloc(self.buffer(x).elem(), x.shape())?);
        self.overwrite(x, &y)?;
        Ok(y)
    }

    /// Copies the elements of `x` into the memory of `place`. Every other handle to `place` sees them too.
    pub(super) fn overwrite(&self, x: &Tensor, place: &Tensor) -> Result<()> {
        self.device.copy(self.buffer(x), self.buffer(place))
    }

    /// Numbers for a kernel to index with.
    pub(super) fn indices(&self, data: &[u32]) -> Result<Buffer> {
        let mut y = self.device.alloc(Elem::U32, data.len())?;
        pointwise::put(self, bytemuck::cast_slice(data), &mut y)?;
        Ok(y)
    }
}
