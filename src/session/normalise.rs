//! Terms of a reward in units of their standard deviation over plain samples of the model (docs/spec.md 7.7).

use super::options::SampleOptions;
use crate::error::{Error, Result};
use crate::method::Plain;
use crate::sampler::Compat;

/// Where the scales are from by which the terms of a reward are divided.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Normalise {
    /// Standard deviations, measured before the first sample on so many plain pictures, at least 2.
    Measured(usize),
    /// These, one for each reward in the order in which rewards were given.
    Given(Vec<f64>),
}

/// What plain pictures of one prompt are worth.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PlainScores {
    /// Place of the prompt in the list.
    pub prompt: usize,
    /// Each term of the reward by name, unweighted, one number per picture.
    pub rewards: Vec<(String, Vec<f64>)>,
    /// The sum that is aligned to, in units of the scales.
    pub target: Vec<f64>,
    /// Held-out rewards by name.
    pub held_out: Vec<(String, Vec<f64>)>,
}

/// Keys the noise of the pictures, whatever the seed of the run: scales, and with them the meaning of alpha,
/// do not change from seed to seed.
const SEED: u64 = 0x6E6F_726D_616C_6973;

/// Pictures of each prompt, where there are prompts enough: within a prompt they tell its spread.
const OF_A_PROMPT: usize = 4;

/// Most pictures, as of a prompt's particles.
const MOST_PICTURES: usize = 1 << 20;

/// A spread of less than this part of the largest score may be the rounding of f32.
const ROUNDING: f64 = 1.0 / (1 << 20) as f64;

impl Normalise {
    /// Refuses what cannot be a number of pictures, or scales of rewards with these weights.
    pub(super) fn check(&self, weights: &[f64]) -> Result<()> {
        let rewards = weights.len();
        match self {
            Normalise::Measured(pictures) if *pictures > MOST_PICTURES => {
                Err(Error::usage(format!("`normalise_pictures` {pictures} is more than {MOST_PICTURES}"))
                    .option("normalise_pictures")
                    .advice(
                        "give `normalise_pictures` a smaller number; a spread of 1000 is known to about 2 %",
                    ))
            }
            Normalise::Measured(pictures) if *pictures < 2 => {
                Err(Error::usage(format!("`normalise_pictures` {pictures}: their spread is not known"))
                    .option("normalise_pictures")
                    .advice("give `normalise_pictures` at least 2; a spread of 32 is known to about 13 %"))
            }
            Normalise::Measured(_) => Ok(()),
            Normalise::Given(scales) if scales.len() != rewards => {
                let count = scales.len();
                Err(Error::usage(format!("`normalise` gives {count} scales for {rewards} rewards"))
                    .option("normalise")
                    .advice("give one for each `reward`, in their order, or none, to measure them"))
            }
            Normalise::Given(scales) => match scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
                None => check_weights(weights, scales),
                Some(scale) => Err(Error::usage(format!(
                    "`normalise`: the scale {scale} is not a finite number above 0"
                ))
                .option("normalise")
                .advice("give `normalise` standard deviations as run.json has them")),
            },
        }
    }
}

/// Refuses scales that make a weight nothing, or infinite, in f32.
pub(super) fn check_weights(weights: &[f64], scales: &[f64]) -> Result<()> {
    let lost = |(weight, scale): &(&f64, &f64)| {
        let divided = (*weight / *scale) as f32;
        divided == 0.0 || !divided.is_finite()
    };
    match weights.iter().zip(scales).find(lost) {
        None => Ok(()),
        Some((weight, scale)) => Err(Error::usage(format!(
            "`normalise`: the weight {weight} over the scale {scale} is no number of f32"
        ))
        .option("normalise")
        .advice("give `reward` a weight, or `normalise` a scale, of the size of the scores")),
    }
}

/// How many pictures of which prompts: as many prompts as get [`OF_A_PROMPT`], spread over the list.
pub(super) fn dealt(prompts: usize, pictures: usize) -> Vec<(usize, usize)> {
    let used = (pictures / OF_A_PROMPT).clamp(1, prompts);
    (0..used).map(|i| (i * prompts / used, pictures / used + usize::from(i < pictures % used))).collect()
}

/// The standard deviations within prompts, of each term; they pool the prompts.
pub(super) fn deviations(scores: &[PlainScores]) -> Result<Vec<f64>> {
    let terms = scores.first().map_or(0, |first| first.rewards.len());
    (0..terms)
        .map(|k| {
            let name = &scores[0].rewards[k].0;
            let lists: Vec<&[f64]> = scores.iter().map(|of| of.rewards[k].1.as_slice()).collect();
            deviation(&lists).ok_or_else(|| unmeasurable(name, &lists))
        })
        .collect()
}

