//! Texts for `--help` and `--version`, lists of what there is.

use std::sync::LazyLock;

use crate::reward::{REWARDS, RewardKind, SUM_ALPHA, Spec};
use crate::session::{Preset, SampleOptions, Session, SessionBuilder};

const EXAMPLES: &str = "\
Examples:
  das-cuda sample -p \"a red star\" -o out
      16 particles of the model inside this program, aligned to its aesthetic reward;
      a second call numbers on
  das-cuda sample --prompts list.txt --count 4 --seed -1 --json > results.jsonl
      every prompt of a list four times, with a seed that is drawn and recorded
  das-cuda sample -p \"a photo of a cat\" -m stable-diffusion-v1-5/stable-diffusion-v1-5 --steps 50 \\
      --particles 8 --reward aesthetic:clip-vit-large-patch14,head.pth --reward pickscore=0.5
      another model, from the Hugging Face Hub; a weighted sum of rewards, one of files, one from the hub";

pub const AFTER_RESUME: &str = "\
Examples:
  das-cuda resume out/0003-a-red-star
      the options are those of its run.json; files of the model and of rewards must be the same
  das-cuda resume out
      every run in it that has not finished; prompts of a list that had not begun are drawn by the same
      command with --resume";

pub const AFTER_MERGE: &str = "\
Writes DIR/table.csv and DIR/table.jsonl, a row per draw with its rewards, log Z and picture. Exit code 1 where
draws are missing or have not finished.

Examples:
  das-cuda sample --prompts list.txt -o out --shard 0/2 & das-cuda sample --prompts list.txt -o out --shard 1/2
  das-cuda merge out";

pub const AFTER_REPLAY: &str = "\
Examples:
  das-cuda replay out/0000-a-red-star/best.png
  das-cuda replay out/0000-a-red-star/run.json --seed 7 -o other
      the same with another seed";

pub const AFTER_COMPARE: &str = "\
Examples:
  das-cuda compare --prompts list.txt --seeds 1..5 --methods das,best-of-n --eval-reward gold -o table
      two methods at equal cost: table/table.md, .csv, summary.json, runs.jsonl and the pictures
  das-cuda compare -p \"a star\" --sweep kl=0.1,0.2,0.5 --budgets 0.25,1,4 -o sweep -- --steps 25
      three alphas of das against best-of-n, at three budgets, with 25 steps";

pub const AFTER_TOY: &str = "\
Examples:
  das-cuda toy gmm1 --analytic
      toy-gmm1/: table.md, table.csv, summary.json, figure.svg, figure.png and runs.jsonl, a line per run
  das-cuda toy points.csv --analytic --methods none,das --seeds 1..3 --json";

pub const AFTER_PARETO: &str = "\
Examples:
  das-cuda pareto --prompts list.txt --seeds 1..3 --reward aesthetic --reward clip --eval-reward gold -o front
      das and best-of-n at five weights: front/table.md, .csv, summary.json, charts, runs.jsonl and the pictures
  das-cuda pareto -p \"a star\" --reward aesthetic --reward clip --weights 0,0.5,0.9,1 -- --normalise std
      weights of your own, of rewards in standard deviations of plain samples";

pub const AFTER_OPTIMIZE: &str = "\
Examples:
  das-cuda optimize --black-box gold -p \"a red star\" --queries 256 --batch 32 -o out
      eight rounds: out/runs.jsonl, a line per question, its picture, the surrogate after every round, a table
  das-cuda optimize --black-box 'exec:python3 judge.py' --prompts list.txt -o out -- -m MODEL --particles 8
      a judge of your own, another model; its questions and their answers are kept whenever it is stopped
  das-cuda optimize --black-box gold -p \"a star\" --strategies ucb,greedy,random --seeds 1..5 -o curves
      strategies side by side: curves/figure.svg, curves/table.md";

pub const AFTER_EVAL: &str = "\
Examples:
  das-cuda eval out/das out/plain -o table
      two directories of runs, by every scorer whose weights are here
  das-cuda eval table --reward gold --reward clip
      every arm of a comparison";

pub const AFTER_REPORT: &str = "\
Examples:
  das-cuda report out/0000-a-red-star
      report.html: one file without links to others, which can be sent to anybody
  das-cuda report out -o out/report.html --overwrite
      every run in it, side by side
  das-cuda report table
      a comparison: its table, curves and pictures";

