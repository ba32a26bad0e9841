//! Checkpoints in a single file. The tables of `tests/golden/single_file` say how the original programs name
//! the tensors of the small pipelines; diffusers' `from_single_file` was held against them
//! (`tools/golden/single_file.py`), so a file made by a table must be, bit for bit, the folder it is made of.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::ddim::{Chain, Prediction, Schedule, SchedulerConfig, Spacing};
use das_cuda::hub::{Hub, Settings};
use das_cuda::meter::Meter;
use das_cuda::model::checkpoint::Checkpoint;
use das_cuda::model::config::UNetConfig;
use das_cuda::model::files::FileHash;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::original::Choices;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::tape::Tape;
use das_cuda::tensor::{HostSlice, Shape};
use das_cuda::{Device, ErrorKind, Result, Session};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// A tensor to be written.
#[derive(Clone)]
struct Stored {
    name: String,
    dtype: Dtype,
    dims: Vec<usize>,
    data: Vec<u8>,
}

fn zeros(name: &str, dims: &[usize]) -> Stored {
    let data = vec![0; 2 * dims.iter().product::<usize>()];
    Stored { name: name.to_string(), dtype: Dtype::F16, dims: dims.to_vec(), data }
}

fn write(path: &Path, tensors: &[Stored]) {
    let views = tensors
        .iter()
        .map(|t| (&t.name, TensorView::new(t.dtype, t.dims.clone(), &t.data).expect("a tensor")));
    safetensors::serialize_to_file(views, None, path).expect("written");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &to) } else { fs::copy(&path, &to).map(drop).expect("copied") }
    }
}

/// A folder of the tests with the tokenizer of the shipped model, and the tensors of the single file that
/// `table` makes of it.
struct Model {
    dir: tempfile::TempDir,
    tensors: Vec<Stored>,
}

impl Model {
    fn new(name: &str, table: &str) -> Model {
        let dir = tempfile::tempdir().expect("a temporary folder");
        copy(&golden("models").join(name), dir.path());
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/shapes/tokenizer");
        copy(&tokenizer, &dir.path().join("tokenizer"));
        if name.ends_with("xl") {
            copy(&tokenizer, &dir.path().join("tokenizer_2"));
        }
        let text = fs::read_to_string(golden("single_file").join(table)).expect("a table");
        let mut tensors: Vec<Stored> = Vec::new();
        for line in text.lines() {
            let [component, name, stored, how] = *line.split('\t').collect::<Vec<_>>() else {
                panic!("{line}")
            };
            let mut tensor = read(&dir.path().join(component), name);
            tensor.name = stored.to_string();
            if how == "transposed" {
                let [rows, c] = *tensor.dims else { panic!("{line}") };
                let size = tensor.data.len() / (rows * c);
                let at = |i: usize| tensor.data[i * size..(i + 1) * size].to_vec();
                tensor.data = (0..c).flat_map(|x| (0..rows).flat_map(move |y| at(y * c + x))).collect();
                tensor.dims = vec![c, rows];
            }
            // As ldm's autoencoder has them.
            if stored.contains(".attn_1.") && tensor.dims.len() == 2 {
                tensor.dims.extend([1, 1]);
            }
            match tensors.iter_mut().find(|t| t.name == stored) {
                // Rows of a fused matrix, in the order of the table: key, query, value by name.
                Some(fused) => {
                    fused.dims[0] += tensor.dims[0];
                    let third: usize = how.strip_prefix("third ").expect(line).parse().expect(line);
                    let at = (third * tensor.data.len()).min(fused.data.len());
                    fused.data.splice(at..at, tensor.data);
                }
                None => tensors.push(tensor),
            }
        }
        assert!(tensors.len() > 300, "{}", tensors.len());
        Model { dir, tensors }
    }

    /// The single file with these changes, opened with the folder's configurations.
    fn single(&self, change: impl FnOnce(&mut Vec<Stored>)) -> Result<ModelFolder> {
        self.single_with(change, Choices::default())
    }

    fn single_with(&self, change: impl FnOnce(&mut Vec<Stored>), choices: Choices) -> Result<ModelFolder> {
        let mut tensors = self.tensors.clone();
        change(&mut tensors);
        let path = self.dir.path().join("file.safetensors");
        write(&path, &tensors);
        let config = Some(self.dir.path().to_path_buf());
        ModelFolder::open_with(&path, None, &Choices { config, ..choices })
    }

    fn folder(&self) -> ModelFolder {
        ModelFolder::open(self.dir.path(), None).expect("a folder")
    }
}

fn read(folder: &Path, name: &str) -> Stored {
    let file = ["diffusion_pytorch_model.safetensors", "model.safetensors"].map(|n| folder.join(n));
    let bytes = fs::read(file.iter().find(|f| f.is_file()).expect("weights")).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = file.tensor(name).expect(name);
    let (dtype, dims) = (tensor.dtype(), tensor.shape().to_vec());
    Stored { name: name.to_string(), dtype, dims, data: tensor.data().to_vec() }
}

