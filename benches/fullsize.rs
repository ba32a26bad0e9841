//! One UNet and one VAE forward of a model of full size, on the CPU: seconds, peak memory, and the distance
//! to what diffusers computed. Makes nothing itself: `tools/fullsize.py` says how.
//!
//!     cargo bench --bench fullsize -- FOLDER

use std::path::Path;
use std::time::Instant;

use das_cuda::Result;
use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::model::checkpoint::Checkpoint;
use das_cuda::model::config::{AutoencoderConfig, UNetConfig};
use das_cuda::model::files::Source;
use das_cuda::model::unet::{Added, Unet};
use das_cuda::model::vae::Decoder;
use das_cuda::tape::{Tape, Var};
use das_cuda::tensor::{HostSlice, Tensor};

fn main() -> Result<()> {
    let Some(folder) = std::env::args().skip(1).find(|a| !a.starts_with("--")) else {
        println!("fullsize: no folder given, nothing to time (see tools/fullsize.py)");
        return Ok(());
    };
    let folder = Path::new(&folder);
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
    println!("{name}: tensors at most {:.2} GB", cpu.memory().peak as f64 / 1e9);
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        for line in status.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("Rss")) {
            println!("{name}: {line}");
        }
    }
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
