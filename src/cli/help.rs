//! Texts for `--help` and `--version`, lists of what there is.

use std::fmt::Write;
use std::sync::LazyLock;

use crate::cuda::{ARCHITECTURES, TOOLKIT};
use crate::reward::REWARDS;

const EXAMPLES: &str = "\
Examples:
  das-cuda sample -p \"a red star\" -o out
      16 particles of the model inside this program, aligned to its aesthetic reward; a second call numbers on
  das-cuda sample --prompts list.txt --count 4 --seed -1 --json > results.jsonl
      every prompt of a list four times, with a seed that is drawn and recorded
  das-cuda sample -p \"a photo of a cat\" -m stable-diffusion-v1-5 --steps 50 --particles 8 \\
      --reward aesthetic:clip-vit-large-patch14,head.safetensors --reward clip=0.5:clip-vit-large-patch14
      another model, a weighted sum of rewards";

pub const AFTER_COMPLETIONS: &str = "\
Examples:
  das-cuda completions bash > ~/.local/share/bash-completion/completions/das-cuda
  das-cuda completions zsh > \"${fpath[1]}/_das-cuda\"
  das-cuda completions fish > ~/.config/fish/completions/das-cuda.fish";

/// Below the options of `sample`.
pub fn after_sample() -> String {
    format!("Rewards (NAME[=WEIGHT][:PATH]):\n{}\n{EXAMPLES}", rewards())
}

/// A line for each reward: what it is, whether it reads the prompt, and its alpha.
pub fn rewards() -> String {
    REWARDS.iter().fold(String::new(), |mut list, kind| {
        let prompt = if kind.needs.prompt { ", reads the prompt" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(
            list,
            "  {:<18} {}{prompt}; --kl {} unless given ({})",
            kind.name,
            kind.line(),
            kind.default_alpha,
            kind.source
        );
        list
    })
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
    let kernels = match ARCHITECTURES {
        "" => "as sources, compiled by NVRTC at the first run on a GPU".to_string(),
        built => format!("for {built}, by CUDA {TOOLKIT}"),
    };
    format!("{}\ncommit: {commit}\nkernels: {kernels}", env!("CARGO_PKG_VERSION"))
}
