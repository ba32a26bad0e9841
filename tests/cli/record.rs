//! What a run leaves: records that are complete and repeat it, pictures that say how they were made.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use das_cuda::assets::SHAPES_FILES;
use das_cuda::run::{sha256, sha256_file};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{arguments, fails, lines, model, only_folder, program, record_of, sample, succeeds, text};

/// The keys of an object, in order.
fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Options that decide the particles and which of them is returned.
const DECIDING: [&str; 44] = [
    "prompt",
    "negative_prompt",
    "index",
    "model",
    "vae",
    "model_config",
    "prediction",
    "chain",
    "loras",
    "embeddings",
    "long_prompts",
    "width",
    "height",
    "seed",
    "latents",
    "steps",
    "cfg_scale",
    "eta",
    "rewards",
    "eval_rewards",
    "normalise",
    "kl",
    "proposal",
    "particles",
    "candidates",
    "thin_at",
    "populations",
    "tempering",
    "gamma",
    "tempering_start",
    "resample",
    "ess_threshold",
    "max_shift",
    "gradient",
    "gradient_every",
    "potential",
    "weigh_every",
    "duplicates",
    "guidance_strength",
    "guidance_window",
    "time_travel",
    "on_nan",
    "compat",
    "select",
];

/// All fields of `run.json` besides.
const REST: [&str; 53] = [
    "schema",
    "status",
    "program",
    "version",
    "command",
    "dtype",
    "output",
    "image",
    "save",
    "save_latents",
    "grid",
    "metadata",
    "count",
    "draws",
    "number",
    "normalise_pictures",
    "overwrite",
    "skip_finished",
    "resume",
    "shard",
    "checkpoint_every",
    "preview",
    "preview_decoder",
    "max_seconds",
    "max_nfe",
    "directory",
    "resumed",
    "device_choice",
    "warnings",
    "json",
    "quiet",
    "device",
    "micro_batch",
    "checkpointing",
    "max_vram",
    "graph",
    "cublas",
    "threads",
    "offline",
    "vae_class",
    "scheduler",
    "chains",
    "alpha",
    "unet_evaluations",
    "model_files",
    "reward_files",
    "latents_sha256",
    "repositories",
    "list_sha256",
    "started",
    "seconds",
    "result",
    "error",
];

