//! The command line as the user types it. Only clap types live here; what they mean is in `options.rs`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Args, Parser, Subcommand, ValueEnum};

use super::help;
use super::shard::Choice;
use super::values::{Auto, Budget, Bytes, Devices, Save, Scales, Seed, Seeds, Select, Window, device};
use super::weights::Weights;
use crate::ddim::{Chain, Prediction};
use crate::method::{self, METHODS, Method};
use crate::model::lpips::Range;
use crate::sampler::{Compat, OnNan};
use crate::session::{Checkpointing, Device, Dtype, LongPrompts, Preset};
use crate::smc::Potentials;
use crate::surrogate::Spread;
use crate::target::Gradient;

/// Test-time alignment of diffusion models: Sequential Monte Carlo with reward gradients.
#[derive(Parser, Debug)]
#[command(name = "das-cuda", version, long_version = help::version(), max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Draw images aligned to a reward and save them
    #[command(after_help = help::after_sample(), after_long_help = help::after_sample(), mut_args(number))]
    Sample(Box<Sample>),
    /// Go on with runs that were interrupted or killed, from their checkpoints, to the same bits as if they
    /// had not been
    #[command(after_help = help::AFTER_RESUME, mut_args(number))]
    Resume(Resume),
    /// Draw again what the record in a picture or a run.json says, and say whether the bytes agree
    #[command(after_help = help::AFTER_REPLAY)]
    Replay(Replay),
    /// One table of all draws in a directory, with what is missing
    #[command(after_help = help::AFTER_MERGE)]
    Merge(Merge),
    /// Score existing images, one JSON line per image
    #[command(mut_args(number))]
    Score(Score),
    /// Compare ways of sampling at equal network cost, on the same prompts and seeds, with intervals
    #[command(after_help = help::AFTER_COMPARE)]
    Compare(Box<Compare>),
    /// The paper's experiments on the plane and in space: methods beside their target, over several seeds,
    /// with a table and a picture
    #[command(after_help = help::AFTER_TOY, mut_args(number))]
    Toy(Toy),
    /// What several rewards can be had together: a method aligned to weighted sums of them, and best of N
    #[command(after_help = help::AFTER_PARETO)]
    Pareto(Box<Pareto>),
    /// Align to a black box that may be asked a limited number of times: learn a surrogate of its answers,
    /// draw guided by that, ask again (online black-box optimisation)
    #[command(
        after_help = help::AFTER_OPTIMIZE,
        mut_args(number),
        mut_arg("seeds", |seeds| seeds.default_value("1"))
    )]
    Optimize(Box<Optimize>),
    /// What sets of pictures are worth by every scorer, and how diverse they are, with intervals
    #[command(after_help = help::AFTER_EVAL, mut_args(number))]
    Eval(Box<Eval>),
    /// Runs and comparisons as one page (HTML) to look at in a browser: pictures, genealogy, curves, numbers
    #[command(after_help = help::AFTER_REPORT)]
    Report(Report),
    /// What a run, a picture, a model, a reward or a file of weights is; nothing is computed or downloaded
    #[command(after_help = help::AFTER_INSPECT)]
    Inspect(Inspect),
    /// Predict the cost of `sample` with the same flags: network evaluations, FLOPs, peak memory, time
    #[command(mut_args(number))]
    Plan(Box<Sample>),
    /// The rewards there are, and what each needs
    Rewards,
    /// The devices there are, one per line: the processor and every GPU, with why one cannot be used
    Devices,
    /// Check this machine: driver, libraries, kernels, memory, cache folder, and a run with a known answer on
    /// each device
    Doctor,
    /// Completions for a shell, on standard output
    #[command(after_help = help::AFTER_COMPLETIONS)]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// The manual page (roff), on standard output
    Man,
}

/// Options whose value is a number.
const NUMBERS: [&str; 45] = [
    "width",
    "height",
    "count",
    "first_index",
    "steps",
    "cfg_scale",
    "eta",
    "kl",
    "particles",
    "candidates",
    "thin_at",
    "populations",
    "draws",
    "learn",
    "epochs",
    "tuning_epochs",
    "alpha",
    "bandwidth",
    "gamma",
    "tempering_start",
    "ess_threshold",
    "max_shift",
    "gradient_every",
    "weigh_every",
    "duplicates",
    "guidance_strength",
    "time_travel",
    "normalise_pictures",
    "checkpoint_every",
    "preview",
    "max_seconds",
    "max_nfe",
    "max_vram",
    "micro_batch",
    "threads",
    "queries",
    "batch",
    "first",
    "evaluate",
    "noise",
    "template_share",
    "bonus",
    "learning_rate",
    "langevin",
    "surrogate_batch",
];

/// Lets an option with a number be given one below 0: it is refused with its name, where it would else be
/// taken for an option that nobody knows.
fn number(arg: Arg) -> Arg {
    let is_number = NUMBERS.contains(&arg.get_id().as_str());
    if is_number { arg.allow_negative_numbers(true) } else { arg }
}

