//! Log Z and its error as the program reports them, against plain importance sampling on the embedded model:
//! for each method and alpha the mean difference to the reference, whether the estimate of Z is unbiased, and
//! how often two reported errors reach the reference. Every run is a line of a file, and the same command
//! goes on where it was stopped; with other settings it adds lines to the file.
//!
//!     cargo bench --bench log_z -- --runs 200

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use das_cuda::method::{BestOfN, Bootstrap, Das, Method, Plain};
use das_cuda::run::{Lines, write_atomic};
use das_cuda::session::combine;
use das_cuda::smc::log_sum_exp;
use das_cuda::{Device, Error, Prompt, Result, SampleOptions, Session};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Args {
    /// Runs of each method at each alpha, with the seeds 0, 1, ...
    #[arg(long, default_value_t = 200)]
    runs: u64,
    /// Plain samples of the reference
    #[arg(long, default_value_t = 8192)]
    reference: usize,
    #[arg(long, value_delimiter = ',', default_value = "2,1,0.5")]
    alphas: Vec<f64>,
    /// Labels of the methods
    #[arg(long, value_delimiter = ';', default_values = labels(), value_parser = PossibleValuesParser::new(labels()))]
    arms: Vec<String>,
    #[arg(long = "prompt", default_value = "a star")]
    prompts: Vec<String>,
    #[arg(long, default_value_t = 10)]
    steps: usize,
    #[arg(long, default_value_t = 16)]
    particles: usize,
    /// Runs that are combined as independent populations
    #[arg(long, default_value_t = 4)]
    populations: usize,
    /// Bound on the guided shift of the arm that has one
    #[arg(long, default_value_t = 4.0)]
    max_shift: f64,
    /// File of the runs
    #[arg(long, default_value = "target/log-z.jsonl")]
    file: PathBuf,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// What tells a run from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Key {
    prompt: String,
    /// Label of the method, or [`REFERENCE`].
    arm: String,
    /// As it is typed; of the reference 1.
    alpha: String,
    seed: u64,
    steps: usize,
    particles: usize,
}

/// One run. Of the reference it has rewards, of which every alpha makes its own Z.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    /// Minus infinity is `null`.
    log_z: Option<f64>,
    log_z_error: Option<f64>,
    roots_alive: usize,
    rewards: Vec<f64>,
    seconds: f64,
}

const REFERENCE: &str = "reference";

/// Plain samples of a run of the reference, and its first seed, which no method's run has.
const AT_ONCE: usize = 256;
const REFERENCE_SEED: u64 = 1 << 32;

/// What is measured.
#[derive(Clone, Copy)]
struct Arm {
    label: &'static str,
    method: &'static dyn Method,
    /// Whether its shifts are.
    bounded: bool,
    /// Chains that begin for each particle: of best-of-n about as many as cost what guided ones do, of a
    /// method that weighs the candidates.
    chains: usize,
}

const ARMS: [Arm; 6] = [
    Arm { label: "none", method: &Plain, bounded: false, chains: 1 },
    Arm { label: "best-of-n", method: &BestOfN, bounded: false, chains: 3 },
    Arm { label: "bootstrap", method: &Bootstrap, bounded: false, chains: 1 },
    Arm { label: "das", method: &Das, bounded: false, chains: 1 },
    Arm { label: "das, shifts bounded", method: &Das, bounded: true, chains: 1 },
    Arm { label: "das, candidates", method: &Das, bounded: true, chains: 4 },
];

fn labels() -> [&'static str; ARMS.len()] {
    ARMS.map(|arm| arm.label)
}

struct Bench {
    args: Args,
    session: Session,
    lines: Lines,
    rows: BTreeMap<Key, Row>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let rows = read(&args.file)?;
    if let Some(folder) = args.file.parent() {
        fs::create_dir_all(folder)
            .map_err(|e| Error::io("the folder of --file cannot be made").because(e))?;
    }
    let lines = Lines::append(&args.file)?;
    // On any machine the same.
    let session = Session::builder().device(Device::Cpu).open()?;
    let mut bench = Bench { args, session, lines, rows };
    for prompt in bench.args.prompts.clone() {
        bench.prompt(&prompt)?;
    }
    Ok(())
}

