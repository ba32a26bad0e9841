//! The networks against diffusers and transformers: random weights, outputs and gradients with respect to the
//! input computed there in float64 (`tools/golden/models.py`); and the target on whole pipelines, by formulas
//! held there against the steps of diffusers' schedulers. The yardstick of each normalised mean squared error
//! is that of the same computation in PyTorch float32, which the golden file states: ours may be [`SLACK`]
//! times that.
//!
//! Measured here, and (PyTorch float32), for the output and for the gradient:
//!
//! | network | output | gradient |
//! |---|---|---|
//! | UNet SD 1.x | 1.1e-12 (1.4e-12) | 2.3e-10 (2.4e-10) |
//! | UNet SD 2.x | 8.2e-13 (5.1e-13) | 2.4e-11 (1.9e-11) |
//! | UNet XL | 4.3e-13 (4.7e-13) | 1.5e-11 (3.7e-11) |
//! | UNet LCM | 1.6e-13 (1.4e-13) | 1.1e-11 (6.5e-12) |
//! | UNet plain | 1.0e-13 (1.1e-13) | 2.1e-13 (2.1e-13) |
//! | UNet lists | 4.1e-13 (7.3e-13) | 2.7e-11 (1.1e-11) |
//! | UNet odd | 3.7e-13 (5.0e-13) | 5.1e-12 (3.5e-11) |
//! | UNet flat | 6.4e-13 (6.6e-13) | 3.2e-11 (3.1e-11) |
//! | VAE decoder, with quant conv | 1.2e-13 (1.9e-13) | 3.4e-13 (4.6e-13) |
//! | VAE encoder, with quant conv | 3.6e-13 (3.4e-13) | 1.1e-12 (1.0e-12) |
//! | VAE decoder, bare | 1.0e-13 (1.2e-13) | 2.5e-13 (2.5e-13) |
//! | VAE encoder, bare | 9.0e-14 (9.7e-14) | 3.5e-13 (4.2e-13) |
//! | tiny decoder | 3.3e-14 (3.3e-14) | 1.4e-13 (8.1e-14) |
//! | CLIP images, quick GELU | 4.4e-14 (4.1e-14) | 5.1e-13 (7.6e-13) |
//! | CLIP images, GELU | 1.4e-13 (2.5e-13) | 3.8e-13 (1.2e-12) |
//! | CLIP texts | 4.7e-14 (8.2e-14) | |
//! | text models, worst | 7.6e-14 (8.4e-14) | |
//! | pipeline SD, guided noise | 1.4e-12 (1.6e-12) | |
//! | pipeline XL, guided noise | 2.7e-12 (2.5e-12) | |
//! | target SD, v prediction | eps 4.8e-14 (6.1e-14), x0 8.6e-13 (1.1e-12) | 2.9e-12 (7.7e-12) |
//! | target SD, sample prediction | eps 4.6e-14 (6.0e-14), x0 9.3e-13 (1.2e-12) | 6.8e-12 (5.6e-12) |
//! | target SD, v prediction clipped | eps 4.8e-14 (6.1e-14), x0 8.2e-13 (1.1e-12) | 5.9e-12 (6.6e-12) |
//! | target XL, noise prediction clipped | eps 2.5e-12 (3.4e-12), x0 1.5e-12 (1.8e-12) | 2.7e-11 (2.0e-11) |
//! | target LCM, noise prediction | eps 1.5e-13 (2.1e-13), x0 4.3e-14 (5.4e-14) | 3.3e-13 (4.9e-13) |
//! | target LCM, v prediction | eps 4.0e-14 (5.6e-14), x0 4.8e-14 (6.2e-14) | 4.7e-13 (6.4e-13) |

#[path = "common/golden.rs"]
mod golden;

use das_cuda::backend::{Backend, ParticleId};
use das_cuda::cpu::Cpu;
use das_cuda::ddim::Schedule;
use das_cuda::meter::Meter;
use das_cuda::model::checkpoint::Checkpoint;
use das_cuda::model::clip::{Clip, ClipText, ClipVision};
use das_cuda::model::config::{
    AutoencoderConfig, ClipConfig, ClipTextConfig, ClipVisionConfig, DecoderConfig, UNetConfig,
};
use das_cuda::model::decoder::ImageDecoder;
use das_cuda::model::files::Source;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::model::unet::{Added, Conditioning, Unet};
use das_cuda::model::vae::{Decoder, Encoder, to_unit};
use das_cuda::reward::{Reward, Sum};
use das_cuda::sampler::{Need, Target};
use das_cuda::tape::{Recompute, Tape, Var};
use das_cuda::target::{Diffusion, Gradient, Settings};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use das_cuda::{Error, ErrorKind, Result};
use golden::{LEAST, SLACK, assemble, folder, nmse};
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Value, json};

