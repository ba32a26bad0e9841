//! Going on with a draw that was stopped: its folder, its record and its checkpoint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::one::OnePrompt;
use super::summary::Summary;
use super::{output, record, skip};
use crate::error::{Error, Result};
use crate::run::{
    CHECKPOINT, Finished, Lines, OutDir, RunDir, SCHEMA, Status, TRACE, encode_checkpoint, read_checkpoint,
};
use crate::sampler::{PromptStep, Snapshot};
use crate::session::{Device, PlainScores, Run, RunSnapshot};

/// Entries of `run.json` that say how a run ended; they go when it goes on.
const OF_THE_END: [&str; 6] = ["schema", "status", "error", "stopped", "seconds", "result"];

/// Options besides the deciding ones that decide every bit.
const OF_THE_MACHINE: [&str; 2] = [DEVICE, "cublas"];
const DEVICE: &str = "device";

/// A draw that was stopped.
pub struct Stopped {
    pub folder: RunDir,
    /// Its record, without how it ended; `None` where it was killed before it wrote one.
    pub record: Option<Map<String, Value>>,
    pub checkpoint: Option<Checkpoint>,
}

/// What a draw goes on from.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub snapshot: RunSnapshot,
    /// Bytes of `trace.jsonl`.
    pub trace: u64,
    /// That the draw has taken.
    pub seconds: f64,
    /// Most bytes of tensors alive.
    pub peak: u64,
    pub warnings: Vec<Value>,
    /// What plain pictures of the prompt are worth, where that was measured.
    pub plain: Option<PlainScores>,
}

