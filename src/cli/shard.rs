//! `--shard`: the part of a list of draws that one of several processes makes. Several processes on several
//! machines write into the same directory, each the folders of its own numbers.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Part `index` of `of` parts: the draws whose number leaves the rest `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub index: usize,
    pub of: usize,
}

/// `--shard` as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// What the launcher's variables say.
    Auto,
    This(Shard),
}

impl Shard {
    /// Whether the draw of this number in the list is in this part.
    pub fn has(&self, number: usize) -> bool {
        number % self.of == self.index
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Choice {
    type Err = String;
    fn from_str(text: &str) -> Result<Choice, String> {
        if text == "auto" {
            return Ok(Choice::Auto);
        }
        let parts =
            text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((index, of)) if index < of => Ok(Choice::This(Shard { index, of })),
            Some((index, of)) => Err(format!("part {index} of {of} parts: they are counted from 0")),
            None => Err("expected I/N, part I from 0 of N, such as 0/4, or `auto`".into()),
        }
    }
}

/// How a launcher numbers its processes: the variable that counts, that with their number, and the name of
/// the launcher.
const RANKS: [(&str, &str, &str); 4] = [
    ("RANK", "WORLD_SIZE", "torchrun"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "Open MPI"),
    ("PMI_RANK", "PMI_SIZE", "MPI"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "srun"),
];

/// The part that the variables of a launcher give this process, and whose variables they are; `None` where
/// there are none. The tasks of a Slurm job array and the processes in each count together.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for variables that are no numbers, or that do not say of how
/// many parts.
pub fn of_launcher(variable: impl Fn(&str) -> Option<String>) -> Result<Option<(Shard, &'static str)>> {
    let number = |name: &str| {
        let text = variable(name).filter(|text| !text.is_empty());
        text.map(|text| text.trim().parse::<usize>().map_err(|_| unclear(&format!("{name} is {text:?}"))))
            .transpose()
    };
    let array = match number("SLURM_ARRAY_TASK_ID")? {
        None => None,
        Some(id) => {
            let (first, step) = (number("SLURM_ARRAY_TASK_MIN")?, number("SLURM_ARRAY_TASK_STEP")?);
            let of = number("SLURM_ARRAY_TASK_COUNT")?
                .ok_or_else(|| unclear("SLURM_ARRAY_TASK_ID is set and SLURM_ARRAY_TASK_COUNT is not"))?;
            let (first, step) = (first.unwrap_or(0), step.unwrap_or(1).max(1));
            let index = id.saturating_sub(first) / step;
            if id < first || (id - first) % step != 0 || index >= of {
                return Err(unclear(&format!(
                    "task {id} of an array of {of} that is not evenly numbered from {first}"
                )));
            }
            Some(Shard { index, of })
        }
    };
    if let Some(index) = number("JOB_COMPLETION_INDEX")? {
        let of = number("JOB_COMPLETIONS")?.ok_or_else(|| {
            unclear("JOB_COMPLETION_INDEX is set, and JOB_COMPLETIONS, which Kubernetes does not set itself, is not")
        })?;
        return Ok(Some((checked(index, of, "JOB_COMPLETION_INDEX")?, "a Kubernetes indexed job")));
    }
    let mut rank = None;
    for (index, size, launcher) in RANKS {
        match (number(index)?, number(size)?) {
            (Some(at), Some(of)) if rank.is_none() => rank = Some((checked(at, of, index)?, launcher)),
            // A batch script has the one and not the other, where srun starts nothing.
            (Some(_), None) if array.is_none() && launcher != "srun" => {
                return Err(unclear(&format!("{index} is set and {size} is not")));
            }
            _ => {}
        }
    }
    Ok(match (array, rank) {
        (Some(array), Some((rank, _))) => {
            let (index, of) = (array.index * rank.of + rank.index, array.of * rank.of);
            Some((Shard { index, of }, "a Slurm job array"))
        }
        (Some(array), None) => Some((array, "a Slurm job array")),
        (None, rank) => rank,
    })
}

fn checked(index: usize, of: usize, name: &str) -> Result<Shard> {
    match index < of {
        true => Ok(Shard { index, of }),
        false => Err(unclear(&format!("{name} is {index}, and there are {of} parts, counted from 0"))),
    }
}

fn unclear(what: &str) -> Error {
    Error::usage(format!("--shard auto: {what}")).advice("say the part, --shard I/N")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<Option<(String, &'static str)>> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Ok(of_launcher(variable)?.map(|(shard, launcher)| (shard.to_string(), launcher)))
    }

    #[test]
    fn launchers_are_known_by_their_variables() {
        let array = |id, first, step, count| {
            found(&[
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", first),
                ("SLURM_ARRAY_TASK_STEP", step),
                ("SLURM_ARRAY_TASK_COUNT", count),
                // What every batch job has.
                ("SLURM_PROCID", "0"),
                ("SLURM_NTASKS", "8"),
            ])
        };
        let is = |found: Result<Option<(String, &'static str)>>, shard: &str, launcher: &str| {
            assert_eq!(found.expect("known"), Some((shard.to_string(), launcher)), "{shard} {launcher}");
        };
        is(array("2", "0", "1", "4"), "2/4", "a Slurm job array");
        is(array("4", "1", "1", "4"), "3/4", "a Slurm job array");
        is(array("30", "10", "10", "4"), "2/4", "a Slurm job array");
        // `--array=1,5,9`, and what is no number.
        for (id, first, step, count) in
            [("9", "1", "1", "3"), ("5", "0", "2", "4"), ("0", "1", "1", "4"), ("x", "0", "1", "4")]
        {
            let error = array(id, first, step, count).expect_err(id).to_string();
            assert!(error.contains("--shard I/N"), "{error}");
        }
        let both = [
            ("SLURM_ARRAY_TASK_ID", "1"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
        ];
        is(found(&both), "3/6", "a Slurm job array");
        is(
            found(&[("JOB_COMPLETION_INDEX", "3"), ("JOB_COMPLETIONS", "12")]),
            "3/12",
            "a Kubernetes indexed job",
        );
        is(found(&[("RANK", "7"), ("WORLD_SIZE", "8")]), "7/8", "torchrun");
        is(found(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")]), "1/2", "Open MPI");
        is(found(&[("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2")]), "1/2", "srun");
        assert_eq!(found(&[]).expect("none"), None);
        let of_batch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2"), ("SLURM_ARRAY_TASK_ID", "")];
        assert_eq!(found(&of_batch).expect("none"), None);
        let half = found(&[("RANK", "1")]).expect_err("of how many?").to_string();
        assert!(half.contains("RANK is set and WORLD_SIZE is not"), "{half}");
        for half in [
            &[("JOB_COMPLETION_INDEX", "3")][..],
            &[("SLURM_ARRAY_TASK_ID", "3")],
            &[("RANK", "8"), ("WORLD_SIZE", "8")],
        ] {
            assert!(found(half).is_err(), "{half:?}");
        }
    }

    #[test]
    fn every_draw_is_in_one_part() {
        for of in 1..7 {
            for number in 0..20 {
                assert_eq!((0..of).filter(|&index| Shard { index, of }.has(number)).count(), 1);
            }
        }
        assert_eq!("2/4".parse(), Ok(Choice::This(Shard { index: 2, of: 4 })));
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        for wrong in ["4/4", "0/0", "1", "a/b", "-1/4", ""] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }
}