/// Tensors of a golden file.
struct Golden {
    name: String,
    file: Checkpoint,
}

impl Golden {
    fn open(name: &str) -> Golden {
        Golden::file(name, "golden.safetensors")
    }
    fn file(name: &str, file: &str) -> Golden {
        let file = Checkpoint::open(&folder(name).join(file), None).unwrap();
        Golden { name: name.to_string(), file }
    }
    fn has(&self, name: &str) -> bool {
        self.file.root().has(name)
    }
    fn read(&self, name: &str) -> (Shape, Vec<f32>) {
        let root = self.file.root();
        let view = root.tensor(name, root.dims(name).unwrap()).unwrap();
        (view.shape(), view.data().to_f32().into_owned())
    }
    fn values(&self, name: &str) -> Vec<f32> {
        self.read(name).1
    }
    fn tensor(&self, backend: &dyn Backend, name: &str) -> Tensor {
        let (shape, data) = self.read(name);
        backend.upload(shape, HostSlice::F32(&data)).unwrap()
    }
    /// Rows of token ids.
    fn ids(&self) -> Vec<Vec<u32>> {
        let (shape, data) = self.read("ids");
        data.chunks(shape.c).map(|row| row.iter().map(|&id| id as u32).collect()).collect()
    }
    /// Holds `found` against the tensor `name`.
    fn check(&self, backend: &dyn Backend, name: &str, found: &Tensor) {
        let expected = self.values(name);
        let found = backend.download(found).unwrap();
        let error = nmse(&found, &expected);
        let bound = SLACK * f64::from(self.values(&format!("error.{name}"))[0]).max(LEAST);
        println!("{:18} {name:12} {error:.1e} (bound {bound:.1e})", self.name);
        assert!(error <= bound, "{} {name}: NMSE {error:.2e} above {bound:.2e}", self.name);
    }
}

/// Output and gradient of `run` for the input `x` and the cotangent `dy`.
fn differentiate<'t>(
    backend: &'t dyn Backend,
    x: &Tensor,
    dy: &Tensor,
    run: impl Fn(&Tape<'t>, &Var) -> Result<Var>,
) -> (Tensor, Tensor) {
    let tape = Tape::new(backend);
    let leaf = tape.watch(x.clone());
    let y = run(&tape, &leaf).unwrap();
    let dx = tape.gradient(&y, dy.clone(), &leaf).unwrap().unwrap();
    (y.into_value(), dx)
}

fn unet_of(backend: &dyn Backend, name: &str) -> Result<Unet> {
    let source = Source::Dir(folder(name));
    Unet::load(backend, &source.checkpoint("", None)?, &UNetConfig::open(&source, "")?)
}

fn condition(backend: &dyn Backend, unet: &Unet, golden: &Golden) -> Conditioning {
    let (shape, data) = golden.read("text");
    let text = backend.upload(shape, HostSlice::F32(&data)).unwrap();
    let pooled = golden.has("pooled").then(|| golden.tensor(backend, "pooled"));
    let added = pooled
        .as_ref()
        .map(|pooled| Added { pooled, time_ids: golden.values("time_ids").try_into().unwrap() });
    let guidance = golden.has("guidance").then(|| golden.values("guidance")[0]);
    unet.condition(backend, &text, added, guidance).unwrap()
}

fn rows(golden: &Golden) -> Vec<u32> {
    golden.values("rows").iter().map(|&r| r as u32).collect()
}