/// Reads a method by its name; help lists [`METHODS`].
fn methods() -> impl TypedValueParser<Value = &'static dyn Method> {
    let value = |m: &&'static dyn Method| PossibleValue::new(m.name()).aliases(m.aliases()).help(m.about());
    PossibleValuesParser::new(METHODS.iter().map(value)).try_map(|name| method::find(&name))
}

/// How a GPU is used.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Most memory of the GPU to take, e.g. 20G: decides --micro-batch auto and --checkpointing auto
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub max_vram: Option<Bytes>,
    /// Launch every kernel by itself instead of recorded CUDA graphs (for profilers and debugging)
    #[arg(long, help_heading = "Machine")]
    pub no_graph: bool,
    /// Leave every product to the program's own kernels, also where cuBLASLt is found and is faster
    #[arg(long, help_heading = "Machine")]
    pub no_cublas: bool,
}

#[derive(Args, Clone, Debug)]
pub struct Sample {
    /// Prompt; repeat the flag for several
    #[arg(short, long = "prompt", value_name = "TEXT", help_heading = "What to draw")]
    pub prompts: Vec<String>,
    /// Prompts from a file, or from standard input with `-`: text with one per line, or JSON (lines, or a
    /// list) with `prompt` and, if wanted, `negative_prompt`. Blank lines and lines that begin with # are no
    /// prompts. Where no file has the name: simple-animals (40 words) and eval-animals (10 others), the
    /// paper's lists
    #[arg(long = "prompts", value_name = "FILE", help_heading = "What to draw")]
    pub prompt_file: Option<PathBuf>,
    /// What the image should not show (classifier-free guidance's other branch) [default: the model's own,
    /// which is the empty text, or for some models of XL no text at all]
    #[arg(short, long, value_name = "TEXT", help_heading = "What to draw")]
    pub negative_prompt: Option<String>,
    /// Model: a folder in diffusers layout, a checkpoint in a single file (.safetensors, .ckpt) of Stable
    /// Diffusion 1.x, 2.x or XL, or OWNER/NAME[@REVISION][/FILE] of a repository on the Hugging Face Hub or a
    /// file in one: what its cache lacks is downloaded. A path that exists here is meant before a repository
    /// of that name [default: the model inside this program]
    #[arg(short, long, value_name = "MODEL", help_heading = "What to draw")]
    pub model: Option<PathBuf>,
    /// Another autoencoder for the model: the folder of one (AutoencoderKL, or AutoencoderTiny: TAESD, whose
    /// pictures and rewards are approximations), a single file, or a name as of `-m`
    #[arg(long, value_name = "PATH", requires = "model", help_heading = "What to draw")]
    pub vae: Option<PathBuf>,
    /// For a model in a single file: a folder in diffusers layout, or the name of a repository, whose
    /// configurations and tokenizers are taken; its weights are not read [default: those of the family]
    #[arg(long, value_name = "DIR", requires = "model", help_heading = "What to draw")]
    pub model_config: Option<PathBuf>,
    /// What the model's UNet predicts [default: what its files say]
    #[arg(long, value_enum, requires = "model", help_heading = "What to draw")]
    pub prediction: Option<Prediction>,
    /// Chain to sample a distilled model by: lcm, for LCM-LoRA, or ddim-trailing, for Hyper-SD, Lightning and
    /// Turbo [default: what its files say]
    #[arg(long, value_enum, requires = "model", help_heading = "What to draw", hide_possible_values = true)]
    pub scheduler: Option<Chain>,
    /// LoRA file to merge into the model, repeatable: PATH or PATH=WEIGHT, for UNet and text encoders; PATH
    /// may be a name on the hub, as for --model
    #[arg(long = "lora", value_name = "PATH[=WEIGHT]", help_heading = "What to draw")]
    pub loras: Vec<String>,
    /// Textual inversion file, repeatable: the word NAME of prompts and negative prompts becomes what the
    /// file has learned; PATH alone: by the name in the file, else by its file name. PATH may be a name on
    /// the hub, as for --model
    #[arg(long = "embedding", value_name = "[NAME=]PATH", help_heading = "What to draw")]
    pub embeddings: Vec<String>,
    /// Prompts that are longer than the text encoder reads (75 tokens for all families): cut, with a
    /// warning, or chunk: encode them in windows of that length, and join these
    #[arg(
        long,
        value_enum,
        default_value_t = LongPrompts::Cut,
        value_name = "cut|chunk",
        hide_possible_values = true,
        help_heading = "What to draw"
    )]
    pub long_prompts: LongPrompts,
    /// Image width in pixels [default: the model's own]
    #[arg(short = 'W', long, value_name = "PX", help_heading = "What to draw")]
    pub width: Option<usize>,
    /// Image height in pixels [default: the model's own]
    #[arg(short = 'H', long, value_name = "PX", help_heading = "What to draw")]
    pub height: Option<usize>,
    /// Seed of all randomness, resampling included; -1 draws one, which is recorded
    #[arg(short, long, default_value = "42", allow_negative_numbers = true, help_heading = "What to draw")]
    pub seed: Seed,
    /// Draw every prompt this many times, with the seeds SEED, SEED + 1, ...
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "What to draw")]
    pub count: usize,
    /// Index of the first prompt. Randomness is keyed by a prompt's index, so that with its index each prompt
    /// of a list can be drawn alone, and a list in parts
    #[arg(long, value_name = "K", default_value_t = 0, help_heading = "What to draw")]
    pub first_index: usize,
    /// Start from these latents (safetensors, one tensor `latents` of shape particles x channels x h x w)
    #[arg(long, value_name = "FILE", help_heading = "What to draw")]
    pub latents: Option<PathBuf>,

    /// Denoising steps [default: 50 for `shapes`, else and with another --preset 100]
    #[arg(long, value_name = "N", help_heading = "Diffusion")]
    pub steps: Option<usize>,
    /// Classifier-free guidance scale; 1 or less turns guidance off
    #[arg(
        long,
        alias = "guidance-scale",
        value_name = "S",
        default_value_t = 5.0,
        help_heading = "Diffusion"
    )]
    pub cfg_scale: f64,
    /// Noise of each step: 1 is the full DDIM variance. Alignment needs more than 0
    #[arg(long, default_value_t = 1.0, help_heading = "Diffusion")]
    pub eta: f64,

    /// Settings to begin with; other options change them
    #[arg(long, value_enum, default_value_t = Preset::Model, help_heading = "Alignment")]
    pub preset: Preset,
    /// Reward to align to, repeatable: NAME[=WEIGHT][:PATH] [default: aesthetic]
    #[arg(long = "reward", value_name = "R", help_heading = "Alignment")]
    pub rewards: Vec<String>,
    /// Held-out rewards: reported, never optimised
    #[arg(long = "eval-reward", value_name = "R", help_heading = "Alignment")]
    pub eval_rewards: Vec<String>,
    /// Divide each reward by its standard deviation before its weight counts, so that weights are comparable
    /// between scorers, and alpha (--kl) is in standard deviations. std measures them first, on plain
    /// pictures of the model; std=SCALE,SCALE gives them, one for each --reward in order, as run.json has
    /// them
    #[arg(long, value_name = "std[=SCALES]", help_heading = "Alignment")]
    pub normalise: Option<Scales>,
    /// Plain pictures to measure --normalise std on, dealt over the prompts and drawn once, with noise of
    /// their own; within a prompt they tell the spread [default: 32]
    #[arg(long, value_name = "N", requires = "normalise", help_heading = "Alignment")]
    pub normalise_pictures: Option<usize>,
    /// Strength of the prior, alpha in p(x) exp(r(x)/alpha) [default: the reward's own (below), 0.05 for
    /// the aesthetic reward of `shapes`; with --normalise 0.01, where a standard deviation is worth 100, and
    /// 0.12 for that of `shapes`; for svdd 0, which takes the largest reward]
    #[arg(long = "kl", visible_aliases = ["alpha", "kl-coeff"], value_name = "ALPHA", help_heading = "Alignment")]
    pub kl: Option<f64>,
    /// How particles are proposed and weighted
    #[arg(
        long,
        default_value = METHODS[0].name(),
        value_parser = methods(),
        value_name = "METHOD",
        help_heading = "Alignment"
    )]
    pub proposal: &'static dyn Method,
    /// Particles per prompt and population [default: 16 for `shapes` and with --preset paper, else 4]
    #[arg(long, alias = "num-particles", value_name = "P", help_heading = "Alignment")]
    pub particles: Option<usize>,
    /// Begin with this many unguided particles for each particle, keep the promising ones at --thin-at, each
    /// at most once, and go on with the full reward (--tempering none); 1 for none [default: 1]
    #[arg(long, value_name = "C", help_heading = "Alignment")]
    pub candidates: Option<f64>,
    /// Fraction of the steps before the candidates are thinned [default: 0.3]
    #[arg(long, value_name = "F", help_heading = "Alignment")]
    pub thin_at: Option<f64>,
    /// Independent populations of each prompt, one after another. From how they scatter log Z and its error
    /// are known; weights are shared in proportion to their estimates of Z, and a particle of all is returned
    #[arg(long, value_name = "M", default_value_t = 1, help_heading = "Alignment")]
    pub populations: usize,
    /// How the reward is switched on along the chain: exp, poly:POWER, adaptive, none [default: exp; none for
    /// tds and fk, with --candidates, and for das with the aesthetic reward of `shapes`]
    #[arg(long, value_name = "T", help_heading = "Alignment")]
    pub tempering: Option<String>,
    /// Speed of `exp` and `poly` tempering [default: full reward from 87 % of the steps on]
    #[arg(long, value_name = "G", help_heading = "Alignment")]
    pub gamma: Option<f64>,
    /// Fraction of the steps before any reward is computed; with --candidates, before guidance begins
    /// [default: 0; 0.2 for fk]
    #[arg(long, value_name = "F", help_heading = "Alignment")]
    pub tempering_start: Option<f64>,
    /// ssp, systematic, stratified, residual or multinomial [default: ssp; systematic for tds,
    /// multinomial for fk]
    #[arg(long, value_name = "R", help_heading = "Alignment")]
    pub resample: Option<String>,
    /// Resample when the effective sample size falls below this fraction of the particles; 0 never
    /// [default: 0.5; 0 for das with the aesthetic reward of `shapes`]
    #[arg(long, value_name = "F", help_heading = "Alignment")]
    pub ess_threshold: Option<f64>,
    /// Bound on the guided shift of a move, in standard deviations of its noise; inf for none [default: inf;
    /// 4 for das with the aesthetic reward of `shapes`]
    #[arg(long, value_name = "C", help_heading = "Alignment")]
    pub max_shift: Option<f64>,
    /// Which gradient of the reward guides a particle [default: state; clean for das with the aesthetic
    /// reward of `shapes`]
    #[arg(long, value_enum, help_heading = "Alignment")]
    pub gradient: Option<Gradient>,
    /// Compute a new gradient at every K-th guided step. Between them a particle is guided by the gradient
    /// that it has, and is neither weighed nor resampled [default: 1; 8 for das with the aesthetic reward of
    /// `shapes`]
    #[arg(long, value_name = "K", help_heading = "Alignment")]
    pub gradient_every: Option<usize>,
    /// What an event multiplies weights by, of the rewards l that a particle has had, tempered and over
    /// alpha: diff, exp(l - the last l); max, exp(the largest l so far); sum, exp(the sum of l so far). The
    /// end multiplies by what is left of exp(r / alpha) [default: diff; max for fk]
    #[arg(long, value_name = "diff|max|sum", help_heading = "Alignment")]
    pub potential: Option<Potentials>,
    /// For bootstrap and fk: weigh and resample at every K-th step [default: 1; a fifth of the steps for fk]
    #[arg(long, value_name = "K", help_heading = "Alignment")]
    pub weigh_every: Option<usize>,
    /// For svdd: next states that are drawn for each particle at every step, of which one goes on
    /// [default: 20]
    #[arg(long, value_name = "M", help_heading = "Alignment")]
    pub duplicates: Option<usize>,
    /// For the methods whose shift by the gradient is not weighed, how far: dps adds this times the gradient
    /// to the state; freedom shifts the state, and mpgd the clean latent, by this times the size of what
    /// classifier-free guidance adds to the noise [default: 1 for dps, 0.2 for freedom, 15 for mpgd]
    #[arg(long, value_name = "S", help_heading = "Alignment")]
    pub guidance_strength: Option<f64>,
    /// Part of the steps in which these methods shift, as fractions from 0, the first step, to 1 [default:
    /// 0..1 for dps, 0.3..0.7 for freedom and mpgd]
    #[arg(long, value_name = "FROM..UNTIL", help_heading = "Alignment")]
    pub guidance_window: Option<Window>,
    /// For freedom and mpgd: take each step from 30 to 60 % of the chain so often, with new noise between; 1
    /// for once [default: 3 for freedom, 1 for mpgd]
    #[arg(long, value_name = "N", help_heading = "Alignment")]
    pub time_travel: Option<u32>,
    /// What to do about values that are not finite: drop the particle (and say so) or abort with exit code 5
    #[arg(long, default_value_t = OnNan::Drop, value_name = "drop|abort", help_heading = "Alignment")]
    pub on_nan: OnNan,
    /// Whose bookkeeping after a resampling: the paper's, or that of the authors' program, in which twists
    /// and gradients do not travel with their particles. The latter is biased; it is for comparisons with
    /// published numbers
    #[arg(long, default_value_t = Compat::Paper, value_name = "paper|reference", help_heading = "Alignment")]
    pub compat: Compat,

    /// Output directory; each prompt gets a folder of its own, numbered on after those that are there. For
    /// one prompt also NAME.png: the selected image goes there, the rest into the directory NAME beside it
    #[arg(short, long, default_value = "out", value_name = "PATH", help_heading = "Output")]
    pub output: PathBuf,
    /// Which particle is returned (best.png and standard output) [default: reward; argmax
    /// with --preset paper and reference, and for none, svdd, dps, freedom and mpgd, where it is the first
    /// particle]
    #[arg(long, value_enum, help_heading = "Output")]
    pub select: Option<Select>,
    /// Which images are written
    #[arg(long, value_enum, default_value_t = Save::All, help_heading = "Output")]
    pub save: Save,
    /// Write the final latents, `latents.safetensors`
    #[arg(long, help_heading = "Output")]
    pub save_latents: bool,
    /// No grid.png, which --save all writes for two particles or more
    #[arg(long, help_heading = "Output")]
    pub no_grid: bool,
    /// No generation parameters inside the PNG files
    #[arg(long, help_heading = "Output")]
    pub no_metadata: bool,
    /// Replace the results of an earlier run: the folder of the same number (from 0, or --first-index) and
    /// prompt, when the new result is finished; and NAME.png
    #[arg(long, help_heading = "Output")]
    pub overwrite: bool,
    /// Do not draw again what the output directory holds already, finished, with the same options
    #[arg(long, conflicts_with = "overwrite", help_heading = "Output")]
    pub skip_finished: bool,
    /// As --skip-finished, and go on with what was interrupted or killed, from its checkpoint, to the same
    /// bits as if it had not been: add it to the same command
    #[arg(long, conflicts_with_all = ["overwrite", "skip_finished"], help_heading = "Output")]
    pub resume: bool,
    /// Draw one part of the list alone: part I, from 0, of N, those draws whose number leaves the rest I when
    /// it is divided by N. `auto`: as Slurm (array or srun), a Kubernetes indexed job, torchrun or MPI number
    /// their processes. All parts write into the same directory; each does as --resume, and `das-cuda merge`
    /// makes one table of them
    #[arg(long, value_name = "I/N|auto", conflicts_with_all = ["overwrite", "skip_finished"], help_heading = "Output")]
    pub shard: Option<Choice>,
    /// Write a checkpoint, to go on from, after every K steps; 0 for none [default: about once a minute, and
    /// at a signal]
    #[arg(long, value_name = "K", help_heading = "Output")]
    pub checkpoint_every: Option<usize>,
    /// After every K steps write what the particles are about to become, `previews/008.png`: their predicted
    /// clean latents, mapped to colours without a decoder. That costs an evaluation of the UNet each time,
    /// which --max-nfe and the records do not count, and changes no result
    #[arg(long, value_name = "K", help_heading = "Output")]
    pub preview: Option<usize>,
    /// Decode previews by the model's autoencoder (that of --vae, if given), which takes longer and shows
    /// more; `shapes` always does
    #[arg(long, requires = "preview", help_heading = "Output")]
    pub preview_decoder: bool,
    /// End after this many seconds, with the best picture so far and exit code 6; `das-cuda resume` goes on
    #[arg(long, value_name = "S", help_heading = "Output")]
    pub max_seconds: Option<f64>,
    /// The same, before more evaluations of the UNet than these are spent on all prompts together, those
    /// included that --normalise measures by and that foresee the picture of a run that ends early
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub max_nfe: Option<u64>,
    /// Print one JSON object per prompt instead of paths
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// No progress, no summary
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Where to compute: cpu, cuda (the first GPU), cuda:N, or auto: the first GPU if it can be used, else
    /// the CPU. Over several GPUs, cuda:0,cuda:1, prompts are dealt; where there are fewer prompts than GPUs,
    /// also the particles of each. Every GPU holds the whole model
    #[arg(long, default_value = "auto", value_name = "DEVICE[,DEVICE]", help_heading = "Machine")]
    pub device: Devices,
    /// Type of weights and intermediate results [default: fp32 on the CPU, bf16 on a GPU]
    #[arg(long, value_enum, help_heading = "Machine")]
    pub dtype: Option<Dtype>,
    #[command(flatten)]
    pub machine: Machine,
    /// Particles per network call; changes memory and speed, and results by no more than rounding
    #[arg(long, default_value = "auto", value_name = "N|auto", help_heading = "Machine")]
    pub micro_batch: Auto,
    /// Which activations to compute again in the backward pass instead of keeping them: less memory, more
    /// time
    #[arg(long, value_enum, default_value_t = Checkpointing::Off, help_heading = "Machine")]
    pub checkpointing: Checkpointing,
    /// CPU threads [default: one per processor]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Use no network: what the cache of the Hugging Face Hub lacks is an error (also HF_HUB_OFFLINE=1)
    #[arg(long, help_heading = "Machine")]
    pub offline: bool,
}

