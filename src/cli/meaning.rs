//! Combinations of options that would change nothing, or contradict each other: refused, with the flag that
//! makes sense of them. What is silently ignored is believed to have worked.

use std::path::{Path, PathBuf};

use super::args::Sample;
use super::values::{Auto, Save, Seed, Select, typed};
use crate::error::{Error, Result};
use crate::method::{Conclusion, METHODS, Method};
use crate::reward::Spec;
use crate::run::probe_file;
use crate::sampler::Compat;
use crate::session::{Checkpointing, Device, Prompt, Session};

/// The checks that need no model.
///
/// # Errors
/// Usage errors, each with the fix.
pub fn check(args: &Sample, eval_rewards: &[Spec]) -> Result<()> {
    of_method(args)?;
    if let Some(spec) = eval_rewards.iter().find(|spec| spec.weight != 1.0) {
        let name = spec.kind.name;
        return Err(Error::usage(format!(
            "--eval-reward {name}={}: held-out rewards are reported one by one, a weight has no meaning",
            spec.weight
        ))
        .advice(format!("--eval-reward {name}, or --reward {name}={} to align to it", spec.weight)));
    }
    let again = [
        ("--skip-finished", args.skip_finished),
        ("--resume", args.resume),
        ("--shard", args.shard.is_some()),
    ];
    if let (Seed::Drawn, Some((flag, _))) = (args.seed, again.iter().find(|(_, given)| *given)) {
        return Err(Error::usage(format!(
            "--seed -1 draws another seed every time, so that {flag} would find nothing that was drawn before"
        ))
        .advice(format!("give --seed a number (run.json has the one that was drawn), or leave out {flag}")));
    }
    if args.preview == Some(0) {
        return Err(Error::usage("--preview 0: there is no step after which to write one")
            .advice("give --preview a number of steps from 1, or leave it out"));
    }
    if let Some(seconds) = args.max_seconds.filter(|seconds| !(seconds.is_finite() && *seconds > 0.0)) {
        return Err(Error::usage(format!("--max-seconds {seconds} is no number above 0"))
            .advice("give --max-seconds how long the run may take, or leave it out"));
    }
    if args.max_nfe == Some(0) {
        return Err(Error::usage("--max-nfe 0: nothing could be computed")
            .advice("give --max-nfe how many evaluations may be spent, or leave it out"));
    }
    if let Seed::Given(seed) = args.seed
        && seed.checked_add(args.count.saturating_sub(1) as u64).is_none()
    {
        return Err(Error::usage(format!(
            "--seed {seed} with --count {}: seeds end at {}",
            args.count,
            u64::MAX
        ))
        .advice("give --seed a smaller number"));
    }
    if args.latents.is_some() && args.populations > 1 {
        let populations = args.populations;
        return Err(Error::usage(format!(
            "--latents with --populations {populations}: populations that begin alike are not independent"
        ))
        .advice("leave out --latents or --populations"));
    }
    if args.select == Some(Select::All) && args.save == Save::Best {
        return Err(Error::usage("--select all returns every particle, and --save best writes one image")
            .advice("give --save all, or --select reward, argmax or draw"));
    }
    Ok(())
}

/// What to say where a run of so many steps has no step after which a preview is written.
pub fn no_preview(args: &Sample, steps: usize) -> Option<String> {
    let every = args.preview.filter(|every| *every >= steps)?;
    Some(format!(
        "warning: --preview {every} writes none: a run has {steps} steps, and after the last there is the result; \
         give --preview fewer steps"
    ))
}

/// Options that the method does not read.
fn of_method(args: &Sample) -> Result<()> {
    let method = args.proposal;
    let checkpointing = format!("--checkpointing {}", typed(args.checkpointing));
    let recomputes = !matches!(args.checkpointing, Checkpointing::Off | Checkpointing::Auto);
    let given = [
        ("--candidates", args.candidates.is_some()),
        ("--thin-at", args.thin_at.is_some()),
        ("--tempering", args.tempering.is_some()),
        ("--gamma", args.gamma.is_some()),
        ("--resample", args.resample.is_some()),
        ("--tempering-start", args.tempering_start.is_some()),
        ("--potential", args.potential.is_some()),
        ("--weigh-every", args.weigh_every.is_some()),
        ("--ess-threshold", args.ess_threshold.is_some()),
        ("--max-shift", args.max_shift.is_some()),
        ("--gradient", args.gradient.is_some()),
        ("--gradient-every", args.gradient_every.is_some()),
        ("--duplicates", args.duplicates.is_some()),
        ("--guidance-strength", args.guidance_strength.is_some()),
        ("--guidance-window", args.guidance_window.is_some()),
        ("--time-travel", args.time_travel.is_some()),
        ("--kl", args.kl.is_some()),
        ("--compat reference", args.compat == Compat::Reference),
        (&*checkpointing, recomputes),
    ];
    match given.into_iter().find(|(flag, given)| *given && !(reader(flag).0)(method)) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::usage(format!("{flag} has no meaning with --proposal {method}"))
            .advice(format!("leave out {flag}, or choose {}", readers(flag)))),
    }
}

