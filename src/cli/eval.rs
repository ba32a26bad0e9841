//! `eval`: what sets of pictures are worth by every scorer there is, and how diverse they are (docs/spec.md
//! 11). A set is what one path holds: runs, or an arm of a comparison.

mod diversity;
mod sets;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::args::Eval;
use super::experiment::{self, EVALUATION, SCORES, claim, unusable};
use super::record::object;
use super::statistics::{mean, over_prompts};
use super::values::typed;
use super::{output, score, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::model::lpips::{Lpips, Range};
use crate::pixels::Picture;
use crate::reward::{REWARDS, Spec, two_paths};
use crate::run::{SCHEMA, lock, write_atomic};
use crate::session::{Scorer, SessionBuilder};
use diversity::SquaredDistances;
use sets::Set;
use table::Row;

/// What a folder holds.
const WHAT: &str = "evaluation";
/// Scorers that have no files of their own to be there, and no meaning unless they are named.
const OF_A_PLACE: [&str; 2] = ["exec", "http"];

/// What a picture is worth, and where it is seen.
struct Judged {
    scores: Vec<(String, f64)>,
    embedding: Option<Vec<f32>>,
}

/// The command, which was typed as `command`.
///
/// # Errors
/// Of what is named, the rewards, the pictures and the output directory.
pub fn run(args: &Eval, command: &[String]) -> Result<()> {
    signals::end_scorers_first();
    if args.eigenvalues == 0 {
        return Err(Error::usage("--tce 0: an entropy of no dimension")
            .advice("give --tce a number of eigenvalues from 1; 20 is usual"));
    }
    let sets = sets::read(&args.runs, args.all)?;
    let mut scorer = scorer(args)?;
    let lpips = args.lpips.as_deref().map(|path| open_lpips(&scorer, path, args.lpips_inputs)).transpose()?;
    let mut file = match &args.output {
        None => None,
        Some(folder) => {
            fs::create_dir_all(folder).map_err(|e| unusable(folder, e))?;
            let lock = lock(folder)?;
            claim(folder, EVALUATION, WHAT, &design(args), command)?;
            Some((folder, String::new(), lock))
        }
    };
    let mut rows = Vec::new();
    for set in &sets {
        let (judged, distances) = judge(&mut scorer, lpips.as_ref(), set)?;
        if let Some((folder, text, _)) = &mut file {
            set.shown.iter().zip(&judged).for_each(|(shown, judged)| {
                let scores: Map<String, Value> =
                    judged.scores.iter().map(|(name, x)| (name.clone(), json!(x))).collect();
                let line = json!({
                    "schema": SCHEMA,
                    "set": set.name,
                    "path": shown.path.to_string_lossy(),
                    "prompt": shown.prompt,
                    "scores": scores,
                });
                *text += &format!("{line}\n");
            });
            write_atomic(&folder.join(SCORES), text.as_bytes())?;
        }
        let mut row = row(set, &judged, args.eigenvalues);
        if lpips.is_some() {
            row.lpips = Some(distances.means());
            if judged.len() == 1 {
                row.notes.push("LPIPS is of two pictures, and one is there".into());
            }
        }
        rows.push(row);
    }
    rows.iter().for_each(|row| {
        row.notes.iter().for_each(|note| output::note(format_args!("note: {}: {note}", row.name)));
    });
    let (text, json) = (table::markdown(&rows, args, command), table::json(&rows, args, command));
    if let Some((folder, ..)) = file {
        experiment::write_table(folder, &text, &table::csv(&rows)?, &json)?;
    }
    output::line(if args.json { json.as_str() } else { text.trim_end() })
}

/// What an evaluation is of: sets, which are the same from wherever and however they are named, and scorers.
fn design(args: &Eval) -> Map<String, Value> {
    let whole = |path: &Path| path.canonicalize().unwrap_or(path.into()).to_string_lossy().into_owned();
    let lpips = |path: &String| {
        let path = Path::new(path);
        <[&Path; 2]>::from(two_paths(path).unwrap_or((path, path))).map(whole)
    };
    object(json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "runs": args.runs.iter().map(|path| whole(path)).collect::<Vec<_>>(),
        "all": args.all,
        "rewards": args.rewards,
        "model": args.judge.model.as_deref().map(whole),
        "dtype": args.judge.dtype.map(typed),
        "lpips": args.lpips.as_ref().map(lpips),
        "lpips_inputs": typed(args.lpips_inputs),
        "tce": args.eigenvalues,
    }))
}

/// The scorers that were named; else all whose weights are here.
fn scorer(args: &Eval) -> Result<Scorer> {
    let builder = score::builder(&args.judge, args.judge.offline || args.rewards.is_empty());
    let mut specs = Spec::parse_all("reward", &args.rewards)?;
    if let Some(spec) = specs.iter().find(|spec| spec.weight != 1.0) {
        return Err(Error::usage(format!(
            "--reward {}={}: scores are reported one by one, a weight has no meaning",
            spec.kind.name, spec.weight
        ))
        .advice("leave the weight out"));
    }
    if specs.is_empty() {
        let mut absent = Vec::new();
        for kind in REWARDS.iter().filter(|kind| !OF_A_PLACE.contains(&kind.name)) {
            let spec: Spec = kind.name.parse()?;
            match builder.missing(&spec)? {
                None => specs.push(spec),
                Some(_) => absent.push(kind.name),
            }
        }
        if !absent.is_empty() {
            output::note(format_args!(
                "note: the weights of {} are not here; `--reward NAME` fetches them, and `--reward NAME:PATH` says \
                 where they are",
                absent.join(", ")
            ));
        }
    }
    let scorer = specs.iter().cloned().fold(builder, SessionBuilder::reward).open_scorer()?;
    score::tell_towers(&args.judge, &specs, &scorer);
    Ok(scorer)
}

