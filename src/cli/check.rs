//! `score --check`: published scores of images against those that this program gives on this machine.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::args::Score;
use super::{output, score};
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::regular;
use crate::reward::{Reward, Spec};
use crate::run::{SCHEMA, read_prompt};
use crate::session::Scorer;

/// Most bytes of a file of pairs.
const MOST_BYTES: u64 = 1 << 24;

/// One line of the file (docs/formats.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    image: PathBuf,
    prompt: Option<String>,
    reward: String,
    score: f64,
    tolerance: f64,
    source: String,
}

/// Where a pair stands, for messages.
#[derive(Clone, Copy)]
struct Line<'a>(&'a Path, usize);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {}", self.0.display(), self.1)
    }
}

/// How many pairs agree, disagree, and were not checked.
#[derive(Clone, Copy, Default)]
struct Counted {
    agree: usize,
    disagree: usize,
    skipped: usize,
}

/// The command, with the pairs of the file `pairs`.
///
/// # Errors
/// Of the file, and of what is there and cannot be read;
/// [`ErrorKind::Numerical`](crate::ErrorKind::Numerical) where a score disagrees;
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where nothing could be checked.
pub fn run(args: &Score, pairs: &Path) -> Result<()> {
    let named = Spec::parse_all("reward", &args.rewards)?;
    if let Some(spec) = named.iter().find(|spec| spec.weight != 1.0) {
        let name = spec.kind.name;
        return Err(Error::usage(format!(
            "--reward {name}={}: a weight has no meaning with --check",
            spec.weight
        ))
        .advice(format!("write --reward {name}, or --reward {name}:PATH")));
    }
    let listed = read(pairs)?;
    let folder = match &args.image_dir {
        Some(folder) => folder.clone(),
        None => pairs.parent().unwrap_or(Path::new("")).to_path_buf(),
    };
    if !folder.as_os_str().is_empty() && !folder.is_dir() {
        return Err(Error::usage(format!("--images {}: there is no such folder", folder.display()))
            .advice("give --images the folder below which the paths of the images begin"));
    }
    let mut counted = Counted::default();
    let mut done = BTreeSet::new();
    for (_, pair) in &listed {
        if !done.insert(&pair.reward) {
            continue;
        }
        let of_reward: Vec<_> = listed.iter().filter(|(_, other)| other.reward == pair.reward).collect();
        // What has no image needs no weights and starts no program.
        let any = of_reward.iter().any(|(_, pair)| folder.join(&pair.image).exists());
        let mut judge = match any {
            true => judge(args, &named, pair)?,
            false => Judge::None("the image is missing".into()),
        };
        if let Judge::None(why) = &judge {
            output::note(format_args!(
                "{}: {} not checked: {why}",
                pair.reward,
                many(of_reward.len(), "pair")
            ));
        }
        for (number, pair) in of_reward {
            check(&mut judge, pair, Line(pairs, *number), &folder, &mut counted)?;
        }
    }
    let Counted { agree, disagree, skipped } = counted;
    let checked = agree + disagree;
    output::note(format_args!("{checked} checked: {agree} agree, {disagree} disagree; {skipped} skipped"));
    if checked == 0 {
        return Err(Error::usage(format!("--check {}: nothing could be checked", pairs.display())).advice(
            "put the images where their paths say, or give their folder with --images; name the reward with --reward, \
             so that its weights are downloaded, or give their path",
        ));
    }
    match disagree {
        0 => Ok(()),
        _ => Err(Error::numerical(format!("{disagree} of {checked} scores disagree with those published"))
            .advice("see that images and weights are the published ones, whole and unchanged, and try --dtype fp32")),
    }
}

/// What judges the pairs of a reward, or why nothing does.
enum Judge {
    Scorer(Box<Scorer>),
    None(String),
}

/// Opens the reward of `pair`. Where it was not named by --reward, what is on disk counts, and nothing is
/// downloaded.
fn judge(args: &Score, named: &[Spec], pair: &Pair) -> Result<Judge> {
    let by_name: Spec = pair.reward.parse()?;
    let given = named.iter().find(|spec| spec.kind == by_name.kind);
    if given.is_none() && !named.is_empty() {
        return Ok(Judge::None("--reward names others".into()));
    }
    let builder = score::builder(&args.judge, args.judge.offline || given.is_none());
    let spec = given.cloned().unwrap_or(by_name);
    let name = spec.kind.name;
    if spec.path.is_none() && matches!(name, "exec" | "http") {
        return Ok(Judge::None(format!("it has no weights; --reward {name}:... says what is asked")));
    }
    if let Some(missing) = builder.missing(&spec)? {
        return Ok(Judge::None(match given {
            None => format!("its weights are missing; --reward {name} downloads them"),
            Some(_) => format!("its weights are missing: {}", missing.message()),
        }));
    }
    let scorer = builder.reward(spec.clone()).open_scorer()?;
    if args.judge.model.is_none() && spec.uses_model(scorer.model()) {
        return Ok(Judge::None(format!(
            "the towers of the embedded model give no published score; give --reward {name}:PATH, or -m MODEL"
        )));
    }
    Ok(Judge::Scorer(Box::new(scorer)))
}