/// The approximate decoder is in the record, in what a picture says, in a warning and in the summary.
#[test]
fn a_run_says_which_decoder_drew() {
    let (dir, root) = model();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/vae_tiny");
    let drawn = |name: &str, vae: &[&str]| {
        let out = dir.path().join(name);
        let given = ["-p", "a star", "-m", text(&root), "--reward", "jpeg", "--proposal", "bootstrap"];
        let output = program().args(arguments(&out, &[&given[..], vae].concat())).output().expect("started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        succeeds(output);
        (only_folder(&out), said)
    };
    let (run, said) = drawn("own", &[]);
    assert_eq!(record_of(&run)["vae_class"], "AutoencoderKL");
    assert!(!said.contains("approximat"), "{said}");
    let (run, said) = drawn("tiny", &["--vae", text(&tiny)]);
    let record = record_of(&run);
    assert_eq!(record["vae_class"], "AutoencoderTiny");
    assert_eq!(record["vae"], text(&tiny));
    let weights = "vae/diffusion_pytorch_model.safetensors";
    let hash = sha256_file(&tiny.join("diffusion_pytorch_model.safetensors")).expect("a hash");
    assert_eq!(record["model_files"][weights], hash);
    let warned = record["warnings"].to_string();
    let says = "diffusion_pytorch_model.safetensors: a tiny autoencoder decodes: pictures and their rewards are \
                approximations";
    assert!(warned.contains(says), "{warned}");
    assert!(said.contains("warning: ") && said.contains(", approximate decoder, "), "{said}");
    let picture = fs::read(run.join("best.png")).expect("a picture");
    let holds = |words: &[u8]| picture.windows(words.len()).any(|window| window == words);
    assert!(holds(b"VAE: AutoencoderTiny"));
}

#[test]
fn a_run_leaves_a_complete_record() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let printed =
        succeeds(sample(&out, &["-p", "a large red star", "--save-latents", "--eval-reward", "gold"]));
    let run = only_folder(&out);
    assert_eq!(printed.trim(), text(&run.join("best.png")));
    for file in ["best.png", "grid.png", "particles/000.png", "particles/001.png", "latents.safetensors"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    assert_eq!(lines(&run.join("trace.jsonl")).len(), 3, "two steps and the final event");

    let record = record_of(&run);
    let expected: BTreeSet<&str> = DECIDING.into_iter().chain(REST).filter(|key| *key != "error").collect();
    assert_eq!(keys(&record).into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(record["status"], "finished");
    assert_eq!(record["prompt"], "a large red star");
    assert_eq!(record["rewards"], json!([{"name": "aesthetic", "weight": 1.0, "path": null}]));
    assert_eq!(record["eval_rewards"], json!([{"name": "gold", "path": null}]));
    let embedded = |name: &str| {
        let (_, bytes) = SHAPES_FILES.iter().find(|(n, _)| *n == name).expect("an embedded file");
        sha256(bytes)
    };
    for (list, file) in [
        ("model_files", "unet/diffusion_pytorch_model.safetensors"),
        ("reward_files", "clip/model.safetensors"),
        ("reward_files", "aesthetic/model.safetensors"),
    ] {
        assert_eq!(record[list][file], embedded(file), "{file}");
    }
    let result = &record["result"];
    assert_eq!(
        keys(result),
        [
            "best",
            "weight",
            "reward",
            "rewards",
            "eval_rewards",
            "log_z",
            "log_z_error",
            "log_z_unreliable",
            "populations",
            "ess",
            "roots_alive",
            "distinct_pictures",
            "peak_bytes"
        ]
    );
    assert!(result["rewards"]["aesthetic"].is_number() && result["eval_rewards"]["gold"].is_number());
}

#[test]
fn every_particle_has_a_complete_line() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    succeeds(sample(&out, &["-p", "a star", "--eval-reward", "clip"]));
    let run = only_folder(&out);
    let particles = lines(&run.join("particles.jsonl"));
    assert_eq!(particles.len(), 2);
    for (index, line) in particles.iter().enumerate() {
        assert_eq!(
            keys(line),
            [
                "schema",
                "index",
                "population",
                "path",
                "seed",
                "log_weight",
                "weight",
                "target",
                "rewards",
                "eval_rewards",
                "reward_png",
                "is_best",
                "lineage",
                "sha256"
            ]
        );
        assert_eq!((&line["index"], &line["seed"]), (&json!(index), &json!(42)));
        assert_eq!(line["path"], format!("particles/{index:03}.png"));
        let picture = run.join(line["path"].as_str().expect("a path"));
        assert_eq!(line["sha256"], sha256_file(&picture).expect("a hash"));
        assert_eq!(line["lineage"].as_array().expect("a list").len(), 2, "one ancestor per step");
        // What is recorded of the 8-bit picture is what `score` says of the file.
        let rewards = ["--reward", "aesthetic", "--reward", "clip"];
        let scored = program().arg("score").arg(&picture).args(rewards).output().expect("the program starts");
        assert_eq!(super::json(&succeeds(scored))["rewards"], line["reward_png"], "particle {index}");
    }
    let total: f64 = particles.iter().map(|p| p["weight"].as_f64().expect("a weight")).sum();
    assert!((total - 1.0).abs() < 1e-9, "weights sum to {total}");
    assert_eq!(particles.iter().filter(|p| p["is_best"] == true).count(), 1);
}

/// Flags and values, none of them a default, and what the record must say of each.
#[test]
fn every_option_is_recorded() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let image = dir.path().join("out.png");
    let options: &[(&[&str], &str, Value)] = &[
        (&["-n", "blue"], "negative_prompt", json!("blue")),
        (&["--seed", "7"], "seed", json!(7)),
        (&["--steps", "3"], "steps", json!(3)),
        (&["--cfg-scale", "3.3"], "cfg_scale", json!(3.3)),
        (&["--eta", "0.9"], "eta", json!(0.9)),
        (
            &["--reward", "aesthetic=2"],
            "rewards",
            json!([{"name": "aesthetic", "weight": 2.0, "path": null}]),
        ),
        (&["--eval-reward", "gold"], "eval_rewards", json!([{"name": "gold", "path": null}])),
        (&["--kl", "0.5"], "kl", json!(0.5)),
        (&["--proposal", "twisted"], "proposal", json!("das")),
        (&["--particles", "3"], "particles", json!(3)),
        (&["--populations", "2"], "populations", json!(2)),
        (&["--tempering", "poly:2"], "tempering", json!("poly:2")),
        (&["--gamma", "0.3"], "gamma", json!(0.3)),
        (&["--tempering-start", "0.4"], "tempering_start", json!(0.4)),
        (&["--resample", "residual"], "resample", json!("residual")),
        (&["--ess-threshold", "0.7"], "ess_threshold", json!(0.7)),
        (&["--max-shift", "2.5"], "max_shift", json!(2.5)),
        (&["--gradient", "state"], "gradient", json!("state")),
        (&["--gradient-every", "3"], "gradient_every", json!(3)),
        (&["--on-nan", "abort"], "on_nan", json!("abort")),
        (&["--select", "draw"], "select", json!("draw")),
        (&["--save", "best"], "save", json!("best")),
        (&["--save-latents"], "save_latents", json!(true)),
        (&["--no-grid"], "grid", json!(false)),
        (&["--no-metadata"], "metadata", json!(false)),
        (&["--overwrite"], "overwrite", json!(true)),
        (&["--first-index", "5"], "index", json!(5)),
        (&["--json"], "json", json!(true)),
        (&["--dtype", "bf16"], "dtype", json!("bf16")),
        (&["--micro-batch", "1"], "micro_batch", json!(1)),
        (&["--checkpointing", "on"], "checkpointing", json!("on")),
        (&["--threads", "1"], "threads", json!(1)),
    ];
    let mut flags = vec!["-p", "a star"];
    options.iter().for_each(|(flag, ..)| flags.extend(*flag));
    succeeds(sample(&image, &flags));
    let record = record_of(&only_folder(&out));
    for (flag, key, value) in options {
        assert_eq!(&record[key], value, "{flag:?}");
    }
    // What does not go together with those.
    let fields = |name: &str, flags: &[&str], keys: [&str; 4]| {
        let out = dir.path().join(name);
        succeeds(sample(&out, &[&["-p", "a star", "--save", "none"], flags].concat()));
        let record = record_of(&only_folder(&out));
        keys.map(|key| record[key].clone())
    };
    let keys = ["compat", "candidates", "thin_at", "tempering_start"];
    let reference = [json!("reference"), json!(1.0), Value::Null, json!(0.0)];
    assert_eq!(fields("reference", &["--compat", "reference"], keys), reference);
    let later = ["--candidates", "2.5", "--thin-at", "0.4", "--tempering-start", "0.5"];
    let thinned = [json!("paper"), json!(2.5), json!(0.4), json!(0.5)];
    assert_eq!(fields("thinned", &later, keys), thinned);
    let keys = ["guidance_strength", "guidance_window", "gradient", "kl"];
    let shifted = ["--proposal", "dps", "--guidance-strength", "0.5", "--guidance-window", "0.25..0.75"];
    let guidance = [json!(0.5), json!("0.25..0.75"), Value::Null, Value::Null];
    assert_eq!(fields("shifted", &shifted, keys), guidance);
    let keys = ["time_travel", "guidance_strength", "guidance_window", "gradient_every"];
    let travelled = [json!(3), json!(0.2), json!("0.3..0.7"), Value::Null];
    assert_eq!(fields("travelled", &["--proposal", "freedom"], keys), travelled);
    let moved = ["--proposal", "mpgd", "--time-travel", "2"];
    assert_eq!(fields("moved", &moved, keys), [json!(2), json!(15.0), json!("0.3..0.7"), Value::Null]);
    let keys = ["duplicates", "kl", "weigh_every", "select"];
    let chosen = ["--proposal", "svdd", "--duplicates", "2"];
    assert_eq!(fields("chosen", &chosen, keys), [json!(2), json!(0.0), Value::Null, json!("argmax")]);
    let keys = ["potential", "weigh_every", "tempering_start", "guidance_strength"];
    let steered = [json!("max"), json!(1), json!(0.2), Value::Null];
    assert_eq!(fields("steered", &["--proposal", "fk"], keys), steered);
    let rarely = ["--proposal", "bootstrap", "--potential", "sum", "--weigh-every", "2"];
    assert_eq!(fields("rarely", &rarely, keys), [json!("sum"), json!(2), json!(0.0), Value::Null]);
    assert_eq!((&record["output"], &record["image"]), (&json!(text(&out)), &json!(text(&image))));
    assert_eq!(record["quiet"], true);
    assert!(flags.iter().all(|flag| record["command"].as_array().is_some_and(|c| c.contains(&json!(flag)))));
}

