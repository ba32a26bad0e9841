//! LoRA files against diffusers: what it fuses (`tools/golden/lora.py`) is what is read here, weight for
//! weight, and no other weight changes. Every file that does not fit is refused with its name and the
//! tensor's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use das_cuda::ErrorKind;
use das_cuda::model::checkpoint::Checkpoint;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::lora::{Lora, Spec};
use half::f16;
use safetensors::tensor::{TensorView, serialize_to_file};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

const COMPONENTS: [&str; 3] = ["unet", "text_encoder", "text_encoder_2"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A tensor of f32: its name, sizes and values.
type Tensor = (String, Vec<usize>, Vec<f32>);

fn write(path: &Path, tensors: &[Tensor]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, dims, _), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, dims.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// A pipeline of the golden files, its weights widened to f32 if `wide`. Tokenizers are not read.
fn model(name: &str, wide: bool) -> TempDir {
    let (from, dir) = (golden("models").join(name), tempfile::tempdir().unwrap());
    fs::copy(from.join("model_index.json"), dir.path().join("model_index.json")).unwrap();
    for entry in fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        let to = dir.path().join(entry.file_name().unwrap());
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(&entry).unwrap().map(|file| file.unwrap().path()) {
            let target = to.join(file.file_name().unwrap());
            if !wide || file.extension().is_none_or(|ending| ending != "safetensors") {
                fs::copy(&file, target).unwrap();
                continue;
            }
            let bytes = fs::read(&file).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let widened: Vec<Tensor> = tensors
                .iter()
                .map(|(name, view)| {
                    assert_eq!(view.dtype(), Dtype::F16);
                    let halves =
                        view.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
                    (name.to_string(), view.shape().to_vec(), halves.collect())
                })
                .collect();
            write(&target, &widened);
        }
    }
    for tokenizer in ["tokenizer", "tokenizer_2"] {
        fs::create_dir(dir.path().join(tokenizer)).unwrap();
        fs::write(dir.path().join(tokenizer).join("merges.txt"), "").unwrap();
    }
    dir
}

fn open(path: &Path, weight: f64) -> das_cuda::Result<Lora> {
    Lora::open(&Spec { path: path.to_path_buf(), weight })
}

/// All weights of the components that can be adapted, as `component/tensor`.
fn weights(dir: &Path, loras: Vec<Lora>) -> das_cuda::Result<BTreeMap<String, Vec<f32>>> {
    let folder = ModelFolder::open(dir, None)?.with_loras(loras)?;
    let mut all = BTreeMap::new();
    for component in COMPONENTS.into_iter().filter(|name| folder.parts().class(name).is_some()) {
        let checkpoint = folder.checkpoint(component)?;
        let root = checkpoint.root();
        for name in checkpoint.names() {
            let view = root.tensor(name, root.dims(name).unwrap())?;
            let short = name.strip_prefix("text_model.").unwrap_or(name);
            all.insert(format!("{component}/{short}"), view.data().to_f32().into_owned());
        }
    }
    Ok(all)
}

/// Largest difference, by the largest value of the tensor.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0.0_f32, |most, (x, y)| most.max((x - y).abs())) / largest
}

/// Every file against what diffusers makes of it. Measured: at most 2e-7, a few roundings of 2^-24.
#[test]
fn merged_weights_are_those_that_diffusers_fuses() {
    let fused = Checkpoint::open(&golden("lora/fused.safetensors"), None).unwrap();
    let (sd, xl) = (model("pipeline_sd", true), model("pipeline_sdxl", true));
    let cases = [
        ("peft", &sd, 0.7),
        ("diffusers", &sd, -1.25),
        ("processor", &sd, 1.0),
        ("dora", &sd, 0.6),
        ("kohya", &sd, 0.8),
        ("kohya_xl", &xl, 1.0),
    ];
    for (name, dir, weight) in cases {
        let before = weights(dir.path(), Vec::new()).unwrap();
        let lora = open(&golden(&format!("lora/{name}.safetensors")), weight).unwrap();
        let after = weights(dir.path(), vec![lora]).unwrap();
        let place = format!("{name}/");
        let expected: Vec<&str> = fused.names().filter_map(|key| key.strip_prefix(&place)).collect();
        assert!(expected.len() >= 3, "{name}: {expected:?}");
        let root = fused.root();
        let mut worst = 0.0_f32;
        for key in &expected {
            let full = format!("{place}{key}");
            let view = root.tensor(&full, root.dims(&full).unwrap()).unwrap();
            let truth = view.data().to_f32();
            assert!(distance(&before[*key], &truth) > 1e-3, "{full}: the file changes it");
            let error = distance(&after[*key], &truth);
            assert!(error < 1e-6, "{full}: {error:.1e}");
            worst = worst.max(error);
        }
        println!("{name:10} {worst:.1e}");
        let changed: Vec<&str> =
            after.iter().filter(|(key, w)| before[*key] != **w).map(|(key, _)| key.as_str()).collect();
        assert_eq!(changed, expected, "{name}: nothing else changes");
    }
}