/// Bits of the guided noise and of the decoded image, and the notes.
fn drawn(folder: &ModelFolder) -> (Vec<u32>, Vec<String>) {
    let cpu = Cpu::new();
    let pipeline = Pipeline::load(&cpu, folder).expect("a pipeline");
    let size = pipeline.size(Some(12), Some(20)).expect("a size");
    let values: Vec<f32> = (0..size.latent.len()).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = cpu.upload(size.latent, HostSlice::F32(&values)).expect("latents");
    let prompts = [Prompt { text: "a large red star", negative: Some("blurry") }];
    let encoded = pipeline.encode(&cpu, &prompts, size, 4.0, LongPrompts::Cut).expect("encoded");
    let rows = encoded.rows(&[0], true);
    let tape = Tape::off(&cpu);
    let eps =
        pipeline.unet.forward(&tape, &x.clone().into(), 500.0, &encoded.conditioning, &rows).expect("noise");
    let image = pipeline.decoder.decode(&tape, &x.into()).expect("an image");
    let values = [eps.value(), image.value()].map(|v| cpu.download(v).expect("values"));
    assert!(values.iter().flatten().all(|v| v.is_finite()));
    let bits = values.iter().flatten().map(|v| v.to_bits()).collect();
    (bits, pipeline.notes)
}

const TABLES: [(&str, &str); 3] = [
    ("pipeline_sd", "pipeline_sd.tsv"),
    ("pipeline_sd", "pipeline_sd2.tsv"),
    ("pipeline_sdxl", "pipeline_sdxl.tsv"),
];

#[test]
fn a_single_file_is_the_folder_bit_for_bit() {
    for (name, table) in TABLES {
        let model = Model::new(name, table);
        let folder = drawn(&model.folder()).0;
        let single = model.single(|_| {}).expect(table);
        assert!(drawn(&single).0 == folder, "{table}");
        // Of other weights something else comes.
        let other = model.single(|tensors| {
            let bias = tensors.iter_mut().find(|t| t.name.ends_with("out.2.bias")).expect("a bias");
            bias.data = vec![0; bias.data.len()];
        });
        assert!(drawn(&other.expect(table)).0 != folder, "{table}");
    }
}

#[test]
fn what_real_files_carry_beside_a_model_changes_nothing() {
    for (name, table) in TABLES {
        let model = Model::new(name, table);
        let (expected, before) = drawn(&model.single(|_| {}).expect(table));
        let extra = |tensors: &mut Vec<Stored>| {
            let text = tensors.iter().find(|t| t.name.contains("token_embedding")).expect("a text encoder");
            let (prefix, _) = text.name.split_once("token_embedding").expect("a prefix");
            let prefix = prefix.to_string();
            match prefix.strip_suffix("text_model.embeddings.") {
                Some(_) => tensors.push(zeros(&format!("{prefix}position_ids"), &[1, 32])),
                None => tensors.push(zeros(&format!("{prefix}logit_scale"), &[])),
            }
            tensors.extend([
                zeros("alphas_cumprod", &[1000]),
                zeros("model_ema.diffusion_modelout2bias", &[4]),
                zeros("first_stage_model.loss.logvar", &[]),
                zeros("optimizer_states.0.step", &[1]),
                zeros("mystery.weight", &[2, 2]),
            ]);
        };
        let (found, notes) = drawn(&model.single(extra).expect(table));
        assert!(found == expected, "{table}");
        let new: Vec<&String> = notes.iter().filter(|note| !before.contains(note)).collect();
        assert_eq!(new.len(), 2, "{new:?}");
        assert!(new[0].contains("1 averaged weights (model_ema) are not read"), "{new:?}");
        assert!(new[1].contains("1 of its tensors, such as mystery.weight"), "{new:?}");
    }
}

#[test]
fn clip_without_the_outer_name_is_the_same_encoder() {
    let model = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let old = model.single(|tensors| {
        tensors.iter_mut().for_each(|t| t.name = t.name.replace(".transformer.text_model.", ".transformer."));
    });
    assert!(drawn(&old.expect("opened")).0 == drawn(&model.folder()).0);
}

#[test]
fn another_autoencoder_takes_the_place_of_the_own_one_or_of_none() {
    let model = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let expected = drawn(&model.folder()).0;
    let without = |tensors: &mut Vec<Stored>| tensors.retain(|t| !t.name.starts_with("first_stage_model."));
    let error = model.single(without).expect_err("no autoencoder");
    assert_eq!((error.kind(), error.option_name()), (ErrorKind::Model, Some("vae")));
    assert!(error.to_string().contains("holds no autoencoder"), "{error}");

    // Its folder, the folder of a model, a file in either layout, a checkpoint that has one.
    let own: Vec<Stored> =
        model.tensors.iter().filter(|t| t.name.starts_with("first_stage_model.")).cloned().collect();
    let bare: Vec<Stored> =
        own.iter().map(|t| Stored { name: t.name.replace("first_stage_model.", ""), ..t.clone() }).collect();
    write(&model.dir.path().join("whole.safetensors"), &own);
    write(&model.dir.path().join("bare.safetensors"), &bare);
    for vae in ["vae", ""] {
        let choices = Choices { vae: Some(model.dir.path().join(vae)), ..Choices::default() };
        assert!(drawn(&model.single_with(without, choices).expect(vae)).0 == expected, "{vae}");
    }
    // A file has no configuration: 32 groups, which this small one is too narrow for.
    for vae in ["whole.safetensors", "bare.safetensors", "vae/diffusion_pytorch_model.safetensors"] {
        let choices = Choices { vae: Some(model.dir.path().join(vae)), ..Choices::default() };
        let opened = model.single_with(without, choices).expect(vae);
        let checkpoint = opened.checkpoint("vae").expect(vae);
        let names: Vec<&str> = checkpoint.names().collect();
        let folder = model.folder().checkpoint("vae").expect("weights");
        assert_eq!(names, folder.names().collect::<Vec<_>>(), "{vae}");
        let error = opened.parts().vae_config().expect_err("8 channels are no multiple of 32 groups");
        let text = error.to_string();
        assert!(text.contains("norm_num_groups 32") && text.contains("`vae` the folder of one"), "{error}");
    }
    // In a folder too.
    let choices = Choices { vae: Some(model.dir.path().join("vae")), ..Choices::default() };
    let replaced = ModelFolder::open_with(model.dir.path(), None, &choices).expect("a folder");
    assert!(drawn(&replaced).0 == expected);
    let choices = Choices { config: Some(model.dir.path().to_path_buf()), ..Choices::default() };
    let error = ModelFolder::open_with(model.dir.path(), None, &choices).expect_err("of a folder");
    assert_eq!((error.kind(), error.option_name()), (ErrorKind::Usage, Some("model_config")));
}

