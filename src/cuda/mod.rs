//! The backend that computes on an NVIDIA GPU (compute capability 8.0 and newer) with the driver alone: hand-written
//! kernels, one stream, memory in stream order. Nothing here waits for the GPU but `download` and what returns numbers.
//!
//! Activations and weights are bf16, f16 or f32 (`Elem`), chosen at opening; tensors whose rows are not whole packets of
//! eight channels (latents, pictures, scores) are f32 always, and are worked on by the kernels of the f32 image. An
//! operation that meets both widens what is narrow; matrix products narrow what is wide.

mod attention;
mod backend;
mod buffer;
mod choices;
mod contest;
mod conv;
mod cublaslt;
mod device;
mod flash;
mod gather;
mod gemm;
mod graph;
mod image;
mod kernels;
mod module;
mod norm;
#[allow(unsafe_code)]
mod nvtx;
mod particle;
mod pointwise;
mod product;
mod queue;
mod resample;
mod tile;
mod timer;
mod walk;
mod weigh;
mod wide;

use crate::error::Result;
use crate::tensor::{Shape, Tensor};

pub use buffer::Elem;
use buffer::{Buffer, Form, PACKET};
use contest::Contest;
pub use contest::Outcome;
use device::Device;
pub use device::count;
use kernels::{Act, In, Out};
use module::Image;
pub use module::compiles;
pub use resample::Resampled;
pub use timer::Mark;
pub use weigh::{Decision, Populations, Weighing};
pub use wide::Wide;

/// All kernels over one element type.
struct Kernels {
    elem: Elem,
    gemm: gemm::Table,
    conv: conv::Table,
    attention: attention::Table,
    /// Of 16-bit types only.
    flash: Option<flash::Tables>,
    norm: norm::Table,
    pointwise: pointwise::Table,
    image: image::Table,
}

impl Kernels {
    fn load(device: &Device, elem: Elem) -> Result<Kernels> {
        let image = Image::new(device, elem);
        Ok(Kernels {
            elem,
            gemm: gemm::Table::load(&image)?,
            conv: conv::Table::load(&image)?,
            attention: attention::Table::load(&image)?,
            flash: (elem != Elem::F32).then(|| flash::Tables::load(&image)).transpose()?,
            norm: norm::Table::load(&image)?,
            pointwise: pointwise::Table::load(&image)?,
            image: image::Table::load(&image)?,
        })
    }

    /// A buffer as `const Act*` of these kernels.
    #[track_caller]
    fn read<'a>(&self, buffer: &'a Buffer) -> In<'a, Act> {
        buffer.read(self.elem)
    }

    /// A buffer as `Act*` of these kernels.
    #[track_caller]
    fn write<'a>(&self, buffer: &'a mut Buffer) -> Out<'a, Act> {
        buffer.write(self.elem)
    }
}

/// A GPU as a device.
pub struct Cuda {
    /// A library that competes with our products on tensor cores. Dropped before the device it uses.
    contest: Option<Contest>,
    device: Device,
    /// Over activations; `None` where these are f32.
    act: Option<Kernels>,
    wide: Kernels,
    /// Products on tensor cores; `None` where activations are f32.
    tensor: Option<product::Table>,
    /// What every product takes instead of the best plan.
    plan: Option<tile::Plan>,
    // Particles are f32 in every run.
    particle: particle::Table,
    weigh: weigh::Table,
    resample: resample::Table,
    /// Whether [`Backend::replay`] records.
    graphs: bool,
    /// See [`Cuda::with_scores`].
    scores: Option<usize>,
}

impl Cuda {
    /// Opens GPU `ordinal` with activations and weights of type `elem`.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device): no driver, no such GPU, one that is too old, or kernels that
    /// cannot be loaded.
    #[track_caller]
    pub fn open(ordinal: usize, elem: Elem) -> Result<Cuda> {
        assert_ne!(elem, Elem::U32, "activations are numbers");
        let device = Device::open(ordinal)?;
        let act = (elem != Elem::F32).then(|| Kernels::load(&device, elem)).transpose()?;
        let wide = Kernels::load(&device, Elem::F32)?;
        let tensor = act.as_ref().map(|_| product::Table::load(&Image::new(&device, elem))).transpose()?;
        let image = Image::new(&device, Elem::F32);
        let (particle, weigh) = (particle::Table::load(&image)?, weigh::Table::load(&image)?);
        let resample = resample::Table::load(&image)?;
        let (graphs, scores) = (true, None);
        let (contest, plan) = (None, None);
        Ok(Cuda { contest, device, act, wide, tensor, plan, particle, weigh, resample, graphs, scores })
    }

