//! The other side of the protocol: this test binary, started as a scorer, right or wrong in one of many ways.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, Write, stdin, stdout};
use std::process::{Command, Stdio, exit};
use std::thread::park;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The weight of value `i` of an image of `size` values.
pub fn weight(i: usize, size: usize) -> f64 {
    ((i % 7) as f64 - 2.5) * 20.0 / size as f64
}

/// The score that has a gradient: `sum_i w_i x_i sigmoid(x_i)`, and the gradient.
fn smooth(pixels: &[f32]) -> (f64, Vec<f32>) {
    let (mut score, mut gradient) = (0.0, Vec::new());
    for (i, &x) in pixels.iter().enumerate() {
        let (w, x) = (weight(i, pixels.len()), f64::from(x));
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        score += w * x * sigmoid;
        gradient.push((w * (sigmoid + x * sigmoid * (1.0 - sigmoid))) as f32);
    }
    (score, gradient)
}

/// The score that sees bytes and the prompt: the mean of red, and the length of the prompt.
pub fn redness(rgb: &[u8], prompt: &str) -> f64 {
    let red: u64 = rgb.iter().step_by(3).map(|&red| u64::from(red)).sum();
    red as f64 / rgb.len() as f64 + prompt.len() as f64
}

/// The right answer to a request.
pub fn answer(request: &Value, gradient: bool) -> Value {
    let decoded = |image: &Value| STANDARD.decode(image.as_str().expect("a string")).expect("base64");
    let images = request["images"].as_array().expect("images");
    let prompts = request["prompts"].as_array().expect("prompts");
    assert_eq!(images.len(), prompts.len());
    if !gradient {
        let score = |(image, prompt): (&Value, &Value)| {
            let picture = image::load_from_memory(&decoded(image)).expect("a PNG file").into_rgb8();
            assert_eq!(json!(picture.width()), request["width"]);
            assert_eq!(json!(picture.height()), request["height"]);
            redness(picture.as_raw(), prompt.as_str().expect("a string"))
        };
        return json!({"id": request["id"], "scores": images.iter().zip(prompts).map(score).collect::<Vec<_>>()});
    }
    let (mut scores, mut gradients) = (Vec::new(), Vec::new());
    for image in images {
        let pixels: Vec<f32> =
            decoded(image).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
        let (score, gradient) = smooth(&pixels);
        scores.push(score);
        gradients.push(STANDARD.encode(gradient.iter().flat_map(|g| g.to_le_bytes()).collect::<Vec<u8>>()));
    }
    match request["gradient"] == json!(true) {
        true => json!({"id": request["id"], "scores": scores, "gradients": gradients}),
        false => json!({"id": request["id"], "scores": scores}),
    }
}

fn wait_for_ever() {
    loop {
        park();
    }
}

/// A process that ends when it is killed.
fn sleeper(pipe: fn() -> Stdio) -> std::process::Child {
    let mut sleep = Command::new("sleep");
    sleep.arg("1000000").stdin(Stdio::null()).stdout(pipe()).stderr(pipe()).spawn().expect("sleep starts")
}

/// A scorer of that kind, until its input ends. What it does is noted in the file `log`, a line each.
pub fn run(kind: &str, log: &str) {
    let note = |line: &str| {
        let mut file = OpenOptions::new().append(true).create(true).open(log).expect("a log");
        writeln!(file, "{line}").expect("written");
    };
    let before = fs::read_to_string(log).unwrap_or_default();
    note(&format!("start {}", std::process::id()));
    let again = !before.is_empty();
    let gradient = !matches!(kind, "bytes" | "null" | "huge");
    match kind {
        "mute" => {
            eprintln!("no module called `steps`");
            exit(3)
        }
        "hangs" => wait_for_ever(),
        "chatty" => println!("Loading checkpoint shards: 100%"),
        "fickle" if again => println!(r#"{{"das_cuda_reward": 1}}"#),
        _ => {
            let form = if gradient { "f32" } else { "png" };
            println!(
                "{}",
                json!({"das_cuda_reward": 1, "name": kind, "gradient": gradient, "images": form, "alpha": 0.25})
            );
        }
    }
    for (count, line) in stdin().lock().lines().enumerate() {
        let request: Value = serde_json::from_str(&line.expect("UTF-8")).expect("a request");
        note("request");
        let mut right = answer(&request, gradient);
        match kind {
            "crash" | "fickle" if count == 2 && !again => {
                eprintln!("out of memory");
                exit(9);
            }
            "crashes" if count == 2 => {
                eprintln!("out of memory");
                exit(9);
            }
            "null" => right["scores"][0] = Value::Null,
            "nan" => {
                println!(r#"{{"id": {}, "scores": [NaN, 1.0]}}"#, request["id"]);
                continue;
            }
            "few" => drop(right["scores"].as_array_mut().expect("scores").pop()),
            "garbage" => println!("step 3: loss 0.2"),
            "other" => right["id"] = json!(1000),
            "flat" => right["gradients"] = json!(["AAAA", "AAAA"]),
            "fails" => right = json!({"id": request["id"], "error": "no such file: weights.pt"}),
            "sleeps" => wait_for_ever(),
            "killed" if count == 1 && !again => {
                // A process that it started keeps its pipes open.
                note(&format!("child {}", sleeper(Stdio::inherit).id()));
                let me = std::process::id().to_string();
                Command::new("kill").args(["-9", &me]).status().expect("kill starts");
                wait_for_ever();
            }
            "parent" if count == 0 => note(&format!("child {}", sleeper(Stdio::null).id())),
            "huge" => right["scores"][0] = json!(1e300),
            "floods" => loop {
                if stdout().write_all(&[b'x'; 1 << 16]).is_err() {
                    exit(0);
                }
            },
            _ => {}
        }
        println!("{right}");
    }
    note("end");
}