#[derive(Args, Debug)]
pub struct Resume {
    /// Folder of a run (or its run.json), or one that holds such folders
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// As of `sample`; counted anew
    #[arg(long, value_name = "S")]
    pub max_seconds: Option<f64>,
    /// As of `sample`; counted anew
    #[arg(long, value_name = "N")]
    pub max_nfe: Option<u64>,
    /// Print one JSON object per prompt instead of paths
    #[arg(long)]
    pub json: bool,
    /// No progress, no summary
    #[arg(short, long)]
    pub quiet: bool,
    /// CPU threads [default: one per processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

#[derive(Args, Debug)]
pub struct Merge {
    /// Directory that `sample -o` was given
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Print the lines of table.jsonl
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Replay {
    /// Picture that the program drew, run.json, or the folder of a run
    #[arg(value_name = "PICTURE|run.json")]
    pub source: PathBuf,
    /// Flags of `sample` to change. Where they leave what is drawn as it was, files must be those of then,
    /// and another result is an error (exit code 5). The new run goes to -o, if given, else to `replay`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub changes: Vec<OsString>,
}

/// What is drawn by every way of sampling, and how.
#[derive(Args, Clone, Debug)]
pub struct Cases {
    /// Prompt; repeat the flag for several
    #[arg(short, long = "prompt", value_name = "TEXT")]
    pub prompts: Vec<String>,
    /// Prompts from a file, as `sample` reads it
    #[arg(long = "prompts", value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Seeds: a list such as 1,2,7, or a range with both of its ends such as 1..5
    #[arg(long, default_value = "1..3", value_name = "LIST")]
    pub seeds: Seeds,
    /// Held-out rewards, as of `sample`
    #[arg(long = "eval-reward", value_name = "R")]
    pub eval_rewards: Vec<String>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// CPU threads [default: one per processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Flags of `sample` for all runs, after `--`
    #[arg(last = true, value_name = "FLAGS")]
    pub common: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Compare {
    /// Methods to compare, each with its own defaults: an arm each; "" for none but those of --arm
    #[arg(long, value_delimiter = ',', default_value = "das,best-of-n", value_name = "LIST")]
    pub methods: Vec<String>,
    /// A further arm, repeatable: its name and its flags of `sample`, which change those after `--`
    #[arg(long = "arm", value_name = "LABEL=FLAGS")]
    pub arms: Vec<String>,
    /// An arm once for every value of a flag, repeatable: --sweep kl=0.1,0.2,0.5 of the first arm, --sweep
    /// fk:kl=1,2 of the arm fk
    #[arg(long = "sweep", value_name = "[ARM:]FLAG=LIST", allow_hyphen_values = true)]
    pub sweeps: Vec<String>,
    /// Budgets: multiples of what the first arm costs with its own particles, or operations (1.5TFLOP), or as
    /// many operations as evaluations of the UNet take (200NFE). Every arm gets as many particles as cost
    /// that: the first arm, and arms that cost the same, rounded down, the others up. Or seconds of a draw
    /// (30s), for which each arm is drawn and timed before the first run; arms that cost the same get as many
    #[arg(
        long,
        alias = "budget",
        value_delimiter = ',',
        default_value = "1",
        allow_hyphen_values = true,
        value_name = "LIST"
    )]
    pub budgets: Vec<Budget>,
    /// Arm to which the others are compared [default: best-of-n if it is there, else the first]
    #[arg(long, value_name = "LABEL")]
    pub against: Option<String>,
    /// Reward to align to, as of `sample`
    #[arg(long = "reward", value_name = "R")]
    pub rewards: Vec<String>,
    /// Directory of the comparison. The same command goes on with what is there
    #[arg(short, long, default_value = "compare", value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub cases: Cases,
}

/// What the bonus of an upper confidence bound is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BonusSpread {
    /// The sum of products of the features of all pictures: the bonus falls as answers come in
    Sum,
    /// Their sample covariance, as in the authors' program: it does not
    Covariance,
}

