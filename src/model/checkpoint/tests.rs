use std::path::PathBuf;

use safetensors::tensor::TensorView as Written;
use tempfile::TempDir;

use super::*;
use crate::ErrorKind;

fn bytes_of(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, dims, data)| (*name, Written::new(*dtype, dims.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn f32s(name: &'static str, dims: &[usize], data: &[f32]) -> (&'static str, Dtype, Vec<usize>, Vec<u8>) {
    (name, Dtype::F32, dims.to_vec(), bytemuck::cast_slice(data).to_vec())
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn small() -> Vec<u8> {
    bytes_of(&[
        f32s("down_blocks.0.weight", &[2, 3], &[0., 1., 2., 3., 4., 5.]),
        f32s("down_blocks.0.bias", &[2], &[-1., 1.]),
    ])
}

#[track_caller]
fn fails(result: Result<impl fmt::Debug>, words: &[&str]) {
    let error = result.expect_err("must fail");
    assert_eq!(error.kind(), ErrorKind::Model);
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn a_tensor_is_read_by_walking_its_name() {
    let dir = folder(&[("diffusion_pytorch_model.safetensors", &small())]);
    let checkpoint = Checkpoint::open(dir.path(), None).unwrap();
    let w = checkpoint.root().at("down_blocks").at(0);
    let weight = w.tensor("weight", &[2, 3]).unwrap();
    assert_eq!(&*weight.data().to_f32(), [0., 1., 2., 3., 4., 5.]);
    assert_eq!(weight.shape(), Shape::rows(2, 3));
    assert_eq!(w.tensor("bias", &[2]).unwrap().shape(), Shape::vector(2));
    assert!(w.has("bias") && !w.has("gain"));
    assert_eq!(checkpoint.parameters(), 8);
    checkpoint.finish(&[]).unwrap();
}

#[test]
fn the_plain_file_comes_before_variants_unless_one_is_asked_for() {
    let name = |files: &[&str], variant| {
        let names: Vec<String> = files.iter().map(|s| s.to_string()).collect();
        choose(&names, variant).map(str::to_string)
    };
    let both = ["model.fp16.safetensors", "model.safetensors"];
    assert_eq!(name(&both, None).as_deref(), Some("model.safetensors"));
    assert_eq!(name(&both, Some("fp16")).as_deref(), Some("model.fp16.safetensors"));
    assert_eq!(name(&both[..1], None).as_deref(), Some("model.fp16.safetensors"));
    assert_eq!(name(&both[1..], Some("fp16")), None);
    assert_eq!(name(&["model.bin"], None), None);
    let pickled = ["pytorch_model.bin", "model.fp16.safetensors"];
    assert_eq!(name(&pickled, None).as_deref(), Some("model.fp16.safetensors"));
    assert_eq!(name(&pickled[..1], None).as_deref(), Some("pytorch_model.bin"));
    let index = ["diffusion_pytorch_model.safetensors.index.fp16.json"];
    assert_eq!(name(&index, None).as_deref(), Some(index[0]));
}

#[test]
fn a_variant_that_is_absent_is_an_error_that_names_what_is_there() {
    let dir = folder(&[("model.safetensors", &small())]);
    fails(Checkpoint::open(dir.path(), Some("fp16")), &["fp16", "model.safetensors", "ask for no variant"]);
}

#[test]
fn shards_are_found_through_their_index() {
    let one = bytes_of(&[f32s("a", &[1], &[1.])]);
    let two = bytes_of(&[f32s("b", &[1], &[2.])]);
    let index = br#"{"metadata":{},"weight_map":{"a":"s-1.safetensors","b":"s-2.safetensors"}}"#;
    let dir = folder(&[
        ("s-1.safetensors", &one),
        ("s-2.safetensors", &two),
        ("model.safetensors.index.json", index),
    ]);
    let checkpoint = Checkpoint::open(dir.path(), None).unwrap();
    assert_eq!(&*checkpoint.root().tensor("b", &[1]).unwrap().data().to_f32(), [2.]);
    assert_eq!(checkpoint.paths().count(), 2);

    std::fs::write(dir.path().join("s-2.safetensors"), &one).unwrap();
    fails(Checkpoint::open(dir.path(), None), &["s-2.safetensors", "tensor a is there twice"]);
    std::fs::write(dir.path().join("s-2.safetensors"), bytes_of(&[f32s("c", &[1], &[2.])])).unwrap();
    fails(Checkpoint::open(dir.path(), None), &["index.json", "1 tensor that no shard contains: b"]);
    std::fs::remove_file(dir.path().join("s-2.safetensors")).unwrap();
    fails(Checkpoint::open(dir.path(), None), &["s-2.safetensors", "not beside it"]);
}

#[test]
fn an_index_names_neighbours_and_never_paths() {
    let index = br#"{"weight_map":{"a":"../model.safetensors"}}"#;
    let dir = folder(&[("model.safetensors.index.json", index)]);
    fails(Checkpoint::open(dir.path(), None), &["../model.safetensors", "not beside it"]);
    let dir = folder(&[("model.safetensors.index.json", b"{\"weight_map\": 3}")]);
    fails(Checkpoint::open(dir.path(), None), &["model.safetensors.index.json", "not an index"]);
}

#[test]
fn a_file_cut_at_any_length_is_an_error_and_never_a_panic() {
    let whole = small();
    for length in 0..whole.len() {
        let dir = folder(&[("model.safetensors", &whole[..length])]);
        fails(Checkpoint::open(dir.path(), None), &["model.safetensors", "fix: "]);
    }
}

#[test]
fn a_file_with_any_byte_of_its_header_changed_is_an_error_or_is_read() {
    let whole = small();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for at in 0..header {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x15;
        let dir = folder(&[("model.safetensors", &bytes)]);
        if let Ok(checkpoint) = Checkpoint::open(dir.path(), None) {
            let _ = checkpoint.root().at("down_blocks").at(0).tensor("weight", &[2, 3]);
        }
    }
}

#[test]
fn what_is_not_safetensors_is_recognised() {
    for (bytes, word) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0"[..], "git lfs pull"),
        (b"<!doctype html><html></html>", "web page"),
        (b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "a damaged zip archive"),
        (b"\x80\x04\x95\0\0\0\0\0\0\0\0", "a pickle, but not one that torch.save wrote"),
        (b"", "an empty file"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "a GGUF file"),
    ] {
        let dir = folder(&[("model.safetensors", bytes)]);
        let error = Checkpoint::open(dir.path(), None).expect_err(word);
        // Who knows what it is has no use for why it is no safetensors file.
        let safetensors = |e: &(dyn std::error::Error + 'static)| e.is::<safetensors::SafeTensorError>();
        assert!(!std::error::Error::source(&error).is_some_and(safetensors), "{word}: {error:?}");
        fails(Err::<Checkpoint, _>(error), &["model.safetensors", word]);
    }
    let dir = folder(&[("model.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xffxxxxxxxxxx")]);
    let error = Checkpoint::open(dir.path(), None).expect_err("no weights");
    assert!(std::error::Error::source(&error).is_some(), "{error:?}");
    fails(Err::<Checkpoint, _>(error), &["model.safetensors", "cut short or damaged"]);
}

#[test]
fn lists_of_names_stay_short() {
    let long = "ä".repeat(1000);
    let names = vec![long.as_str(); 30];
    let text = some_of(&names);
    assert!(text.chars().count() < 8 * 130 && text.ends_with("ä... and 22 more"), "{text}");
    assert_eq!(cut("down_blocks.0"), "down_blocks.0");
}

#[test]
fn the_advice_about_weights_that_do_not_fit_knows_where_they_are_from() {
    let dir = folder(&[("model.safetensors", &small())]);
    let advice = || {
        let error = Checkpoint::open(dir.path(), None).unwrap().finish(&[]).unwrap_err();
        error.advice_text().unwrap_or_default().to_string()
    };
    assert!(advice().starts_with("the file is damaged or of another model"), "{}", advice());
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert!(advice().starts_with("config.json does not describe these weights"), "{}", advice());
}

#[test]
fn a_folder_without_weights_says_what_it_holds() {
    let dir = folder(&[("weights.bin", b"x")]);
    fails(Checkpoint::open(dir.path(), None), &["weights.bin", "full path"]);
    let dir = folder(&[("unet.safetensors", &small())]);
    fails(Checkpoint::open(dir.path(), None), &["unet.safetensors", "full path"]);
    let dir = folder(&[]);
    fails(Checkpoint::open(dir.path(), None), &["incomplete"]);
    fails(Checkpoint::open(&dir.path().join("unet"), None), &["unet", "check the path"]);
}

#[test]
fn a_wrong_shape_names_file_tensor_found_and_expected() {
    let checkpoint = Checkpoint::embedded("tiny.safetensors", small().leak()).unwrap();
    let w = checkpoint.root().at("down_blocks").at(0);
    fails(
        w.tensor("weight", &[3, 2]),
        &["tiny.safetensors", "down_blocks.0.weight", "[2, 3]", "expected [3, 2]", "F32"],
    );
}

#[test]
fn a_missing_tensor_names_what_is_there_instead() {
    let checkpoint = Checkpoint::embedded("tiny", small().leak()).unwrap();
    fails(
        checkpoint.root().at("down_blocks").at(0).tensor("gain", &[2]),
        &["no tensor down_blocks.0.gain", "\"down_blocks.0\" holds down_blocks.0.bias, down_blocks.0.weight"],
    );
    fails(
        checkpoint.root().at("up_blocks").at(3).tensor("gain", &[2]),
        &["the file holds down_blocks.0.bias"],
    );
}

#[test]
fn tensors_never_read_are_named_unless_declared() {
    let bytes = bytes_of(&[
        f32s("encoder.a", &[1], &[1.]),
        f32s("logit_scale", &[], &[1.]),
        f32s("x.position_ids", &[1], &[1.]),
        f32s("y", &[1], &[1.]),
    ]);
    let checkpoint = Checkpoint::embedded("tiny", bytes.leak()).unwrap();
    checkpoint.root().tensor("y", &[1]).unwrap();
    fails(checkpoint.finish(&[]), &["3 tensors", "encoder.a, logit_scale, x.position_ids"]);
    fails(checkpoint.finish(&["logit_scale", "*.position_ids"]), &["1 tensor that", "encoder.a"]);
    checkpoint.finish(&["logit_scale", "*.position_ids", "encoder.*"]).unwrap();
}

#[test]
fn every_float_type_is_read_and_others_are_refused() {
    let values = [1.5f32, -2.0, 0.25];
    let half: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
    let brain: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
    let double: Vec<f64> = values.iter().map(|&x| x.into()).collect();
    let bytes = bytes_of(&[
        ("f16", Dtype::F16, vec![3], bytemuck::cast_slice(&half).to_vec()),
        ("bf16", Dtype::BF16, vec![3], bytemuck::cast_slice(&brain).to_vec()),
        ("f64", Dtype::F64, vec![3], bytemuck::cast_slice(&double).to_vec()),
        f32s("f32", &[3], &values),
        ("i64", Dtype::I64, vec![1], vec![0; 8]),
    ]);
    let checkpoint = Checkpoint::embedded("tiny", bytes.leak()).unwrap();
    let w = checkpoint.root();
    for name in ["f16", "bf16", "f64", "f32"] {
        assert_eq!(&*w.tensor(name, &[3]).unwrap().data().to_f32(), values, "{name}");
    }
    assert!(matches!(w.tensor("f16", &[3]).unwrap().data(), HostSlice::F16(_)));
    assert!(matches!(w.tensor("bf16", &[3]).unwrap().data(), HostSlice::BF16(_)));
    fails(w.tensor("i64", &[1]), &["i64", "I64", "F32, F16, BF16 or F64"]);
}

#[test]
fn unaligned_bytes_read_the_same() {
    let whole = small();
    for shift in 0..4 {
        let mut bytes = vec![0; shift];
        bytes.extend(&whole);
        let bytes: &'static [u8] = bytes.leak();
        let checkpoint = Checkpoint::embedded("tiny", &bytes[shift..]).unwrap();
        let weight = checkpoint.root().tensor("down_blocks.0.weight", &[2, 3]).unwrap();
        assert_eq!(&*weight.data().to_f32(), [0., 1., 2., 3., 4., 5.]);
    }
}

#[test]
fn values_that_are_not_finite_are_named() {
    let mut long = vec![0f32; 600_000];
    long[555_555] = f32::NEG_INFINITY;
    let halves = [f16::ONE, f16::NAN];
    let brains = [bf16::INFINITY, bf16::MAX];
    let bytes = bytes_of(&[
        f32s("long", &[600_000], &long),
        ("half", Dtype::F16, vec![2], bytemuck::cast_slice(&halves).to_vec()),
        ("brain", Dtype::BF16, vec![2], bytemuck::cast_slice(&brains).to_vec()),
        f32s("largest", &[2], &[f32::MAX, f32::MIN]),
        ("wide", Dtype::F64, vec![2], bytemuck::cast_slice(&[1.0, -1e300]).to_vec()),
    ]);
    let checkpoint = Checkpoint::embedded("tiny", bytes.leak()).unwrap();
    let w = checkpoint.root();
    fails(w.tensor("long", &[600_000]), &["tensor long contains -inf (element 555555)"]);
    fails(w.tensor("half", &[2]), &["tensor half contains NaN (element 1)"]);
    fails(w.tensor("brain", &[2]), &["tensor brain contains inf (element 0)"]);
    fails(w.tensor("wide", &[2]), &["tensor wide contains -1e300 (element 1), which is too large"]);
    w.tensor("largest", &[2]).unwrap();
}

#[test]
fn a_convolution_changes_from_oihw_to_ohwi() {
    let (o, i, kh, kw) = (2, 3, 2, 4);
    let data: Vec<f32> = (0..o * i * kh * kw).map(|x| x as f32).collect();
    let bytes = bytes_of(&[f32s("conv", &[o, i, kh, kw], &data), f32s("one", &[2, 3, 1, 1], &data[..6])]);
    let checkpoint = Checkpoint::embedded("tiny", bytes.leak()).unwrap();
    let w = checkpoint.root();
    let view = w.conv_weight("conv", [o, i, kh, kw]).unwrap();
    assert_eq!(view.shape(), Shape::new(o, kh, kw, i));
    let got = view.data().to_f32();
    for (at, &value) in got.iter().enumerate() {
        let (c, x, y, n) = (at % i, at / i % kw, at / i / kw % kh, at / i / kw / kh);
        assert_eq!(value, (((n * i + c) * kh + y) * kw + x) as f32);
    }
    // The same weights as a 1x1 convolution and as a linear layer.
    assert_eq!(w.conv_weight("one", [2, 3, 1, 1]).unwrap().shape(), Shape::rows(2, 3));
    assert_eq!(&*w.tensor("one", &[2, 3]).unwrap().data().to_f32(), &data[..6]);
    fails(w.tensor("one", &[1, 2, 3]), &["[2, 3, 1, 1]"]);
}

#[test]
fn attention_blocks_of_old_autoencoders_are_read_under_their_new_names() {
    let bytes = bytes_of(&[
        f32s("decoder.mid_block.attentions.0.query.weight", &[1], &[1.]),
        f32s("decoder.mid_block.attentions.0.proj_attn.bias", &[1], &[2.]),
        f32s("attentions.0.group_norm.bias", &[1], &[3.]),
        f32s("layers.0.key.bias", &[1], &[4.]),
    ]);
    let checkpoint = Checkpoint::embedded("vae", bytes.leak()).unwrap();
    let w = checkpoint.root().at("decoder").at("mid_block").at("attentions").at(0);
    w.at("to_q").tensor("weight", &[1]).unwrap();
    w.at("to_out").at(0).tensor("bias", &[1]).unwrap();
    checkpoint.finish(&["attentions.0.group_norm.bias", "layers.0.key.bias"]).unwrap();
}

#[test]
fn a_level_that_only_some_files_write_is_entered_where_it_exists() {
    let with = Checkpoint::embedded("with", bytes_of(&[f32s("text_model.a", &[1], &[1.])]).leak()).unwrap();
    let without = Checkpoint::embedded("without", bytes_of(&[f32s("a", &[1], &[1.])]).leak()).unwrap();
    for checkpoint in [with, without] {
        checkpoint.root().at_if_any("text_model").tensor("a", &[1]).unwrap();
        checkpoint.finish(&[]).unwrap();
    }
}

#[test]
fn one_file_can_be_opened_by_its_path() {
    let dir = folder(&[("anything.safetensors", &small())]);
    let path: PathBuf = dir.path().join("anything.safetensors");
    assert_eq!(Checkpoint::open(&path, None).unwrap().names().count(), 2);
}
