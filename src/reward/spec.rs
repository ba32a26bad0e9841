//! A reward as it is written: `NAME[=WEIGHT][:PATH]`.

use std::path::PathBuf;
use std::str::FromStr;

use super::http::encrypted;
use super::kind::RewardKind;
use super::registry::REWARDS;
use crate::error::{Error, Result};

/// One term of a reward.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Which reward.
    pub kind: &'static RewardKind,
    /// Finite and not zero; 1 unless given.
    pub weight: f64,
    /// Where its files are; `None` for the model's own.
    pub path: Option<PathBuf>,
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Spec> {
        let (head, path) = match text.split_once(':') {
            Some((head, path)) => (head, Some(path)),
            None => (text, None),
        };
        let (name, weight) = match head.split_once('=') {
            Some((name, weight)) => (name, Some(weight)),
            None => (head, None),
        };
        let name = name.trim().to_ascii_lowercase();
        if name == "https" {
            return Err(encrypted().context(format!("reward \"{text}\"")));
        }
        let Some(kind) = REWARDS.iter().copied().find(|kind| kind.name == name) else {
            return Err(unknown(text, &name));
        };
        let weight = match weight.map(|w| w.trim().parse::<f64>()) {
            None => 1.0,
            // Rewards are summed in f32.
            Some(Ok(w)) if (w as f32).is_finite() && w as f32 != 0.0 => w,
            Some(_) => {
                return Err(Error::usage(format!(
                    "reward \"{text}\": the weight is no finite number other than 0 in single precision"
                ))
                .advice(format!(
                    "write for example {name}=0.5; to only report a score, use `eval_reward` {name}"
                )));
            }
        };
        let path = match path {
            Some(_) if kind.needs.files.is_none() => {
                return Err(Error::usage(format!("reward \"{text}\": {name} needs no file"))
                    .advice(format!("write {head}")));
            }
            Some("") => {
                return Err(Error::usage(format!("reward \"{text}\": no path after the colon"))
                    .advice(format!("{name}: {}", kind.line())));
            }
            path => path.map(PathBuf::from),
        };
        Ok(Spec { kind, weight, path })
    }
}

/// Names that are at least so similar may have been meant, of 1.
const ALIKE: f64 = 0.8;

fn unknown(text: &str, name: &str) -> Error {
    let choices: Vec<String> =
        REWARDS.iter().map(|kind| format!("    {:<18} {}", kind.name, kind.line())).collect();
    let what =
        if name.is_empty() { "no name".to_string() } else { format!("no reward is called \"{name}\"") };
    let near = |kind: &&&RewardKind| strsim::jaro_winkler(kind.name, &name.to_lowercase());
    let nearest = REWARDS.iter().max_by(|a, b| near(a).total_cmp(&near(b))).filter(|kind| near(kind) > ALIKE);
    let meant = nearest.map_or(String::new(), |kind| format!("; did you mean {}?", kind.name));
    Error::usage(format!("reward \"{text}\": {what}{meant}"))
        .advice(format!("NAME[=WEIGHT][:PATH] with one of\n{}", choices.join("\n")))
}

impl Spec {
    /// Reads the rewards of `option`, which is `reward` or `eval_reward`; the same reward twice with the same
    /// path is an error.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming `option`: a term that cannot be read, an unknown
    /// name, the same reward twice.
    pub fn parse_all(option: &'static str, texts: &[String]) -> Result<Vec<Spec>> {
        let mut specs: Vec<Spec> = Vec::new();
        for text in texts {
            let spec: Spec =
                text.parse().map_err(|e: Error| e.option(option).context(format!("`{option}`")))?;
            if specs.iter().any(|s| s.kind == spec.kind && s.path == spec.path) {
                let name = spec.kind.name;
                return Err(Error::usage(format!("`{option}`: {name} is given twice"))
                    .option(option)
                    .advice(format!(
                        "give it once; where it is part of a sum, with a weight: {name}=WEIGHT"
                    )));
            }
            specs.push(spec);
        }
        Ok(specs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Spec> {
        text.parse()
    }

    #[test]
    fn name_weight_and_path_are_told_apart() {
        let spec = |name: &str, weight, path: Option<&str>| Spec {
            kind: REWARDS.iter().find(|kind| kind.name == name).unwrap(),
            weight,
            path: path.map(PathBuf::from),
        };
        assert_eq!(parse("aesthetic").unwrap(), spec("aesthetic", 1.0, None));
        assert_eq!(parse("clip=0.5").unwrap(), spec("clip", 0.5, None));
        assert_eq!(parse("jpeg=-2e-1").unwrap(), spec("jpeg", -0.2, None));
        assert_eq!(parse("clip:/a=b/c").unwrap(), spec("clip", 1.0, Some("/a=b/c")));
        assert_eq!(parse("Aesthetic=2:C:\\clip").unwrap(), spec("aesthetic", 2.0, Some("C:\\clip")));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_fix() {
        for (text, says) in [
            ("beauty", "pickscore"),
            ("", "no name"),
            ("=2", "no name"),
            ("aesthetic=", "finite"),
            ("aesthetic=much", "finite"),
            ("aesthetic=nan", "finite"),
            ("aesthetic=inf", "finite"),
            ("aesthetic=0", "`eval_reward` aesthetic"),
            ("aesthetic=1e-50", "single precision"),
            ("aesthetic=1e39", "single precision"),
            ("clip:", "no path"),
            ("https://host/score", "tunnel"),
            ("jpeg:/tmp", "needs no file"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says) && error.contains("fix:"), "{text}: {error}");
        }
        let twice = ["clip".into(), "clip=2".into()];
        let error = Spec::parse_all("reward", &twice).unwrap_err().to_string();
        assert!(error.contains("`reward`: clip is given twice"), "{error}");
        let two_models = ["clip:a".into(), "clip=2:b".into()];
        assert_eq!(Spec::parse_all("reward", &two_models).unwrap().len(), 2);
    }
}
