//! Rewards that another program computes (docs/reward-protocol.md): images go out, scores and, where the
//! scorer can, gradients with respect to the pixels come back.

pub(super) mod channel;
pub(super) mod failure;
#[cfg(unix)]
pub(super) mod process;
pub(super) mod protocol;
#[cfg(feature = "http")]
pub(super) mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Reward;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};
use channel::Channel;
use failure::{Failure, shown, told};
pub(super) use protocol::Hello;
use protocol::{Answer, ImageForm, Request, encoded, encoded_floats, s};

/// The alpha of scores of which nothing is known.
pub(super) const DEFAULT_ALPHA: f64 = 0.1;

/// Kills the scorers of `exec` rewards and what they started, for a program that is about to end without
/// destructors, as on a signal. From then on none is started any more: a thread that would start or end one
/// waits for ever.
pub fn end_scorers() {
    #[cfg(unix)]
    process::end_all();
}

/// A reward that another program computes.
pub(super) struct External {
    /// As the user types it.
    name: String,
    /// How messages call the scorer.
    who: String,
    hello: Hello,
    scorer: Arc<Scorer>,
    prompts: Vec<String>,
}

/// A scorer, for one caller at a time.
struct Scorer(Mutex<Asked>);

struct Asked {
    channel: Box<dyn Channel>,
    /// Of the next request.
    id: u64,
    /// Images that got no number since the notes were read last.
    unscored: usize,
    /// A score since then that f32 does not reach.
    too_large: Option<f64>,
}

impl Asked {
    fn new(channel: Box<dyn Channel>) -> Asked {
        Asked { channel, id: 0, unscored: 0, too_large: None }
    }

    /// What happened since the last call that the user should know.
    fn notes(&mut self) -> Vec<String> {
        let mut notes = self.channel.notes();
        if let count @ 1.. = std::mem::take(&mut self.unscored) {
            notes.push(format!("gave no number (null) for {count} image{}", s(count)));
        }
        if let Some(score) = self.too_large.take() {
            notes.push(format!(
                "gave a score of {score:e}, which is infinite in float32; let it scale its scores"
            ));
        }
        notes
    }
}

impl Scorer {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What scorers said of themselves, and those that are in use. So a scorer is started once, however often the
/// cost of a run is counted before it begins, and rewards of one command share it.
static KNOWN: Mutex<BTreeMap<String, (Hello, Weak<Scorer>)>> = Mutex::new(BTreeMap::new());

impl External {
    /// The reward `name` of the scorer `key`, such as `exec:COMMAND`. `connect` makes the way to it and is
    /// told what the scorer said of itself before, if it did; then it is not asked again.
    pub fn open(
        name: &str,
        key: &str,
        connect: impl FnOnce(Option<Hello>) -> Result<Box<dyn Channel>>,
    ) -> Result<External> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(key).map(|(hello, scorer)| (hello.clone(), scorer.upgrade()));
        let (hello, scorer) = match before {
            Some((hello, Some(scorer))) => (hello, scorer),
            before => {
                let before = before.map(|(hello, _)| hello);
                let mut channel = connect(before.clone())?;
                let hello = match before {
                    Some(hello) => hello,
                    None => channel.hello().map_err(|failure| error(&shown(key.as_bytes()), failure))?,
                };
                let scorer = Arc::new(Scorer(Mutex::new(Asked::new(channel))));
                known.insert(key.to_string(), (hello.clone(), Arc::downgrade(&scorer)));
                (hello, scorer)
            }
        };
        let called = hello.name.as_ref().map_or(String::new(), |name| format!(" ({})", told(name, 80)));
        let who = format!("{}{called}", shown(key.as_bytes()));
        Ok(External { name: name.to_string(), who, hello, scorer, prompts: Vec::new() })
    }

    /// Scores of the images `chosen` of `pixels` `(n, h, w, 3)`, and their gradients if they are wanted.
    fn ask(
        &self,
        pixels: &[f32],
        shape: Shape,
        chosen: &[usize],
        prompt_of: &[u32],
        gradient: bool,
    ) -> Result<Answer> {
        let prompts: Vec<&str> =
            chosen.iter().map(|&i| self.prompts[prompt_of[i] as usize].as_str()).collect();
        let image = |&i: &usize| &pixels[i * shape.sample()..(i + 1) * shape.sample()];
        let images: Vec<String> = match self.hello.images {
            ImageForm::F32 => chosen.iter().map(|i| encoded_floats(image(i))).collect(),
            ImageForm::Png => {
                let png = |i| Picture::from_floats(shape.w, shape.h, image(i)).png();
                chosen.iter().map(|i| Ok(encoded(&png(i)?))).collect::<Result<_>>()?
            }
        };
        let mut asked = self.scorer.lock();
        let id = asked.id;
        asked.id += 1;
        let request = Request { id, prompts, images, width: shape.w, height: shape.h, gradient };
        let place = || format!("{}: {}", self.who, place(&request.prompts));
        let line = serde_json::to_string(&request)
            .map_err(|e| Error::model(format!("{}: the request cannot be written", place())).because(e))?;
        let answer =
            asked.channel.ask(&line, request.longest_answer()).map_err(|failure| error(&place(), failure))?;
        let answer = request.answered(&answer, asked.channel.names_requests()).map_err(|failure| {
            let what = format!("{}{}", failure.what, asked.channel.give_up());
            error(&place(), Failure::new(what, failure.fix))
        })?;
        asked.unscored += answer.scores.iter().filter(|score| score.is_nan()).count();
        asked.too_large = asked.too_large.or(answer.too_large);
        Ok(answer)
    }
}

