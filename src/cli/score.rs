//! `score`: rewards of existing images, one JSON line each, in the order given.

use serde_json::{Map, Value, json};

use super::args::{Machine, Score};
use super::device::choose;
use super::{output, session};
use crate::assets::SHAPES;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::reward::{self, Reward, Spec};
use crate::run::{SCHEMA, read_prompt};

/// The command.
///
/// # Errors
/// Of the rewards, and of the first image that cannot be read; lines of the images before it are printed.
pub fn run(args: &Score) -> Result<()> {
    let specs = Spec::parse_all("reward", &args.rewards)?;
    let (device, _) = choose(args.device);
    let dtype = args.dtype.unwrap_or(device.default_dtype());
    let opened = device.open(dtype, &Machine::default())?;
    let backend = &*opened.backend;
    let folder = session::open_folder(args.model.as_deref())?;
    let mut sum = reward::open(&specs, folder.source(), backend)?;
    let by_default = specs.iter().find(|spec| spec.kind.needs.files.is_some() && spec.path.is_none());
    if let (None, Some(spec)) = (&args.model, by_default) {
        let name = spec.kind.name;
        output::note(format_args!(
            "note: {name} is judged by the towers of the embedded model `{SHAPES}`; for others give -m or {name}:PATH"
        ));
    }
    for path in &args.images {
        let picture = Picture::read(path)?;
        let prompt = match &args.prompt {
            Some(prompt) => Some(prompt.clone()),
            None => read_prompt(path)?,
        };
        if prompt.is_none() && sum.reads_prompt() {
            return Err(Error::usage(format!("{}: has no prompt in its metadata", path.display()))
                .fix("say what it should show with -p"));
        }
        sum.prepare(backend, &[prompt.clone().unwrap_or_default()])?;
        sum.warnings().iter().for_each(|w| output::note(format_args!("warning: {w}")));
        let scores = sum.picture_scores(backend, &[picture], &[0])?;
        let weights = sum.parts().map(|(w, _)| w);
        let target: f64 = weights.zip(&scores).map(|(w, (_, v))| w * f64::from(v[0])).sum();
        let rewards: Map<String, Value> =
            scores.iter().map(|(name, v)| (name.clone(), json!(v[0]))).collect();
        let path = path.to_string_lossy();
        output::line(
            json!({"schema": SCHEMA, "path": path, "prompt": prompt, "target": target, "rewards": rewards}),
        )?;
    }
    Ok(())
}
