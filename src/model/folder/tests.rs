use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::ErrorKind;
use crate::model::files::join;

fn write(dir: &Path, rel: &str, bytes: &[u8]) {
    let path = dir.join(rel);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn weights() -> Vec<u8> {
    let data = [0u8; 8];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &data).unwrap();
    safetensors::serialize([("a", view)], None).unwrap()
}

fn index() -> Value {
    json!({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]
    })
}

fn xl_index() -> Value {
    let mut value = index();
    value["_class_name"] = json!("StableDiffusionXLPipeline");
    value["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
    value["tokenizer_2"] = json!(["transformers", "CLIPTokenizer"]);
    value["feature_extractor"] = json!([null, null]);
    value["image_encoder"] = json!([null, null]);
    value
}

/// A folder with a file for every component that `index` names.
fn model(index: &Value) -> TempDir {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "model_index.json", index.to_string().as_bytes());
    for component in ["unet", "vae", "text_encoder", "text_encoder_2"] {
        write(dir.path(), &format!("{component}/config.json"), b"{}");
    }
    for component in ["unet", "vae"] {
        write(dir.path(), &format!("{component}/diffusion_pytorch_model.safetensors"), &weights());
    }
    for component in ["text_encoder", "text_encoder_2"] {
        write(dir.path(), &format!("{component}/model.safetensors"), &weights());
    }
    write(dir.path(), "scheduler/scheduler_config.json", b"{\"_class_name\": \"PNDMScheduler\"}");
    for component in ["tokenizer", "tokenizer_2"] {
        let vocab = r#"{"a</w>": 0, "<|startoftext|>": 1, "<|endoftext|>": 2, "b": 3, "bb": 4}"#;
        write(dir.path(), &format!("{component}/vocab.json"), vocab.as_bytes());
        write(dir.path(), &format!("{component}/merges.txt"), b"#version: 0.2\nb b\n");
    }
    dir
}

