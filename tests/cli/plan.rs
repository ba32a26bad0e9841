//! What `plan` foretells, held against counts made by hand and against the run itself.

use serde_json::Value;
use tempfile::TempDir;

use super::{json, only_folder, record_of, run, sample, succeeds};

fn plan(more: &[&str]) -> Value {
    json(&succeeds(run(&[&["plan", "--json"], more].concat())))
}

#[test]
fn the_plan_foretells_the_peak_memory_of_the_run() {
    let dir = TempDir::new().expect("a temporary folder");
    let cases: &[&[&str]] = &[
        &["--particles", "4", "--micro-batch", "2"],
        &["--particles", "4", "--micro-batch", "2", "--checkpointing", "on"],
        &["--proposal", "bootstrap", "--particles", "8"],
        &["--proposal", "svdd", "--particles", "2", "--duplicates", "3"],
        &["--proposal", "freedom", "--particles", "2"],
        &["--proposal", "mpgd", "--particles", "4", "--micro-batch", "2"],
        &["--particles", "2", "--dtype", "bf16"],
        &["--particles", "2", "--dtype", "fp16", "--gradient", "state", "--checkpointing", "feed-forward"],
        &["--particles", "2", "--gradient", "state", "--checkpointing", "projections"],
        // Many held-out scores after few networks: the saving takes the most.
        &["--proposal", "none", "--particles", "24", "--micro-batch", "4", "--eval-reward", "clip"],
    ];
    for (i, case) in cases.iter().enumerate() {
        let args = [&["-p", "a star", "--steps", "2"], *case].concat();
        let foretold = plan(&args)["peak_bytes"].as_u64().expect("a prediction");
        let out = dir.path().join(i.to_string());
        succeeds(sample(&out, &args));
        let record = record_of(&only_folder(&out));
        assert_eq!(Some(foretold), record["result"]["peak_bytes"].as_u64(), "{case:?}: plan and run");
    }
}

#[test]
fn held_out_rewards_take_no_more_memory_for_more_particles() {
    let peak = |particles: &str, more: &[&str]| {
        let plain = ["-p", "a", "--proposal", "none", "--steps", "2", "--micro-batch", "2", "--particles"];
        let plan = plan(&[&plain[..], &[particles], more].concat());
        plan["peak_bytes"].as_f64().expect("bytes")
    };
    let eval = ["--eval-reward", "clip"];
    let (few, many) = (peak("2", &eval), peak("64", &eval));
    // Beside latents and images, which are all kept: 64 x 64 x 3 floats and 8 x 8 x 4 floats, a few times
    // over.
    let kept = 62.0 * 4.0 * f64::from(64 * 64 * 3 + 8 * 8 * 4);
    assert!(many - few < 2.0 * kept, "{few:.3e} bytes for 2 particles, {many:.3e} for 64");
}

/// Evaluations of the UNet are prompts x particles x steps x branches of the guidance, and arithmetic follows
/// them.
#[test]
fn evaluations_are_those_counted_by_hand_and_arithmetic_follows_them() {
    let counted = |more: &[&str]| {
        let plan = plan(&[&["--proposal", "none", "--reward", "gold"], more].concat());
        (plan["unet_evaluations"].as_u64().expect("a count"), plan["flops"].as_u64().expect("a count"))
    };
    let (p, s) = ("--particles", "--steps");
    let base = counted(&["-p", "a", p, "2", s, "2"]);
    let longer = counted(&["-p", "a", p, "2", s, "3"]);
    let longest = counted(&["-p", "a", p, "2", s, "5"]);
    let wider = counted(&["-p", "a", p, "6", s, "2"]);
    let bare = counted(&["-p", "a", p, "2", s, "2", "--cfg-scale", "1"]);
    let twice = counted(&["-p", "a", "-p", "b", p, "2", s, "2"]);
    assert_eq!([base.0, longer.0, longest.0], [2 * 2 * 2, 2 * 3 * 2, 2 * 5 * 2]);
    assert_eq!([wider.0, bare.0, twice.0], [6 * 2 * 2, 2 * 2, 2 * 2 * 2 * 2]);
    let step = longer.1 - base.1;
    assert_eq!(longest.1 - longer.1, 2 * step, "each step costs the same");
    assert_eq!(twice.1, 2 * base.1, "two prompts");
    // Of three times the particles only the time embedding, one for all, costs no more.
    assert!(wider.1 <= 3 * base.1 && wider.1 as f64 > 2.99 * base.1 as f64, "{} {}", wider.1, base.1);
    // Both branches may share what comes before the text, and no more.
    let branch = base.1 - bare.1;
    assert!((step / 2..=step).contains(&(branch)), "{branch} of {step} for the other branch of two steps");
    // Beside the steps there is the decoder: a reward on pixels multiplies nothing.
    assert!(base.1 > 2 * step);
}