/// The text of a PNG's chunk, and whether it is iTXt.
fn chunk(path: &Path, keyword: &str) -> (String, bool) {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).expect("a picture")));
    let reader = decoder.read_info().expect("a PNG");
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|c| c.keyword == keyword);
    let unicode = info.utf8_text.iter().find(|c| c.keyword == keyword);
    match (latin, unicode) {
        (Some(chunk), None) => (chunk.text.clone(), false),
        (None, Some(chunk)) => (chunk.get_text().expect("UTF-8"), true),
        _ => panic!("{} has no chunk {keyword}, or two", path.display()),
    }
}

/// The record in a picture.
pub(super) fn das(path: &Path) -> Value {
    let (text, itxt) = chunk(path, "das-cuda");
    assert!(itxt, "the record is UTF-8");
    super::json(&text)
}

#[test]
fn pictures_say_how_they_were_made_in_the_layout_that_viewers_read() {
    let dir = TempDir::new().expect("a temporary folder");
    for (name, prompt, unicode) in [("a", "a star", false), ("b", "\u{2b50} a star \u{1f600}", true)] {
        let out = dir.path().join(name);
        succeeds(sample(&out, &["-p", prompt, "-n", "dull", "--proposal", "none"]));
        let best = only_folder(&out).join("best.png");
        let record = record_of(&only_folder(&out));
        let version = env!("CARGO_PKG_VERSION");
        let hash =
            record["model_files"]["unet/diffusion_pytorch_model.safetensors"].as_str().expect("a hash");
        let expected = format!(
            "{prompt}\nNegative prompt: dull\nSteps: 2, Sampler: DDIM, CFG scale: 5, Seed: 42, Size: 64x64, \
             Model hash: {}, Model: shapes, Version: das-cuda {version}",
            &hash[..10]
        );
        assert_eq!(chunk(&best, "parameters"), (expected.clone(), unicode), "{prompt}");
        // The grid says the same, but of no single particle.
        let grid = only_folder(&out).join("grid.png");
        assert_eq!(chunk(&grid, "parameters"), (expected, unicode), "{prompt}");
        let das = das(&best);
        let mut of_all = das.clone();
        of_all.as_object_mut().expect("an object").shift_remove("result");
        assert_eq!(super::record::das(&grid), of_all);
        let rest = ["dtype", "model_files", "reward_files", "latents_sha256", "version", "result"];
        let expected: Vec<&str> = ["schema"].into_iter().chain(DECIDING).chain(rest).collect();
        assert_eq!(keys(&das), expected);
        for key in expected.iter().filter(|key| **key != "result") {
            assert_eq!(das[key], record[key], "{key}");
        }
        assert_eq!(das["result"]["reward"], record["result"]["reward"]);
    }
}