/// Checks one pair and prints its line.
fn check(judge: &mut Judge, pair: &Pair, line: Line<'_>, folder: &Path, counted: &mut Counted) -> Result<()> {
    let path = folder.join(&pair.image);
    let outcome = match judge {
        Judge::None(why) => Err(why.clone()),
        Judge::Scorer(_) if !path.exists() => Err("the image is missing".to_string()),
        Judge::Scorer(scorer) => match Picture::read(&path) {
            Ok(picture) => Ok(scored(scorer, pair, line, &path, picture)?),
            Err(e) => {
                let why = format!("{line}: {}", e.message());
                output::note(format_args!("warning: {why}"));
                Err(why)
            }
        },
    };
    let agrees = outcome.as_ref().ok().map(|score| (score - pair.score).abs() <= pair.tolerance);
    match agrees {
        Some(true) => counted.agree += 1,
        Some(false) => counted.disagree += 1,
        None => counted.skipped += 1,
    }
    let (score, skipped) = (outcome.as_ref().ok().copied(), outcome.err());
    output::line(json!({
        "schema": SCHEMA,
        "path": path.to_string_lossy(),
        "prompt": pair.prompt,
        "reward": pair.reward,
        "published": pair.score,
        "score": score.map_or(Value::Null, |score| json!(score)),
        "tolerance": pair.tolerance,
        "agrees": agrees,
        "skipped": skipped,
        "source": pair.source,
    }))
}

/// The score of the image of a pair.
fn scored(scorer: &mut Scorer, pair: &Pair, line: Line<'_>, path: &Path, picture: Picture) -> Result<f64> {
    let prompt = match &pair.prompt {
        Some(prompt) => Some(prompt.clone()),
        None => read_prompt(path)?,
    };
    if prompt.is_none() && scorer.reward().reads_prompt() {
        return Err(Error::usage(format!("{line}: {} reads the prompt, and there is none", pair.reward))
            .advice("add \"prompt\" to the line"));
    }
    let scores =
        scorer.score(&[picture], prompt.as_deref().unwrap_or_default()).map_err(|e| e.context(line))?;
    scores.warnings.iter().for_each(|w| output::note(format_args!("warning: {}: {w}", path.display())));
    Ok(scores.target[0])
}

/// The pairs of a file, each with the number of its line.
fn read(path: &Path) -> Result<Vec<(usize, Pair)>> {
    let bytes = regular::read(path, MOST_BYTES).map_err(|e| {
        let fix =
            regular::fix(&e, "give --check a file of pairs, one JSON object per line (docs/formats.md)");
        Error::io(format!("--check {}: cannot be read", path.display())).advice(fix).because(e)
    })?;
    let mut pairs = Vec::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let place = Line(path, number + 1);
        // A list in the place of an object would be read as the values of its keys.
        let object = serde_json::from_slice::<Map<String, Value>>(line);
        let mut pair = object.and_then(|object| Pair::deserialize(Value::Object(object))).map_err(|e| {
            Error::usage(format!("{place}: no pair")).because(e).advice(
                "write {\"image\": PATH, \"prompt\": TEXT, \"reward\": NAME, \"score\": NUMBER, \"tolerance\": NUMBER, \
                 \"source\": TEXT}; the prompt may be left out",
            )
        })?;
        if pair.image.as_os_str().is_empty() {
            return Err(Error::usage(format!("{place}: the image has no path"))
                .advice("write the path of a picture below the folder of --images"));
        }
        pair.reward = named_alone(&pair.reward, place)?.into();
        if !(pair.tolerance.is_finite() && pair.tolerance >= 0.0) {
            return Err(Error::usage(format!("{place}: the tolerance {} is negative", pair.tolerance))
                .advice("give the largest difference that is no disagreement"));
        }
        pairs.push((number + 1, pair));
    }
    if pairs.is_empty() {
        return Err(Error::usage(format!("--check {}: holds no pair", path.display()))
            .advice("give a file with a JSON object per line (docs/formats.md)"));
    }
    Ok(pairs)
}

/// The name of a reward that is written without more. A file of pairs comes from anywhere: paths, and with
/// them commands, are the user's to give.
fn named_alone(reward: &str, place: Line<'_>) -> Result<&'static str> {
    if reward.contains([':', '=']) {
        return Err(Error::usage(format!("{place}: the reward {reward:?} is more than a name"))
            .advice("write its name alone there, and its path with --reward NAME:PATH"));
    }
    Ok(reward.parse::<Spec>().map_err(|e| e.context(place))?.kind.name)
}

fn many(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