fn unet_matches(name: &str) {
    let cpu = Cpu::new();
    let golden = Golden::open(name);
    let unet = unet_of(&cpu, name).unwrap();
    let cond = condition(&cpu, &unet, &golden);
    let (t, rows) = (golden.values("t")[0], rows(&golden));
    let (x, dy) = (golden.tensor(&cpu, "x"), golden.tensor(&cpu, "dy"));
    let (y, dx) = differentiate(&cpu, &x, &dy, |tape, x| unet.forward(tape, x, t, &cond, &rows));
    golden.check(&cpu, "y", &y);
    golden.check(&cpu, "dx", &dx);

    // The batch repeated by the caller is the same computation, and so is one sample after another.
    let times = rows.len() / x.shape().n;
    let tape = Tape::off(&cpu);
    let repeated = cpu.repeat(&x, times).unwrap();
    let y = unet.forward(&tape, &repeated.into(), t, &cond, &rows).unwrap();
    golden.check(&cpu, "y", y.value());
    let parts: Vec<Tensor> = (0..rows.len())
        .map(|i| {
            let one = cpu.gather(&x, &[(i % x.shape().n) as u32]).unwrap();
            unet.forward(&tape, &one.into(), t, &cond, &rows[i..i + 1]).unwrap().into_value()
        })
        .collect();
    golden.check(&cpu, "y", &cpu.stack(&parts.iter().collect::<Vec<_>>()).unwrap());
}

/// Sides that cannot be halved evenly: what is doubled on the way up is cut to the size of the skip
/// connection.
#[test]
fn unets_on_latents_of_odd_sizes_match() {
    let cpu = Cpu::new();
    for name in ["unet_sd1", "unet_odd"] {
        let golden = Golden::file(name, "sizes.safetensors");
        let unet = unet_of(&cpu, name).unwrap();
        let cond = condition(&cpu, &unet, &golden);
        for size in ["9x7.", "5x10.", "11x6."] {
            let tensor = |key: &str| golden.tensor(&cpu, &format!("{size}{key}"));
            let t = golden.values("t")[0];
            let (x, dy) = (tensor("x"), tensor("dy"));
            let (y, dx) = differentiate(&cpu, &x, &dy, |tape, x| unet.forward(tape, x, t, &cond, &[0, 1]));
            golden.check(&cpu, &format!("{size}y"), &y);
            golden.check(&cpu, &format!("{size}dx"), &dx);
        }
    }
}

#[test]
fn unet_of_stable_diffusion_1_matches() {
    unet_matches("unet_sd1");
}
#[test]
fn unet_of_stable_diffusion_2_with_linear_projections_and_heads_per_block_matches() {
    unet_matches("unet_sd2");
}
#[test]
fn unet_of_xl_with_added_conditions_and_deep_transformers_matches() {
    unet_matches("unet_sdxl");
}
#[test]
fn unet_with_embedded_guidance_matches() {
    unet_matches("unet_lcm");
}
#[test]
fn unet_without_attention_and_with_unusual_kernels_and_times_matches() {
    unet_matches("unet_plain");
}
#[test]
fn unet_with_lists_of_layers_and_depths_and_no_middle_matches() {
    unet_matches("unet_lists");
}
#[test]
fn unet_with_odd_heads_and_oblong_latents_matches() {
    unet_matches("unet_odd");
}
#[test]
fn unet_of_one_level_matches() {
    unet_matches("unet_flat");
}

fn vae_matches(name: &str) {
    let cpu = Cpu::new();
    let golden = Golden::open(name);
    let source = Source::Dir(folder(name));
    let config = AutoencoderConfig::open(&source, "").unwrap();
    let checkpoint = || source.checkpoint("", None).unwrap();
    let (decoder, encoder) = (
        Decoder::load(&cpu, &checkpoint(), &config).unwrap(),
        Encoder::load(&cpu, &checkpoint(), &config).unwrap(),
    );

    let (z, dy) = (golden.tensor(&cpu, "z"), golden.tensor(&cpu, "dy"));
    let (y, dz) = differentiate(&cpu, &z, &dy, |tape, z| decoder.decode(tape, z));
    golden.check(&cpu, "y", &y);
    golden.check(&cpu, "dz", &dz);

    let (images, dmean) = (golden.tensor(&cpu, "images"), golden.tensor(&cpu, "dmean"));
    let (mean, dimages) = differentiate(&cpu, &images, &dmean, |tape, x| encoder.mean(tape, x));
    golden.check(&cpu, "mean", &mean);
    golden.check(&cpu, "dimages", &dimages);
    let sample = encoder.sample(&cpu, &images, &golden.tensor(&cpu, "noise")).unwrap();
    golden.check(&cpu, "sample", &sample);
}