/// A LoRA for one layer of the model inside the program.
fn write_lora(path: &Path) {
    let layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v";
    let values = [0.2_f32; 128].map(f32::to_le_bytes).concat();
    let view = |dims: [usize; 2]| TensorView::new(Dtype::F32, dims.to_vec(), &values).expect("a tensor");
    let down = (format!("{layer}.lora_down.weight"), view([1, 128]));
    let up = (format!("{layer}.lora_up.weight"), view([128, 1]));
    serialize_to_file([down, up], None, path).expect("a file");
}

/// What a run drew; the bytes of its pictures say with what options too.
fn latents(run: &Path) -> Vec<u8> {
    fs::read(run.join("latents.safetensors")).expect("latents")
}

#[test]
fn a_lora_changes_the_picture_and_is_recorded_by_its_content() {
    let dir = TempDir::new().expect("a temporary folder");
    let lora = dir.path().join("style.safetensors");
    write_lora(&lora);
    let drawn = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let plain = ["-p", "a star", "--proposal", "none", "--save-latents"];
        succeeds(sample(&out, &[&plain[..], more].concat()));
        only_folder(&out)
    };
    let (plain, changed) = (drawn("plain", &[]), drawn("changed", &["--lora", text(&lora)]));
    assert!(latents(&plain) != latents(&changed));
    assert_eq!(record_of(&plain)["loras"], json!([]));
    let hash = sha256_file(&lora).expect("a hash");
    let expected = json!([{"name": "style", "path": text(&lora), "weight": 1.0, "sha256": hash}]);
    assert_eq!(record_of(&changed)["loras"], expected);
    let (parameters, _) = chunk(&changed.join("best.png"), "parameters");
    assert!(parameters.contains(&format!("Lora hashes: \"style: {}\"", &hash[..10])), "{parameters}");
}