impl OnePrompt<'_> {
    /// Everything that decides the bits of this draw, and which record and checkpoint it has.
    fn identity(&self) -> Map<String, Value> {
        let mut identity = self.choices.deciding.clone();
        // Products of other sizes may be summed in another order there.
        let on_gpu = self.options.builder.device_choice() != Device::Cpu;
        let of_machine = OF_THE_MACHINE.iter().chain(on_gpu.then_some(&"micro_batch"));
        let machine = of_machine.filter_map(|key| self.choices.rest.get_key_value(*key));
        identity.extend(machine.map(|(key, value)| (key.clone(), value.clone())));
        identity.extend(self.files.clone());
        identity
    }

    /// The bytes of a checkpoint after the step that `run` has yielded last, whose line is in `trace`. The
    /// trace is made to last before it.
    ///
    /// # Errors
    /// From the device, and of the trace.
    pub fn checkpoint(
        &self,
        run: &Run<'_>,
        trace: &Lines,
        seconds: f64,
        peak: u64,
        warnings: &Value,
    ) -> Result<Vec<u8>> {
        trace.sync()?;
        let snapshot = run.snapshot()?;
        let parts: Vec<Vec<u8>> =
            snapshot.populations().iter().map(Snapshot::to_bytes).collect::<Result<_>>()?;
        let about = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "run": self.identity(),
            "population": snapshot.population(),
            "step": snapshot.step(),
            "trace_bytes": trace.bytes(),
            "seconds": seconds,
            "peak_bytes": peak,
            "warnings": warnings,
            "plain": self.plain.map(|plain| {
                let PlainScores { prompt: _, rewards, target, held_out } = plain;
                json!({"rewards": rewards, "target": target, "held_out": held_out})
            }),
        });
        encode_checkpoint(&record::object(about), &parts)
    }

    /// The draw that was stopped before, if there is one among the `unfinished` results of `out`, or an empty
    /// folder of its number.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where another process works on it; those of
    /// [`OnePrompt::stopped`].
    pub fn stopped_before(&self, out: &OutDir, found: &Finished, number: usize) -> Result<Option<Stopped>> {
        let same = found.unfinished.iter().find(|(_, record)| skip::is_same(record, self));
        if let Some((folder, _)) = same {
            return self.stopped(out, folder).map(Some);
        }
        found.unfinished.iter().filter(|(_, record)| self.is_of_this_draw(record)).for_each(|(folder, record)| {
            let Some(what) = self.other(record) else { return };
            output::note(format_args!(
                "note: {}: a run of this prompt that has not finished is left alone, since it is another: {what}. \
                 `das-cuda resume` goes on with it as it began",
                folder.display()
            ));
        });
        match out.empty(number, &self.prompt.text) {
            Some(folder) => {
                let folder = out.take(&folder, &self.prompt.text)?;
                Ok(Some(Stopped { folder, record: None, checkpoint: None }))
            }
            None => Ok(None),
        }
    }

    /// What was stopped in this folder, which this process takes.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where another process works on it, or it is of other
    /// options, of other files or of another device, saying what differs; [`ErrorKind::Io`](crate::ErrorKind)
    /// for files that cannot be read or are damaged.
    pub fn stopped(&self, out: &OutDir, path: &Path) -> Result<Stopped> {
        self.stopped_in(out.take(path, &self.prompt.text)?)
    }

    /// The same in a folder that is taken already.
    ///
    /// # Errors
    /// As [`OnePrompt::stopped`].
    pub fn stopped_in(&self, folder: RunDir) -> Result<Stopped> {
        let path = &folder.path().to_path_buf();
        let Some(Value::Object(mut record)) = folder.record()? else {
            return Err(Error::io(format!("{}: no record of a run is in it", path.display()))
                .advice("move the folder away, and draw the prompt again"));
        };
        if record.get("status") == Some(&json!(Status::Finished)) {
            return Err(Error::usage(format!("{}: it has finished meanwhile", path.display()))
                .advice("give the same command again: it skips what is finished"));
        }
        known_layout(&record).and_then(|()| self.compare(&record)).map_err(|e| e.context(path.display()))?;
        OF_THE_END.iter().for_each(|key| drop(record.shift_remove(*key)));
        let file = path.join(CHECKPOINT);
        let checkpoint = match read_checkpoint(&file)? {
            Some((about, parts)) => Some(self.read(&about, &parts).map_err(|e| e.context(file.display()))?),
            None => None,
        };
        Ok(Stopped { folder, record: Some(record), checkpoint })
    }

    /// Whether a record is of this prompt, number and seed, whatever else differs.
    fn is_of_this_draw(&self, record: &Value) -> bool {
        ["prompt", "index", "seed"].iter().all(|key| record.get(key) == self.choices.deciding.get(*key))
    }

    /// What makes a record that of another run than this, in words.
    fn differs(&self, there: &Map<String, Value>) -> Option<String> {
        first_difference(there, self.identity().iter())
    }

    /// What makes a record that was read that of another run than this, or of one that leaves other files.
    pub fn other(&self, record: &Value) -> Option<String> {
        let there = record.as_object()?;
        self.differs(there).or_else(|| first_difference(there, skip::left(self)))
    }

    /// Refuses a record of another run than this.
    fn compare(&self, there: &Map<String, Value>) -> Result<()> {
        let Some(what) = self.differs(there) else { return Ok(()) };
        let fix = "files, options and device must be those that the run began with; draw it again in another folder \
                   with `das-cuda sample` where they are gone";
        Err(Error::usage(format!("this run cannot go on: {what}")).advice(fix))
    }

    fn read(&self, about: &Map<String, Value>, parts: &[Vec<u8>]) -> Result<Checkpoint> {
        let (there, here) = (about.get("version").and_then(Value::as_str), env!("CARGO_PKG_VERSION"));
        if there != Some(here) {
            let there = there.unwrap_or("unknown");
            return Err(Error::usage(format!(
                "a checkpoint of das-cuda {there}, and this is {here}, whose numbers may be others"
            ))
            .advice("go on with that version, or remove the file to begin this prompt anew"));
        }
        let damaged =
            || Error::io("this checkpoint is damaged").advice("remove the file to begin this prompt anew");
        let run = about.get("run").and_then(Value::as_object).ok_or_else(damaged)?;
        self.compare(run)?;
        let number = |key: &str| about.get(key).and_then(Value::as_f64).ok_or_else(damaged);
        let whole = |key: &str| about.get(key).and_then(Value::as_u64).ok_or_else(damaged);
        let populations = parts.iter().map(|part| Snapshot::from_bytes(part)).collect::<Result<_>>()?;
        Ok(Checkpoint {
            snapshot: RunSnapshot::new(populations)?,
            trace: whole("trace_bytes")?,
            seconds: number("seconds")?,
            peak: whole("peak_bytes")?,
            warnings: about.get("warnings").and_then(Value::as_array).cloned().ok_or_else(damaged)?,
            plain: about.get("plain").filter(|plain| plain.is_object()).map(|plain| PlainScores {
                rewards: scores(&plain["rewards"]),
                target: numbers(&plain["target"]),
                held_out: scores(&plain["held_out"]),
                ..PlainScores::default()
            }),
        })
    }
}