#[test]
fn autoencoder_of_stable_diffusion_matches() {
    vae_matches("vae_quant");
}
#[test]
fn autoencoder_without_quant_convolutions_and_attention_but_with_a_shift_matches() {
    vae_matches("vae_bare");
}

#[test]
fn tiny_autoencoder_matches() {
    let cpu = Cpu::new();
    let golden = Golden::open("vae_tiny");
    let source = Source::Dir(folder("vae_tiny"));
    let config = DecoderConfig::open(&source, "").unwrap();
    let decoder = ImageDecoder::load(&cpu, &source.checkpoint("", None).unwrap(), &config).unwrap();
    assert!(decoder.approximates() && decoder.scale() == 2);
    let (z, dy) = (golden.tensor(&cpu, "z"), golden.tensor(&cpu, "dy"));
    let (y, dz) = differentiate(&cpu, &z, &dy, |tape, z| decoder.decode(tape, z));
    golden.check(&cpu, "y", &y);
    golden.check(&cpu, "dz", &dz);
}

fn clip_matches(name: &str) {
    let cpu = Cpu::new();
    let golden = Golden::open(name);
    let source = Source::Dir(folder(name));
    let checkpoint = || source.checkpoint("", None).unwrap();
    let clip = Clip::load(&cpu, &checkpoint(), &ClipConfig::open(&source, "").unwrap()).unwrap();
    let (images, dy) = (golden.tensor(&cpu, "images"), golden.tensor(&cpu, "dy"));
    let (y, dx) = differentiate(&cpu, &images, &dy, |tape, x| clip.embed_images(tape, x));
    golden.check(&cpu, "y", &y);
    golden.check(&cpu, "dx", &dx);
    let ids = golden.ids();
    golden.check(&cpu, "text", &clip.embed_text(&cpu, &ids).unwrap());

    // Padding that is cut off changes nothing.
    let cut: Vec<u32> = ids[0][..4].to_vec();
    let (alone, all) = (clip.embed_text(&cpu, &[cut]).unwrap(), golden.values("text"));
    assert!(nmse(&cpu.download(&alone).unwrap(), &all[..alone.shape().c]) <= 1e-9);

    // One tower of the same file.
    let config = ClipVisionConfig::open(&source, "").unwrap();
    let config = ClipVisionConfig { projection_dim: y.shape().c, ..config };
    let vision = ClipVision::load(&cpu, &checkpoint(), &config).unwrap();
    golden.check(&cpu, "y", vision.embed(&Tape::off(&cpu), &images.into()).unwrap().value());
}

#[test]
fn clip_of_openai_matches() {
    clip_matches("clip_quick");
}
#[test]
fn clip_with_exact_gelu_and_the_largest_token_as_the_end_matches() {
    clip_matches("clip_gelu");
}

fn text_matches(name: &str, projection: bool) {
    let cpu = Cpu::new();
    let golden = Golden::open(name);
    let source = Source::Dir(folder(name));
    let config = ClipTextConfig::open(&source, "").unwrap();
    let text = ClipText::load(&cpu, &source.checkpoint("", None).unwrap(), &config, projection).unwrap();
    let out = text.run(&cpu, &golden.ids()).unwrap();
    golden.check(&cpu, "last", &out.last);
    golden.check(&cpu, "penultimate", &out.penultimate);
    let pooled = if projection { out.projected(&cpu) } else { out.pooled(&cpu) };
    golden.check(&cpu, "pooled", &pooled.unwrap());
}

#[test]
fn text_model_as_transformers_5_names_it_matches() {
    text_matches("text_new", false);
}
#[test]
fn text_model_as_transformers_4_named_it_matches() {
    text_matches("text_old", false);
}
#[test]
fn text_model_with_projection_matches() {
    text_matches("text_projection", true);
}