/// The runs of a file. A last line that was cut off is taken away.
fn read(path: &Path) -> Result<BTreeMap<Key, Row>> {
    let unreadable = |e: &dyn std::fmt::Display| Error::io(format!("{}: {e}", path.display()));
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text.map_err(|e| unreadable(&e))?,
    };
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        write_atomic(path, &text.as_bytes()[..whole])?;
    }
    let rows = text[..whole].lines().map(|line| {
        let row: Row = serde_json::from_str(line).map_err(|e| unreadable(&e))?;
        Ok((row.key.clone(), row))
    });
    rows.collect()
}

impl Bench {
    fn prompt(&mut self, prompt: &str) -> Result<()> {
        let rewards = self.reference(prompt)?;
        for alpha in self.args.alphas.clone() {
            let truth = Truth::new(&rewards, alpha);
            println!(
                "\n\"{prompt}\", alpha {alpha}: log Z {:.4} +- {:.4} by {} plain samples that amount to {:.0}",
                truth.log_z,
                truth.error,
                rewards.len(),
                truth.ess
            );
            println!("{HEAD}");
            for arm in ARMS {
                if !self.args.arms.iter().any(|label| label == arm.label) {
                    continue;
                }
                let began = Instant::now();
                let (rows, drawn) = self.arm(prompt, arm, alpha)?;
                println!("{}", self.line(arm.label, &rows, &truth));
                if drawn > 0 {
                    let each = began.elapsed().as_secs_f64() / drawn as f64;
                    eprintln!("{}: {drawn} runs drawn, {each:.2} s each", arm.label);
                }
            }
        }
        Ok(())
    }

    /// Rewards of plain samples.
    fn reference(&mut self, prompt: &str) -> Result<Vec<f64>> {
        let mut rewards = Vec::new();
        for seed in 0..self.args.reference.div_ceil(AT_ONCE) as u64 {
            let options = self.session.defaults().method(&Plain).particles(AT_ONCE).alpha(1.0);
            let row = self.run(prompt, REFERENCE, &options, 1.0, REFERENCE_SEED + seed)?.0;
            rewards.extend(row.rewards);
        }
        Ok(rewards)
    }

    /// All runs of a method at an alpha, and how many had to be drawn.
    fn arm(
        &mut self,
        prompt: &str,
        Arm { label, method, bounded, chains }: Arm,
        alpha: f64,
    ) -> Result<(Vec<Row>, usize)> {
        let bound = if bounded { self.args.max_shift } else { f64::INFINITY };
        // What tells its runs from others.
        let arm = match bounded {
            true => format!("{label}, at most {bound}"),
            false => label.to_string(),
        };
        let options = self.session.defaults().method(method).particles(self.args.particles);
        // Pinned: the model's own would change with what is found to be best.
        let options = options.alpha(alpha).ess_threshold(0.5).max_shift(bound).steps(self.args.steps);
        let options = match method.weighs() {
            true => options.candidates(chains as f64),
            false => options.chain_count(self.args.particles * chains),
        };
        let (options, _) = self.session.settle(&Prompt::from(prompt), &options)?;
        let (mut rows, mut drawn) = (Vec::new(), 0);
        for seed in 0..self.args.runs {
            let (row, new) = self.run(prompt, &arm, &options, alpha, seed)?;
            rows.push(row);
            drawn += usize::from(new);
        }
        Ok((rows, drawn))
    }

    /// One run, and whether it had to be drawn.
    fn run(
        &mut self,
        prompt: &str,
        arm: &str,
        options: &SampleOptions,
        alpha: f64,
        seed: u64,
    ) -> Result<(Row, bool)> {
        let options = options.clone().steps(self.args.steps).seed(seed);
        let particles = options.particle_count();
        let (steps, alpha) = (self.args.steps, alpha.to_string());
        let key = Key { prompt: prompt.into(), arm: arm.into(), alpha, seed, steps, particles };
        if let Some(row) = self.rows.get(&key) {
            return Ok((row.clone(), false));
        }
        let began = Instant::now();
        let samples = self.session.sample(prompt, &options)?.conclude()?.swap_remove(0);
        let population = samples.population;
        let row = Row {
            key: key.clone(),
            log_z: Some(population.log_z).filter(|z| z.is_finite()),
            log_z_error: population.log_z_error,
            roots_alive: population.roots_alive(),
            rewards: if arm == REFERENCE { population.rewards } else { Vec::new() },
            seconds: began.elapsed().as_secs_f64(),
        };
        self.lines.push(&row)?;
        self.rows.insert(key, row.clone());
        Ok((row, true))
    }