/// The root of the variance within lists; `None` where it is not finite, or no more than rounding.
fn deviation(lists: &[&[f64]]) -> Option<f64> {
    let squares = |list: &&[f64]| {
        let mean = list.iter().sum::<f64>() / list.len() as f64;
        list.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
    };
    let freedom: usize = lists.iter().map(|list| list.len().saturating_sub(1)).sum();
    let largest = lists.iter().copied().flatten().fold(0.0_f64, |most, x| most.max(x.abs()));
    let deviation = (lists.iter().map(squares).sum::<f64>() / freedom as f64).sqrt();
    (deviation.is_finite() && deviation > ROUNDING * largest).then_some(deviation)
}

fn unmeasurable(name: &str, lists: &[&[f64]]) -> Error {
    let all: usize = lists.iter().map(|list| list.len()).sum();
    let lost = lists.iter().copied().flatten().filter(|x| !x.is_finite()).count();
    let what = match lost {
        0 => format!("reward {name} is constant over {all} plain pictures: it has no standard deviation"),
        _ => format!("reward {name} gave no finite number for {lost} of {all} plain pictures"),
    };
    Error::usage(format!("`normalise`: {what}")).option("normalise").advice(format!(
        "leave {name} out of the sum, give other prompts or more `normalise_pictures`, or give its scale: \
         `normalise` std=SCALE, one for each reward"
    ))
}

impl SampleOptions {
    /// The model's own chain, `count` times, of the prompt at `place` of the list.
    pub(super) fn plain(&self, place: usize, count: usize) -> SampleOptions {
        SampleOptions {
            seed: SEED,
            first_index: place as u32,
            particles: count,
            populations: 1,
            chains: None,
            latents: None,
            compat: Compat::Paper,
            ..self.clone().by_method(&Plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_dealt_over_the_list() {
        assert_eq!(dealt(1, 32), [(0, 32)]);
        assert_eq!(dealt(3, 8), [(0, 4), (1, 4)]);
        assert_eq!(dealt(10, 17), [(0, 5), (2, 4), (5, 4), (7, 4)]);
        assert_eq!(dealt(5, 2), [(0, 2)]);
    }

    /// Means of prompts differ by 100, and do not count.
    #[test]
    fn the_deviation_is_that_within_prompts() {
        let (low, high) = ([1.0, 3.0], [101.0, 102.0, 103.0]);
        // Squares 2 and 2, of 1 and 2 degrees of freedom.
        let deviation_of = |lists: &[&[f64]]| deviation(lists);
        assert_eq!(deviation_of(&[&low, &high]), Some((4.0_f64 / 3.0).sqrt()));
        assert_eq!(deviation_of(&[&[5.0, 5.0]]), None, "constant");
        assert_eq!(deviation_of(&[&[1e6, 1e6 + 0.06]]), None, "rounding");
        assert_eq!(deviation_of(&[&[1.0]]), None, "no freedom");
        assert_eq!(deviation_of(&[&[1.0, f64::NAN]]), None, "not finite");
        let scores = PlainScores { rewards: vec![("flat".into(), vec![2.0; 3])], ..PlainScores::default() };
        let error = deviations(&[scores]).unwrap_err().to_string();
        assert!(error.contains("reward flat is constant over 3 plain pictures"), "{error}");
    }

    #[test]
    fn scales_that_cannot_be_meant_are_refused() {
        for (normalise, says) in [
            (Normalise::Measured(1), "spread"),
            (Normalise::Measured(2_000_000), "more than 1048576"),
            (Normalise::Given(vec![1.0, 1e-300]), "the weight 0.5 over the scale"),
            (Normalise::Given(vec![1e300, 1.0]), "is no number of f32"),
            (Normalise::Given(vec![1.0]), "1 scales for 2 rewards"),
            (Normalise::Given(vec![1.0, 0.0]), "scale 0 is not"),
            (Normalise::Given(vec![1.0, -0.5]), "scale -0.5"),
            (Normalise::Given(vec![f64::NAN, 1.0]), "scale NaN"),
        ] {
            let error = normalise.check(&[1.0, 0.5]).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("fix:"), "{normalise:?}: {error}");
        }
        assert!(Normalise::Given(vec![0.5, 2.0]).check(&[1.0, 0.5]).is_ok());
    }
}
