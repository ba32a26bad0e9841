//! The backend that computes on an NVIDIA GPU (compute capability 8.0 and newer) with the driver alone: hand-written
//! kernels, one stream, memory in stream order. Nothing here waits for the GPU but `download` and what returns numbers.
//!
//! Activations and weights are bf16, f16 or f32 (`Elem`), chosen at opening; tensors whose rows are not whole packets of
//! eight channels (latents, pictures, scores) are f32 always, and are worked on by the kernels of the f32 image. An
//! operation that meets both widens what is narrow; matrix products narrow what is wide.

mod attention;
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

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::backend::{
    Activation, Advance, AffineClamp, Attention, Backend, Conv, Ending, Filter, GroupNorm, Memory,
    ParticleId, Particles, Record, Run, Saved, Weigher, reserved,
};
use crate::error::Result;
use crate::noise::Purpose;
use crate::tensor::{HostSlice, Shape, Tensor};

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
    scores: usize,
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
        let (graphs, scores) = (true, 1 << 24);
        let (contest, plan) = (None, None);
        Ok(Cuda { contest, device, act, wide, tensor, plan, particle, weigh, resample, graphs, scores })
    }

    /// Without CUDA graphs: every kernel is launched by itself, which a profiler shows better.
    pub fn without_graphs(self) -> Cuda {
        Cuda { graphs: false, ..self }
    }

    /// How many scores of an attention by matrix products (heads of more than 160 channels, and f32) are in
    /// memory at a time, about; by default as many as a decoder's one head has at 512 x 512: 64 MB.
    pub fn with_scores(self, scores: usize) -> Cuda {
        Cuda { scores, ..self }
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

impl Backend for Cuda {
    fn name(&self) -> String {
        self.device.name()
    }

    fn replay(
        &self,
        record: &mut Record,
        inputs: &[&Tensor],
        f: &mut dyn FnMut(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        graph::replay(self, record, inputs, f)
    }

    fn range_start(&self, name: &str) {
        nvtx::push(name);
    }
    fn range_end(&self) {
        nvtx::pop();
    }

    fn upload(&self, shape: Shape, data: HostSlice<'_>) -> Result<Tensor> {
        assert_eq!(shape.len(), data.len(), "as many elements as the shape says");
        let elem = self.elem_of(shape);
        let mut y = self.alloc(elem, shape)?;
        match (elem, data) {
            (Elem::F32, data) => pointwise::put(self, bytemuck::cast_slice(&data.to_f32()), &mut y)?,
            (Elem::F16, HostSlice::F16(data)) => pointwise::put(self, bytemuck::cast_slice(data), &mut y)?,
            (Elem::Bf16, HostSlice::BF16(data)) => pointwise::put(self, bytemuck::cast_slice(data), &mut y)?,
            (Elem::F16, data) => {
                let mut narrow = vec![f16::ZERO; data.len()];
                narrow.convert_from_f32_slice(&data.to_f32());
                pointwise::put(self, bytemuck::cast_slice(&narrow), &mut y)?;
            }
            (Elem::Bf16, data) => {
                let mut narrow = vec![bf16::ZERO; data.len()];
                narrow.convert_from_f32_slice(&data.to_f32());
                pointwise::put(self, bytemuck::cast_slice(&narrow), &mut y)?;
            }
            (Elem::U32, _) => unreachable!("tensors hold numbers"),
        }
        Ok(self.wrap(shape, y))
    }

    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        let (buffer, len) = (self.buffer(x), x.shape().len());
        let mut y = reserved(len)?;
        y.resize(len, 0.0);
        match buffer.elem() {
            Elem::F32 => self.device.copy_out(buffer, bytemuck::cast_slice_mut(&mut y))?,
            Elem::F16 => {
                let mut narrow = vec![f16::ZERO; len];
                self.device.copy_out(buffer, bytemuck::cast_slice_mut(&mut narrow))?;
                narrow.convert_to_f32_slice(&mut y);
            }
            Elem::Bf16 => {
                let mut narrow = vec![bf16::ZERO; len];
                self.device.copy_out(buffer, bytemuck::cast_slice_mut(&mut narrow))?;
                narrow.convert_to_f32_slice(&mut y);
            }
            Elem::U32 => unreachable!("tensors hold numbers"),
        }
        Ok(y)
    }

    fn zeros(&self, shape: Shape) -> Result<Tensor> {
        pointwise::zeros(self, shape)
    }
    fn memory(&self) -> Memory {
        self.device.account().memory()
    }
    fn reset_peak(&self) {
        self.device.account().reset_peak();
    }

    fn linear(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>, add: Option<&Tensor>) -> Result<Tensor> {
        gemm::linear(self, x, w, b, add)
    }
    fn linear_then(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        ending: Ending,
        keep: bool,
    ) -> Result<(Tensor, Option<Saved>)> {
        gemm::linear_then(self, x, w, b, ending, keep)
    }
    fn linear_vjp(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        gemm::linear_vjp(self, dy, w)
    }
    fn conv(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        add: Option<&Tensor>,
        conv: Conv,
    ) -> Result<Tensor> {
        conv::conv(self, x, w, b, add, conv)
    }
    fn conv_vjp(&self, dy: &Tensor, w: &Tensor, x: Shape, conv: Conv) -> Result<Tensor> {
        conv::conv_vjp(self, dy, w, x, conv)
    }

    fn group_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        norm: GroupNorm,
    ) -> Result<(Tensor, Saved)> {
        norm::group_norm(self, x, gamma, beta, norm)
    }
    fn group_norm_vjp(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        norm: GroupNorm,
    ) -> Result<Tensor> {
        norm::group_norm_vjp(self, x, gamma, beta, saved, dy, norm)
    }
    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<(Tensor, Saved)> {
        norm::layer_norm(self, x, gamma, beta, eps)
    }
    fn layer_norm_vjp(&self, x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Result<Tensor> {
        norm::layer_norm_vjp(self, x, gamma, saved, dy)
    }
    fn l2_norm(&self, x: &Tensor) -> Result<Tensor> {
        norm::l2_norm(self, x)
    }
    fn l2_norm_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        norm::l2_norm_vjp(self, x, dy)
    }

    fn self_attention(&self, qkv: &Tensor, attention: Attention) -> Result<(Tensor, Saved)> {
        attention::self_attention(self, qkv, attention)
    }
    fn self_attention_vjp(
        &self,
        qkv: &Tensor,
        y: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        attention: Attention,
    ) -> Result<Tensor> {
        attention::self_attention_vjp(self, qkv, y, saved, dy, attention)
    }
    fn cross_attention(
        &self,
        q: &Tensor,
        kv: &Tensor,
        kv_of: &[u32],
        attention: Attention,
    ) -> Result<Tensor> {
        attention::cross_attention(self, q, kv, kv_of, attention)
    }
    fn cross_attention_vjp(
        &self,
        q: &Tensor,
        kv: &Tensor,
        kv_of: &[u32],
        dy: &Tensor,
        attention: Attention,
    ) -> Result<Tensor> {
        attention::cross_attention_vjp(self, q, kv, kv_of, dy, attention)
    }

    fn activate(&self, x: &Tensor, f: Activation) -> Result<Tensor> {
        pointwise::activate(self, x, f)
    }
    fn activate_vjp(&self, x: &Tensor, dy: &Tensor, f: Activation) -> Result<Tensor> {
        pointwise::activate_vjp(self, x, dy, f)
    }
    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        pointwise::geglu(self, x)
    }
    fn geglu_vjp(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        pointwise::geglu_vjp(self, x, dy)
    }
    fn axpby(&self, a: f32, x: &Tensor, b: f32, y: &Tensor) -> Result<Tensor> {
        pointwise::axpby(self, a, x, b, y)
    }
    fn blend(&self, k: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        pointwise::blend(self, k, x, y)
    }
    fn blend_vjp(&self, k: &Tensor, which: usize, dy: &Tensor) -> Result<Tensor> {
        pointwise::blend_vjp(self, k, which, dy)
    }
    fn scale(&self, a: f32, x: &Tensor) -> Result<Tensor> {
        pointwise::scale(self, a, x)
    }
    fn affine_clamp(&self, x: &Tensor, map: AffineClamp) -> Result<Tensor> {
        pointwise::affine_clamp(self, x, map)
    }
    fn affine_clamp_vjp(&self, x: &Tensor, dy: &Tensor, map: AffineClamp) -> Result<Tensor> {
        pointwise::affine_clamp_vjp(self, x, dy, map)
    }
    fn channel_affine(&self, x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
        pointwise::channel_affine(self, x, gain, shift)
    }

    fn concat(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        image::concat(self, x, y)
    }
    fn slice(&self, x: &Tensor, from: usize, c: usize) -> Result<Tensor> {
        image::slice(self, x, from, c)
    }
    fn slice_vjp(&self, dy: &Tensor, from: usize, c: usize) -> Result<Tensor> {
        image::slice_vjp(self, dy, from, c)
    }
    fn repeat(&self, x: &Tensor, times: usize) -> Result<Tensor> {
        image::repeat(self, x, times)
    }
    fn repeat_vjp(&self, dy: &Tensor, times: usize) -> Result<Tensor> {
        image::repeat_vjp(self, dy, times)
    }
    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        image::gather(self, x, rows)
    }
    fn stack(&self, parts: &[&Tensor]) -> Result<Tensor> {
        image::stack(self, parts)
    }
    fn guide(&self, x: &Tensor, s: f32) -> Result<Tensor> {
        pointwise::guide(self, x, s)
    }
    fn guide_vjp(&self, dy: &Tensor, s: f32) -> Result<Tensor> {
        pointwise::guide_vjp(self, dy, s)
    }
    fn embed(&self, x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Result<Tensor> {
        image::embed(self, x, token, position)
    }
    fn embed_vjp(&self, dy: &Tensor, x: Shape) -> Result<Tensor> {
        image::embed_vjp(self, dy, x)
    }
    fn take_token(&self, x: &Tensor, at: &[u32]) -> Result<Tensor> {
        image::take_token(self, x, at)
    }
    fn take_token_vjp(&self, dy: &Tensor, at: &[u32], x: Shape) -> Result<Tensor> {
        image::take_token_vjp(self, dy, at, x)
    }
    fn resize(&self, x: &Tensor, h: usize, w: usize, filter: Filter) -> Result<Tensor> {
        image::resize(self, x, h, w, filter)
    }
    fn resize_vjp(&self, dy: &Tensor, x: Shape, filter: Filter) -> Result<Tensor> {
        image::resize_vjp(self, dy, x, filter)
    }

    fn normals(
        &self,
        shape: Shape,
        seed: u64,
        step: u32,
        purpose: Purpose,
        ids: &[ParticleId],
    ) -> Result<Tensor> {
        particle::normals(self, shape, seed, step, purpose, ids)
    }
    fn advance(
        &self,
        particles: Particles<'_>,
        ancestors: &[u32],
        strength: &[f32],
        advance: Advance<'_>,
    ) -> Result<(Tensor, Vec<f64>)> {
        particle::advance(self, particles, ancestors, strength, advance)
    }
    fn squared_norms(&self, x: &Tensor) -> Result<Vec<f64>> {
        particle::squared_norms(self, x)
    }
    fn where_finite(&self, score: &Tensor, by: &Tensor) -> Result<Tensor> {
        particle::where_finite(self, score, by)
    }
    fn weigher<'a>(&'a self, run: Run<'_>) -> Result<Option<Box<dyn Weigher + 'a>>> {
        queue::weigher(self, run)
    }
}