impl From<BonusSpread> for Spread {
    fn from(of: BonusSpread) -> Spread {
        match of {
            BonusSpread::Sum => Spread::Sum,
            BonusSpread::Covariance => Spread::Covariance,
        }
    }
}

#[derive(Args, Debug)]
pub struct Optimize {
    /// Black box, a reward as of `sample` without a weight: gold, jpeg, exec:COMMAND, http://ADDRESS or any
    /// other. Its answers alone are used, never a gradient
    #[arg(long, value_name = "R")]
    pub black_box: String,
    /// Ways of spending the queries: ucb, bootstrap and greedy learn after every round, and differ in what
    /// they hope for; one-shot learns once, from plain samples of half of the queries; best-of-n is ucb with
    /// the best of plain samples in the place of guided ones; random asks about plain samples
    #[arg(
        long,
        visible_alias = "surrogate",
        value_delimiter = ',',
        default_value = "ucb",
        value_name = "LIST"
    )]
    pub strategies: Vec<String>,
    /// Questions to the black box, of each strategy and seed
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub queries: usize,
    /// Questions of a round
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub batch: usize,
    /// Questions of the first round, about plain samples [default: those of any round]
    #[arg(long, value_name = "N")]
    pub first: Option<usize>,
    /// Pictures that are drawn in the end with the last surrogate, without its optimism, and judged by the
    /// black box besides
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub evaluate: usize,
    /// Reward through whose CLIP model the surrogate sees pictures: aesthetic, clip, pickscore or hpsv2, as
    /// of `sample` [default: that of the model's aesthetic reward]
    #[arg(long, default_value = "aesthetic", hide_default_value = true, value_name = "R[:PATH]")]
    pub tower: String,
    /// Method that draws guided pictures
    #[arg(long, default_value = "das", value_name = "M")]
    pub method: String,
    /// Factor of the bonus of ucb, in standard deviations of the answers [default: 1; with --spread
    /// covariance 0.01]
    #[arg(long, value_name = "A")]
    pub bonus: Option<f64>,
    /// What that bonus is measured by
    #[arg(long, value_enum, default_value_t = BonusSpread::Sum)]
    pub spread: BonusSpread,
    /// Passes of the surrogate over all answers after a round [default: 300]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Its learning rate [default: 0.001]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Answers of a step of its learning [default: 512]
    #[arg(long, value_name = "N")]
    pub surrogate_batch: Option<usize>,
    /// Factor of the noise of Langevin dynamics in its learning: with greedy a draw of what may have been
    /// learned (Thompson sampling), such as 1e-4
    #[arg(long, default_value_t = 0.0, value_name = "C")]
    pub langevin: f64,
    /// Standard deviation of noise that is added to answers before they are learned from
    #[arg(long, default_value_t = 0.0, value_name = "S")]
    pub noise: f64,
    /// Text with {prompt} in it that is put around the prompts of a share of the queries
    #[arg(long, value_name = "TEXT")]
    pub template: Option<String>,
    /// That share [default: 0.25]
    #[arg(long, value_name = "F")]
    pub template_share: Option<f64>,
    /// Print the summary as JSON in place of the table
    #[arg(long)]
    pub json: bool,
    /// Directory of the optimisation. The same command goes on with what is there
    #[arg(short, long, default_value = "optimize", value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub cases: Cases,
}

