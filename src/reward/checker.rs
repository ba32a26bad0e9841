//! `checker`: whether a picture of the shapes world shows what its prompt says. It looks at pixels, so it is
//! independent of the networks that are optimised, and suits as a held-out reward. It is for the embedded
//! model `shapes` and its prompts only.
//!
//! 1 if there are as many objects as the prompt names, and their sizes, colours and shapes and the ground are
//! those that it states; else 0. What a prompt does not state is not judged, and neither is a place that it
//! states. Of a prompt that states none of these (one object of any kind) there is nothing to judge: NaN.
//!
//! The definition is `report` (its key `all`) of `tools/shapes/checker.py`; this is its port. Its masks of
//! shapes are f32, those here f64.

mod caption;
mod look;
#[cfg(test)]
mod tests;
mod world;

use caption::{Caption, Object, parse};
use look::{Found, look};
use world::SIDE;

use super::host::HostReward;
use super::kind::{Needs, RewardKind};
use crate::error::{Error, Result};
use crate::pixels::Picture;

pub(super) static REWARD: RewardKind = RewardKind {
    name: "checker",
    about: "1 if a picture shows what its prompt says, else 0 (NaN if it says nothing); for the model `shapes` only",
    needs: Needs { files: None, prompt: true, gradient: false },
    default_alpha: 0.1,
    source: "tools/shapes/checker.py; alpha as for jpeg",
    open: |_, name, _| Ok(Box::new(HostReward::with_prompt(name, REWARD.default_alpha, checker_score))),
};

/// 1 if a picture of the shapes world shows what its prompt says, else 0; NaN where the prompt states nothing
/// that is judged. Any picture of 64x64 pixels has a score, whatever it shows.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a picture of another size.
pub fn checker_score(picture: &Picture, prompt: &str) -> Result<f64> {
    let (width, height) = (picture.width, picture.height);
    if (width, height) != (SIDE, SIDE) {
        return Err(Error::usage(format!(
            "reward {} judges pictures of {SIDE}x{SIDE} pixels, not of {width}x{height}",
            REWARD.name
        ))
        .advice("use it for pictures of the embedded model `shapes` only, at its own size"));
    }
    let said = parse(prompt);
    Ok(if states_something(&said) { f64::from(u8::from(shows(&look(picture), &said))) } else { f64::NAN })
}

/// Whether a prompt states anything that is judged: two objects, or an attribute of one, or the ground.
fn states_something(said: &Caption) -> bool {
    let stated = |o: &Object| o.size.or(o.colour).or(o.shape).is_some();
    said.objects.len() > 1 || said.ground.is_some() || said.objects.iter().any(stated)
}

/// Whether all that is said was found. Of the two ways in which two objects can be those of the prompt, the
/// one counts in which more attributes hold, places among them.
fn shows(found: &Found, said: &Caption) -> bool {
    if found.count != said.objects.len() || said.ground.is_some_and(|ground| ground != found.ground) {
        return false;
    }
    let straight = hold(&said.objects, found.objects.iter());
    let crossed = hold(&said.objects, found.objects.iter().rev());
    let count = |held: &[Option<bool>; 4]| held.iter().filter(|held| **held == Some(true)).count();
    let best = if count(&crossed) > count(&straight) { crossed } else { straight };
    let [size, colour, shape, _] = best;
    [size, colour, shape].iter().all(|held| *held != Some(false))
}

/// Whether size, colour, shape and place are those that are said, of all objects; `None` where nothing is
/// said of any.
fn hold<'a>(said: &[Object], found: impl Iterator<Item = &'a Object> + Clone) -> [Option<bool>; 4] {
    let attributes: [fn(&Object) -> Option<usize>; 4] = [|o| o.size, |o| o.colour, |o| o.shape, |o| o.place];
    attributes.map(|of| {
        let stated = said.iter().zip(found.clone()).filter(|(said, _)| of(said).is_some());
        stated.map(|(said, found)| of(said) == of(found)).reduce(|all, held| all && held)
    })
}
