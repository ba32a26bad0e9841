//! Values of options: how each is typed, and what it then is.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

use clap::ValueEnum;

use crate::sampler::Population;
use crate::session::{Device, SessionBuilder};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Select {
    /// The particle of largest weight
    Argmax,
    /// The particle of largest final reward, whatever its weight: no sample of the target
    Reward,
    /// One draw from the weights: an asymptotically exact sample of the target
    Draw,
    /// Every particle; its weight is in --json and in particles.jsonl
    All,
}

impl Select {
    /// The particle that is returned, of all of them the one that is shown first.
    pub fn particle(self, population: &Population) -> usize {
        match self {
            Select::Draw => population.draw(),
            Select::Reward => population.best_reward(),
            Select::Argmax | Select::All => population.best(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Save {
    /// The selected image only
    Best,
    /// The selected image, every particle, and all in one, grid.png
    All,
    /// Records only
    None,
}

/// A choice as it is typed.
pub fn typed(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

/// `auto` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto {
    Auto,
    Exactly(usize),
}

impl FromStr for Auto {
    type Err = String;
    fn from_str(s: &str) -> Result<Auto, String> {
        match s {
            "auto" => Ok(Auto::Auto),
            n => match n.parse() {
                Ok(0) | Err(_) => Err("expected `auto` or a whole number of at least 1".into()),
                Ok(n) => Ok(Auto::Exactly(n)),
            },
        }
    }
}

/// A seed: given, or to be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    Given(u64),
    Drawn,
}

impl Seed {
    /// The number. Drawn seeds have 32 bits, which every program that reads pictures' metadata can hold.
    pub fn resolve(self) -> u64 {
        match self {
            Seed::Given(seed) => seed,
            // Keyed by the operating system's randomness.
            Seed::Drawn => RandomState::new().build_hasher().finish() >> 32,
        }
    }
}

impl FromStr for Seed {
    type Err = String;
    fn from_str(s: &str) -> Result<Seed, String> {
        match s {
            "-1" => Ok(Seed::Drawn),
            n => n.parse().map(Seed::Given).map_err(|_| {
                format!("expected a whole number from 0 to {}, or -1 for one that is drawn", u64::MAX)
            }),
        }
    }
}

/// Several seeds: `1,2,7`, or `1..5` with both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

/// Most seeds of a range.
const MOST_SEEDS: u64 = 1_000_000;

impl FromStr for Seeds {
    type Err = String;
    fn from_str(s: &str) -> Result<Seeds, String> {
        let wrong = || format!("expected a list such as 1,2,7 or a range such as 1..5, not `{s}`");
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let mut seeds: Vec<u64> = match s.split_once("..") {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last.trim_start_matches('='))?);
                if last < first {
                    return Err(format!("`{s}` ends before it begins"));
                }
                if last - first >= MOST_SEEDS {
                    return Err(format!("`{s}` are more than {MOST_SEEDS} seeds"));
                }
                (first..=last).collect()
            }
            None => s.split(',').map(number).collect::<Result<_, _>>()?,
        };
        let given = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.len() == given { Ok(Seeds(seeds)) } else { Err(format!("a seed is there twice in `{s}`")) }
    }
}

/// What `--guidance-window` takes: two fractions of the steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window(pub f64, pub f64);

impl FromStr for Window {
    type Err = String;
    fn from_str(s: &str) -> Result<Window, String> {
        let fractions = s.split_once("..").and_then(|(from, until)| {
            let [from, until] = [from, until].map(|text| text.trim().parse::<f64>().ok());
            Some(Window(from?, until?))
        });
        let within = |w: &Window| 0.0 <= w.0 && w.0 < w.1 && w.1 <= 1.0;
        fractions.filter(within).ok_or_else(|| {
            format!("expected two fractions of the steps from 0 to 1, such as 0.3..0.7, not `{s}`")
        })
    }
}

/// What `--normalise` takes: `std`, or `std=0.5,0.01` with a scale for each reward.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales(pub Option<Vec<f64>>);