/// Every picture of a set, prompt by prompt, and how different they look by LPIPS.
fn judge(scorer: &mut Scorer, lpips: Option<&Lpips>, set: &Set) -> Result<(Vec<Judged>, SquaredDistances)> {
    let mut distances = SquaredDistances::default();
    let mut by_prompt: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, shown) in set.shown.iter().enumerate() {
        by_prompt.entry(&shown.prompt).or_default().push(at);
    }
    let mut judged: Vec<Option<Judged>> = set.shown.iter().map(|_| None).collect();
    for (prompt, places) in by_prompt {
        let pictures =
            places.iter().map(|&at| Picture::read(&set.shown[at].path)).collect::<Result<Vec<_>>>()?;
        let fail = |e: Error| e.context(format!("{}, {prompt:?}", set.name));
        let scores = scorer.score(&pictures, prompt).map_err(fail)?;
        scores.warnings.iter().for_each(|w| output::note(format_args!("warning: {w}")));
        let mut embeddings = scorer.embed(&pictures).map_err(fail)?.unwrap_or_default().into_iter();
        for (i, at) in places.into_iter().enumerate() {
            if let Some(lpips) = lpips {
                let vector = scorer.perceive(lpips, &pictures[i])?;
                if !vector.iter().all(|value| value.is_finite()) {
                    let path = set.shown[at].path.display();
                    return Err(Error::numerical(format!(
                        "--lpips: what its network makes of {path} is not finite"
                    ))
                    .advice("give the weights of LPIPS version 0.1 for AlexNet"));
                }
                distances.add(set.shown[at].group, &vector);
            }
            let of = |(name, v): &(String, Vec<f32>)| (name.clone(), f64::from(v[i]));
            let scores = scores.rewards.iter().map(of).collect();
            judged[at] = Some(Judged { scores, embedding: embeddings.next() });
        }
    }
    Ok((judged.into_iter().flatten().collect(), distances))
}

/// The network of LPIPS that the option names.
fn open_lpips(scorer: &Scorer, path: &str, range: Range) -> Result<Lpips> {
    let whole = Path::new(path);
    let (network, linear) = two_paths(whole).unwrap_or((whole, whole));
    let advice = "give --lpips NETWORK,LINEAR: torchvision's AlexNet, and LPIPS 0.1's alex.pth; or one file that has both";
    if [network, linear].iter().any(|path| path.as_os_str().is_empty()) {
        return Err(Error::usage(format!("--lpips {path:?} lacks a path")).advice(advice));
    }
    scorer.open_lpips(network, linear, range).map_err(|e| match e.kind() {
        ErrorKind::Model => e.context(format!("--lpips {path}")).advice(advice),
        _ => e.context(format!("--lpips {path}")),
    })
}

/// The numbers of a set.
fn row(set: &Set, judged: &[Judged], eigenvalues: usize) -> Row {
    let names = judged.first().into_iter().flat_map(|one| one.scores.iter().map(|(name, _)| name));
    let scores = names.enumerate().map(|(k, name)| {
        let all: Vec<(usize, f64)> = set
            .shown
            .iter()
            .zip(judged)
            .map(|(shown, one)| (shown.group, one.scores[k].1))
            .filter(|(_, score)| score.is_finite())
            .collect();
        let values: Vec<f64> = all.iter().map(|(_, score)| *score).collect();
        let center = mean(&values);
        let squares: Vec<f64> = values.iter().map(|x| (x - center).powi(2)).collect();
        let spread = Some(mean(&squares).sqrt()).filter(|x| x.is_finite());
        (name.clone(), over_prompts(all.into_iter()), spread, judged.len() - values.len())
    });
    let mut row = Row {
        name: set.name.clone(),
        prompts: set.prompts,
        pictures: set.shown.len(),
        scores: scores.collect(),
        distance: None,
        distance_within: None,
        entropy: None,
        lpips: None,
        notes: set.notes.clone(),
    };
    let vectors: Option<Vec<&[f32]>> = judged.iter().map(|one| one.embedding.as_deref()).collect();
    let Some(vectors) = vectors else {
        row.notes.push(
            "no scorer has a CLIP model: there is no CLIP distance and no TCE; add --reward clip".into(),
        );
        return row;
    };
    let groups: Vec<usize> = set.shown.iter().map(|shown| shown.group).collect();
    (row.distance, row.distance_within) = diversity::distances(&vectors, &groups);
    match vectors.len() > eigenvalues {
        true => row.entropy = diversity::truncated_entropy(&vectors, &groups, eigenvalues),
        false => row.notes.push(format!(
            "the truncated CLIP entropy of {eigenvalues} eigenvalues needs more pictures than that, and {} are there",
            vectors.len()
        )),
    }
    row
}