/// The tensors of the tiny autoencoder of the tests, those of its decoder under the numbers that its author
/// gave them, behind `prefix`: one more than those of diffusers.
fn tiny(prefix: &str) -> Vec<Stored> {
    let folder = golden("models/vae_tiny");
    let file = Checkpoint::open(&folder, None).expect("weights");
    let number = |name: &str| {
        let (number, rest) = name.strip_prefix("decoder.layers.")?.split_once('.')?;
        Some(format!("{prefix}{}.{rest}", number.parse::<usize>().ok()? + 1))
    };
    let stored = |name: &str| Some(Stored { name: number(name)?, ..read(&folder, name) });
    file.names().filter_map(stored).collect()
}

#[test]
fn a_tiny_autoencoder_is_the_same_under_all_its_names() {
    let model = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let place = |name: &str| model.dir.path().join(name);
    let folder = golden("models/vae_tiny");
    write(&place("taesd_decoder.safetensors"), &tiny(""));
    write(
        &place("whole.safetensors"),
        &[tiny("decoder."), vec![zeros("encoder.0.weight", &[8, 3, 3, 3])]].concat(),
    );
    let comfy = [zeros("taesd_encoder.0.weight", &[8, 3, 3, 3]), zeros("vae_scale", &[])];
    write(&place("comfy.safetensors"), &[tiny("taesd_decoder."), comfy.to_vec()].concat());

    let own = drawn(&model.folder());
    let with = |vae: PathBuf, path: &Path| {
        let config = path.is_file().then(|| model.dir.path().to_path_buf());
        let choices = Choices { vae: Some(vae), config, ..Choices::default() };
        ModelFolder::open_with(path, None, &choices).map(|folder| drawn(&folder))
    };
    let single = place("single.safetensors");
    write(&single, &model.tensors);
    let (expected, notes) = with(folder.clone(), model.dir.path()).expect("a tiny autoencoder");
    assert!(expected != own.0);
    let said = |notes: &[String]| notes.iter().any(|note| note.contains("approximations"));
    assert!(said(&notes) && !said(&own.1), "{notes:?}");
    for vae in [
        folder.clone(),
        folder.join("diffusion_pytorch_model.safetensors"),
        place("taesd_decoder.safetensors"),
        place("whole.safetensors"),
        place("comfy.safetensors"),
    ] {
        for path in [model.dir.path(), &single] {
            let (found, notes) = with(vae.clone(), path).expect("a tiny autoencoder");
            assert!(found == expected && said(&notes), "{} in {}", vae.display(), path.display());
        }
    }

    // As the autoencoder of a folder, where another can take its place again.
    let other = tempfile::tempdir().expect("a temporary folder");
    copy(model.dir.path(), other.path());
    fs::remove_dir_all(other.path().join("vae")).expect("removed");
    copy(&folder, &other.path().join("vae"));
    let index = fs::read_to_string(other.path().join("model_index.json")).expect("an index");
    fs::write(other.path().join("model_index.json"), index.replace("AutoencoderKL", "AutoencoderTiny"))
        .expect("written");
    let found = drawn(&ModelFolder::open(other.path(), None).expect("a folder"));
    assert!(found.0 == expected && said(&found.1), "{:?}", found.1);
    assert!(with(place("vae"), other.path()).expect("a folder").0 == own.0);
    // A file of weights alone gets the factor of the family, not that of the tiny one.
    let bare: Vec<Stored> =
        model.tensors.iter().filter(|t| t.name.starts_with("first_stage_model.")).cloned().collect();
    write(&place("bare.safetensors"), &bare);
    let choices = Choices { vae: Some(place("bare.safetensors")), ..Choices::default() };
    let opened = ModelFolder::open_with(other.path(), None, &choices).expect("a folder");
    let config = opened.source().read("vae/config.json").expect("a configuration");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["scaling_factor"], 0.18215);
}