impl FromStr for Scales {
    type Err = String;
    fn from_str(s: &str) -> Result<Scales, String> {
        let wrong = || format!("expected std, or std=SCALE,SCALE with a number for each reward, not `{s}`");
        let Some((kind, list)) = s.split_once('=') else {
            return if s == "std" { Ok(Scales(None)) } else { Err(wrong()) };
        };
        let scales = list.split(',').map(|scale| scale.trim().parse::<f64>().map_err(|_| wrong()));
        let scales: Vec<f64> = scales.collect::<Result<_, _>>()?;
        if kind == "std" { Ok(Scales(Some(scales))) } else { Err(wrong()) }
    }
}

impl fmt::Display for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = |list: &[f64]| list.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        match &self.0 {
            None => f.write_str("std"),
            Some(list) => write!(f, "std={}", numbers(list)),
        }
    }
}

/// What a comparison lets every arm cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cost {
    /// Times what the first arm costs with its own particles.
    Multiple(f64),
    /// Floating point operations.
    Flops(f64),
    /// As many floating point operations as this many forward evaluations of the UNet.
    Evaluations(f64),
    /// Seconds of a draw on this machine.
    Seconds(f64),
}

/// A [`Cost`] as it was typed, but for blanks.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    pub cost: Cost,
    pub name: String,
}

impl FromStr for Budget {
    type Err = String;
    fn from_str(s: &str) -> Result<Budget, String> {
        let s = s.trim();
        let wrong = || {
            format!(
                "expected a multiple such as 0.25, operations such as 1.5TFLOP, evaluations such as 200NFE or seconds \
                 such as 30s, not `{s}`"
            )
        };
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        let unit = s[digits.len()..].to_ascii_uppercase();
        let prefix = unit.strip_suffix("FLOPS").or(unit.strip_suffix("FLOP"));
        let cost = match (unit.as_str(), prefix) {
            ("", _) => Cost::Multiple(number),
            ("NFE", _) => Cost::Evaluations(number),
            ("S", _) => Cost::Seconds(number),
            (_, Some(prefix)) => {
                let prefixes = ["", "K", "M", "G", "T", "P", "E"];
                let place = prefixes.iter().position(|p| *p == prefix).ok_or_else(wrong)?;
                Cost::Flops(number * 1000_f64.powi(place as i32))
            }
            _ => return Err(wrong()),
        };
        let (Cost::Multiple(amount)
        | Cost::Flops(amount)
        | Cost::Evaluations(amount)
        | Cost::Seconds(amount)) = cost;
        if !(amount.is_finite() && amount > 0.0) {
            return Err(format!("`{s}` is no number above 0"));
        }
        // One name for one multiple and one time, however it is typed.
        let name = match cost {
            Cost::Multiple(multiple) => multiple.to_string(),
            Cost::Seconds(seconds) => format!("{seconds}s"),
            _ => s.to_string(),
        };
        Ok(Budget { cost, name })
    }
}

/// A device by its name.
pub fn device(text: &str) -> Result<Device, String> {
    text.parse().map_err(|_| "expected `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`".into())
}

/// One device, or several GPUs, or the processor several times; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(pub Vec<Device>);

impl FromStr for Devices {
    type Err = String;
    fn from_str(text: &str) -> Result<Devices, String> {
        let devices = text.split(',').map(|text| device(text.trim())).collect::<Result<Vec<_>, _>>();
        let devices = devices.map_err(|e| format!("{e}, or several with commas between"))?;
        let is_gpu = |device: &Device| matches!(device, Device::Cuda(_));
        let alike = devices.iter().all(is_gpu) || devices.iter().all(|device| *device == Device::Cpu);
        if devices.len() > 1 && !alike {
            return Err(
                "several devices must be GPUs, such as `cuda:0,cuda:1`, since the processor rounds otherwise"
                    .into(),
            );
        }
        let twice =
            (1..devices.len()).find(|&at| is_gpu(&devices[at]) && devices[..at].contains(&devices[at]));
        match twice {
            Some(at) => {
                Err(format!("`{}` is named twice, which would hold the model in it twice", devices[at]))
            }
            None => Ok(Devices(devices)),
        }
    }
}

impl Devices {
    /// A session that spreads the particles of a prompt over all of them.
    pub fn spread(&self, builder: SessionBuilder) -> SessionBuilder {
        builder.device(self.0[0]).spread_over(self.0[1..].to_vec())
    }