fn pipeline_matches(name: &str) {
    let cpu = Cpu::new();
    let golden = Golden::open(name);
    let dir = assemble(name);
    let pipeline = Pipeline::load(&cpu, &ModelFolder::open(dir.path(), None).unwrap()).unwrap();
    let (x, t, s) = (golden.tensor(&cpu, "x"), golden.values("t")[0], golden.values("s")[0]);
    let size = pipeline.size(Some(12), Some(20)).unwrap();
    assert_eq!(size.latent, x.shape().with_n(1));
    assert_eq!(pipeline.size(None, None).unwrap().latent, Shape::new(1, 6, 6, 4));

    let texts = ["a large red star", "Two rings, one BLUE circle on a very dark green background!"];
    for (label, negative) in [("", Some("blurry")), ("none.", None)] {
        let prompts = texts.map(|text| Prompt { text, negative });
        let encoded = pipeline.encode(&cpu, &prompts, size, s, LongPrompts::Cut).unwrap();
        assert_eq!(encoded.dropped, [None, None]);
        let rows = encoded.rows(&[0, 1], true);
        let tape = Tape::off(&cpu);
        let both = pipeline.unet.forward(&tape, &x.clone().into(), t, &encoded.conditioning, &rows).unwrap();
        golden.check(&cpu, &format!("{label}eps"), tape.cfg_combine(&both, s).unwrap().value());
    }
    let tape = Tape::off(&cpu);
    let image = pipeline.decoder.decode(&tape, &x.into()).unwrap();
    golden.check(&cpu, "image", to_unit(&tape, &image).unwrap().value());

    let refused = pipeline.size(Some(13), None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
    assert!(refused.to_string().contains("`height` 14"), "{refused}");
    // The largest is a size; beyond it, up to what a number holds, the flag and the limit are named.
    assert!(pipeline.size(Some(1 << 20), Some(1 << 20)).is_ok());
    for pixels in [(1 << 20) + 4, 1 << 63, usize::MAX] {
        let refused = pipeline.size(None, Some(pixels)).unwrap_err();
        assert_eq!(refused.kind(), das_cuda::ErrorKind::Usage);
        let text = refused.to_string();
        assert!(text.contains(&format!("a width of {pixels} is more than 1048576")), "{text}");
        assert!(text.contains("fix: give `width`"), "{text}");
    }
}

#[test]
fn prompts_to_guided_noise_to_image_match_with_one_text_encoder() {
    pipeline_matches("pipeline_sd");
}
#[test]
fn prompts_to_guided_noise_to_image_match_with_two_text_encoders() {
    pipeline_matches("pipeline_sdxl");
}

/// `<weights, image>`.
struct InnerProduct {
    weights: Tensor,
}

impl Reward for InnerProduct {
    fn name(&self) -> String {
        "inner product".into()
    }
    fn differentiable(&self) -> bool {
        true
    }
    fn prepare(&mut self, _: &dyn Backend, _: &[String]) -> Result<()> {
        Ok(())
    }
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
        let shape = images.shape();
        tape.linear(&images.reshape(Shape::rows(shape.n, shape.sample())), &self.weights, None, None)
    }
    fn default_alpha(&self) -> f64 {
        1.0
    }
}