#[test]
fn tiny_autoencoders_that_cannot_be_run_are_refused_by_what_they_are() {
    let model = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let file = model.dir.path().join("taesd.safetensors");
    let refused = |words: &[&str]| {
        let choices = Choices { vae: Some(file.clone()), ..Choices::default() };
        let opened = ModelFolder::open_with(model.dir.path(), None, &choices);
        let error = opened.and_then(|folder| Pipeline::load(&Cpu::new(), &folder).map(drop));
        let error = error.expect_err(words[0]);
        assert_eq!(error.kind(), ErrorKind::Model);
        let text = error.to_string();
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?} is not in: {text}"));
    };
    let fails = |tensors: &[Stored], words: &[&str]| {
        write(&file, tensors);
        refused(words);
    };
    for prefix in ["", "encoder.", "taesd_encoder.", "encoder.layers."] {
        let tensors =
            ["0.weight", "1.conv.0.weight"].map(|name| zeros(&format!("{prefix}{name}"), &[8, 3, 3, 3]));
        fails(&tensors, &["taesd.safetensors", "the encoder of a tiny autoencoder", "`vae` the decoder"]);
    }
    let change = |name: &str, change: &dyn Fn(&mut Stored)| {
        let mut tensors = tiny("");
        change(tensors.iter_mut().find(|t| t.name == name).expect(name));
        tensors
    };
    let sixteen = change("1.weight", &|t| *t = zeros("1.weight", &[8, 16, 3, 3]));
    fails(
        &sixteen,
        &[
            "taesd.safetensors: the autoencoder has 16 latent channels, but the UNet takes and makes 4",
            "`vae`",
        ],
    );
    let gray = change("8.weight", &|t| *t = zeros("8.weight", &[1, 8, 3, 3]));
    fails(&gray, &["out_channels is 1, but images have 3"]);
    let broken = change("3.conv.2.bias", &|t| t.data[..2].copy_from_slice(&0x7e00_u16.to_le_bytes()));
    fails(&broken, &["3.conv.2.bias", "NaN"]);
    let narrow = change("3.conv.2.weight", &|t| *t = zeros("3.conv.2.weight", &[8, 4, 3, 3]));
    fails(&narrow, &["3.conv.2.weight", "[8, 4, 3, 3]", "expected [8, 8, 3, 3]"]);
    for missing in ["1.bias", "3.conv.4.weight", "6.weight", "8.weight", "8.bias"] {
        let tensors: Vec<Stored> = tiny("").into_iter().filter(|t| t.name != missing).collect();
        fails(&tensors, &["taesd.safetensors"]);
    }
    let surplus = [tiny(""), vec![zeros("40.weight", &[2, 2])]].concat();
    fails(&surplus, &["1 tensor that the network does not have", "40.weight"]);
    fails(&[zeros("1.weight", &[8, 4])], &["no autoencoder of Stable Diffusion", "taesd"]);
    fails(&[zeros("1.weight", &[8, 4, 3, 3])], &["taesd.safetensors"]);
    fails(&[zeros("1.weight", &[0, 4, 3, 3])], &["taesd.safetensors", "no autoencoder"]);

    write(&file, &tiny(""));
    let bytes = fs::read(&file).expect("read");
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..length]).expect("written");
        refused(&["taesd.safetensors"]);
    }
}

/// What the schedule says that the UNet of `model` predicts.
fn predicts(model: &Result<ModelFolder>) -> Prediction {
    let model = model.as_ref().expect("a model");
    model.parts().scheduler().expect("a scheduler").config.prediction_type
}

#[test]
fn what_the_unet_predicts_is_told_by_the_user_or_by_the_file() {
    let xl = Model::new("pipeline_sdxl", "pipeline_sdxl.tsv");
    let own = |change: fn(&mut Vec<Stored>), prediction| {
        let mut tensors = xl.tensors.clone();
        change(&mut tensors);
        let path = xl.dir.path().join("own.safetensors");
        write(&path, &tensors);
        ModelFolder::open_with(&path, None, &Choices { prediction, ..Choices::default() })
    };
    assert_eq!(predicts(&own(|_| {}, None)), Prediction::Epsilon);
    assert_eq!(predicts(&own(|_| {}, Some(Prediction::VPrediction))), Prediction::VPrediction);
    let velocity = own(|t| t.push(zeros("v_pred", &[0])), None);
    assert_eq!(predicts(&velocity), Prediction::VPrediction);
    let zero_snr = own(|t| t.extend([zeros("v_pred", &[0]), zeros("ztsnr", &[0])]), None).expect("a model");
    assert!(zero_snr.parts().scheduler().expect("a scheduler").config.rescale_betas_zero_snr);

    // For 2.x the weights are asked, and the user is told.
    let two = Model::new("pipeline_sd", "pipeline_sd2.tsv");
    for (spread, expected) in [(0.01f32, Prediction::Epsilon), (1.0, Prediction::VPrediction)] {
        let mut tensors = two.tensors.clone();
        let last = |t: &&mut Stored| {
            t.name == "model.diffusion_model.output_blocks.1.1.transformer_blocks.0.norm1.bias"
        };
        let bias = tensors.iter_mut().find(last).expect("the last transformer");
        let sign = |i: usize| half::f16::from_f32(if i.is_multiple_of(2) { spread } else { -spread });
        bias.data = (0..bias.dims[0]).flat_map(|i| sign(i).to_le_bytes()).collect();
        let path = two.dir.path().join("own.safetensors");
        write(&path, &tensors);
        assert_eq!(predicts(&ModelFolder::open(&path, None)), expected);
    }
    // In a folder.
    let choices = Choices { prediction: Some(Prediction::Epsilon), ..Choices::default() };
    assert_eq!(predicts(&Ok(two.folder())), Prediction::VPrediction);
    assert_eq!(predicts(&ModelFolder::open_with(two.dir.path(), None, &choices)), Prediction::Epsilon);
}