/// A word of two vectors for the model inside the program.
fn write_embedding(path: &Path) {
    let values: Vec<u8> = (0..256).flat_map(|i| ((i as f32) * 0.7).sin().to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![2, 128], &values).expect("a tensor");
    serialize_to_file([("emb_params", view)], None, path).expect("a file");
}

#[test]
fn an_embedding_changes_the_picture_and_is_recorded_by_its_content() {
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("odd.safetensors");
    write_embedding(&file);
    let given = format!("<odd>={}", text(&file));
    let drawn = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let output = sample(&out, &[&["--proposal", "none", "--save-latents"], more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        succeeds(output);
        (only_folder(&out), said)
    };
    let (plain, _) = drawn("plain", &["-p", "a <odd> star", "--reward", "clip"]);
    let (learned, said) =
        drawn("learned", &["-p", "a <odd> star", "--reward", "clip", "--embedding", &given]);
    assert!(latents(&plain) != latents(&learned));
    let hash = sha256_file(&file).expect("a hash");
    let expected = json!([{"name": "<odd>", "path": text(&file), "vectors": 2, "sha256": hash}]);
    let record = record_of(&learned);
    assert_eq!((&record["embeddings"], &record["long_prompts"]), (&expected, &json!("cut")));
    assert_eq!(record_of(&plain)["embeddings"], json!([]));
    let (parameters, _) = chunk(&learned.join("best.png"), "parameters");
    assert!(parameters.contains(&format!("TI hashes: \"<odd>: {}\"", &hash[..10])), "{parameters}");
    let warning = "reward clip has not learned the embedding \"<odd>\": it reads the name as plain text";
    assert_eq!(record["warnings"], json!([warning]));
    assert!(said.contains(warning), "{said}");

    // In the negative prompt; no reward reads that.
    let negative = ["-p", "a star", "-n", "<ODD>", "--reward", "clip", "--embedding", &given];
    let (learned, _) = drawn("negative", &negative);
    assert!(latents(&learned) != latents(&drawn("other", &negative[..6]).0));
    assert_eq!(record_of(&learned)["warnings"], json!([]));
    // In neither.
    let (unused, said) = drawn("unused", &["-p", "a star", "--embedding", text(&file)]);
    assert!(said.contains("warning: the embedding \"odd\" is in no prompt and no negative prompt"), "{said}");
    assert_eq!(latents(&unused), latents(&drawn("without", &["-p", "a star"]).0));
}

#[test]
fn a_long_prompt_is_read_in_windows_if_asked() {
    let dir = TempDir::new().expect("a temporary folder");
    let prompt = format!("{}and a blue ring", "a red star ".repeat(12));
    let drawn = |how: &str| {
        let out = dir.path().join(how);
        let options = ["-p", &prompt, "--proposal", "none", "--reward", "jpeg", "--save-latents"];
        succeeds(sample(&out, &[&options[..], &["--long-prompts", how]].concat()));
        only_folder(&out)
    };
    let (cut, chunk) = (drawn("cut"), drawn("chunk"));
    assert!(latents(&cut) != latents(&chunk));
    assert_eq!(record_of(&chunk)["long_prompts"], "chunk");
    assert_eq!(record_of(&chunk)["warnings"], json!([]));
    let said = record_of(&cut)["warnings"][0].as_str().expect("a warning").to_string();
    assert!(said.contains("are ignored (--long-prompts chunk reads them all)"), "{said}");
    // A plan of several prompts counts them as the longest.
    let flops = |how: &str, prompts: &[&str]| {
        let mut args = vec!["plan", "--json", "--device", "cpu", "--steps", "2", "--long-prompts", how];
        prompts.iter().for_each(|prompt| args.extend(["-p", prompt]));
        let plan: Value = serde_json::from_str(&succeeds(super::run(&args))).expect("JSON");
        plan["flops"].as_u64().expect("a number")
    };
    assert!(flops("chunk", &[&prompt]) > flops("cut", &[&prompt]));
    assert_eq!(flops("chunk", &["a star", &prompt]), 2 * flops("chunk", &[&prompt]));
    assert_eq!(flops("chunk", &["a star"]), flops("cut", &["a star"]));
}

/// The command line that a picture's record stands for.
fn flags_of(das: &Value) -> Vec<String> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let mut flags = Vec::new();
    for (key, value) in das.as_object().expect("an object").iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "schema" | "version" | "result" | "model" => {}
            "model_files" | "reward_files" | "latents_sha256" => {}
            "chain" => flags.extend(["--scheduler".into(), plain(value)]),
            "index" => flags.extend(["--first-index".into(), plain(value)]),
            "loras" => {
                for lora in value.as_array().expect("a list") {
                    let file = format!("{}={}", plain(&lora["path"]), lora["weight"]);
                    flags.extend(["--lora".into(), file]);
                }
            }
            "embeddings" => {
                for embedding in value.as_array().expect("a list") {
                    let file = format!("{}={}", plain(&embedding["name"]), plain(&embedding["path"]));
                    flags.extend(["--embedding".into(), file]);
                }
            }
            "rewards" | "eval_rewards" => {
                for reward in value.as_array().expect("a list") {
                    let weight = reward.get("weight").map(|w| format!("={w}")).unwrap_or_default();
                    let flag = format!("--{}", key.trim_end_matches('s').replace('_', "-"));
                    flags.extend([flag, format!("{}{weight}", plain(&reward["name"]))]);
                }
            }
            key => flags.extend([format!("--{}", key.replace('_', "-")), plain(value)]),
        }
    }
    flags
}