/// What the target makes of a model in the middle of a chain of `steps`, under each of the `variants` of its
/// scheduler: changes of scheduler_config.json, by the prefix of what is expected then.
fn guide_matches(name: &str, steps: usize, variants: &[(&str, Value)]) {
    let cpu = Cpu::new();
    let golden = Golden::file(name, "guide.safetensors");
    let (x, dy) = (golden.tensor(&cpu, "x"), golden.tensor(&cpu, "dy"));
    let (t, cfg_scale) = (golden.values("t")[0] as i64, golden.values("s")[0]);
    let reward = InnerProduct { weights: dy.reshape(Shape::rows(1, dy.shape().len())) };
    let reward = Sum::new(vec![(1.0, Box::new(reward))]);
    let numbers = [7, 2];
    let ids: Vec<ParticleId> = golden
        .values("of")
        .iter()
        .zip(0..)
        .map(|(&of, particle)| ParticleId { prompt: numbers[of as usize], particle })
        .collect();
    for (label, changes) in variants {
        let dir = assemble(name);
        let path = dir.path().join("scheduler/scheduler_config.json");
        let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        file.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        std::fs::write(&path, file.to_string()).unwrap();
        let mut pipeline = Pipeline::load(&cpu, &ModelFolder::open(dir.path(), None).unwrap()).unwrap();
        if let Some(range) = changes.get("clip_sample_range").filter(|_| name == "pipeline_sd") {
            // The pipeline of Stable Diffusion switches clipping off on loading; the golden file has it on.
            let clip = std::mem::replace(&mut pipeline.scheduler.clip_sample, range.as_f64());
            assert!(
                clip.is_none() && pipeline.notes[0].contains("clip_sample is true"),
                "{:?}",
                pipeline.notes
            );
        }
        let schedule = Schedule::new(&pipeline.scheduler, steps, 1.0).unwrap();
        let step = schedule.steps.iter().find(|step| step.t == t).expect("a step of the chain");
        let prompts = [
            Prompt { text: "a large red star", negative: Some("blurry") },
            Prompt {
                text: "Two rings, one BLUE circle on a very dark green background!",
                negative: Some("a ring"),
            },
        ];
        let size = pipeline.size(Some(12), Some(20)).unwrap();
        let encoded = pipeline.encode(&cpu, &prompts, size, cfg_scale, LongPrompts::Cut).unwrap();
        let settings =
            Settings { cfg_scale, micro_batch: 2, recompute: Recompute::Nothing, gradient: Gradient::State };
        let target = Diffusion::new(&cpu, &pipeline, &reward, encoded, numbers.to_vec(), size, settings);
        for need in [Need::Noise, Need::Gradient] {
            let evaluation = target.evaluate(&x, &ids, step, need).unwrap();
            golden.check(&cpu, &format!("{label}eps"), &evaluation.eps);
            golden.check(&cpu, &format!("{label}x0"), &evaluation.x0);
            if let Some(grad) = evaluation.grad {
                golden.check(&cpu, &format!("{label}dx"), &grad);
            }
            // Three numbers: too few for a comparison with the errors of another order of summation.
            if let Some(reward) = evaluation.reward {
                let found = reward.download(&cpu).unwrap().into_iter().map(|r| r as f32).collect::<Vec<_>>();
                let error = nmse(&found, &golden.values(&format!("{label}reward")));
                println!("{name:18} {label}reward {error:.1e}");
                assert!(error <= 1e-9, "{name} {label}reward: NMSE {error:.2e}");
            }
        }
    }
}

#[test]
fn guide_on_predicted_velocities_samples_and_clipped_samples_matches() {
    let clipped = json!({ "clip_sample": true, "clip_sample_range": 1.5 });
    let sample = json!({ "prediction_type": "sample" });
    guide_matches("pipeline_sd", 10, &[("", json!({})), ("sample.", sample), ("clipped.", clipped)]);
}
#[test]
fn guide_on_predicted_noise_with_clipping_matches() {
    guide_matches("pipeline_sdxl", 10, &[("", json!({}))]);
}
/// The scale is embedded, there is one branch, and x0 obeys the boundary conditions.
#[test]
fn guide_of_a_consistency_model_matches() {
    let velocity = json!({ "prediction_type": "v_prediction" });
    guide_matches("pipeline_lcm", 4, &[("", json!({})), ("v.", velocity)]);
}

/// No more than that: the goldens of the shipped model are in the tests of the target and the rewards.
#[cfg(feature = "shapes")]
#[test]
fn shipped_model_loads() {
    let cpu = Cpu::new();
    let source = Source::Embedded(das_cuda::assets::SHAPES_FILES);
    let folder = ModelFolder::from_source(source.clone(), None).unwrap();
    let pipeline = Pipeline::load(&cpu, &folder).unwrap();
    assert_eq!(pipeline.factor(), 8);
    let size = pipeline.size(None, None).unwrap();
    assert_eq!((size.height, size.width), (64, 64));
    let clip = source.checkpoint("clip", None).unwrap();
    Clip::load(&cpu, &clip, &ClipConfig::open(&source, "clip").unwrap()).unwrap();
}

