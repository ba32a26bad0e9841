//! Words that text encoders learn from files, and prompts in windows, against diffusers and transformers
//! (`tools/golden/embeddings.py`): the same files, the same prompts.
//!
//! Normalised mean squared errors, measured here and (PyTorch float32):
//!
//! | what | SD | XL |
//! |---|---|---|
//! | states of prompts with the words | 2.0e-14 (2.4e-14) | 1.8e-14 (2.3e-14) |
//! | pooled texts of these | | 3.8e-14 (3.6e-14) |
//! | states of windows | 2.0e-14 (2.2e-14) | 1.7e-14 (1.7e-14) |
//! | pooled texts of the first windows | | 4.7e-14 (4.6e-14) |
//! | guided noise from windows | 1.3e-12 (1.4e-12) | 2.0e-12 (2.6e-12) |

#[path = "common/golden.rs"]
mod golden;

use std::fs;
use std::path::{Path, PathBuf};

use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::model::checkpoint::Checkpoint;
use das_cuda::model::embedding::{Embedding, Spec};
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::tape::Tape;
use das_cuda::tensor::Tensor;
use das_cuda::{ErrorKind, Result};
use golden::{LEAST, SLACK, assemble, nmse};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use tempfile::TempDir;

/// A name that the model of the family has, and its embeddings as diffusers was given them.
const FAMILIES: [(&str, &[&str]); 2] =
    [("sd", &["one.bin", "three.safetensors", "two.pt"]), ("sdxl", &["<pair>=xl.safetensors"])];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/embeddings").join(name)
}

/// Opens a file of the golden ones: `NAME=FILE` or `FILE`.
fn open(text: &str) -> Result<Embedding> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (Some(name.to_string()), path),
        None => (None, text),
    };
    Embedding::open(&Spec { name, path: file(path) })
}

fn load(cpu: &Cpu, dir: &TempDir, embeddings: Vec<Embedding>) -> Result<Pipeline> {
    Pipeline::load(cpu, &ModelFolder::open(dir.path(), None)?.with_embeddings(embeddings)?)
}

fn pipeline(cpu: &Cpu, family: &str, files: &[&str]) -> Pipeline {
    let embeddings = files.iter().map(|text| open(text).unwrap()).collect();
    load(cpu, &assemble(&format!("pipeline_{family}")), embeddings).unwrap()
}

/// Holds `found` against the tensor `key` of a family in the golden file.
fn check(cpu: &Cpu, family: &str, key: &str, found: &Tensor) {
    let golden = Checkpoint::open(&file("golden.safetensors"), None).unwrap();
    let root = golden.root();
    let read = |name: String| {
        let view = root.tensor(&name, root.dims(&name).unwrap()).unwrap();
        view.data().to_f32().into_owned()
    };
    let error = nmse(&cpu.download(found).unwrap(), &read(format!("{family}.{key}")));
    let yardstick = f64::from(read(format!("{family}.error.{key}"))[0]);
    println!("{family} {key}: {error:.1e} ({yardstick:.1e})");
    assert!(error <= SLACK * yardstick.max(LEAST), "{family} {key}: {error:.1e}");
}

#[test]
fn prompts_with_learned_words_are_encoded_as_by_diffusers() {
    let cpu = Cpu::new();
    let texts: [&[&str]; 2] = [
        &["a <cat> star", "<style> and <cat>, <cat>!", "a ring(old-style)on <style>-red", "A <CAT>", ""],
        &["a <pair> star, <pair>", "blurry"],
    ];
    for ((family, files), texts) in FAMILIES.into_iter().zip(texts) {
        let found = pipeline(&cpu, family, files).read(&cpu, texts, None).unwrap();
        assert!(found.dropped.iter().all(Option::is_none));
        check(&cpu, family, "states", &found.states);
        assert_eq!(found.pooled.is_some(), family == "sdxl");
        found.pooled.iter().for_each(|pooled| check(&cpu, family, "pooled", pooled));
        // They are not what the model knew before.
        let before = pipeline(&cpu, family, &[]).read(&cpu, texts, None).unwrap();
        let [before, after] = [before.states, found.states].map(|states| cpu.download(&states).unwrap());
        assert!(nmse(&before, &after) > 0.01);
    }
}