/// The chains by which distillations are sampled are those that tests/golden/ddim.json compares with
/// diffusers, for a file and for a folder.
#[test]
fn a_chain_that_is_asked_for_takes_the_place_of_the_files_own() {
    let one = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let path = one.dir.path().join("own.safetensors");
    write(&path, &one.tensors);
    for path in [path.as_path(), one.dir.path()] {
        let config = |scheduler| {
            let choices = Choices { scheduler, ..Choices::default() };
            let model = ModelFolder::open_with(path, None, &choices).expect("a model");
            model.parts().scheduler().expect("a scheduler").config
        };
        let chain = |config: &SchedulerConfig| Schedule::new(config, 4, 1.0).expect("a chain");
        let own = config(None);
        let lcm = config(Some(Chain::Lcm));
        let expected = SchedulerConfig { kind: SchedulerConfig::lcm().kind, ..own.clone() };
        assert_eq!(chain(&lcm), chain(&expected), "{}", path.display());
        assert_eq!(chain(&lcm).timesteps(), [999, 759, 499, 259]);
        if path.is_file() {
            assert_eq!(chain(&lcm), chain(&SchedulerConfig::lcm()), "the betas of Stable Diffusion");
        }
        let trailing = config(Some(Chain::DdimTrailing));
        assert_eq!(trailing, SchedulerConfig { timestep_spacing: Spacing::Trailing, ..own.clone() });
        assert_eq!(chain(&trailing).timesteps(), [999, 749, 499, 249]);
        assert_ne!(chain(&own), chain(&trailing));
    }
}