    /// Without CUDA graphs: every kernel is launched by itself, which a profiler shows better.
    pub fn without_graphs(self) -> Cuda {
        Cuda { graphs: false, ..self }
    }

    /// How many scores of an attention by matrix products (heads of more than 160 channels, and f32) are in
    /// memory at a time, about; by default as many as fill the GPU, 64 to 256 MB.
    pub fn with_scores(self, scores: usize) -> Cuda {
        Cuda { scores: Some(scores), ..self }
    }

    /// Element type of activations and weights.
    pub fn elem(&self) -> Elem {
        self.act().elem
    }

    /// Bytes of the GPU's memory that are free now.
    pub fn free_memory(&self) -> Result<u64> {
        self.device.free_memory()
    }

    fn act(&self) -> &Kernels {
        self.act.as_ref().unwrap_or(&self.wide)
    }

    /// The kernels over `elem`.
    #[track_caller]
    fn kernels(&self, elem: Elem) -> &Kernels {
        if elem == Elem::F32 {
            return &self.wide;
        }
        assert_eq!(elem, self.act().elem, "this device computes in another type");
        self.act()
    }

    /// The element type of a network's tensor of this shape.
    fn elem_of(&self, shape: Shape) -> Elem {
        if shape.c.is_multiple_of(PACKET) { self.act().elem } else { Elem::F32 }
    }

    #[track_caller]
    fn buffer<'a>(&self, x: &'a Tensor) -> &'a Buffer {
        let Some(buffer) = x.data::<Buffer>() else { panic!("{x:?} belongs to another backend") };
        buffer
    }

    /// Memory for a result. Its elements are arbitrary: whoever asks must write them all.
    fn alloc(&self, elem: Elem, shape: Shape) -> Result<Buffer> {
        self.device.alloc(elem, shape.len())
    }

    #[track_caller]
    fn wrap(&self, shape: Shape, y: Buffer) -> Tensor {
        assert_eq!(shape.len(), y.len(), "a result of another length");
        Tensor::new(shape, y)
    }

    /// The type in which an operation other than a matrix product works on `tensors` and makes `channels`: that of
    /// activations if everything is whole packets of it, else f32.
    fn common(&self, tensors: &[&Tensor], channels: &[usize]) -> Elem {
        let act = self.act().elem;
        let narrow = tensors.iter().all(|x| self.buffer(x).elem() == act)
            && channels.iter().all(|c| c.is_multiple_of(PACKET));
        if narrow { act } else { Elem::F32 }
    }

    /// `x` with elements of type `elem`: itself where it is.
    fn cast(&self, x: &Tensor, elem: Elem) -> Result<Tensor> {
        if self.buffer(x).elem() == elem { Ok(x.clone()) } else { pointwise::convert(self, x, elem) }
    }

    /// The same for a weight, whose copy is kept.
    fn cast_weight(&self, w: &Tensor, elem: Elem) -> Result<Tensor> {
        let buffer = self.buffer(w);
        match (buffer.elem() == elem, elem) {
            (true, _) => Ok(w.clone()),
            (false, Elem::F32) => buffer.form(Form::Wide, || pointwise::convert(self, w, elem)),
            (false, _) => pointwise::convert(self, w, elem),
        }
    }

    /// Elements of their own.
    fn copy(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.wrap(x.shape(), self.alloc(self.buffer(x).elem(), x.shape())?);
        self.overwrite(x, &y)?;
        Ok(y)
    }

    /// Copies the elements of `x` to those of `place`, whoever holds it.
    fn overwrite(&self, x: &Tensor, place: &Tensor) -> Result<()> {
        self.device.copy(self.buffer(x), self.buffer(place))
    }

    /// Numbers for a kernel to index with.
    fn indices(&self, data: &[u32]) -> Result<Buffer> {
        let mut y = self.device.alloc(Elem::U32, data.len())?;
        pointwise::put(self, bytemuck::cast_slice(data), &mut y)?;
        Ok(y)
    }
}
