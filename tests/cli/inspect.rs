//! `inspect`: what runs, pictures, models, rewards and other files of weights are said to be.

use std::fs;
use std::path::{Path, PathBuf};

use das_cuda::assets::SHAPES_FILES;
use das_cuda::cpu::Cpu;
use das_cuda::surrogate::{self, Optimism, Pair, Settings, Spread};
use das_cuda::toy::Network;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;
use tempfile::TempDir;

use super::formats::Section;
use super::lpips;
use super::{fails, json, model, only_folder, program, record_of, run, sample, succeeds, text};

fn inspect(what: &Path) -> Value {
    json(&succeeds(run(&["inspect", "--json", text(what)])))
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A field, which must be there.
#[track_caller]
fn of(facts: &Value, key: &str) -> Value {
    facts.get(key).cloned().unwrap_or_else(|| panic!("`{key}` is missing in {facts}"))
}

#[test]
fn everything_is_said_to_be_what_it_is_as_documented() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md"))
        .expect("docs/formats.md is readable");
    let mut section = Section::new(&page, "### inspect --json");
    let dir = TempDir::new().expect("a temporary folder");
    let mut check = |facts: &Value, kind: &str| {
        assert_eq!(facts["kind"], kind, "{facts}");
        section.check(facts);
    };

    // Runs: one whose log Z has an error, one that has none, one that failed.
    let plain = dir.path().join("plain");
    let held_out = ["-p", "a star", "-n", "red", "--eval-reward", "gold"];
    succeeds(sample(
        &plain,
        &[&held_out[..], &["--proposal", "bootstrap", "--particles", "8", "--kl", "9"]].concat(),
    ));
    let folder = only_folder(&plain);
    let facts = inspect(&folder);
    check(&facts, "run");
    let record = record_of(&folder);
    for (fact, entry) in
        [("prompt", "prompt"), ("seed", "seed"), ("particles", "chains"), ("status", "status")]
    {
        assert_eq!(of(&facts, fact), record[entry], "{fact}");
    }
    for key in ["reward", "eval_rewards", "log_z", "ess", "roots_alive"] {
        assert_eq!(of(&facts, key), record["result"][key], "{key}");
    }
    let das = dir.path().join("das");
    succeeds(sample(&das, &["-p", "a star"]));
    check(&inspect(&das), "run");
    let lost = dir.path().join("lost");
    sample(&lost, &["-p", "a star", "--kl", "1e-40", "--max-shift", "inf"]);
    let facts = inspect(&only_folder(&lost));
    check(&facts, "run");
    assert!(of(&facts, "steps_collapsed").as_u64() >= Some(1) && of(&facts, "error").is_string(), "{facts}");

    // One that a limit ended, what it goes on from, and one that was killed.
    let limited = dir.path().join("limited");
    sample(&limited, &["-p", "a star", "--steps", "3", "--max-nfe", "8"]);
    let folder = only_folder(&limited);
    let facts = inspect(&folder);
    check(&facts, "run");
    assert_eq!(of(&facts, "unet_evaluations_planned"), record_of(&folder)["unet_evaluations"]);
    let facts = inspect(&folder.join("checkpoint.safetensors"));
    check(&facts, "checkpoint of a run");
    assert_eq!((of(&facts, "step"), of(&facts, "of_steps")), (1.into(), 3.into()));
    let record = fs::read_to_string(folder.join("run.json")).expect("a record");
    fs::write(folder.join("run.json"), record.replacen("interrupted", "running", 1)).expect("written");
    assert_eq!(of(&inspect(&folder), "status"), "killed", "no process has it");
    let lock = fs::File::open(&folder).expect("a folder");
    lock.lock().expect("a lock");
    assert_eq!(of(&inspect(&folder), "status"), "running");
    drop(lock);

    // A comparison.
    let table = dir.path().join("table");
    let few = ["--seeds", "1", "-q", "-o", text(&table), "--", "--steps", "2"];
    let few = program().args(["compare", "-p", "a star", "--methods", "none,best-of-n"]).args(few).output();
    succeeds(few.expect("the program starts"));
    let facts = inspect(&table);
    check(&facts, "comparison");
    assert_eq!(of(&facts, "rows").as_array().map(Vec::len), Some(2), "{facts}");

    // An optimisation, and tables of other experiments.
    let queries = dir.path().join("queries");
    let few = "optimize --black-box gold -p a --queries 4 --batch 2 --seeds 1 --epochs 2 --evaluate 1 -q";
    let few = program().args(few.split(' ')).args(["-o", text(&queries), "--", "--steps", "2"]).output();
    succeeds(few.expect("the program starts"));
    let facts = inspect(&queries);
    check(&facts, "optimisation");
    assert_eq!((of(&facts, "queries"), of(&facts, "lines")), (4.into(), 5.into()));
    let toy = dir.path().join("toy");
    let few = "toy gmm1 --analytic --methods none --seeds 1,2 --populations 2 --particles 4 -q";
    let few = program().args(few.split(' ')).args(["-o", text(&toy)]).output();
    succeeds(few.expect("the program starts"));
    let facts = inspect(&toy);
    check(&facts, "toy");
    assert_eq!(of(&facts, "table")[1]["method"], "none");
    for damaged in ["", "{\"garbage\n", "method,runs\n"] {
        let table = fs::read(toy.join("table.csv")).expect("a table");
        fs::write(toy.join("table.csv"), damaged).expect("written");
        let page = dir.path().join("page.html");
        for args in [&["inspect", text(&toy)][..], &["report", text(&toy), "-o", text(&page)]] {
            fails(run(args), 1, &["table.csv: is damaged: no table", "give the command"]);
        }
        fs::write(toy.join("table.csv"), table).expect("written");
    }
    fs::write(toy.join("summary.json"), "{\"schema\":1}").expect("written");
    assert!(of(&inspect(&toy), "notes")[0].as_str().is_some_and(|note| note.contains("does not say")));
    fs::write(table.join("summary.json"), "{\"schema\":1}").expect("written");
    fails(run(&["inspect", text(&table)]), 1, &["summary.json: is damaged: it has no rows", "fix"]);
    fs::remove_file(toy.join("summary.json")).expect("removed");
    assert!(of(&inspect(&toy), "notes")[0].as_str().is_some_and(|note| note.contains("summary.json")));

    // Pictures: of this program, of another, and of nobody.
    let picture = folder.join("best.png");
    let mut facts = inspect(&picture);
    assert_eq!(of(&facts, "record")["prompt"], "a star");
    facts["record"] = Value::Object(serde_json::Map::new());
    check(&facts, "picture");
    let foreign = dir.path().join("foreign.png");
    write_png(&foreign, Some("a cat\nSteps: 20, Sampler: Euler, CFG scale: 7"));
    let facts = inspect(&foreign);
    check(&facts, "picture");
    assert_eq!((of(&facts, "prompt"), of(&facts, "width")), ("a cat".into(), 2.into()));
    let bare = dir.path().join("bare.png");
    write_png(&bare, None);
    let facts = inspect(&bare);
    check(&facts, "picture");
    assert!(of(&facts, "notes")[0].as_str().is_some_and(|note| note.contains("nothing of its making")));

    // Models.
    let facts = inspect(Path::new("shapes"));
    check(&facts, "model");
    assert_eq!((of(&facts, "size"), of(&facts, "prediction")), ("64x64".into(), "epsilon".into()));
    let (_kept, root) = model();
    let parts = of(&inspect(&root), "parts");
    assert_eq!(parts, of(&facts, "parts"), "the folder is the model inside the program");
    let unet = parts.as_array().and_then(|parts| parts.iter().find(|part| part["name"] == "unet")).cloned();
    let unet = unet.expect("a UNet");
    let bytes = SHAPES_FILES.iter().find(|(name, _)| name.starts_with("unet/diffusion")).expect("weights").1;
    let size = of(&unet, "bytes").as_u64().expect("bytes");
    // The rest of the file is its header.
    assert!(size < bytes.len() as u64 && size + 200_000 > bytes.len() as u64, "{unet}");
    assert_eq!(of(&unet, "parameters").as_u64(), Some(size / 2), "16 bits each");
    for (name, kind) in [("vae", "autoencoder"), ("clip", "tower"), ("aesthetic/model.safetensors", "head")] {
        let facts = inspect(&root.join(name));
        check(&facts, kind);
        assert!(of(&facts, "use").as_str().is_some_and(|text| text.starts_with("--")), "{facts}");
    }

    // A model in the cache of the hub, of which a part is missing.
    let (cache, commit) = (dir.path().join("cache"), "01".repeat(20));
    let repository = cache.join("models--tiny--model");
    let file = |path: &Path, content: &[u8]| {
        fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        fs::write(path, content).expect("it can be written");
    };
    file(&repository.join("refs/main"), commit.as_bytes());
    let weights = "unet/diffusion_pytorch_model.safetensors";
    for (name, content) in SHAPES_FILES.iter().filter(|(name, _)| *name != weights) {
        file(&repository.join("snapshots").join(&commit).join(name), content);
    }
    let named = program().env("HF_HUB_CACHE", &cache).args(["inspect", "tiny/model", "--json"]).output();
    let facts = json(&succeeds(named.expect("the program starts")));
    check(&facts, "model");
    assert_eq!(of(&facts, "repository"), "tiny/model");
    assert!(of(&facts, "missing")[0].as_str().is_some_and(|missing| missing.contains(weights)), "{facts}");

    // What goes with a model.
    let facts = inspect(&golden("lora/kohya_xl.safetensors"));
    check(&facts, "lora");
    assert_eq!(of(&facts, "family"), "Stable Diffusion XL");
    let facts = inspect(&golden("embeddings/two.pt"));
    check(&facts, "embedding");
    assert_eq!(of(&facts, "vectors"), 2);
    let tiny = inspect(&golden("models/vae_tiny"));
    check(&tiny, "autoencoder");
    assert!(of(&tiny, "class").as_str().is_some_and(|class| class.contains("TAESD")), "{tiny}");

    // What this program has trained, the score network of a toy too, which has the names of a head's layers.
    let pair = |i: usize| Pair { embedding: vec![i as f32, 1.0], answer: i as f64 };
    let settings = Settings { epochs: 2, ..Settings::new(Optimism::Ucb(Spread::Sum)) };
    let pairs: Vec<Pair> = (0..12).map(pair).collect();
    let learned = settings.fit(&Cpu::new(), &pairs, None, (1, 0), |_| Ok(())).expect("a surrogate");
    let path = dir.path().join("surrogate.safetensors");
    fs::write(&path, surrogate::encode(&learned).expect("bytes")).expect("it can be written");
    let facts = inspect(&path);
    check(&facts, "surrogate");
    assert_eq!(
        (of(&facts, "pairs"), of(&facts, "features"), of(&facts, "epochs")),
        (12.into(), 2.into(), 2.into())
    );
    let network = Network::new(2, 7).encode(r#"{"schema":1,"seed":7,"loss":"0.5"}"#).expect("bytes");
    fs::write(&path, network).expect("it can be written");
    let facts = inspect(&path);
    check(&facts, "score network");
    assert_eq!(
        (of(&facts, "dimensions"), of(&facts, "seed"), of(&facts, "loss")),
        (2.into(), 7.into(), 0.5.into())
    );

    let network = Network::new(2, 7).encode(r#"{"schema":99,"seed":{},"loss":"0.5"}"#).expect("bytes");
    fs::write(&path, network).expect("it can be written");
    fails(run(&["inspect", text(&path)]), 1, &["surrogate.safetensors", "do not say whose network"]);
    // LPIPS.
    for layout in [lpips::Layout::One, lpips::Layout::Two] {
        for path in lpips::write(dir.path(), layout) {
            let facts = inspect(&path);
            check(&facts, "lpips");
            assert!(of(&facts, "use").as_str().is_some_and(|text| text.starts_with("--lpips ")), "{facts}");
        }
    }
    let (half, ones) = (dir.path().join("half.safetensors"), 1_f32.to_le_bytes().repeat(64));
    let first = TensorView::new(Dtype::F32, vec![1, 64, 1, 1], &ones).expect("a tensor");
    serialize_to_file([("lin0.model.1.weight", first)], None, &half).expect("it can be written");
    let facts = inspect(&half);
    assert_eq!((of(&facts, "kind"), facts.get("use")), ("lpips".into(), None));
    assert!(
        of(&facts, "notes")[0].as_str().is_some_and(|note| note.contains("lin1.model.1.weight")),
        "{facts}"
    );

    // Rewards: by name, and with a path.
    let facts = inspect(Path::new("jpeg"));
    check(&facts, "reward");
    assert_eq!((of(&facts, "gradient"), of(&facts, "alpha")), (false.into(), 0.1.into()));
    let clip = format!("clip:{}", root.join("clip").display());
    let facts = inspect(Path::new(&clip));
    check(&facts, "reward");
    assert_eq!(of(&facts, "files")[0]["type"], "F16");
    section.all_seen();
}

/// Four black pixels, and what they say of their making.
fn write_png(path: &Path, parameters: Option<&str>) {
    let file = fs::File::create(path).expect("it can be written");
    let mut encoder = png::Encoder::new(file, 2, 2);
    encoder.set_color(png::ColorType::Rgb);
    if let Some(text) = parameters {
        encoder.add_text_chunk("parameters".into(), text.into()).expect("a text");
    }
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(&[0; 12]).expect("pixels");
    writer.finish().expect("the end");
}

#[test]
fn what_it_is_not_for_is_named() {
    let dir = TempDir::new().expect("a temporary folder");
    let inspected = |what: &Path| run(&["inspect", text(what)]);
    fails(inspected(Path::new("nowhere")), 2, &["nowhere", "no such file", "das-cuda rewards"]);
    let notes = dir.path().join("notes.txt");
    fs::write(&notes, "hello").expect("written");
    fails(inspected(&notes), 3, &["notes.txt", "no weights"]);
    let cut = dir.path().join("cut.png");
    fs::write(&cut, b"\x89PNG\r\n\x1a\n\0\0").expect("written");
    fails(inspected(&cut), 1, &["cut.png", "image"]);
    let absent = of(&inspect(Path::new("clip:nowhere")), "missing");
    assert!(absent.to_string().contains("nowhere"), "{absent}");
    fails(inspected(dir.path()), 3, &["model_index.json is missing"]);
    fails(inspected(Path::new("nobody/nothing")), 3, &["nobody/nothing", "downloads nothing"]);
    // A folder of another family has an autoencoder too, and is none.
    let (_kept, root) = model();
    let index = fs::read_to_string(root.join("model_index.json")).expect("an index");
    let index = index.replace("\"StableDiffusionPipeline\"", "\"FluxPipeline\"");
    fs::write(root.join("model_index.json"), index).expect("written");
    fails(inspected(&root), 3, &["Flux (FluxPipeline) cannot be run"]);
    // A file of one tensor that has the name of one of Flux.
    let flux = dir.path().join("flux.safetensors");
    let header =
        br#"{"double_blocks.0.img_attn.qkv.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    fs::write(&flux, file).expect("written");
    fails(inspected(&flux), 3, &["flux.safetensors", "this is a Flux checkpoint"]);
    // One that is damaged is named for what is wrong with it.
    fs::write(&flux, [0; 4]).expect("written");
    fails(inspected(&flux), 3, &["flux.safetensors"]);
}

#[test]
fn several_things_are_told_one_after_another() {
    let said = succeeds(run(&["inspect", "shapes", "jpeg"]));
    let (model, reward) = said.split_once("\n\n").expect("a line between them");
    assert!(
        model.starts_with("kind               model\n")
            && model.contains("\nparts              text_encoder  ")
    );
    assert!(
        reward.starts_with("kind               reward\n") && reward.contains("\ngradient           no\n")
    );
}