/// What is chosen changes the scheduler's file of the folder that gives the configurations; it does not take
/// its place.
#[test]
fn a_choice_changes_the_configuration_that_was_given() {
    let one = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let path = one.dir.path().join("own.safetensors");
    write(&path, &one.tensors);
    let scheduler = |path: &Path, choices: Choices| {
        let model = ModelFolder::open_with(path, None, &choices).expect("a model");
        model.parts().scheduler().expect("a scheduler").config
    };
    // Betas that no family has.
    let file = one.dir.path().join("scheduler/scheduler_config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    config["beta_end"] = json!(0.015);
    config["prediction_type"] = json!("v_prediction");
    config["rescale_betas_zero_snr"] = json!(true);
    fs::write(&file, config.to_string()).expect("written");
    let choices = [
        (Some(Prediction::Epsilon), None),
        (None, Some(Chain::Lcm)),
        (None, Some(Chain::DdimTrailing)),
        (Some(Prediction::Sample), Some(Chain::Lcm)),
        (None, None),
    ];
    for (prediction, chain) in choices {
        let of = |config| Choices { prediction, scheduler: chain, config, ..Choices::default() };
        let single = scheduler(&path, of(Some(one.dir.path().to_path_buf())));
        assert_eq!(single, scheduler(one.dir.path(), of(None)), "{prediction:?} {chain:?}");
        assert!(single.beta_end == 0.015 && single.rescale_betas_zero_snr);
    }
}

/// Trainers mark what a file predicts in the file itself: a configuration that was made for another one is
/// overruled, and the user is told.
#[test]
fn what_a_file_says_of_itself_counts_before_a_configuration() {
    let one = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let file = one.dir.path().join("scheduler/scheduler_config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    let mut opened = |theirs: &str, marks: &[&str], prediction| {
        config["prediction_type"] = json!(theirs);
        fs::write(&file, config.to_string()).expect("written");
        let mark = |tensors: &mut Vec<Stored>| tensors.extend(marks.iter().map(|name| zeros(name, &[0])));
        let model = one.single_with(mark, Choices { prediction, ..Choices::default() }).expect("a model");
        let notes = Pipeline::load(&Meter::new(), &model).expect("a pipeline").notes;
        (model.parts().scheduler().expect("a scheduler").config, notes)
    };
    let usual = opened("epsilon", &[], None).1;
    let mut told = |theirs: &str, marks: &[&str], prediction| {
        let (config, notes) = opened(theirs, marks, prediction);
        let new: Vec<String> = notes.into_iter().filter(|note| !usual.contains(note)).collect();
        (config, new)
    };
    let (config, notes) = told("epsilon", &["v_pred"], None);
    assert_eq!((config.prediction_type, config.rescale_betas_zero_snr), (Prediction::VPrediction, false));
    let [note] = notes.as_slice() else { panic!("{notes:?}") };
    for word in
        ["file.safetensors: v_pred", "v_prediction", "scheduler_config.json says epsilon", "`prediction`"]
    {
        assert!(note.contains(word), "{word} is not in: {note}");
    }
    let (config, notes) = told("epsilon", &["v_pred", "ztsnr"], None);
    assert_eq!((config.prediction_type, config.rescale_betas_zero_snr), (Prediction::VPrediction, true));
    assert_eq!((config.timestep_spacing, notes.len()), (Spacing::Trailing, 2));
    assert!(notes[1].contains("ztsnr") && notes[1].contains("rescale_betas_zero_snr true"), "{notes:?}");
    // The user knows best; and where both say the same, nothing is to be told.
    let (config, notes) = told("epsilon", &["v_pred"], Some(Prediction::Epsilon));
    assert_eq!((config.prediction_type, notes.len()), (Prediction::Epsilon, 0), "{notes:?}");
    let (config, notes) = told("v_prediction", &["v_pred"], None);
    assert_eq!((config.prediction_type, notes.len()), (Prediction::VPrediction, 0), "{notes:?}");
    // A file that says nothing overrules nothing.
    let (config, notes) = told("v_prediction", &[], None);
    assert_eq!((config.prediction_type, notes.len()), (Prediction::VPrediction, 0), "{notes:?}");
}

#[test]
fn a_file_of_another_kind_is_refused_by_its_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("x.safetensors");
    let refused = |tensors: &[Stored], what: &str| {
        write(&path, tensors);
        let error = ModelFolder::open(&path, None).expect_err(what);
        assert_eq!((error.kind(), error.option_name()), (ErrorKind::Model, Some("model")));
        assert!(error.to_string().contains(what), "{error}");
    };
    let unet = "model.diffusion_model.";
    for (name, what) in [
        ("double_blocks.0.img_attn.norm.key_norm.scale", "this is a Flux checkpoint"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "this is a Flux checkpoint"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "a Stable Diffusion 3 checkpoint"),
        ("lora_unet_down_blocks_0_attentions_0.lora_down.weight", "a LoRA"),
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "a LoRA"),
        ("control_model.time_embed.0.weight", "a ControlNet"),
        ("clip_txt_mapper.weight", "a Stable Cascade checkpoint"),
        ("encoder.conv_in.weight", "an autoencoder, no whole model"),
        ("emb_params", "a textual inversion"),
        ("model.diffusion_model.head.modulation", "a Wan checkpoint"),
        ("model_ema.diffusion_modelout2bias", "averaged weights (EMA) without the ordinary ones"),
        ("who.knows", "no checkpoint that is known; it holds who.knows"),
    ] {
        refused(&[zeros(name, &[2, 2])], what);
    }
    let first = |channels: usize| zeros(&format!("{unet}input_blocks.0.0.weight"), &[8, channels, 3, 3]);
    refused(&[first(9)], "an inpainting checkpoint");
    refused(&[first(8)], "InstructPix2Pix");
    refused(&[first(4)], "a UNet without its text encoder");
    refused(&[first(4), zeros("conditioner.embedders.0.model.ln_final.bias", &[4])], "the refiner of SDXL");
    refused(&[first(4), zeros("edm_mean", &[4])], "Playground v2.5");

    // Parts beside each other: what is missing is said, not what is there.
    let part = |name: &str| zeros(name, &[4]);
    let vae = || part("first_stage_model.decoder.conv_in.weight");
    let text = || part("cond_stage_model.transformer.text_model.final_layer_norm.bias");
    let averaged = || part("model_ema.diffusion_modelinput_blocks00weight");
    refused(&[first(4), vae()], "a UNet without its text encoder");
    refused(&[first(4), vae(), averaged()], "a UNet without its text encoder");
    refused(&[vae(), text(), averaged()], "averaged weights (EMA) without the ordinary ones");
    refused(&[vae(), text()], "an autoencoder, no whole model");
    refused(&[vae(), part("input_blocks.0.0.weight")], "a UNet without its text encoder");
    let bare = [vae(), text(), part("input_blocks.0.0.weight")];
    refused(&bare, "a checkpoint whose UNet has other names than model.diffusion_model.input_blocks.*");
    let [one, two] = ["0.transformer", "1.model"].map(|at| part(&format!("conditioner.embedders.{at}.bias")));
    refused(&[first(4), vae(), one], "Stable Diffusion XL without its second text encoder");
    refused(&[first(4), vae(), two], "Stable Diffusion XL without its first text encoder");
    let other = part("cond_stage_model.roberta.bias");
    refused(&[first(4), vae(), other], "a UNet with a text encoder that is not known");

    // Any name is bearable.
    refused(&[zeros("", &[4])], "it holds one tensor without a name");
    let long = "x".repeat(200_000);
    write(&path, &[zeros(&long, &[4])]);
    let error = ModelFolder::open(&path, None).expect_err("a name").to_string();
    assert!(error.contains("it holds xxx") && error.contains("x...") && error.len() < 1000, "{error}");
}

#[test]
fn configurations_of_another_family_are_refused() {
    let one = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let xl = Model::new("pipeline_sdxl", "pipeline_sdxl.tsv");
    let file = one.dir.path().join("own.safetensors");
    write(&file, &one.tensors);
    let refused = |config: &Path, words: &[&str]| {
        let choices = Choices { config: Some(config.to_path_buf()), ..Choices::default() };
        let error = ModelFolder::open_with(&file, None, &choices).expect_err(words[0]);
        assert_eq!((error.kind(), error.option_name()), (ErrorKind::Model, Some("model_config")), "{error}");
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "{word} is not in: {error}"));
    };
    let said = "a configuration of Stable Diffusion XL for a checkpoint of Stable Diffusion 1.x";
    refused(xl.dir.path(), &[said, "`model_config`"]);
    refused(&one.dir.path().join("nowhere"), &["nowhere: there is no such file or folder"]);
    refused(&file, &["own.safetensors: this is a file, where a folder is expected"]);
    refused(&one.dir.path().join("tokenizer"), &["no configuration of a model is there"]);
    let unet = one.dir.path().join("unet/config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(&unet).expect("read")).expect("JSON");
    config["cross_attention_dim"] = json!(1024);
    fs::write(&unet, config.to_string()).expect("written");
    refused(one.dir.path(), &["for texts of 1024 features", "(Stable Diffusion 1.x) takes 12"]);
}