#[test]
fn shared_latents_cost_less_than_repeated_ones() {
    let meter = Meter::new();
    let golden = Golden::open("unet_sd1");
    let unet = unet_of(&meter, "unet_sd1").unwrap();
    let cond = condition(&meter, &unet, &golden);
    let flops = |x: Tensor, rows: &[u32]| {
        meter.reset_counts();
        let y = unet.forward(&Tape::off(&meter), &x.into(), 500.0, &cond, rows).unwrap();
        assert_eq!(y.shape(), Shape::new(4, 8, 8, 4));
        meter.counts().flops
    };
    let shared = flops(meter.zeros(Shape::new(2, 8, 8, 4)).unwrap(), &[0, 0, 1, 2]);
    let repeated = flops(meter.zeros(Shape::new(4, 8, 8, 4)).unwrap(), &[0, 0, 1, 2]);
    // Saved for each of two samples: the first convolution, residual block, projection and self-attention.
    // The embedding of the time is projected once, whatever the number of rows.
    let (pixels, c) = (64, 8);
    let conv = |i: u64, o: u64| 2 * pixels * 9 * i * o;
    let linear = |i: u64, o: u64| 2 * pixels * i * o;
    let attention = 2 * 2 * pixels * pixels * c;
    let saved = conv(4, c)
        + 2 * conv(c, c)
        + linear(c, c)
        + linear(c, 3 * c)
        + attention
        + linear(c, c)
        + linear(c, c);
    assert_eq!(repeated - shared, 2 * saved);
}