/// The error of a scorer.
fn error(who: &str, failure: Failure) -> Error {
    Error::model(format!("{who}: the scorer {}", failure.what)).advice(failure.fix)
}

/// What is being scored, in words.
fn place(prompts: &[&str]) -> String {
    let images = format!("{} image{}", prompts.len(), s(prompts.len()));
    let Some((first, rest)) = prompts.split_first() else { return images };
    match rest.iter().filter(|prompt| *prompt != first).count() {
        0 => format!("{images} of prompt {first:?}"),
        _ => format!("{images}, the first of prompt {first:?}"),
    }
}

impl Reward for External {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn differentiable(&self) -> bool {
        self.hello.gradient
    }
    fn reads_prompt(&self) -> bool {
        self.hello.prompts
    }
    fn prepare(&mut self, _: &dyn Backend, prompts: &[String]) -> Result<()> {
        self.prompts = prompts.to_vec();
        Ok(())
    }

    /// An image with a value that is not finite scores NaN, and the scorer does not see it. Where nothing is
    /// computed, the scorer is not asked either.
    #[track_caller]
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, prompt_of: &[u32]) -> Result<Var> {
        let (backend, shape) = (tape.backend(), images.shape());
        assert_eq!(shape.c, 3, "images are (n, h, w, 3), got {shape}");
        assert_eq!(shape.n, prompt_of.len(), "one prompt per image");
        let known = |p: &u32| (*p as usize) < self.prompts.len();
        assert!(prompt_of.iter().all(known), "reward {}: {prompt_of:?} of {}", self.name, self.prompts.len());
        let node = images.node().filter(|_| self.hello.gradient && tape.records(images));
        if !backend.computes() {
            let scores = backend.zeros(Shape::rows(shape.n, 1))?;
            return Ok(tape.push(scores, node.is_some(), |_| {
                Box::new(move |backend, _| {
                    node.map(|node| Ok((node, backend.zeros(shape)?))).into_iter().collect()
                })
            }));
        }
        let pixels = backend.download(images.value())?;
        let size = shape.sample();
        let sound = |&i: &usize| pixels[i * size..(i + 1) * size].iter().all(|x| x.is_finite());
        let chosen: Vec<usize> = (0..shape.n).filter(sound).collect();
        let (mut scores, mut gradients) = (vec![f32::NAN; shape.n], Vec::new());
        if !chosen.is_empty() {
            let answer = self.ask(&pixels, shape, &chosen, prompt_of, node.is_some())?;
            chosen.iter().zip(answer.scores).for_each(|(&i, score)| scores[i] = score);
            gradients = answer.gradients;
        }
        let scores = backend.upload(Shape::rows(shape.n, 1), HostSlice::F32(&scores))?;
        Ok(tape.push(scores, node.is_some(), |_| {
            Box::new(move |backend, dy| {
                let Some(node) = node else { return Ok(Vec::new()) };
                let factors = backend.download(&dy)?;
                let mut all = vec![0.0; shape.len()];
                for (&i, gradient) in chosen.iter().zip(gradients.chunks_exact(size)) {
                    let to = &mut all[i * size..(i + 1) * size];
                    to.iter_mut().zip(gradient).for_each(|(to, g)| *to = factors[i] * g);
                }
                Ok(vec![(node, upload(backend, shape, &all)?)])
            })
        }))
    }

    fn default_alpha(&self) -> f64 {
        self.hello.alpha.unwrap_or(DEFAULT_ALPHA)
    }

    fn notes(&self) -> Vec<String> {
        let notes = self.scorer.lock().notes();
        notes.into_iter().map(|note| format!("{}: the scorer {note}", self.who)).collect()
    }
}

fn upload(backend: &dyn Backend, shape: Shape, values: &[f32]) -> Result<Tensor> {
    backend.upload(shape, HostSlice::F32(values))
}