#[derive(Args, Debug)]
pub struct Toy {
    /// gmm1, gmm2 or swiss-roll, or a file of points: comma-separated, two or three numbers a line, the first
    /// of which may hold names. The reward of points is that of gmm1 in the plane, of swiss-roll in space
    #[arg(value_name = "TOY")]
    pub toy: PathBuf,
    /// The score in closed form in place of a trained network's: that of the mixture or the roll; of a file,
    /// that of its points, each blurred by the bandwidth
    #[arg(long, conflicts_with_all = ["learn", "epochs"])]
    pub analytic: bool,
    /// Points of the data that the network of each seed learns from [default: 10000; of a file, all of its
    /// points]
    #[arg(long, value_name = "N")]
    pub learn: Option<usize>,
    /// Epochs of its training, each over all points
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub epochs: usize,
    /// Epochs of the methods that train on the reward [default: ddpo 1000, backprop 500, of the roll 300, dds
    /// 300, dds-trained 200]
    #[arg(long, value_name = "N", conflicts_with = "analytic")]
    pub tuning_epochs: Option<usize>,
    /// Methods, beside draws from the target itself: those of `sample`; guidance, which adds the reward's
    /// gradient to every step, without weights; and without --analytic ddpo, backprop, dds and dds-trained,
    /// which train a network on the reward for each seed
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "none,das,tds,bootstrap,guidance,best-of-n",
        value_name = "LIST"
    )]
    pub methods: Vec<String>,
    /// Seeds: a list such as 1,2,7, or a range with both of its ends such as 1..10
    #[arg(long, default_value = "1..10", value_name = "LIST")]
    pub seeds: Seeds,
    /// Populations of each method and seed
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub populations: usize,
    /// Particles of a population
    #[arg(long, default_value_t = 100, value_name = "P")]
    pub particles: usize,
    /// Samples that are drawn from the weights of a population. Of best-of-n each is the best of as many
    /// chains as cost what the particles behind one draw do, a backward pass as much as a forward one
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub draws: usize,
    /// Strength of the prior, alpha in p(x) exp(r(x)/alpha)
    #[arg(long = "kl", default_value_t = 1.0, value_name = "ALPHA")]
    pub alpha: f64,
    /// Standard deviation of the blur around each point of a file [default: that under which the points
    /// predict one another best]
    #[arg(long, value_name = "H")]
    pub bandwidth: Option<f64>,
    /// Directory of the experiment. The same command goes on with what is there [default: toy-NAME]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print the summary as JSON in place of the table
    #[arg(long)]
    pub json: bool,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Where to compute: cpu, cuda (the first GPU), cuda:N, or auto: the first GPU if it can be used, else
    /// the CPU. Only the CPU's table is the same on any machine
    #[arg(long, default_value = "cpu", value_parser = device)]
    pub device: Device,
    /// CPU threads [default: one per processor]; no result depends on them
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

