//! Networks of full size on the CPU: seconds, peak memory, and the distance to what the original packages
//! computed. Of a model one UNet and one VAE forward; of a reward the scores of pictures and their gradients.
//! Makes nothing itself: `tools/fullsize.py` and `tools/fullsize_rewards.py` say how.
//!
//!     cargo bench --bench fullsize -- FOLDER
//!     cargo bench --bench fullsize -- FOLDER REWARD

use std::path::Path;
use std::time::Instant;

use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::model::checkpoint::Checkpoint;
use das_cuda::model::config::{AutoencoderConfig, UNetConfig};
use das_cuda::model::files::Source;
use das_cuda::model::unet::{Added, Unet};
use das_cuda::model::vae::Decoder;
use das_cuda::reward::{Reward, Spec, open};
use das_cuda::tape::{Tape, Var};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use das_cuda::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let Some(folder) = arguments.first() else {
        println!("fullsize: no folder given, nothing to time (see tools/fullsize.py)");
        return Ok(());
    };
    let folder = Path::new(folder);
    if let Some(reward) = arguments.get(1) {
        return score(&Cpu::new(), folder, reward);
    }
    let cpu = Cpu::new();
    let inputs = Checkpoint::open(&folder.join("inputs.safetensors"), None)?;
    let x: Var = upload(&cpu, &inputs, "x")?.into();
    let source = Source::Dir(folder.to_path_buf());
    println!("{} threads", rayon::current_num_threads());

    let unet = timed("unet load", || {
        Unet::load(&cpu, &source.checkpoint("unet", None)?, &UNetConfig::open(&source, "unet")?)
    })?;
    let text = upload(&cpu, &inputs, "text")?;
    let pooled = inputs.root().has("pooled").then(|| upload(&cpu, &inputs, "pooled")).transpose()?;
    let pixels = 8.0 * x.shape().w as f32;
    let added =
        pooled.as_ref().map(|pooled| Added { pooled, time_ids: [pixels, pixels, 0.0, 0.0, pixels, pixels] });
    let cond = timed("text keys and values", || unet.condition(&cpu, &text, added, None))?;
    forward(&cpu, folder, "unet", added.is_none(), |tape| unet.forward(tape, &x, 500.0, &cond, &[0]))?;
    drop((unet, cond));

    let decoder = timed("vae load", || {
        Decoder::load(&cpu, &source.checkpoint("vae", None)?, &AutoencoderConfig::open(&source, "vae")?)
    })?;
    forward(&cpu, folder, "vae", added.is_none(), |tape| decoder.decode(tape, &x))
}

/// Runs, twice where that is cheap, and compares.
fn forward<'t>(
    cpu: &'t Cpu,
    folder: &Path,
    name: &str,
    twice: bool,
    run: impl Fn(&Tape<'t>) -> Result<Var>,
) -> Result<()> {
    cpu.reset_peak();
    let mut y = timed(&format!("{name} forward"), || run(&Tape::off(cpu)))?;
    if twice {
        y = timed(&format!("{name} forward"), || run(&Tape::off(cpu)))?;
    }
    memory(cpu, name);
    let expected = folder.join("torch.safetensors");
    if expected.is_file() {
        let file = Checkpoint::open(&expected, None)?;
        let expected = host(&file, name)?;
        let found = cpu.download(y.value())?;
        let square = |x: f64| x * x;
        let error: f64 =
            found.iter().zip(&expected).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
        println!(
            "{name}: NMSE to diffusers {:.1e}",
            error / expected.iter().map(|&b| square(f64::from(b))).sum::<f64>()
        );
    }
    Ok(())
}

/// The pictures of `inputs.safetensors`, each for its own line of `prompts.txt`, against the scores and
/// gradients in `torch.safetensors`. What PyTorch's own float32 is away from them stands beside it.
fn score(cpu: &Cpu, folder: &Path, name: &str) -> Result<()> {
    let spec: Spec = format!("{name}:{}", folder.display()).parse()?;
    let mut reward =
        timed("load", || open(std::slice::from_ref(&spec), &Source::Dir(folder.to_path_buf()), cpu))?;
    let prompts = std::fs::read_to_string(folder.join("prompts.txt"))
        .map_err(|e| Error::model(format!("prompts.txt: {e}")))?;
    reward.prepare(cpu, &prompts.lines().map(String::from).collect::<Vec<_>>())?;
    let inputs = Checkpoint::open(&folder.join("inputs.safetensors"), None)?;
    let expected = Checkpoint::open(&folder.join("torch.safetensors"), None)?;
    for size in ["square", "wide"] {
        let images = upload(cpu, &inputs, size)?;
        let n = images.shape().n;
        let prompt_of: Vec<u32> = (0..n as u32).collect();
        cpu.reset_peak();
        let (scores, gradient) = timed(&format!("{size}: {n} scores and gradients"), || {
            let tape = Tape::new(cpu);
            let leaf = tape.watch(images.clone());
            let score = reward.score(&tape, &leaf, &prompt_of)?;
            let seed = cpu.upload(Shape::rows(n, 1), HostSlice::F32(&vec![1.0; n]))?;
            let gradient = tape.gradient(&score, seed, &leaf)?;
            let gradient = gradient.ok_or_else(|| Error::usage(format!("{name} gives no gradient")))?;
            Ok((cpu.download(score.value())?, cpu.download(&gradient)?))
        })?;
        memory(cpu, size);
        let truth = |what: &str| host(&expected, &format!("{size}.{what}"));
        println!("{size}: scores {scores:?}");
        for (what, found) in [("scores", scores), ("gradients", gradient)] {
            println!(
                "{size}: {what} relative to {name} in float64 {:.1e}, of PyTorch in float32 {:.1e}",
                distance(&found, &truth(what)?, n),
                distance(&truth(&format!("{what}.float32"))?, &truth(what)?, n)
            );
        }
    }
    Ok(())
}

/// The largest relative distance, in the Euclidean norm, of `n` pictures.
fn distance(found: &[f32], expected: &[f32], n: usize) -> f64 {
    let each = expected.len() / n;
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let pictures = found.chunks(each).zip(expected.chunks(each));
    let relative = pictures.map(|(found, expected)| {
        norm(&mut found.iter().zip(expected).map(|(f, e)| f64::from(*f) - f64::from(*e)))
            / norm(&mut expected.iter().map(|e| f64::from(*e)))
    });
    relative.fold(0.0, f64::max)
}

fn memory(cpu: &Cpu, name: &str) {
    println!("{name}: tensors at most {:.2} GB", cpu.memory().peak as f64 / 1e9);
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        for line in status.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("Rss")) {
            println!("{name}: {line}");
        }
    }
}

fn timed<T>(what: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let (start, before) = (Instant::now(), processor_seconds());
    let result = f()?;
    println!(
        "{what}: {:.2} s, {:.2} s of processors",
        start.elapsed().as_secs_f64(),
        processor_seconds() - before
    );
    Ok(result)
}

/// Time that processors spent on this process: fair on a machine that is shared. 0 where /proc does not say.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses, which may contain anything; user and system time in hundredths of a
    // second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn host(file: &Checkpoint, name: &str) -> Result<Vec<f32>> {
    let root = file.root();
    Ok(root.tensor(name, root.dims(name).unwrap_or(&[]))?.data().to_f32().into_owned())
}

fn upload(cpu: &Cpu, file: &Checkpoint, name: &str) -> Result<Tensor> {
    let root = file.root();
    let view = root.tensor(name, root.dims(name).unwrap_or(&[]))?;
    cpu.upload(view.shape(), HostSlice::F32(&view.data().to_f32()))
}