/// Files of `eos_token_id` 2 pool the token of the largest id. Learned words have larger ids than the end.
#[test]
fn a_learned_word_is_not_the_end_of_a_text() {
    let cpu = Cpu::new();
    let dir = assemble("pipeline_sdxl");
    let path = dir.path().join("text_encoder_2/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["eos_token_id"] = 2.into();
    fs::write(&path, config.to_string()).unwrap();
    let pipeline = load(&cpu, &dir, vec![open("<pair>=xl.safetensors").unwrap()]).unwrap();
    let found = pipeline.read(&cpu, &["a <pair> star, <pair>", "blurry"], None).unwrap();
    check(&cpu, "sdxl", "pooled", &found.pooled.unwrap());
}

#[test]
fn long_prompts_in_windows_condition_as_by_transformers_and_diffusers() {
    let cpu = Cpu::new();
    let texts = [
        ("a large red star and a <style> ring, ", "blurry <cat>"),
        ("a large red star and a <pair> ring, ", "blurry"),
    ];
    for ((family, files), (part, negative)) in FAMILIES.into_iter().zip(texts) {
        let pipeline = pipeline(&cpu, family, files);
        let text = part.repeat(4);
        let found = pipeline.read(&cpu, &[&text, negative], Some(2)).unwrap();
        assert_eq!(found.states.shape().w, 64);
        check(&cpu, family, "long.states", &found.states);
        found.pooled.iter().for_each(|pooled| check(&cpu, family, "long.pooled", pooled));

        let prompts = [Prompt { text: &text, negative: Some(negative) }];
        let size = pipeline.size(Some(12), Some(20)).unwrap();
        let of_model = golden::folder(&format!("pipeline_{family}")).join("golden.safetensors");
        let of_model = Checkpoint::open(&of_model, None).unwrap();
        let root = of_model.root();
        let read = |name| root.tensor(name, root.dims(name).unwrap()).unwrap();
        let x = cpu.upload(read("x").shape(), read("x").data()).unwrap();
        let (t, s) = (read("t").data().to_f32()[0], read("s").data().to_f32()[0]);
        let encoded = pipeline.encode(&cpu, &prompts, size, s, LongPrompts::Chunk).unwrap();
        assert!(encoded.warnings(&prompts).is_empty());
        let rows = encoded.rows(&[0, 0], true);
        let tape = Tape::off(&cpu);
        let both = pipeline.unet.forward(&tape, &x.into(), t, &encoded.conditioning, &rows).unwrap();
        check(&cpu, family, "long.eps", tape.cfg_combine(&both, s).unwrap().value());

        // The same prompt cut says so, and how it is read in full.
        let cut = pipeline.encode(&cpu, &prompts, size, s, LongPrompts::Cut).unwrap();
        let [warning] = cut.warnings(&prompts).try_into().unwrap();
        assert!(warning.contains("are ignored (`long_prompts` chunk reads them all)"), "{warning}");
    }
}

#[test]
fn a_short_prompt_in_windows_is_the_prompt() {
    let cpu = Cpu::new();
    let pipeline = pipeline(&cpu, "sd", &["one.bin"]);
    for text in ["", "a <cat>"] {
        let [cut, one] = [None, Some(1)].map(|windows| {
            let found = pipeline.read(&cpu, &[text], windows).unwrap();
            cpu.download(&found.states).unwrap()
        });
        assert_eq!(cut, one, "{text:?}");
    }
}

#[test]
fn prompts_of_other_lengths_are_not_filled_up_for_each_other() {
    let cpu = Cpu::new();
    let pipeline = pipeline(&cpu, "sd", &[]);
    let (long, size) = ("a red star ".repeat(20), pipeline.size(None, None).unwrap());
    let prompt = |text, negative| Prompt { text, negative };
    let encode = |prompts: &[Prompt<'_>]| pipeline.encode(&cpu, prompts, size, 5.0, LongPrompts::Chunk);
    // A long negative prompt counts as a long prompt.
    assert!(encode(&[prompt(&long, None), prompt("a", Some(&long))]).is_ok());
    let refused = encode(&[prompt(&long, None), prompt("a", None)]).map(drop).expect_err("other lengths");
    assert_eq!((refused.kind(), refused.option_name()), (ErrorKind::Usage, Some("long_prompts")));
    assert!(refused.message().contains("prompts of 2 and 1 windows"), "{refused}");
}

#[test]
fn every_layout_is_read() {
    let names = |text: &str| open(text).map(|found| (found.name().to_string(), found.vectors())).unwrap();
    assert_eq!(names("one.bin"), ("<cat>".into(), 1));
    assert_eq!(names("three.safetensors"), ("<style>".into(), 3));
    assert_eq!(names("two.pt"), ("old-style".into(), 2));
    // This layout has no name of its own.
    assert_eq!(names("parameters.pt"), ("parameters".into(), 2));
    assert_eq!(names("xl.safetensors"), ("xl".into(), 2));
    assert_eq!(names("<a b>=one.bin"), ("<a b>".into(), 1));
    let [saved, kept] = ["two.pt", "parameters.pt"].map(|name| open(name).unwrap());
    assert_eq!(saved.values(0).unwrap(), kept.values(0).unwrap());
    assert_eq!(open("xl.safetensors").unwrap().values(1).unwrap().len(), 32);

    let dir = TempDir::new().unwrap();
    let values: Vec<u8> = (0..24).flat_map(|i| half::f16::from_f32(i as f32).to_le_bytes()).collect();
    let half = TensorView::new(Dtype::F16, vec![2, 12], &values).unwrap();
    let path = dir.path().join("My Style.v2.safetensors");
    serialize_to_file([("emb_params", half)], None, &path).unwrap();
    let found = Embedding::open(&Spec { name: None, path: path.clone() }).unwrap();
    assert_eq!((found.name(), found.vectors(), found.values(0).unwrap()[23]), ("My Style.v2", 2, 23.0));
    // The folder that diffusers writes.
    fs::copy(file("three.safetensors"), dir.path().join("learned_embeds.safetensors")).unwrap();
    let found = Embedding::open(&Spec { name: None, path: dir.path().into() }).unwrap();
    assert_eq!(found.name(), "<style>");
}

/// A tensor in a file: its name and sizes.
type Sizes<'a> = (&'a str, &'a [usize]);

/// A file of these tensors, all of whose elements are `value`.
fn written(dir: &TempDir, name: &str, tensors: &[Sizes<'_>], value: f32) -> PathBuf {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, dims)| value.to_le_bytes().repeat(dims.iter().product())).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, dims), bytes)| (*name, TensorView::new(Dtype::F32, dims.to_vec(), bytes).unwrap()));
    let path = dir.path().join(name);
    serialize_to_file(views, None, &path).unwrap();
    path
}

#[test]
fn a_file_that_is_no_embedding_is_named_with_what_was_expected() {
    let dir = TempDir::new().unwrap();
    let tensors: &[(&str, &[Sizes<'_>], &[&str])] = &[
        ("empty", &[], &["no tensors"]),
        ("none", &[("<a>", &[0, 12])], &["<a> has shape [0, 12]", "at least one vector"]),
        ("narrow", &[("emb_params", &[2, 0])], &["at least one vector"]),
        ("many", &[("<a>", &[1_000_000, 2])], &["shape [1000000, 2]", "at most 1024"]),
        ("deep", &[("<a>", &[1, 2, 12])], &["a list of vectors is expected"]),
        ("scalar", &[("<a>", &[])], &["shape []", "a list of vectors is expected"]),
        ("half", &[("clip_g", &[2, 16])], &["clip_g is there and clip_l is not"]),
        (
            "uneven",
            &[("clip_g", &[2, 16]), ("clip_l", &[1, 12])],
            &["clip_l has 1 vector", "clip_g has 2 vectors"],
        ),
        ("two", &[("<a>", &[12]), ("<b>", &[12])], &["no embedding", "2 tensors, <a>, <b>", "emb_params"]),
        ("lora", &[("lora_unet_x.lora_down.weight", &[1, 2])], &["a LoRA", "give it to `lora`"]),
        ("layer", &[("layers.0.weight", &[1, 12])], &["no embedding", "layers.0.weight"]),
        ("tab", &[("a\tb", &[12])], &["the name \"a\\tb\"", "control character", "NAME=PATH"]),
        ("blank", &[(" a", &[12])], &["begins or ends with white space"]),
    ];
    for (name, tensors, words) in tensors {
        let path = written(&dir, name, tensors, 0.5);
        let error = Embedding::open(&Spec { name: None, path }).map(drop).expect_err(name);
        assert_eq!((error.kind(), error.option_name()), (ErrorKind::Model, Some("embedding")), "{name}");
        let said = error.to_string();
        for word in words.iter().chain(&[&*dir.path().join(name).display().to_string(), "fix:"]) {
            assert!(said.contains(word), "{name}: {word:?} in {said}");
        }
    }
    let nan = written(&dir, "nan", &[("<a>", &[12])], f32::NAN);
    let error = Embedding::open(&Spec { name: None, path: nan }).unwrap().values(0).expect_err("nan");
    assert_eq!((error.kind(), error.option_name()), (ErrorKind::Model, Some("embedding")));
    let error = error.to_string();
    assert!(error.contains("nan: tensor <a> contains NaN") && error.contains("fix:"), "{error}");
    let whole = fs::read(file("two.pt")).unwrap();
    let short = fs::read(file("three.safetensors")).unwrap();
    for (name, bytes) in
        [("cut.pt", &whole[..900]), ("cut.safetensors", &short[..200]), ("text.bin", b"hello")]
    {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = Embedding::open(&Spec { name: None, path }).map(drop).expect_err(name);
        assert_eq!((error.kind(), error.option_name()), (ErrorKind::Model, Some("embedding")), "{name}");
        assert!(error.to_string().contains(name) && error.advice_text().is_some(), "{error}");
    }
    let lacks =
        Embedding::open(&Spec { name: None, path: dir.path().into() }).map(drop).expect_err("a folder");
    assert!(lacks.message().contains("a folder without learned_embeds.safetensors or learned_embeds.bin"));
}

#[test]
fn an_embedding_of_another_family_is_refused_by_its_name() {
    let dir = TempDir::new().unwrap();
    let of = |tensors: &[(&str, &[usize])], widths: &[usize]| {
        let path = written(&dir, "x.safetensors", tensors, 0.5);
        let refused = Embedding::open(&Spec { name: None, path }).unwrap().check_family(widths);
        refused.map_err(|e| {
            assert_eq!((e.kind(), e.option_name()), (ErrorKind::Model, Some("embedding")));
            assert!(e.message().contains("x.safetensors: made for "), "{e}");
            e.message().split_once("made for ").unwrap().1.to_string()
        })
    };
    let (one, two) = ("Stable Diffusion 1.x", "Stable Diffusion 2.x");
    let xl: &[(&str, &[usize])] = &[("clip_l", &[2, 768]), ("clip_g", &[2, 1280])];
    assert_eq!(of(&[("emb_params", &[3, 768])], &[768]), Ok(()));
    assert_eq!(of(xl, &[768, 1280]), Ok(()));
    let cases: [(&[Sizes<'_>], &[usize], String); 5] = [
        (
            &[("emb_params", &[1, 1024])],
            &[768],
            format!("{two}, and this model is {one}: it has emb_params of 1024 features, expected one tensor of 768"),
        ),
        (
            &[("<a>", &[768])],
            &[1024],
            format!("{one}, and this model is {two}: it has <a> of 768 features, expected one tensor of 1024"),
        ),
        (
            &[("<a>", &[768])],
            &[768, 1280],
            format!(
                "{one}, and this model is Stable Diffusion XL: it has <a> of 768 features, expected clip_l of 768 and \
                 clip_g of 1280"
            ),
        ),
        (
            &[("<a>", &[1280])],
            &[768, 1280],
            "the second text encoder of Stable Diffusion XL alone, and this model is Stable Diffusion XL: it has <a> \
             of 1280 features, expected clip_l of 768 and clip_g of 1280"
                .into(),
        ),
        (
            xl,
            &[768],
            format!(
                "Stable Diffusion XL, and this model is {one}: it has clip_l of 768 features and clip_g of 1280 \
                 features, expected one tensor of 768"
            ),
        ),
    ];
    for (tensors, widths, expected) in cases {
        assert_eq!(of(tensors, widths), Err(expected));
    }
    // And where a model is opened with it.
    let cpu = Cpu::new();
    let error = load(&cpu, &assemble("pipeline_sd"), vec![open("xl.safetensors").unwrap()]).map(drop);
    assert!(error.expect_err("two").message().contains("expected one tensor of 12"));
}

#[test]
fn a_word_is_new_and_there_once() {
    let cpu = Cpu::new();
    let dir = assemble("pipeline_sd");
    let refused = |texts: &[&str]| {
        let embeddings = texts.iter().map(|text| open(text).unwrap()).collect();
        let error = load(&cpu, &dir, embeddings).map(drop).expect_err("a word that is taken");
        assert_eq!((error.kind(), error.option_name()), (ErrorKind::Usage, Some("embedding")), "{error}");
        assert!(error.advice_text().unwrap().contains("`embedding` NAME=PATH"), "{error}");
        error.to_string()
    };
    for word in ["star", "Star", "a", ",", "<|endoftext|>", "st"] {
        let error = refused(&[&format!("{word}=one.bin")]);
        assert!(
            error.contains(&format!("one.bin: {word:?} is a token of the model's vocabulary")),
            "{error}"
        );
    }
    let error = refused(&["one.bin", "<CAT>=three.safetensors"]);
    assert!(error.contains("three.safetensors: the name \"<CAT>\" is that of another embedding"), "{error}");
}

#[test]
fn what_is_cut_names_a_word_once() {
    let cpu = Cpu::new();
    let pipeline = pipeline(&cpu, "sd", &["<Style>=three.safetensors"]);
    let found = pipeline.read(&cpu, &[&"<Style> ".repeat(12)], None).unwrap();
    let dropped = found.dropped[0].clone().unwrap();
    assert_eq!((dropped.tokens, &*dropped.text), (6, "<style> <style>"));
    // Where the cut goes through one.
    let found = pipeline.read(&cpu, &[&format!("star {}", "<Style> ".repeat(11))], None).unwrap();
    let dropped = found.dropped[0].clone().unwrap();
    assert_eq!((dropped.tokens, &*dropped.text), (4, "<style> <style>"));
    assert_eq!(pipeline.embeddings_in("a <STYLE>d star"), [0]);
    assert_eq!(pipeline.embeddings_in("a style"), [0; 0]);
}