/// Refuses options that only a GPU reads, on another device.
///
/// # Errors
/// Usage errors, each with the fix.
pub fn of_device(args: &Sample, device: Device) -> Result<()> {
    if device != Device::Cpu {
        return Ok(());
    }
    let machine = &args.machine;
    let given = [
        ("--max-vram", machine.max_vram.is_some()),
        ("--no-graph", machine.no_graph),
        ("--no-cublas", machine.no_cublas),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::usage(format!("{flag} has no meaning with --device cpu"))
            .advice(format!("leave out {flag}, or compute on a GPU with --device cuda:0"))),
    }
}

/// What to say of a micro-batch that is larger than all particles together.
pub fn micro_batch(args: &Sample, particles: usize) -> Option<String> {
    match args.micro_batch {
        // The number of chains of best-of-n is not known yet.
        Auto::Exactly(given) if given > particles && args.proposal.conclusion() != Conclusion::Best => {
            Some(format!(
                "--micro-batch {given}: there are {particles} particles, and as many are computed at once"
            ))
        }
        _ => None,
    }
}

/// Which methods read a flag that others do not, and why, for a sentence.
fn reader(flag: &str) -> (fn(&'static dyn Method) -> bool, &'static str) {
    match flag {
        "--max-shift" | "--gradient" | "--gradient-every" => (|m| m.proposes(), ""),
        "--weigh-every" => (|m| m.weighs() && !m.proposes(), ""),
        "--time-travel" => (|m| m.travels(), ""),
        "--duplicates" => (|m| m.chooses(), ""),
        "--guidance-strength" | "--guidance-window" => (|m| m.shifts(), ""),
        _ if flag.starts_with("--checkpointing") => {
            (|m| m.differentiates(), ", which keep activations for a gradient")
        }
        "--kl" => (|m| m.reads_alpha(), ""),
        _ => (|m| m.weighs(), ""),
    }
}

/// Methods that read an option, in words.
fn readers(flag: &str) -> String {
    let (reads, why) = reader(flag);
    let names: Vec<&str> = METHODS.iter().filter(|m| reads(**m)).map(|m| m.name()).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => {
            format!("--proposal {} or {last}{why}", others.join(", "))
        }
        _ => format!("--proposal {}{why}", names.concat()),
    }
}

/// Endings of image files: a directory is not called so by intent.
const PICTURES: [&str; 18] = [
    "png", "jpg", "jpeg", "webp", "tif", "tiff", "gif", "bmp", "ppm", "avif", "heic", "heif", "jxl", "jp2",
    "tga", "exr", "ico", "svg",
];

/// Where the results go: a directory, and for `NAME.png` also the file for the selected image.
///
/// # Errors
/// Usage errors for a file where one cannot hold what is asked for.
pub fn destination(args: &Sample, prompts: &[Prompt]) -> Result<(PathBuf, Option<PathBuf>)> {
    let (output, shown) = (&args.output, args.output.display());
    let name = output.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let (stem, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
    if output.is_dir() || !PICTURES.contains(&ending) {
        return Ok((output.clone(), None));
    }
    let refused = |what: &str, fix: String| Err(Error::usage(format!("-o {shown}: {what}")).advice(fix));
    if stem.is_empty() {
        let named = output.with_file_name("NAME.png");
        return refused("an ending without a name", format!("-o {}", named.display()));
    }
    if ending != "png" {
        return refused(
            "images are written as PNG",
            format!("-o {}", output.with_extension("png").display()),
        );
    }
    let directory = output.with_extension("");
    if prompts.len() > 1 {
        let many = format!("one file cannot hold the images of {} prompts", prompts.len());
        return refused(&many, format!("give a directory: -o {}", directory.display()));
    }
    if args.count > 1 {
        let many = format!("one file cannot hold the images of --count {}", args.count);
        return refused(&many, format!("give a directory: -o {}", directory.display()));
    }
    if args.select == Some(Select::All) {
        return refused(
            "one file cannot hold every particle",
            format!("give a directory, -o {}, or --select argmax or draw", directory.display()),
        );
    }
    if args.save == Save::None {
        return refused("--save none writes no image", "give --save best or --save all".into());
    }
    Ok((directory, Some(output.clone())))
}

/// Refuses to replace a file unasked, and one that could not be written when its picture is drawn.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming `-o` and `--overwrite`;
/// [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn unclaimed(file: &Path, overwrite: bool) -> Result<()> {
    if overwrite || !file.exists() {
        return probe_file(file);
    }
    Err(Error::usage(format!("-o {}: the file is there already", file.display()))
        .advice("choose another name with -o, or replace it with --overwrite"))
}

/// A warning for each embedding that none of the prompts has.
pub fn unused_embeddings(session: &Session, prompts: &[Prompt]) -> Vec<String> {
    let warning = |name: String| {
        format!("warning: the embedding {name:?} is in no prompt and no negative prompt, and changes nothing")
    };
    session.unused_embeddings(prompts).into_iter().map(warning).collect()
}