/// In what a record first differs from these entries, in words.
fn first_difference<'a>(
    there: &Map<String, Value>,
    mut here: impl Iterator<Item = (&'a String, &'a Value)>,
) -> Option<String> {
    let same = |key: &str, value: &Value| match there.get(key) {
        Some(before) if key == DEVICE => models(before) == models(value),
        before => before == Some(value),
    };
    let (key, now) = here.find(|(key, value)| !same(key, value))?;
    Some(difference(key, there.get(key).unwrap_or(&Value::Null), now))
}

/// The models of a record's devices, each once: which of several GPUs of a model it was does not matter.
fn models(device: &Value) -> BTreeSet<&str> {
    device.as_str().unwrap_or_default().split(", ").map(model).collect()
}

/// `cuda:0 NVIDIA H200` without the number.
fn model(device: &str) -> &str {
    match device.split_once(' ') {
        Some((number, model)) if number.starts_with("cuda:") => model,
        _ => device,
    }
}

/// Refuses the record of a run in a layout that this program does not know.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage).
pub fn known_layout(record: &Map<String, Value>) -> Result<()> {
    let schema = record.get("schema").cloned().unwrap_or_default();
    if schema == SCHEMA {
        return Ok(());
    }
    Err(Error::usage(format!("a record of layout {schema}, and this program knows layout {SCHEMA}"))
        .advice("go on with the version of the program that began it"))
}

/// Ends what a process that was killed had begun to end: the checkpoint of a finished run goes, and a hidden
/// folder takes its place.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where another process works on it;
/// [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn conclude(folder: &Path, record: &Value) -> Result<()> {
    let hidden = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    if !hidden && !folder.join(CHECKPOINT).exists() {
        return Ok(());
    }
    let prompt = record["prompt"].as_str().unwrap_or_default();
    let taken = OutDir::new(folder.parent().unwrap_or(Path::new("."))).take(folder, prompt)?;
    taken.remove_checkpoint()?;
    taken.close().map(drop)
}

/// Scores by name, of which those that are not finite are `null` in JSON.
fn scores(value: &Value) -> Vec<(String, Vec<f64>)> {
    let named = |entry: &Value| (entry[0].as_str().unwrap_or_default().to_string(), numbers(&entry[1]));
    value.as_array().into_iter().flatten().map(named).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().map(|number| number.as_f64().unwrap_or(f64::NAN)).collect()
}

/// What differs in an entry of the record; of files, which.
pub fn difference(key: &str, before: &Value, now: &Value) -> String {
    let (Some(before_files), Some(files)) = (before.as_object(), now.as_object()) else {
        return format!("{key} was {before} and is {now}");
    };
    let names = before_files.keys().chain(files.keys());
    let other = names.into_iter().find(|name| before_files.get(*name) != files.get(*name));
    let of = key.trim_end_matches("_files");
    match other {
        Some(name) if !files.contains_key(name) => format!("the {of}'s file {name} is not there any more"),
        Some(name) if !before_files.contains_key(name) => format!("the {of} has a further file, {name}"),
        Some(name) => format!("the {of}'s file {name} has changed"),
        None => format!("{key} is in another order"),
    }
}

/// An entry of `run.json`: when and from where a draw went on.
pub fn resumed(checkpoint: Option<&Checkpoint>) -> Value {
    let (population, step) = checkpoint.map_or((0, 0), |c| (c.snapshot.population(), c.snapshot.step()));
    json!({"started": record::now(), "population": population, "step": step})
}

/// What is remembered of the steps in the first `bytes` of a trace, which must be `steps`.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file, where it is not as the program wrote it.
pub fn summary_of(folder: &Path, bytes: u64, steps: usize) -> Result<Summary> {
    let path: PathBuf = folder.join(TRACE);
    let damaged = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::io(format!("{}: is not as the program wrote it", path.display()))
            .because(e)
            .advice(format!("remove {CHECKPOINT} beside it to begin this prompt anew"))
    };
    let text = std::fs::read(&path).map_err(|e| damaged(e.into()))?;
    let (mut summary, mut there) = (Summary::default(), 0);
    let end = text.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
    for line in text[..end].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line).map_err(|e| damaged(e.into()))?;
        if line["schema"] != SCHEMA {
            return Err(damaged("a line of another layout".into()));
        }
        there += 1;
        let population = line["population"].as_u64().unwrap_or_default() as usize;
        summary.step(population, &PromptStep { reward: numbers(&line["reward"]), ..PromptStep::default() });
    }
    if there != steps {
        return Err(damaged(format!("{there} steps, where the checkpoint is of {steps}").into()));
    }
    Ok(summary)
}
