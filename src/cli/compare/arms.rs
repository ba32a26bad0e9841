//! The arms of a comparison, from what was typed: labels, and flags as `sample` understands them.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::cli::args::{Cli, Command, Compare, Sample};
use crate::cli::options::Options;
use crate::error::{Error, Result};
use crate::sampler::Compat;
use crate::smc::Tempering;

/// The flags that decide the session, which all arms share.
pub fn of_the_session(sample: &Sample) -> impl PartialEq + '_ {
    let Sample { model, vae, model_config, prediction, scheduler, loras, embeddings, .. } = sample;
    let Sample { rewards, eval_rewards, normalise, normalise_pictures, device, dtype, machine, .. } = sample;
    (
        (model, vae, model_config, prediction, scheduler, loras, embeddings),
        (rewards, eval_rewards, normalise, normalise_pictures),
        (device, dtype, machine),
    )
}

/// What the chain of an arm depends on, besides prompt, model and rewards: estimates of Z are of the same Z
/// where it and alpha agree. `None` where they are biased, as with the books of the authors' program and with
/// adaptive tempering, and where there are none.
pub fn law(sample: &Sample, options: &Options) -> Option<String> {
    let Sample { width, height, .. } = sample;
    let (steps, cfg_scale, eta) = (options.steps, options.cfg_scale, options.eta);
    let adaptive = matches!(options.rules.tempering, Tempering::Adaptive { .. });
    let long = options.long_prompts;
    (options.compat == Compat::Paper && !adaptive && options.proposal.estimates_z())
        .then(|| format!("{width:?} {height:?} steps {steps} guidance {cfg_scale} eta {eta} {long:?}"))
}

/// Labels and flags of the arms, and which of them a sweep joins.
pub struct Listed {
    pub arms: Vec<(String, Vec<String>)>,
    /// Places of arms that differ in the value of the last sweep alone.
    pub sweeps: Vec<Vec<usize>>,
}

/// Most bytes of a label: it names a folder.
const LONGEST_LABEL: usize = 200;

/// Refuses a label that cannot be a cell of a table and the name of a folder.
fn check_label(label: &str, typed: &str) -> Result<()> {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '|');
    if label.trim().is_empty() || label.starts_with(['-', '.']) || label.contains(odd) {
        return Err(Error::usage(format!("{typed}: {label:?} is no label")).advice(
            "begin it with a letter or a digit, and leave out slashes, bars and control characters: \
             --arm \"LABEL=FLAGS\"",
        ));
    }
    if label.len() > LONGEST_LABEL {
        let short: String = label.chars().take(20).collect();
        return Err(Error::usage(format!(
            "{typed}: the label that begins with {short:?} has {} bytes, of at most {LONGEST_LABEL}",
            label.len()
        ))
        .advice("give the arm a shorter name: --arm \"LABEL=FLAGS\""));
    }
    Ok(())
}

/// The arms in order: the methods, then the arms given by their flags; in the place of one that is swept
/// stand as many as there are combinations of its sweeps' values.
pub fn listed(args: &Compare) -> Result<Listed> {
    let method = |name: &String| (name.clone(), vec!["--proposal".to_string(), name.clone()]);
    let methods = args.methods.iter().filter(|name| !name.is_empty());
    let mut arms: Vec<(String, Vec<String>)> = methods.map(method).collect();
    for text in &args.arms {
        let Some((label, flags)) = text.split_once('=') else {
            return Err(Error::usage(format!("--arm \"{text}\": no LABEL=FLAGS"))
                .advice("write for example --arm \"gentle=--proposal das --kl 0.5\""));
        };
        check_label(label, "--arm")?;
        let Some(flags) = shlex::split(flags) else {
            return Err(Error::usage(format!("--arm \"{text}\": a quote in its flags does not end"))
                .advice("write flags as for a shell; a value with blanks stands in quotes"));
        };
        arms.push((label.to_string(), flags));
    }
    let sweeps = args.sweeps.iter().map(|text| Sweep::read(text, &arms)).collect::<Result<Vec<_>>>()?;
    let mut listed = Listed { arms: Vec::new(), sweeps: Vec::new() };
    for (place, arm) in arms.into_iter().enumerate() {
        let (mut swept, mut last) = (vec![arm], 1);
        for sweep in sweeps.iter().filter(|sweep| sweep.arm == place) {
            last = sweep.values.len();
            swept = swept
                .iter()
                .flat_map(|arm| sweep.values.iter().map(|value| sweep.with(arm, value)).collect::<Vec<_>>())
                .collect();
            swept.iter().try_for_each(|(label, _)| check_label(label, "--sweep"))?;
        }
        let places: Vec<usize> = (listed.arms.len()..).take(swept.len()).collect();
        listed.sweeps.extend(places.chunks(last).filter(|arms| arms.len() > 1).map(<[_]>::to_vec));
        listed.arms.extend(swept);
    }
    Ok(listed)
}

/// One arm that becomes several, one for each value of a flag.
struct Sweep<'a> {
    /// Place of the arm.
    arm: usize,
    /// Without its dashes.
    flag: &'a str,
    values: Vec<&'a str>,
}