    /// Dealt to the draws that are made at the same time: each device a draw, and where there are fewer draws
    /// than devices, each draw several.
    pub fn dealt(&self, draws: usize) -> Vec<Devices> {
        let groups = draws.clamp(1, self.0.len());
        let first = |group: usize| group * self.0.len() / groups;
        (0..groups).map(|group| Devices(self.0[first(group)..first(group + 1)].to_vec())).collect()
    }
}

impl std::fmt::Display for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.iter().map(Device::to_string).collect::<Vec<_>>().join(","))
    }
}

/// A number of bytes as it is typed: `20G`, `800M`, `20.5GiB`; a plain number is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;
    fn from_str(s: &str) -> Result<Bytes, String> {
        let wrong = || format!("expected a size such as 20G or 800M, not `{s}`");
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match s[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "kib" => 1024.0,
            "mib" => 1_048_576.0,
            "gib" => 1_073_741_824.0,
            _ => return Err(wrong()),
        };
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        let bytes = number * factor;
        if (1.0..1e18).contains(&bytes) { Ok(Bytes(bytes as u64)) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_given_or_drawn() {
        assert_eq!("7".parse(), Ok(Seed::Given(7)));
        assert_eq!(u64::MAX.to_string().parse(), Ok(Seed::Given(u64::MAX)));
        assert_eq!("-1".parse(), Ok(Seed::Drawn));
        for wrong in ["-2", "1.5", "x", "", "18446744073709551616"] {
            assert!(wrong.parse::<Seed>().is_err(), "{wrong}");
        }
        let drawn: std::collections::BTreeSet<u64> = (0..8).map(|_| Seed::Drawn.resolve()).collect();
        assert!(drawn.len() > 6 && drawn.iter().all(|seed| u32::try_from(*seed).is_ok()), "{drawn:?}");
    }

    #[test]
    fn seeds_are_a_list_or_a_range() {
        assert_eq!("2,9,1".parse(), Ok(Seeds(vec![1, 2, 9])));
        assert_eq!("3..5".parse(), Ok(Seeds(vec![3, 4, 5])));
        for (wrong, said) in
            [("5..3", "ends before"), ("1..2000000", "1000000 seeds"), ("1,1", "twice"), ("a", "a list")]
        {
            let error = wrong.parse::<Seeds>().expect_err(wrong);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn scales_are_measured_or_given_and_written_as_they_are_read() {
        for (text, scales) in
            [("std", None), ("std=0.25", Some(vec![0.25])), ("std=1e-3,7", Some(vec![0.001, 7.0]))]
        {
            let read: Scales = text.parse().expect(text);
            assert_eq!(read, Scales(scales));
            assert_eq!(read.to_string().parse(), Ok(read), "{text}");
        }
        for wrong in ["", "mad", "std=", "std=a", "std=1,", "mad=1", "STD"] {
            assert!(wrong.parse::<Scales>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn budgets_are_multiples_operations_evaluations_or_seconds() {
        for (text, cost, name) in [
            ("0.250", Cost::Multiple(0.25), "0.25"),
            (" 1.5TFLOP", Cost::Flops(1.5e12), "1.5TFLOP"),
            ("3e2gflops", Cost::Flops(3e11), "3e2gflops"),
            ("200NFE", Cost::Evaluations(200.0), "200NFE"),
            ("30s", Cost::Seconds(30.0), "30s"),
            ("0.50S", Cost::Seconds(0.5), "0.5s"),
        ] {
            assert_eq!(text.parse(), Ok(Budget { cost, name: name.into() }), "{text}");
        }
        for wrong in ["", "0", "-1", "nan", "inf", "x", "1XFLOP", "1T", "NFE", "0NFE", "s", "-1s", "30m"] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_in_any_unit() {
        for (text, bytes) in [
            ("20G", 20_000_000_000),
            ("800M", 800_000_000),
            ("1.5GiB", 1_610_612_736),
            ("4096", 4096),
            ("1kb", 1000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for wrong in ["", "G", "-1G", "0", "1T", "nanG", "1e30G"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }
}
