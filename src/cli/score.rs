//! `score`: rewards of existing images, one JSON line each, in the order given.

use serde_json::{Map, Value, json};

use super::args::{Judge, Score};
use super::{downloads, output};
use crate::assets::SHAPES;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::reward::{Reward, Spec};
use crate::run::{SCHEMA, read_prompt};
use crate::session::{Scorer, Session, SessionBuilder};

/// The command.
///
/// # Errors
/// Of the rewards, and of the first image that cannot be read; lines of the images before it are printed.
pub fn run(args: &Score) -> Result<()> {
    // Clap lets this pass, as what would be required stands against the images.
    if let Some(folder) = &args.image_dir {
        return Err(Error::usage(format!(
            "--images {}: the folder of the images of --check",
            folder.display()
        ))
        .advice("give --check a file of pairs, or leave out --images and name the images alone"));
    }
    let specs = Spec::parse_all("reward", &args.rewards)?;
    let builder = builder(&args.judge, args.judge.offline);
    let mut scorer = specs.iter().cloned().fold(builder, SessionBuilder::reward).open_scorer()?;
    tell_towers(&args.judge, &specs, &scorer);
    for path in &args.images {
        let picture = Picture::read(path)?;
        let prompt = match &args.prompt {
            Some(prompt) => Some(prompt.clone()),
            None => read_prompt(path)?,
        };
        if prompt.is_none() && scorer.reward().reads_prompt() {
            return Err(Error::usage(format!("{}: has no prompt in its metadata", path.display()))
                .advice("say what it should show with -p"));
        }
        let scores = scorer
            .score(&[picture], prompt.as_deref().unwrap_or_default())
            .map_err(|e| e.context(path.display()))?;
        scores.warnings.iter().for_each(|w| output::note(format_args!("warning: {w}")));
        let target = scores.target[0];
        if !target.is_finite() {
            let without = scores.rewards.iter().filter(|(_, v)| !v[0].is_finite()).map(|(name, _)| &**name);
            let why = format!("{} gave no finite number", without.collect::<Vec<_>>().join(" and "));
            output::note(format_args!("warning: {}: \"target\" is null: {why}", path.display()));
        }
        let rewards: Map<String, Value> =
            scores.rewards.iter().map(|(name, v)| (name.clone(), json!(v[0]))).collect();
        let path = path.to_string_lossy();
        output::line(
            json!({"schema": SCHEMA, "path": path, "prompt": prompt, "target": target, "rewards": rewards}),
        )?;
    }
    Ok(())
}

/// Device, type and model, without rewards.
pub fn builder(judge: &Judge, offline: bool) -> SessionBuilder {
    let mut builder = Session::builder().device(judge.device).hub(downloads::hub(offline, false));
    if let Some(dtype) = judge.dtype {
        builder = builder.dtype(dtype);
    }
    if let Some(folder) = &judge.model {
        builder = builder.model(folder);
    }
    builder
}

/// Says which towers judge where nobody chose them.
pub fn tell_towers(judge: &Judge, specs: &[Spec], scorer: &Scorer) {
    let by_default = specs.iter().filter(|spec| spec.uses_model(scorer.model()));
    let names: Vec<&str> = by_default.map(|spec| spec.kind.name).collect();
    if let (None, [first, others @ ..]) = (&judge.model, names.as_slice()) {
        let are = if others.is_empty() { "is" } else { "are" };
        output::note(format_args!(
            "note: {} {are} judged by the towers of the embedded model `{SHAPES}`; for others give -m or {first}:PATH",
            names.join(" and ")
        ));
    }
}