impl<'a> Sweep<'a> {
    /// From `FLAG=LIST`, of the first arm, or `ARM:FLAG=LIST`.
    fn read(text: &'a str, arms: &[(String, Vec<String>)]) -> Result<Sweep<'a>> {
        let wrong = || {
            Error::usage(format!("--sweep \"{text}\": no FLAG=VALUE,VALUE"))
                .advice("write for example --sweep kl=0.1,0.2,0.5, or --sweep fk:kl=1,2 of the arm fk")
        };
        let (flag, values) = text.split_once('=').ok_or_else(wrong)?;
        let (label, flag) = match flag.rsplit_once(':') {
            Some((label, flag)) => (Some(label), flag),
            None => (None, flag),
        };
        let flag = flag.trim_start_matches('-');
        if flag.is_empty() || values.is_empty() || arms.is_empty() || label.is_some_and(str::is_empty) {
            return Err(wrong());
        }
        let place = |label: &str| {
            arms.iter().position(|(own, _)| own == label).ok_or_else(|| {
                let labels: Vec<&str> = arms.iter().map(|(label, _)| label.as_str()).collect();
                Error::usage(format!("--sweep \"{text}\": no arm is called {label}"))
                    .advice(format!("name one of {}", labels.join(", ")))
            })
        };
        let arm = label.map(place).transpose()?.unwrap_or(0);
        Ok(Sweep { arm, flag, values: values.split(',').collect() })
    }

    /// The arm with one of the values.
    fn with(&self, (label, flags): &(String, Vec<String>), value: &str) -> (String, Vec<String>) {
        let flag = self.flag;
        let more = [format!("--{flag}"), value.to_string()];
        (format!("{label} {flag}={value}"), flags.iter().cloned().chain(more).collect())
    }
}

/// Refuses flags for all arms that none would follow.
pub fn check_common(args: &Compare, common: &[String]) -> Result<()> {
    let methods = args.methods.iter().any(|name| !name.is_empty());
    if given("flags after --", common, "proposal")? && methods {
        return Err(Error::usage("--proposal stands after --, and --methods says another for every arm")
            .advice("leave out one of them; --methods \"\" leaves the arms of --arm alone"));
    }
    Ok(())
}

/// The flags of `who`, such as an arm, as `sample` understands them: those that all share, and its own, which
/// win.
pub fn parse(who: &str, flags: &[String], common: &[String]) -> Result<(Box<Sample>, Options)> {
    let all: Vec<String> = common.iter().chain(flags).cloned().collect();
    let matches = whole(who, &all)?;
    let Command::Sample(sample) = Cli::from_arg_matches(&matches).map_err(|e| refused(who, &e))?.command
    else {
        return Err(Error::usage(format!("{who}: no flags of sample")).advice(ADVICE));
    };
    let options = Options::resolve(&sample).map_err(|e| e.context(who))?;
    Ok((sample, options))
}

/// Whether the flags of `who` hold the option of this name of clap's.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for flags that are none of `sample`.
pub fn given(who: &str, flags: &[String], name: &str) -> Result<bool> {
    Ok(whole(who, flags)?.subcommand_matches("sample").is_some_and(|given| typed(given, name)))
}

const ADVICE: &str = "give flags of `das-cuda sample`; see its --help";

/// What clap says of the flags of `who`, without those that are decided for all runs together.
fn whole(who: &str, flags: &[String]) -> Result<ArgMatches> {
    // Of a flag that is there twice the last counts.
    let command = Cli::command().mut_subcommand("sample", |sample| sample.args_override_self(true));
    let words = ["das-cuda", "sample", "--prompt", "-"].map(String::from);
    let all = command.try_get_matches_from(words.iter().chain(flags)).map_err(|e| refused(who, &e))?;
    if let Some(flag) = all.subcommand_matches("sample").and_then(of_the_whole) {
        let instead = match flag.as_str() {
            "--negative-prompt" => "a file of prompts in JSON holds negative prompts",
            _ => "the --help of the command lists what it has instead",
        };
        return Err(Error::usage(format!("{who}: {flag} is decided for all runs together"))
            .advice(format!("leave out {flag}; {instead}")));
    }
    Ok(all)
}

fn refused(who: &str, e: &clap::Error) -> Error {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Error::usage(format!("{who}: --help and --version are no flags of an arm"))
            .advice("call `das-cuda sample --help` by itself, or `das-cuda compare --help` without --");
    }
    let text = e.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    Error::usage(format!("{who}: {line}")).advice(ADVICE)
}

/// Options of `sample` that a comparison decides by itself, by clap's names; the prompt is its own.
const OF_THE_WHOLE: [&str; 22] = [
    "prompt_file",
    "negative_prompt",
    "seed",
    "count",
    "first_index",
    "latents",
    "output",
    "save",
    "save_latents",
    "no_grid",
    "no_metadata",
    "overwrite",
    "skip_finished",
    "resume",
    "checkpoint_every",
    "preview",
    "preview_decoder",
    "max_seconds",
    "max_nfe",
    "json",
    "quiet",
    "threads",
];

/// Whether the option of this name of clap's was given.
fn typed(given: &ArgMatches, name: &str) -> bool {
    given.try_contains_id(name).is_ok_and(|there| there)
        && given.value_source(name) == Some(ValueSource::CommandLine)
}

/// The flag of an option that is decided for all runs together, if one was given.
fn of_the_whole(given: &ArgMatches) -> Option<String> {
    if given.get_many::<String>("prompts").is_some_and(|prompts| prompts.len() > 1) {
        return Some("--prompt".into());
    }
    OF_THE_WHOLE.iter().find(|name| typed(given, name)).map(|name| match *name {
        "prompt_file" => "--prompts".into(),
        name => format!("--{}", name.replace('_', "-")),
    })
}