/// A method that draws the model's own samples records some reward; the default one is not always there.
#[test]
fn a_default_reward_that_is_not_there_has_another_in_its_place() {
    let model = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let cache = tempfile::tempdir().expect("a temporary folder");
    let open = |reward: Option<&str>| {
        let settings = Settings {
            cache: cache.path().to_path_buf(),
            endpoint: String::new(),
            token: None,
            offline: true,
        };
        let builder = Session::builder().device(Device::Cpu).hub(Hub::new(settings)).model(model.dir.path());
        let reward = reward.map(|reward| reward.parse().expect("a reward"));
        reward.into_iter().fold(builder, |builder, reward| builder.reward(reward)).open()
    };
    let error = open(None).err().expect("no towers").to_string();
    assert!(error.contains("aesthetic") && error.contains("`reward` jpeg needs no file"), "{error}");
    let error = open(Some("aesthetic")).err().expect("no towers").to_string();
    assert!(error.contains("aesthetic") && !error.contains("jpeg"), "{error}");
    open(Some("jpeg")).expect("a session");
}

/// Opens the names and shapes of a published family, without its bytes: a file with a hole.
fn published(family: &str, dir: &Path) -> PathBuf {
    let packed = fs::read(golden("single_file").join(format!("{family}.txt.gz"))).expect("a list");
    let mut list = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut list).expect("text");
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for line in list.lines() {
        let (name, dims) = line.split_once(' ').expect("a name and sizes");
        let dims: Vec<usize> =
            dims.split('x').filter(|d| !d.is_empty()).map(|d| d.parse().expect(line)).collect();
        let begin = end;
        end += 2 * dims.iter().product::<usize>();
        header.insert(name.into(), json!({"dtype": "F16", "shape": dims, "data_offsets": [begin, end]}));
    }
    assert!(header.len() > 1000);
    let header = serde_json::Value::Object(header).to_string().into_bytes();
    let path = dir.join(format!("{family}.safetensors"));
    let mut file = File::create(&path).expect("a file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(&header).expect("written");
    file.set_len((8 + header.len() + end) as u64).expect("a hole");
    path
}

#[test]
fn published_families_have_their_published_configurations() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let two = json!({
        "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true, "sample_size": 64
    });
    for (family, unet, widths, layers, scaling) in [
        (
            "sd1",
            json!({"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8,
                "sample_size": 64}),
            vec![(768, 12, 12, 3072)],
            2,
            0.18215,
        ),
        ("sd2", two, vec![(1024, 23, 16, 4096)], 2, 0.18215),
        (
            "sdxl",
            json!({
                "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
                "attention_head_dim": [5, 10, 20], "use_linear_projection": true, "sample_size": 128,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816
            }),
            vec![(768, 12, 12, 3072), (1280, 32, 20, 5120)],
            2,
            0.13025,
        ),
    ] {
        let path = published(family, dir.path());
        let folder = ModelFolder::open(&path, None).expect(family);
        let expected =
            UNetConfig::parse("config.json", unet.to_string().as_bytes()).expect("a configuration");
        assert_eq!(folder.parts().unet_config().expect(family), expected);
        let vae = folder.parts().vae_config().expect(family);
        assert_eq!((vae.block_out_channels, vae.layers_per_block), (vec![128, 256, 512, 512], layers));
        assert_eq!(vae.scaling_factor, scaling as f32);
        for (nth, &(width, layers, heads, inner)) in widths.iter().enumerate() {
            let component = ["text_encoder", "text_encoder_2"][nth];
            let text = folder.parts().text_config(component).expect(family);
            assert_eq!(
                (text.hidden_size, text.layers, text.heads, text.intermediate_size),
                (width, layers, heads, inner)
            );
            assert_eq!((text.vocab_size, text.max_positions), (49408, 77));
        }
        let scheduler = folder.parts().scheduler().expect(family);
        let stable = SchedulerConfig::stable_diffusion();
        assert_eq!(scheduler.config, SchedulerConfig { set_alpha_to_one: false, ..stable }, "{family}");
        // Every tensor has its place: the networks find all, and nothing is left over.
        let text = folder.checkpoint("text_encoder").expect(family);
        assert!(text.names().all(|name| name.starts_with("text_model.")), "{family}");
    }
}

#[test]
fn the_tokenizer_inside_the_program_is_that_of_clip() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = ModelFolder::open(&published("sdxl", dir.path()), None).expect("a model");
    // Known from OpenAI's program and from transformers.
    let cat = [49406, 320, 1125, 539, 320, 2368, 49407];
    for (component, padding) in [("tokenizer", 49407), ("tokenizer_2", 0)] {
        let tokenizer = folder.tokenizer(component, 77).expect("a tokenizer");
        let ids = tokenizer.encode("a photo of a cat").ids;
        assert_eq!(ids[..7], cat);
        assert!(ids.len() == 77 && ids[7..].iter().all(|&id| id == padding), "{ids:?}");
        assert_eq!(tokenizer.largest_id(), 49407);
    }
}