#[test]
fn the_record_in_a_picture_repeats_the_run() {
    let dir = TempDir::new().expect("a temporary folder");
    let lora = dir.path().join("style.safetensors");
    write_lora(&lora);
    let lora = format!("{}=0.5", text(&lora));
    let embedding = dir.path().join("odd.safetensors");
    write_embedding(&embedding);
    let embedding = format!("<odd>={}", text(&embedding));
    let long = "a <odd> star ".repeat(12);
    let runs: &[&[&str]] = &[
        &["-p", "a star", "--proposal", "none", "--lora", &lora],
        &["-p", &long, "--proposal", "none", "--embedding", &embedding, "--long-prompts", "chunk"],
        &[
            "-p", "a star", "--gamma", "0.3", "--kl", "0.7", "--eta", "0.8", "--seed", "-1", "--select",
            "draw",
        ],
        &["-p", "a star", "--first-index", "3", "--proposal", "none"],
        &["-p", "a ring", "--proposal", "best-of-n", "--reward", "clip=2", "--eval-reward", "gold"],
        &["-p", "a ring", "--proposal", "none", "-n", "red", "--cfg-scale", "2.5", "--on-nan", "abort"],
        &["-p", "a ring", "--proposal", "bootstrap", "--tempering", "adaptive", "--resample", "multinomial"],
        &["-p", "a ring", "--populations", "2", "--select", "draw"],
        &["-p", "a ring", "--proposal", "dps", "--guidance-window", "0..0.6", "--select", "reward"],
        &["-p", "a ring", "--proposal", "freedom", "--guidance-strength", "1.5", "--steps", "4"],
        &["-p", "a ring", "--proposal", "svdd", "--duplicates", "3"],
        &["-p", "a ring", "--proposal", "fk", "--potential", "sum", "--weigh-every", "2"],
        &["-p", "a ring", "--gradient", "state"],
        &["-p", "a ring", "--normalise", "std", "--normalise-pictures", "2", "--kl", "0.7"],
        &[
            "-p",
            "a ring",
            "--candidates",
            "2.5",
            "--thin-at",
            "0.6",
            "--max-shift",
            "inf",
            "--ess-threshold",
            "0.5",
        ],
        &["-p", "a ring", "--preset", "paper", "--steps", "3"],
    ];
    for (i, options) in runs.iter().enumerate() {
        let (first, second) = (dir.path().join(format!("{i}a")), dir.path().join(format!("{i}b")));
        succeeds(sample(&first, options));
        let best = only_folder(&first).join("best.png");
        let flags = flags_of(&das(&best));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        succeeds(sample(&second, &flags));
        let again = fs::read(only_folder(&second).join("best.png")).expect("best.png");
        assert!(fs::read(best).expect("best.png") == again, "{flags:?} gave another picture");
    }
}