#[derive(Args, Debug)]
pub struct Eval {
    /// Directory of runs, folder of one run, or folder of a comparison; each is a set of its own, of a
    /// comparison each arm and budget
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Judge the pictures of all particles, not the returned ones alone
    #[arg(long)]
    pub all: bool,
    /// Scorer, repeatable: NAME[:PATH] [default: all whose weights are here]
    #[arg(long = "reward", value_name = "R")]
    pub rewards: Vec<String>,
    /// Also LPIPS, the distance of two pictures as AlexNet sees them: NETWORK,LINEAR, torchvision's AlexNet
    /// and the weights of its channels (alex.pth of version 0.1 of the package lpips), or one file of that
    /// package's whole network
    #[arg(long, value_name = "PATH")]
    pub lpips: Option<String>,
    /// Range of the intensities that LPIPS's network is given
    #[arg(long, value_enum, default_value_t = Range::Signed, value_name = "RANGE", requires = "lpips")]
    pub lpips_inputs: Range,
    /// Eigenvalues of the truncated CLIP entropy
    #[arg(long = "tce", default_value_t = 20, value_name = "K")]
    pub eigenvalues: usize,
    /// Also write table.md, table.csv, summary.json and scores.jsonl (a line per picture) into this
    /// directory, which serves one evaluation: the same one writes them anew
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print summary.json instead of the table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub judge: Judge,
}