#[test]
fn the_file_is_hashed_once_with_what_was_made_for_it() {
    let model = Model::new("pipeline_sdxl", "pipeline_sdxl.tsv");
    let folder = model.single(|_| {}).expect("a model");
    let hashes = folder.hashes().expect("hashes");
    let file = |name: &str| -> Vec<&FileHash> { hashes.iter().filter(|h| h.path == name).collect() };
    let length = fs::metadata(model.dir.path().join("file.safetensors")).expect("a file").len();
    assert_eq!(file("file.safetensors").len(), 1);
    assert_eq!(file("file.safetensors")[0].bytes, length);
    assert_eq!((file("unet/config.json").len(), file("tokenizer_2/vocab.json").len()), (1, 1));
    assert!(hashes.iter().all(|h| h.path == "file.safetensors" || !h.path.ends_with(".safetensors")));
}

/// As a download of the hub lies in its cache.
#[test]
fn a_file_in_a_repository_is_a_single_file() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let model = Model::new("pipeline_sd", "pipeline_sd.tsv");
    let cache = tempfile::tempdir().expect("a temporary folder");
    let repository = |name: &str| {
        let folder = cache.path().join(name);
        fs::create_dir_all(folder.join("refs")).expect("a folder");
        fs::write(folder.join("refs/main"), COMMIT).expect("written");
        folder.join("snapshots").join(COMMIT)
    };
    copy(model.dir.path(), &repository("models--tiny--folder"));
    copy(&model.dir.path().join("vae"), &repository("models--tiny--vae"));
    let single = repository("models--tiny--single");
    fs::create_dir_all(&single).expect("a folder");
    write(&single.join("file.safetensors"), &model.tensors);
    let hub = || {
        let cache = cache.path().to_path_buf();
        Hub::new(Settings { cache, endpoint: String::new(), token: None, offline: true })
    };
    let open = |model: &str, vae: &str| {
        let builder =
            Session::builder().device(Device::Cpu).hub(hub()).reward("jpeg".parse().expect("a reward"));
        builder.model(model).vae(vae).model_config("tiny/folder").open()
    };
    for vae in ["tiny/vae", "tiny/folder"] {
        let session = open("tiny/single/file.safetensors", vae).expect(vae);
        assert_eq!(drawn(session.folder()).0, drawn(&model.folder()).0, "{vae}");
        let names: Vec<String> = session.repositories().into_iter().map(|used| used.name).collect();
        assert!(names.contains(&"tiny/single".into()) && names.contains(&"tiny/folder".into()), "{names:?}");
    }
    let fails = |vae: &str, says: &str| {
        let error = open("tiny/single/file.safetensors", vae).err().expect(vae).to_string();
        assert!(error.contains(says), "{says} is not in: {error}");
    };
    fails("tiny/absent", "tiny/absent: there is no such file or folder here");
    // A configuration made for an autoencoder by itself has the groups of the published ones.
    fails("tiny/single/file.safetensors", "is no multiple of norm_num_groups");
}

#[test]
fn damaged_layouts_say_what_is_wrong() {
    let xl = Model::new("pipeline_sdxl", "pipeline_sdxl.tsv");
    let fails = |change: &dyn Fn(&mut Vec<Stored>), words: &[&str]| {
        let opened = xl.single(|tensors| change(tensors));
        let error = opened.and_then(|folder| Pipeline::load(&Cpu::new(), &folder).map(drop));
        let text = error.expect_err(words[0]).to_string();
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?} is not in: {text}"));
    };
    let second = "conditioner.embedders.1.model.";
    let without = |name: String| move |tensors: &mut Vec<Stored>| tensors.retain(|t| t.name != name);
    fails(&without(format!("{second}token_embedding.weight")), &["text encoder", second, "not complete"]);
    fails(
        &without("model.diffusion_model.middle_block.0.in_layers.2.weight".into()),
        &[
            "file.safetensors",
            "no tensor model.diffusion_model.middle_block.0.in_layers.2.weight (mid_block.resnets.0.conv1.weight)",
            "holds model.diffusion_model.middle_block.0.",
            "fix: the file is damaged",
        ],
    );
    fails(
        &|tensors| tensors.push(zeros("model.diffusion_model.adapter.weight", &[2])),
        &["1 tensor that the network does not have: model.diffusion_model.adapter.weight", "fix: the file"],
    );
    fails(
        &|tensors| {
            let fused = format!("{second}transformer.resblocks.0.attn.in_proj_bias");
            let bias = tensors.iter_mut().find(|t| t.name == fused).expect("a bias");
            *bias = zeros(&fused, &[bias.dims[0] - 1]);
        },
        &["in_proj_bias", "three blocks of rows"],
    );
    fails(
        &|tensors| {
            let conv = "model.diffusion_model.input_blocks.0.0.weight";
            let weight = tensors.iter_mut().find(|t| t.name == conv).expect("a convolution");
            weight.data[..2].copy_from_slice(&[0, 0x7c]);
        },
        &["input_blocks.0.0.weight (conv_in.weight)", "inf"],
    );
}

/// No more than the header of a file is read to open it, and weights are not copied whole.
#[test]
fn tensors_of_a_single_file_are_borrowed_from_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = ModelFolder::open(&published("sd1", dir.path()), None).expect("a model");
    let checkpoint: Checkpoint = folder.checkpoint("unet").expect("weights");
    let root = checkpoint.root();
    let view = root.tensor("conv_out.weight", &[4, 320, 3, 3]).expect("a tensor");
    assert_eq!(view.shape(), Shape::new(4, 320, 3, 3));
    assert!(matches!(view.data(), HostSlice::F16(_)));
}