#[test]
fn best_of_n_records_what_was_asked_and_what_ran() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    succeeds(sample(&out, &["-p", "a star", "--proposal", "best-of-n", "--save", "best"]));
    let run = only_folder(&out);
    let record = record_of(&run);
    assert_eq!(record["particles"], 2);
    let chains = record["chains"].as_u64().expect("a number");
    assert!(chains > 2, "{chains} plain chains for 2 with gradients");
    assert_eq!(lines(&run.join("particles.jsonl")).len() as u64, chains);
    assert_eq!(record["unet_evaluations"], 2 * 2 * chains);
}

#[test]
fn a_draw_is_one_of_the_particles_and_not_always_the_first() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut chosen = Vec::new();
    // Equal weights: the largest is the first, and a draw depends on the seed alone.
    for select in ["argmax", "draw"] {
        let out = dir.path().join(select);
        let plain = ["-p", "a star", "--proposal", "none", "--particles", "4", "--seed", "1"];
        let printed = succeeds(sample(&out, &[&plain[..], &["--select", select]].concat()));
        let run = only_folder(&out);
        assert_eq!(printed, format!("{}\n", run.join("best.png").display()));
        let best = record_of(&run)["result"]["best"].as_u64().expect("a particle");
        let picture = run.join(format!("particles/{best:03}.png"));
        assert!(fs::read(run.join("best.png")).expect("best") == fs::read(picture).expect("a particle"));
        assert_eq!(lines(&run.join("particles.jsonl"))[best as usize]["is_best"], true);
        chosen.push(best);
    }
    assert_eq!(chosen[0], 0);
    assert_ne!(chosen[1], 0);
}