#[derive(Args, Debug)]
pub struct Pareto {
    /// A reward of the front, as of `sample` but without a weight; repeat the flag for two and more
    #[arg(long = "reward", required = true, value_name = "R")]
    pub rewards: Vec<String>,
    /// Weights of the sums that are aligned to: 0..1:STEP is every combination of multiples of the step that
    /// adds up to 1; of two rewards also a list of the first one's weights, such as 0,0.2,1
    #[arg(long, default_value = "0..1:0.25", value_name = "GRID")]
    pub weights: Weights,
    /// Method that is aligned with, and flags of `sample` for it alone, as in --method "dps
    /// --guidance-strength 0.5"
    #[arg(long, default_value = "das", value_name = "M")]
    pub method: String,
    /// What a sum may cost, as of `compare`; best of N gets as much for each
    #[arg(long, default_value = "1", value_name = "BUDGET")]
    pub budget: Budget,
    /// Directory of the experiment. The same command goes on with what is there
    #[arg(short, long, default_value = "pareto", value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub cases: Cases,
}

#[derive(Args, Debug)]
pub struct Report {
    /// Folder of a run, a comparison or an optimisation, or one that holds such folders; folder of `toy`,
    /// `pareto` or `eval -o`. Several are shown side by side
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page; `-` is standard output
    #[arg(short, long, default_value = "report.html", value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the page that is there
    #[arg(long)]
    pub overwrite: bool,
    /// Most pictures of a run or a comparison; those of the largest weights are taken
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub pictures: usize,
}