pub const AFTER_INSPECT: &str = "\
Examples:
  das-cuda inspect out/0000-a-red-star
  das-cuda inspect model.safetensors
      its family, parts, types and sizes; of a LoRA, an embedding or an autoencoder what it is made for
  das-cuda inspect pickscore --json";

pub const AFTER_COMPLETIONS: &str = "\
Examples:
  das-cuda completions bash > ~/.local/share/bash-completion/completions/das-cuda
  das-cuda completions zsh > \"${fpath[1]}/_das-cuda\"
  das-cuda completions fish > ~/.config/fish/completions/das-cuda.fish";

/// Below the options of `sample`.
pub fn after_sample() -> String {
    format!("Rewards (NAME[=WEIGHT][:PATH]):\n{}\n{EXAMPLES}", rewards())
}

/// Each reward in a few short lines, so that help does not wrap them: what it is, what it needs, whether it
/// reads the prompt, and its alpha.
pub fn rewards() -> String {
    let of_one = |kind: &&RewardKind| {
        let described = kind.line();
        let mut lines: Vec<&str> = described.split("; ").collect();
        lines.extend(kind.needs.prompt.then_some("reads the prompt"));
        if let Some(published) = kind.published() {
            lines.push("without PATH, and where the model has none, from the hub:");
            lines.extend(published.split_inclusive(','));
        }
        let alpha = format!("--kl {} unless given ({})", kind.default_alpha, kind.source);
        lines.push(&alpha);
        let names = std::iter::once(kind.name).chain(std::iter::repeat(""));
        names.zip(lines).map(|(name, line)| format!("  {name:<18} {line}\n")).collect::<String>()
    };
    let list: String = REWARDS.iter().map(of_one).collect();
    format!("{list}\nDefaults (docs/spec.md 13; other options change them):\n{}", defaults())
}

/// A column of [`defaults`]: its head in two lines, the model, the preset.
type Column = (&'static str, &'static str, fn() -> SessionBuilder, Preset);

/// The numbers that depend on the model or the preset, a column for each.
fn defaults() -> String {
    let shapes = Session::builder;
    // A name that no folder has.
    let other = || Session::builder().model("\0");
    let columns: [Column; 4] = [
        ("the model", "`shapes`", shapes, Preset::Model),
        ("other", "models", other, Preset::Model),
        ("--preset", "paper", other, Preset::Paper),
        ("--preset", "reference", other, Preset::Reference),
    ];
    let line = |name: &str, cells: [String; 4]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>10}")).collect();
        format!("  {name:<24}{cells}\n")
    };
    let of = |of: fn(&SampleOptions) -> usize| {
        columns.map(|(.., builder, preset)| of(&builder().preset(preset)).to_string())
    };
    let mut text = line("", columns.map(|(first, ..)| first.into()));
    text += &line("", columns.map(|(_, second, ..)| second.into()));
    text += &line("--steps", of(SampleOptions::step_count));
    text += &line("--particles", of(SampleOptions::particle_count));
    for kind in REWARDS {
        let Ok(spec) = kind.name.parse::<Spec>() else { continue };
        let alpha = |builder: SessionBuilder, preset: Preset| {
            builder.reward(spec.clone()).preset(preset).alpha_choice().unwrap_or(kind.default_alpha)
        };
        let alphas = columns.map(|(.., builder, preset)| alpha(builder(), preset));
        // The others have one alpha, which stands above.
        if alphas.iter().any(|alpha| *alpha != alphas[0]) {
            text += &line(&format!("--kl, {}", kind.name), alphas.map(|alpha| alpha.to_string()));
        }
    }
    text += &line("--kl, a sum of others", [SUM_ALPHA; 4].map(|alpha| alpha.to_string()));
    text
}

/// For `--version`: the version, the commit, and what the kernels were compiled for.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(describe);
    &VERSION
}

fn describe() -> String {
    let commit = match env!("DAS_CUDA_COMMIT") {
        "" => "not recorded",
        commit => commit,
    };
    let kernels = kernels();
    format!("{}\ncommit: {commit}\nkernels: {kernels}", env!("CARGO_PKG_VERSION"))
}

#[cfg(feature = "cuda")]
fn kernels() -> String {
    match crate::cuda::ARCHITECTURES {
        "" => "as sources, compiled by NVRTC at the first run on a GPU".to_string(),
        built => format!("for {built}, by CUDA {}", crate::cuda::TOOLKIT),
    }
}

#[cfg(not(feature = "cuda"))]
fn kernels() -> String {
    "none, built without CUDA".into()
}