#[track_caller]
fn fails<T: fmt::Debug>(result: Result<T>, words: &[&str]) {
    let error = result.expect_err("must fail");
    assert_eq!(error.kind(), ErrorKind::Model);
    let text = error.to_string();
    for word in words.iter().chain(&["fix: "]) {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn a_whole_model_is_opened_through_its_index() {
    let dir = model(&index());
    let folder = ModelFolder::open(dir.path(), None).unwrap();
    let parts = folder.parts();
    assert_eq!(folder.family().class, "StableDiffusionPipeline");
    assert_eq!(parts.class("scheduler"), Some("PNDMScheduler"));
    assert_eq!(parts.class("text_encoder_2"), None);
    assert_eq!(parts.unet_config().unwrap().in_channels, 4);
    assert_eq!(parts.vae_config().unwrap().latent_channels, 4);
    assert_eq!(parts.text_config("text_encoder").unwrap().max_positions, 77);
    assert_eq!(folder.tokenizer("tokenizer", 8).unwrap().encode("a").ids, [1, 0, 2, 2, 2, 2, 2, 2]);
    assert_eq!(folder.checkpoint("unet").unwrap().parameters(), 2);
    assert_eq!(parts.scheduler().unwrap().config.num_train_timesteps, 1000);
}

#[test]
fn the_pipelines_that_can_be_run_are_told_apart() {
    for family in FAMILIES {
        let mut value = xl_index();
        value["_class_name"] = json!(family.class);
        let dir = model(&value);
        let folder = ModelFolder::open(dir.path(), None).unwrap();
        assert_eq!(folder.family().class, family.class);
        let xl = family.class == "StableDiffusionXLPipeline";
        assert_eq!(folder.parts().components().count(), if xl { 7 } else { 5 });
        assert!(folder.parts().setting("force_zeros_for_empty_prompt", true).unwrap());
    }
    let mut value = xl_index();
    value["force_zeros_for_empty_prompt"] = json!(false);
    let setting = |value: &Value| {
        let folder = ModelFolder::open(model(value).path(), None).unwrap();
        folder.parts().setting("force_zeros_for_empty_prompt", true)
    };
    assert!(!setting(&value).unwrap());
    value["force_zeros_for_empty_prompt"] = json!("no");
    fails(setting(&value), &["force_zeros_for_empty_prompt is \"no\""]);
}

#[test]
fn pipelines_that_cannot_be_run_are_refused_by_name() {
    for (class, name) in [
        ("FluxPipeline", "Flux (FluxPipeline)"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("StableDiffusionInpaintPipeline", "StableDiffusionInpaintPipeline cannot be run"),
    ] {
        let mut value = index();
        value["_class_name"] = json!(class);
        fails(
            ModelFolder::open(model(&value).path(), None),
            &["model_index.json", name, "StableDiffusionXLPipeline"],
        );
    }
}

#[test]
fn components_that_are_missing_or_of_another_class_are_named() {
    let change = |component: &str, entry: Value| {
        let mut value = xl_index();
        value[component] = entry;
        let dir = model(&value);
        ModelFolder::open(dir.path(), None)
    };
    fails(change("text_encoder", json!([null, null])), &["without text_encoder", "refiner", "base model"]);
    let mut published = xl_index();
    published["_class_name"] = json!("StableDiffusionXLImg2ImgPipeline");
    published["text_encoder"] = json!([null, null]);
    published["tokenizer"] = json!([null, null]);
    fails(ModelFolder::open(model(&published).path(), None), &["refiner", "base model"]);
    fails(change("vae", Value::Null), &["without vae"]);
    fails(change("vae", json!("x")), &["without vae"]);
    fails(
        change("vae", json!(["diffusers", "AutoencoderDC"])),
        &["vae is of class AutoencoderDC", "AutoencoderKL, AutoencoderTiny"],
    );
    fails(change("tokenizer", json!(["transformers", "T5Tokenizer"])), &["T5Tokenizer", "CLIPTokenizer"]);
    let dir = model(&xl_index());
    fs::remove_dir_all(dir.path().join("tokenizer_2")).unwrap();
    fails(ModelFolder::open(dir.path(), None), &["tokenizer_2", "incomplete"]);
    write(dir.path(), "model_index.json", b"{");
    fails(ModelFolder::open(dir.path(), None), &["model_index.json", "not valid JSON"]);
    write(dir.path(), "model_index.json", b"[1]");
    fails(ModelFolder::open(dir.path(), None), &["_class_name is null"]);
    fs::remove_file(dir.path().join("unet/config.json")).unwrap();
    write(dir.path(), "model_index.json", index().to_string().as_bytes());
    fails(
        ModelFolder::open(dir.path(), None).unwrap().parts().unet_config(),
        &["config.json: cannot be read"],
    );
}

#[test]
fn a_folder_that_is_no_model_says_what_it_is() {
    let dir = TempDir::new().unwrap();
    fails(ModelFolder::open(dir.path(), None), &["model_index.json is missing", "unet/, vae/"]);
    let denied = unlisted(Path::new("locked"), io::ErrorKind::PermissionDenied.into()).to_string();
    assert!(denied.contains("locked: the folder cannot be listed") && denied.contains("read"), "{denied}");
    // A file of a folder, in the place of the folder.
    let whole = model(&index());
    let folder = format!("give `model` {}", whole.path().display());
    for file in ["model_index.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json"] {
        let error = ModelFolder::open(&whole.path().join(file), None).expect_err(file).to_string();
        assert!(error.contains(file) && error.ends_with(&folder), "{error}");
    }
    // A folder that is no part of the model may have models of its own.
    write(whole.path(), "checkpoints/other.safetensors", &weights());
    fails(
        ModelFolder::open(&whole.path().join("checkpoints/other.safetensors"), None),
        &["other.safetensors: this is no checkpoint that is known"],
    );
    write(dir.path(), "notes.txt", b"hello");
    fails(
        ModelFolder::open(&dir.path().join("notes.txt"), None),
        &["notes.txt: a file, but no weights", "model_index.json"],
    );
    fails(ModelFolder::open(&dir.path().join("notes.txt/below"), None), &["below: this is no folder"]);
    fails(ModelFolder::open(&dir.path().join("absent"), None), &["no such file or folder", "OWNER/NAME"]);
    fails(
        ModelFolder::open(&dir.path().join("x".repeat(300)), None),
        &["cannot be opened", "correct the path"],
    );
    write(dir.path(), "quantised.gguf", b"GGUF\x03\0\0\0");
    fails(ModelFolder::open(&dir.path().join("quantised.gguf"), None), &["a GGUF file", ".safetensors"]);
    fs::remove_file(dir.path().join("quantised.gguf")).unwrap();
    write(dir.path(), "sd15.safetensors", &weights());
    fails(ModelFolder::open(dir.path(), None), &["one file of weights", "sd15.safetensors"]);
    let file = dir.path().join("sd15.safetensors");
    fails(ModelFolder::open(&file, None), &["sd15.safetensors: this is no checkpoint that is known"]);
    write(dir.path(), "config.json", b"{}");
    fails(ModelFolder::open(dir.path(), None), &["one component", "the folder above"]);
    write(dir.path(), "snapshots/0/x", b"");
    fails(ModelFolder::open(dir.path(), None), &["download cache", "snapshots/"]);
}

#[test]
fn a_model_inside_the_program_reads_like_a_folder() {
    let dir = model(&index());
    let mut files: Vec<(&'static str, &'static [u8])> = Vec::new();
    for component in ["", "unet", "vae", "scheduler", "text_encoder", "tokenizer"] {
        for name in Source::Dir(dir.path().into()).list(component) {
            let rel = join(component, &name);
            if dir.path().join(&rel).is_file() {
                files.push((rel.clone().leak(), fs::read(dir.path().join(&rel)).unwrap().leak()));
            }
        }
    }
    let source = Source::Embedded(files.clone().leak());
    let built_in = ModelFolder::from_source(source.clone(), None).unwrap();
    assert_eq!(built_in.checkpoint("text_encoder").unwrap().parameters(), 2);
    assert_eq!(built_in.tokenizer("tokenizer", 8).unwrap().context(), 8);
    let on_disk = ModelFolder::open(dir.path(), None).unwrap();
    assert_eq!(built_in.hashes().unwrap(), on_disk.hashes().unwrap());
    fails(source.read("unet/absent.json"), &["built-in:unet/absent.json", "cannot be read"]);
    fails(source.checkpoint("scheduler", None), &["built-in:scheduler", "no diffusion_pytorch_model"]);

    files.retain(|(name, _)| !name.starts_with("unet/"));
    fails(ModelFolder::from_source(Source::Embedded(files.leak()), None), &["built-in:unet", "missing"]);
}

#[test]
fn hashes_cover_what_decides_the_result_and_nothing_else() {
    let dir = model(&index());
    write(dir.path(), "unet/diffusion_pytorch_model.fp16.safetensors", b"unused");
    write(dir.path(), "safety_checker/model.safetensors", b"unused");
    write(dir.path(), "README.md", b"unused");
    // Known: `sha256sum` of the two bytes of an empty object.
    let empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let folder = ModelFolder::open(dir.path(), None).unwrap();
    let hashes = folder.hashes().unwrap();
    let paths: Vec<&str> = hashes.iter().map(|h| h.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    );
    assert_eq!((hashes[2].sha256.as_str(), hashes[2].bytes), (empty, 2));
    // Once computed they stay.
    fs::remove_dir_all(dir.path().join("unet")).unwrap();
    assert_eq!(folder.hashes().unwrap().len(), 10);
    write(dir.path(), "unet/config.json", b"{}");
    let other = ModelFolder::open(dir.path(), None).unwrap();
    fs::remove_file(dir.path().join("model_index.json")).unwrap();
    let error = other.hashes().unwrap_err().to_string();
    assert!(error.contains("model_index.json: cannot be read"), "{error}");
}

#[test]
fn shards_are_hashed_with_their_index() {
    let dir = model(&index());
    fs::remove_file(dir.path().join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    write(dir.path(), "unet/part-1.safetensors", &weights());
    let map = br#"{"weight_map": {"a": "part-1.safetensors"}}"#;
    write(dir.path(), "unet/diffusion_pytorch_model.safetensors.index.json", map);
    let folder = ModelFolder::open(dir.path(), None).unwrap();
    let has = |path: &str| folder.hashes().unwrap().iter().any(|h| h.path == path);
    assert!(has("unet/part-1.safetensors") && has("unet/diffusion_pytorch_model.safetensors.index.json"));
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_by_its_name() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink("/dev/zero", at("zero.safetensors")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
    std::os::unix::fs::symlink(at("loop.safetensors"), at("loop.safetensors")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (name, what) in [
        ("zero.safetensors", "this is a device, not a regular file"),
        ("zero", "this is a device, not a regular file"),
        ("socket", "this is a socket, not a regular file"),
        ("loop.safetensors", "cannot be opened"),
    ] {
        fails(ModelFolder::open(&at(name), None), &[name, what]);
        fails(Checkpoint::open(&at(name), None), &[name, what]);
    }
    let vae = Choices { vae: Some(at("zero")), ..Choices::default() };
    fails(ModelFolder::open_with(model(&index()).path(), None, &vae), &["zero: this is a device"]);
}