#[derive(Args, Debug)]
pub struct Inspect {
    /// Folder of runs or of an experiment; picture; model (a folder, a single file, a name on the hub, or
    /// `shapes`); LoRA, embedding, autoencoder, tower or head of a reward, LPIPS; name of a reward. What
    /// exists as a file is meant before a name
    #[arg(required = true, value_name = "RUN|PICTURE|MODEL|REWARD")]
    pub what: Vec<PathBuf>,
    /// Print one JSON object for each
    #[arg(long)]
    pub json: bool,
}

/// What judges pictures, besides the rewards.
#[derive(Args, Debug)]
pub struct Judge {
    /// Model whose towers judge where a reward names no path: a folder or a repository, as of `sample`
    /// [default: the model inside this program]
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Where to compute: cpu, cuda (the first GPU), cuda:N, or auto: the first GPU if it can be used, else
    /// the CPU
    #[arg(long, default_value = "auto", value_parser = device)]
    pub device: Device,
    /// Type of weights and intermediate results [default: fp32 on the CPU, bf16 on a GPU]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// CPU threads [default: one per processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Use no network: what the cache of the Hugging Face Hub lacks is an error (also HF_HUB_OFFLINE=1)
    #[arg(long)]
    pub offline: bool,
}

#[derive(Args, Debug)]
pub struct Score {
    /// Images (PNG, JPEG or WebP)
    #[arg(required_unless_present = "check", conflicts_with = "check", value_name = "IMG")]
    pub images: Vec<PathBuf>,
    /// Reward, repeatable: NAME[=WEIGHT][:PATH]. With --check: these of the file alone, downloaded if need be
    /// [default with --check: those of the file whose weights are here]
    #[arg(long = "reward", value_name = "R", required_unless_present = "check")]
    pub rewards: Vec<String>,
    /// Compare with published scores instead: a file with a JSON object per line, `image`, `prompt` (if any),
    /// `reward`, `score`, `tolerance`, `source`. Exit code 5 where one disagrees; images and weights that are
    /// missing are skipped and counted, and if nothing could be checked that is an error
    #[arg(long, value_name = "PAIRS.jsonl", conflicts_with = "prompt")]
    pub check: Option<PathBuf>,
    /// Where the images of --check are [default: beside the file]
    #[arg(long = "images", value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// Prompt for rewards that compare with text [default: the prompt in the PNG's metadata]
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub judge: Judge,
}