#[test]
fn all_particles_are_returned_with_their_weights() {
    let dir = TempDir::new().expect("a temporary folder");
    let (plain, out) = (dir.path().join("plain"), dir.path().join("json"));
    let all = ["-p", "a star", "--select", "all"];
    let printed = succeeds(sample(&plain, &all));
    let run = only_folder(&plain);
    let paths = ["particles/000.png", "particles/001.png"].map(|p| run.join(p).display().to_string());
    assert_eq!(printed, format!("{}\n", paths.join("\n")));

    let answer =
        super::json(&succeeds(sample(&out, &[&all[..], &["--json", "--eval-reward", "gold"]].concat())));
    let run = only_folder(&out);
    let images = answer["images"].as_array().expect("a list");
    let particles = lines(&run.join("particles.jsonl"));
    assert_eq!((images.len(), particles.len()), (2, 2));
    for (image, line) in images.iter().zip(&particles) {
        assert_eq!(keys(image), ["path", "particle", "weight", "target", "rewards", "eval_rewards"]);
        assert_eq!(image["path"], text(&run.join(line["path"].as_str().expect("a path"))));
        for key in ["weight", "target", "rewards", "eval_rewards"] {
            assert_eq!(image[key], line[key], "{key}");
        }
    }
    // Without pictures the weights are still told.
    let none = ["-p", "a star", "--select", "all", "--save", "none", "--json"];
    let answer = super::json(&succeeds(sample(&dir.path().join("none"), &none)));
    assert!(answer["images"][1]["path"].is_null() && answer["images"][1]["weight"].is_number());
}

#[test]
fn one_prompt_can_go_to_a_file() {
    let dir = TempDir::new().expect("a temporary folder");
    let file = dir.path().join("star.png");
    let plain = ["-p", "a star", "--proposal", "none"];
    let printed = succeeds(sample(&file, &plain));
    assert_eq!(printed, format!("{}\n", file.display()));
    let best = only_folder(&dir.path().join("star")).join("best.png");
    let image = fs::read(&file).expect("star.png");
    assert!(image == fs::read(best).expect("best.png"));
    // Neither the folder nor the file is replaced unasked.
    fails(sample(&file, &plain), 2, &["star.png", "--overwrite"]);
    fs::remove_dir_all(dir.path().join("star")).expect("removed");
    fails(sample(&file, &[&plain[..], &["--seed", "7"]].concat()), 2, &["star.png", "--overwrite"]);
    assert!(fs::read(&file).expect("star.png") == image);
    succeeds(sample(&file, &[&plain[..], &["--seed", "7", "--overwrite"]].concat()));
    assert!(fs::read(&file).expect("star.png") != image);
}

/// What the presets stand for is in the record, and what is given beside a preset wins.
#[test]
fn a_preset_is_recorded_by_what_it_stands_for() {
    let dir = TempDir::new().expect("a temporary folder");
    let settings = |name: &str, flags: &[&str]| {
        let out = dir.path().join(name);
        succeeds(sample(&out, &[&["-p", "a star", "--save", "none"], flags].concat()));
        let record = record_of(&only_folder(&out));
        ["kl", "ess_threshold", "max_shift", "select", "gradient", "gradient_every"]
            .map(|key| record[key].clone())
    };
    let model = [json!(0.05), json!(0.0), json!(4.0), json!("reward"), json!("clean"), json!(8)];
    assert_eq!(settings("model", &[]), model);
    let paper = [json!(0.01), json!(0.5), json!("inf"), json!("argmax"), json!("state"), json!(1)];
    assert_eq!(settings("paper", &["--preset", "paper", "--on-nan", "drop"]), paper);
    let reference = [json!(0.005), json!(0.5), json!("inf"), json!("argmax"), json!("state"), json!(1)];
    assert_eq!(settings("reference", &["--preset", "reference"]), reference);
    let mixed = ["--preset", "paper", "--kl", "0.3", "--select", "draw", "--max-shift", "2"];
    let mixture = [json!(0.3), json!(0.5), json!(2.0), json!("draw"), json!("state"), json!(1)];
    assert_eq!(settings("mixed", &mixed), mixture);
    // Other methods and temperings keep their own threshold.
    assert_eq!(settings("tds", &["--proposal", "tds"])[1], json!(0.5));
    assert_eq!(settings("adaptive", &["--tempering", "adaptive"])[1], json!(0.5));
    assert_eq!(settings("plain", &["--proposal", "none"])[4], Value::Null);
}