/// Weights of 16 bits are merged in f32 and rounded once, and files follow one another.
#[test]
fn sixteen_bits_are_rounded_once_and_loras_add_up() {
    let (narrow, wide) = (model("pipeline_sd", false), model("pipeline_sd", true));
    let loras = || {
        let file = |name: &str, weight| open(&golden(&format!("lora/{name}.safetensors")), weight).unwrap();
        vec![file("kohya", 0.5), file("diffusers", 0.25)]
    };
    let exact = weights(wide.path(), loras()).unwrap();
    let rounded = weights(narrow.path(), loras()).unwrap();
    for (key, values) in &exact {
        let once: Vec<f32> = values.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        assert_eq!(once, rounded[key], "{key}");
    }
    let one = weights(wide.path(), vec![loras().remove(0)]).unwrap();
    assert!(one.iter().any(|(key, values)| exact[key] != *values), "the second one counts");
}

const TO_K: &str = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k";

/// A LoRA of one layer, `to_k` of (16, 12), of these sizes.
fn of_one_layer(down: [usize; 2], up: [usize; 2]) -> Vec<Tensor> {
    let tensor =
        |end: &str, dims: [usize; 2]| (format!("{TO_K}.{end}"), dims.to_vec(), vec![0.5; dims[0] * dims[1]]);
    vec![tensor("lora_down.weight", down), tensor("lora_up.weight", up)]
}

/// The factor of a layer is its own alpha by its rank, whatever the other layers have.
#[test]
fn every_layer_counts_by_its_own_alpha() {
    let sd = model("pipeline_sd", true);
    let merged = |tensors: &[Tensor], weight| {
        let file = sd.path().join("alphas.safetensors");
        write(&file, tensors);
        weights(sd.path(), vec![open(&file, weight).unwrap()]).unwrap()
    };
    let layer = |place: &str, rank: usize, alpha: Option<f32>| {
        let renamed = |(name, dims, values): Tensor| (name.replace("attn2_to_k", place), dims, values);
        let mut tensors: Vec<Tensor> =
            of_one_layer([rank, 12], [16, rank]).into_iter().map(renamed).collect();
        let name = format!("{TO_K}.alpha").replace("attn2_to_k", place);
        tensors.extend(alpha.map(|alpha| (name, Vec::new(), vec![alpha])));
        tensors
    };
    let both = [layer("attn2_to_k", 2, Some(0.5)), layer("attn2_to_v", 4, Some(2.0))].concat();
    let both = merged(&both, 1.0);
    // Powers of two: a factor is exact wherever it is multiplied in.
    for (place, rank, factor) in [("attn2_to_k", 2, 0.25), ("attn2_to_v", 4, 0.5)] {
        let alone = merged(&layer(place, rank, None), factor);
        let end = place.replace('_', ".").replacen("to.", "to_", 1);
        let key = format!("unet/down_blocks.1.attentions.0.transformer_blocks.0.{end}.weight");
        assert_eq!(both[&key], alone[&key], "{key}");
        assert_ne!(both[&key], weights(sd.path(), Vec::new()).unwrap()[&key], "{key}");
    }
}

/// What loading says of these tensors.
fn refused(dir: &Path, tensors: &[Tensor], said: &[&str]) {
    let file = dir.join("bad.safetensors");
    write(&file, tensors);
    refused_file(dir, &file, said);
}