    /// One line of the table.
    fn line(&self, label: &str, rows: &[Row], truth: &Truth) -> String {
        let log_z: Vec<f64> = rows.iter().map(|row| row.log_z.unwrap_or(f64::NEG_INFINITY)).collect();
        let finite: Vec<f64> = log_z.iter().filter(|z| z.is_finite()).map(|z| z - truth.log_z).collect();
        // The estimate of Z is unbiased, its logarithm is not.
        let ratios: Vec<f64> = log_z.iter().map(|z| (z - truth.log_z).exp()).collect();
        let (mean, error) = mean_and_error(&ratios);
        let told: Vec<(f64, f64)> =
            rows.iter().zip(&log_z).filter_map(|(row, z)| Some((*z, row.log_z_error?))).collect();
        let together: Vec<(f64, f64)> = log_z
            .chunks_exact(self.args.populations.max(1))
            .map(combine)
            .filter_map(|all| Some((all.log_z, all.log_z_error?)))
            .collect();
        let mut errors: Vec<f64> = told.iter().map(|(_, error)| *error).collect();
        errors.sort_by(f64::total_cmp);
        let median = errors.get(errors.len() / 2).map_or("-".into(), |error| format!("{error:.3}"));
        let seconds = rows.iter().map(|row| row.seconds).sum::<f64>() / rows.len() as f64;
        let few = rows.iter().filter(|row| row.roots_alive < 3).count();
        format!(
            "{label:<20} {:>5} {:>+9.4} {:>7.2} {median:>9} {:>24} {:>6} {few:>6} {:>24} {seconds:>8.2}",
            rows.len(),
            mean_and_error(&finite).0,
            (mean - 1.0) / error.hypot(truth.error),
            coverage(&told, truth.log_z),
            rows.len() - told.len(),
            coverage(&together, truth.log_z)
        )
    }
}

/// `diff`: mean log Z minus the reference. `z`: that of the mean of Z, in standard errors. `error`: median of
/// those reported. `covers`: runs whose two errors reach the reference, with the 95 % interval. `null`: runs
/// that report no error. `roots`: runs with fewer than three roots. `together`: as `covers`, of several runs
/// combined.
const HEAD: &str = "method                runs      diff       z     error                   covers   null  roots                 \
                    together  seconds";

/// Log Z of an alpha by plain importance sampling.
struct Truth {
    log_z: f64,
    /// Its standard error.
    error: f64,
    ess: f64,
}

impl Truth {
    fn new(rewards: &[f64], alpha: f64) -> Truth {
        let n = rewards.len() as f64;
        let weights: Vec<f64> = rewards.iter().map(|reward| reward / alpha).collect();
        let squares: Vec<f64> = weights.iter().map(|w| 2.0 * w).collect();
        let sum = log_sum_exp(&weights);
        let ess = (2.0 * sum - log_sum_exp(&squares)).exp();
        Truth { log_z: sum - n.ln(), error: ((n / ess - 1.0) / (n - 1.0)).sqrt(), ess }
    }
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// In what share of those that tell an error two errors reach `truth`, and its 95 % interval (Wilson).
fn coverage(told: &[(f64, f64)], truth: f64) -> String {
    let n = told.len() as f64;
    if n == 0.0 {
        return "-".into();
    }
    let share = told.iter().filter(|(z, error)| (z - truth).abs() <= 2.0 * error).count() as f64 / n;
    let square = 1.959_964_f64.powi(2) / n;
    let center = (share + square / 2.0) / (1.0 + square);
    let half = (square * (share * (1.0 - share) + square / 4.0)).sqrt() / (1.0 + square);
    let [share, low, high] = [share, center - half, center + half].map(|x| 100.0 * x);
    format!("{share:.1} % [{low:.1}, {high:.1}]")
}