#[test]
fn a_gradient_costs_more_and_parts_add_up() {
    let small = ["-p", "a", "--particles", "2", "--steps", "2"];
    let every = ["-p", "a", "--particles", "2", "--steps", "2", "--gradient-every", "1", "--gradient"];
    let flops = |plan: &Value| plan["flops"].as_u64().expect("a count");
    let [das, clean] = ["state", "clean"].map(|gradient| plan(&[&every[..], &[gradient]].concat()));
    let plain = plan(&[&small[..], &["--proposal", "none"]].concat());
    assert_eq!((&das["gradient"], &plain["gradient"]), (&true.into(), &false.into()));
    assert_eq!(das["unet_evaluations"], plain["unet_evaluations"]);
    assert_eq!((&das["unet_gradients"], &plain["unet_gradients"]), (&das["unet_evaluations"], &0.into()));
    assert!(flops(&das) > 2 * flops(&plain), "forward and backward");
    assert_eq!((&clean["gradient"], &clean["unet_gradients"]), (&true.into(), &0.into()));
    assert!(flops(&plain) < flops(&clean) && flops(&clean) < flops(&das), "no way back through the UNet");
    let families = das["per_prompt"].as_object().expect("an object");
    assert_eq!(families.values().map(flops).sum::<u64>(), flops(&das));
    assert!(das["seconds"].as_f64().is_some_and(|s| s > 0.0));
    assert!(das["peak_bytes"].as_u64() > das["weight_bytes"].as_u64());
}

#[test]
fn the_plan_says_how_draws_are_dealt_to_devices() {
    let base = ["-p", "a", "-p", "b", "--particles", "5", "--steps", "2"];
    let of = |devices: &'static str| plan(&[&base[..], &["--device", devices]].concat());
    let text =
        |devices: &'static str| succeeds(run(&[&["plan"], &base[..], &["--device", devices]].concat()));
    let one = of("cpu");
    assert_eq!((&one["devices"], &one["draws_at_once"]), (&1.into(), &1.into()));
    assert!(!text("cpu").contains("devices"));
    let two = of("cpu,cpu");
    assert_eq!((&two["devices"], &two["draws_at_once"]), (&2.into(), &2.into()));
    assert!(text("cpu,cpu").contains("2, 2 prompts at the same time"), "{}", text("cpu,cpu"));
    // Two prompts: three devices for one of them at most.
    let five = of("cpu,cpu,cpu,cpu,cpu");
    assert_eq!((&five["devices"], &five["draws_at_once"]), (&5.into(), &2.into()));
    for key in ["unet_evaluations", "flops", "peak_bytes"] {
        assert_eq!(five[key], one[key], "{key} is of the work, or of one device");
    }
}

#[test]
fn the_plan_is_text_unless_asked_otherwise() {
    let run_of = [
        "plan",
        "-p",
        "a",
        "-p",
        "b",
        "--particles",
        "3",
        "--steps",
        "4",
        "--gradient",
        "state",
        "--gradient-every",
    ];
    let from = |every: &'static str, candidates| {
        succeeds(run(&[&run_of[..], &[every, "--candidates", candidates]].concat()))
    };
    let printed = from("1", "1");
    let first: Vec<&str> =
        printed.lines().filter_map(|line| line.split_once("  ")).map(|(name, _)| name).collect();
    assert_eq!(first, ["prompts", "particles", "UNet evaluations", "arithmetic", "peak memory", "time"]);
    assert!(printed.contains("3 per prompt, 3 per network call"), "{printed}");
    assert!(printed.contains("48, each with its gradient"), "{printed}");
    // Steps 0 and 1 with 12 candidates, the other two with 3 particles, two branches, two prompts.
    let thinned = from("1", "4");
    assert!(thinned.contains("3 per prompt from 12 candidates, 12 per network call"), "{thinned}");
    assert!(thinned.contains("120, 24 of them with their gradient"), "{thinned}");
    let held = from("3", "1");
    assert!(held.contains("48, 24 of them with their gradient"), "steps 0 and 3 of 4: {held}");
    assert!(printed.contains("TFLOP") && printed.contains("of which weights"), "{printed}");
}

/// This model needs a tenth of a gigabyte, which whoever runs these tests has.
#[test]
fn checkpointing_is_decided_when_left_open() {
    let dir = TempDir::new().expect("a temporary folder");
    for proposal in ["das", "none"] {
        let out = dir.path().join(proposal);
        succeeds(sample(&out, &["-p", "a", "--checkpointing", "auto", "--proposal", proposal]));
        assert_eq!(record_of(&only_folder(&out))["checkpointing"], "off");
    }
    let das = ["-p", "a", "--steps", "2", "--particles", "2", "--checkpointing"];
    let peak = |how: &str| plan(&[&das[..], &[how]].concat())["peak_bytes"].as_u64().expect("bytes");
    assert_eq!(peak("auto"), peak("off"));
    assert!(peak("on") < peak("off"));
}