/// A tensor of a weights file.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Copies a weights file with one change.
fn tampered(name: &str, change: impl FnOnce(&mut Vec<Stored>)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(folder(name).join("diffusion_pytorch_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let stored = |(name, t): (String, safetensors::tensor::TensorView<'_>)| Stored {
        name,
        dtype: t.dtype(),
        shape: t.shape().to_vec(),
        data: t.data().to_vec(),
    };
    let mut tensors: Vec<Stored> = file.tensors().into_iter().map(stored).collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|t| (&t.name, safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    let out = dir.path().join("diffusion_pytorch_model.safetensors");
    safetensors::serialize_to_file(views, None, &out).unwrap();
    std::fs::copy(folder(name).join("config.json"), dir.path().join("config.json")).unwrap();
    dir
}

/// How the tensor of a number, in the order of names, is stored.
type Store<'a> = &'a dyn Fn(usize, &[f16]) -> (Dtype, Vec<u8>);

/// Only the values of weights count, not how the file stores them.
#[test]
fn weights_of_equal_values_in_other_formats_are_the_same_network() {
    let cpu = Cpu::new();
    let golden = Golden::open("unet_flat");
    let (x, dy, t) = (golden.tensor(&cpu, "x"), golden.tensor(&cpu, "dy"), golden.values("t")[0]);
    // Bits of output and gradient with the weights that `store` makes of the tensor of a number.
    let run = |store: Store<'_>| -> Vec<u32> {
        let dir = tampered("unet_flat", |tensors| {
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            for (i, tensor) in tensors.iter_mut().enumerate() {
                assert_eq!(tensor.dtype, Dtype::F16);
                let values: Vec<f16> =
                    tensor.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
                (tensor.dtype, tensor.data) = store(i, &values);
            }
        });
        let source = Source::Dir(dir.path().to_path_buf());
        let config = UNetConfig::open(&source, "").unwrap();
        let unet = Unet::load(&cpu, &source.checkpoint("", None).unwrap(), &config).unwrap();
        let (cond, rows) = (condition(&cpu, &unet, &golden), rows(&golden));
        let (y, dx) = differentiate(&cpu, &x, &dy, |tape, x| unet.forward(tape, x, t, &cond, &rows));
        [y, dx].iter().flat_map(|v| cpu.download(v).unwrap()).map(f32::to_bits).collect()
    };
    let f16s = |v: &[f16]| (Dtype::F16, v.iter().flat_map(|v| v.to_le_bytes()).collect());
    let f32s = |v: &[f16]| (Dtype::F32, v.iter().flat_map(|v| v.to_f32().to_le_bytes()).collect());
    let half = run(&|_, v| f16s(v));
    assert!(half == run(&|_, v| f32s(v)), "f32");
    // Which weights are stacked with each other has no simple pattern in their order by name: two mixtures.
    assert!(half == run(&|i, v| if i % 2 == 0 { f16s(v) } else { f32s(v) }), "every second");
    assert!(half == run(&|i, v| if i % 3 == 0 { f16s(v) } else { f32s(v) }), "every third");

    let round = |v: &f16| bf16::from_f32(v.to_f32());
    let bf16s = |v: &[f16]| (Dtype::BF16, v.iter().flat_map(|v| round(v).to_le_bytes()).collect());
    let rounded = |v: &[f16]| (Dtype::F32, v.iter().flat_map(|v| round(v).to_f32().to_le_bytes()).collect());
    let brain = run(&|_, v| bf16s(v));
    assert!(brain == run(&|_, v| rounded(v)), "bf16");
    assert!(brain == run(&|i, v| if i % 2 == 0 { bf16s(v) } else { rounded(v) }), "bf16 and f32");
    assert!(brain != half);
}

/// Loads a changed UNet, which must fail with a message that has all of `parts`.
fn refuses(change: impl FnOnce(&mut Vec<Stored>), parts: &[&str]) {
    let dir = tampered("unet_flat", change);
    let source = Source::Dir(dir.path().to_path_buf());
    let config = UNetConfig::open(&source, "").unwrap();
    let error = match Unet::load(&Cpu::new(), &source.checkpoint("", None).unwrap(), &config) {
        Ok(_) => panic!("loaded"),
        Err(error) => error,
    };
    has_parts(&error, parts);
}

#[track_caller]
fn has_parts(error: &Error, parts: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Model);
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

const QUERY: &str = "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_q.weight";

#[test]
fn missing_tensor_is_named() {
    refuses(|t| t.retain(|t| t.name != QUERY), &[QUERY, "diffusion_pytorch_model.safetensors"]);
}

#[test]
fn surplus_tensor_is_named() {
    let extra =
        Stored { name: "mid_block.extra.weight".into(), dtype: Dtype::F16, shape: vec![2], data: vec![0; 4] };
    refuses(|t| t.push(extra), &["mid_block.extra.weight"]);
}

#[test]
fn misshapen_tensor_is_named_with_both_shapes() {
    let transpose = |t: &mut Vec<Stored>| {
        let found = t.iter_mut().find(|t| t.name == QUERY).unwrap();
        found.shape = vec![found.shape[0] * 2, found.shape[1] / 2];
    };
    refuses(transpose, &[QUERY, "[32, 8]", "[16, 16]", "diffusion_pytorch_model.safetensors"]);
}

#[test]
fn value_that_is_not_finite_is_named() {
    let poison = |t: &mut Vec<Stored>| {
        let found = t.iter_mut().find(|t| t.name == QUERY).unwrap();
        found.data[6..8].copy_from_slice(&[0x00, 0x7e]);
    };
    refuses(poison, &[QUERY, "NaN", "element 3"]);
}

#[test]
fn unknown_block_is_named() {
    let text = std::fs::read_to_string(folder("unet_flat").join("config.json")).unwrap();
    let text = text.replace("CrossAttnDownBlock2D", "KDownBlock2D");
    has_parts(
        &UNetConfig::parse("config.json", text.as_bytes()).unwrap_err(),
        &["KDownBlock2D", "down_block_types"],
    );
}

#[test]
fn parts_of_different_models_are_refused() {
    let meter = Meter::new();
    let tensor = |shape| meter.zeros(shape).unwrap();
    let flat = unet_of(&meter, "unet_flat").unwrap();
    let refused = |r: Result<Conditioning>| r.err().expect("refused");
    let wide = refused(flat.condition(&meter, &tensor(Shape::new(1, 1, 7, 99)), None, None));
    has_parts(&wide, &["99 features", "cross_attention_dim is 24"]);
    let xl = unet_of(&meter, "unet_sdxl").unwrap();
    let text = tensor(Shape::new(1, 1, 7, 20));
    has_parts(&refused(xl.condition(&meter, &text, None, None)), &["text_time"]);
    let pooled = tensor(Shape::rows(1, 11));
    let added = Some(Added { pooled: &pooled, time_ids: [64.0; 6] });
    has_parts(&refused(xl.condition(&meter, &text, added, None)), &["projection_class_embeddings_input_dim"]);
}

#[test]
fn tokens_beyond_the_vocabulary_or_the_context_are_refused() {
    let meter = Meter::new();
    let source = Source::Dir(folder("text_new"));
    let config = ClipTextConfig::open(&source, "").unwrap();
    let text = ClipText::load(&meter, &source.checkpoint("", None).unwrap(), &config, false).unwrap();
    has_parts(&text.run(&meter, &[vec![58, 60]]).err().unwrap(), &["token 60"]);
    has_parts(&text.run(&meter, &[vec![58; 11]]).err().unwrap(), &["11 tokens", "takes 10"]);
}
