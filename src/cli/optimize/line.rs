//! What one query came to: its line in `runs.jsonl`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::design::{Design, Query};
use crate::cli::compare::result::write;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::reward::{Reward, Sum};
use crate::session::Session;
use crate::surrogate::Surrogate;

/// One line of `runs.jsonl` (docs/formats.md). The same for the same query, whenever it is drawn.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    pub strategy: String,
    pub seed: u64,
    /// From 0; pictures of the evaluation follow on the queries.
    pub query: usize,
    /// From 0; `None` in the evaluation.
    pub round: Option<usize>,
    /// Of the prompt in the list.
    pub index: usize,
    /// As it was drawn, with the template where there was one.
    pub prompt: String,
    /// Whether it is a plain sample of the model.
    pub plain: bool,
    /// What the surrogate said of the picture before the black box was asked; `None` where nothing had been
    /// learned.
    pub mean: Option<f64>,
    pub bonus: Option<f64>,
    pub uncertainty: Option<f64>,
    /// What the black box said.
    pub answer: f64,
    /// What is learned from that.
    pub label: f64,
    pub eval_rewards: Map<String, Value>,
    /// Relative to the folder.
    pub picture: String,
}

impl Line {
    /// Tells a query from all others.
    pub fn key(&self) -> String {
        key(&self.strategy, self.seed, self.query)
    }

    /// Whether it is of one of the design's queries.
    pub fn belongs_to(&self, design: &Design) -> bool {
        let strategy = design.strategies.iter().find(|strategy| strategy.name() == self.strategy);
        let query = strategy.and_then(|strategy| design.query(*strategy, self.seed, self.query));
        query.is_some_and(|query| {
            design.seeds.contains(&self.seed)
                && query.round == self.round
                && design.prompt(&query).1.text == self.prompt
                && self.answer.is_finite()
        })
    }
}

/// Tells a query from all others.
pub fn key(strategy: &str, seed: u64, number: usize) -> String {
    format!("{seed} {strategy} {number}")
}

/// Draws the picture of a query, writes it, asks the black box, and says what the surrogate had expected.
/// `known` is the line of the same plain sample of another strategy: its picture and answer are taken.
pub fn ask(
    session: &mut Session,
    black_box: &mut Sum,
    design: &Design,
    query: &Query,
    surrogate: Option<&Surrogate>,
    known: Option<&Line>,
    folder: &Path,
) -> Result<Line> {
    let (index, prompt) = design.prompt(query);
    let plain = design.is_plain(query);
    let place = match query.round {
        Some(round) => format!("query {} of round {round}", query.number),
        None => format!("picture {} of the evaluation", query.number - design.queries),
    };
    let place = format!("{}, seed {}, {place}", query.strategy.name(), query.seed);
    let line = |picture: String, answer: f64, eval_rewards| Line {
        strategy: query.strategy.name().into(),
        seed: query.seed,
        query: query.number,
        round: query.round,
        index,
        prompt: prompt.text.clone(),
        plain,
        mean: None,
        bonus: None,
        uncertainty: None,
        answer,
        label: design.label(query, answer),
        eval_rewards,
        picture,
    };
    if let Some(known) = known.filter(|_| plain) {
        return Ok(line(known.picture.clone(), known.answer, known.eval_rewards.clone()));
    }
    let options = design.options(query);
    let samples =
        session.sample(&prompt, &options)?.conclude().map_err(|e| e.context(&place))?.swap_remove(0);
    let particle = if plain { 0 } else { design.select.particle(&samples.population) };
    let picture = &samples.pictures[particle];
    let kind = if plain { "plain" } else { query.strategy.name() };
    let name = format!("pictures/{kind}/{}-{:04}.png", query.seed, query.number);
    write(&folder.join(&name), picture)?;
    let answer = answered(session, black_box, picture, &prompt.text)
        .map_err(|e| e.context(format!("--black-box {}: {place}", design.black_box.kind.name)))?;
    if !answer.is_finite() {
        return Err(Error::numerical(format!(
            "--black-box {}: {place}: its answer is {answer}, no finite number",
            design.black_box.kind.name
        ))
        .advice(format!(
            "let the black box answer every picture with a number, also {}; then the same command goes on",
            folder.join(&name).display()
        )));
    }
    let held_out = match session.eval_reward() {
        Some(eval) => eval.picture_scores(session.backend(), std::slice::from_ref(picture), &[0])?,
        None => Vec::new(),
    };
    let finite = |x: f32| Some(f64::from(x)).filter(|x| x.is_finite());
    let held_out = held_out
        .into_iter()
        .map(|(name, list)| (name, json!(list.first().copied().and_then(finite))))
        .collect();
    let mut line = line(name, answer, held_out);
    if let Some(surrogate) = surrogate {
        let said = surrogate.predict(&embedding(session, picture)?);
        (line.mean, line.bonus, line.uncertainty) =
            (Some(said.mean), Some(said.bonus), Some(said.uncertainty));
    }
    Ok(line)
}

/// What the black box says of a picture.
fn answered(session: &Session, black_box: &mut Sum, picture: &Picture, prompt: &str) -> Result<f64> {
    let backend = session.backend();
    black_box.prepare(backend, &[prompt.to_string()])?;
    let scores = black_box.picture_scores(backend, std::slice::from_ref(picture), &[0])?;
    match &scores[..] {
        [(_, answers)] if answers.len() == 1 => Ok(f64::from(answers[0])),
        _ => {
            let count: usize = scores.iter().map(|(_, answers)| answers.len()).sum();
            Err(Error::model(format!("{count} answers to one picture"))
                .advice("let the black box answer every picture with one number"))
        }
    }
}

/// A picture as the surrogate sees it. One at a time: so no bit depends on what is embedded beside it.
pub fn embedding(session: &Session, picture: &Picture) -> Result<Vec<f32>> {
    let embedded = session.reward().embeddings(session.backend(), std::slice::from_ref(picture))?;
    embedded.and_then(|mut list| list.pop()).ok_or_else(|| {
        Error::usage("--tower: this reward sees pictures through no CLIP model")
            .advice("give --tower aesthetic, clip, pickscore or hpsv2, with its files")
    })
}