fn refused_file(dir: &Path, file: &Path, said: &[&str]) {
    let error = open(file, 1.0).and_then(|lora| weights(dir, vec![lora])).expect_err(said[0]);
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Model, "{text}");
    assert_eq!(error.option_name(), Some("lora"), "{text}");
    assert!(text.contains(&file.display().to_string()) && error.advice_text().is_some(), "{text}");
    for word in said {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_file_and_tensor() {
    let sd = model("pipeline_sd", true);
    let dir = sd.path();
    let with = |end: &str, dims: &[usize], values: Vec<f32>| {
        let mut tensors = of_one_layer([2, 12], [16, 2]);
        tensors.push((format!("{TO_K}.{end}"), dims.to_vec(), values));
        tensors
    };
    write(&dir.join("good.safetensors"), &of_one_layer([2, 12], [16, 2]));
    weights(dir, vec![open(&dir.join("good.safetensors"), 1.0).unwrap()]).unwrap();

    refused(dir, &of_one_layer([2, 12], [16, 3]), &["lora_up.weight has shape [16, 3]", "expected [16, 2]"]);
    refused(dir, &of_one_layer([2, 12], [8, 2]), &["lora_up.weight has shape [8, 2]", "attn2.to_k.weight"]);
    refused(
        dir,
        &of_one_layer([0, 12], [16, 0]),
        &["lora_down.weight has shape [0, 12]", "a rank of at least 1"],
    );
    refused(dir, &with("alpha", &[], vec![f32::NAN]), &["alpha", "NaN"]);
    refused(dir, &with("alpha", &[2], vec![1.0; 2]), &["alpha", "shape [2]", "one number"]);
    write(&dir.join("listed.safetensors"), &with("alpha", &[1], vec![1.0]));
    weights(dir, vec![open(&dir.join("listed.safetensors"), 1.0).unwrap()]).unwrap();
    refused(dir, &with("dora_scale", &[16, 1], vec![f32::INFINITY; 16]), &["dora_scale", "inf"]);
    refused(dir, &with("dora_scale", &[1, 12], vec![1.0; 12]), &["dora_scale has shape [1, 12]"]);
    refused(dir, &with("lora_mid.weight", &[2, 2], vec![1.0; 4]), &["lora_mid", "Tucker"]);
    refused(dir, &with("hada_w1_a", &[2], vec![1.0; 2]), &["hada_w1_a", "LoHa"]);
    refused(dir, &with("lora_A.weight", &[2, 12], vec![1.0; 24]), &["the same tensor"]);
    refused(dir, &of_one_layer([2, 12], [16, 2])[..1], &["lora_down.weight is there", "no lora_up"]);
    let mut overflowing = of_one_layer([2, 12], [16, 2]);
    overflowing.iter_mut().for_each(|(_, _, values)| values.fill(f32::MAX));
    refused(dir, &overflowing, &["weights that are not finite"]);
    // Finite in f32, and beyond the f16 of the model.
    let narrow = model("pipeline_sd", false);
    overflowing.iter_mut().for_each(|(_, _, values)| values.fill(1e3));
    refused(narrow.path(), &overflowing, &["bad.safetensors: merged into", "attn2.to_k.weight", "too large"]);
    let mut poisoned = of_one_layer([2, 12], [16, 2]);
    poisoned[0].2[5] = f32::NAN;
    refused(dir, &poisoned, &["lora_down.weight", "NaN (element 5)"]);
    let elsewhere: Vec<Tensor> = of_one_layer([2, 12], [16, 2])
        .into_iter()
        .map(|(name, dims, values)| (name.replace("blocks_1_", "blocks_7_"), dims, values))
        .collect();
    refused(dir, &elsewhere, &["2 tensors of layers", "down_blocks_7_attentions_0"]);
    refused(dir, &[], &["no tensors"]);
    refused_file(dir, &dir.join("absent.safetensors"), &["absent.safetensors: there is no such file"]);
    let folder = dir.join("folder");
    fs::create_dir(&folder).unwrap();
    refused_file(
        dir,
        &folder,
        &["folder: a folder without pytorch_lora_weights.safetensors", "`lora` a file"],
    );
    fs::write(folder.join("style.safetensors"), "").unwrap();
    refused_file(dir, &folder, &["a folder without", "style.safetensors"]);
    if cfg!(unix) {
        refused_file(dir, Path::new("/dev/zero"), &["this is a device, not a regular file"]);
    }
    let empty = dir.join("empty.safetensors");
    fs::write(&empty, "").unwrap();
    refused_file(dir, &empty, &["an empty file"]);
    // A header that promises more than the file has.
    let header = format!(
        r#"{{"{TO_K}.lora_down.weight":{{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}}}"#
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 16]);
    let huge = dir.join("huge.safetensors");
    fs::write(&huge, bytes).unwrap();
    refused_file(dir, &huge, &["not a whole safetensors file"]);
}

#[test]
fn a_lora_of_another_family_is_named() {
    let sd = model("pipeline_sd", true);
    let of_xl = golden("lora/kohya_xl.safetensors");
    refused_file(
        sd.path(),
        &of_xl,
        &["made for Stable Diffusion XL: ", "attn2_to_v", "28 features", "have 12"],
    );
    let wide = of_one_layer([2, 2048], [16, 2]);
    refused(sd.path(), &wide, &["made for Stable Diffusion XL: ", "attn2_to_k", "2048 features", "have 12"]);
    let xl = model("pipeline_sdxl", true);
    let narrow = of_one_layer([2, 768], [16, 2]);
    let families = "made for Stable Diffusion 1.x, and this model is Stable Diffusion XL: ";
    refused(xl.path(), &narrow, &[families, "768 features"]);
    let second = |end: &str, dims: [usize; 2]| {
        let name = format!("lora_te2_text_model_encoder_layers_0_self_attn_q_proj.{end}");
        (name, dims.to_vec(), vec![1.0; dims[0] * dims[1]])
    };
    let second = [second("lora_down.weight", [1, 12]), second("lora_up.weight", [12, 1])];
    refused(sd.path(), &second, &["made for Stable Diffusion XL", "text_encoder_2"]);
}
