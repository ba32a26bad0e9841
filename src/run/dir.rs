//! The folder of one prompt.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::file::{FIX_OUTPUT, FIX_REPORT, write_atomic};
use super::metadata::{Parameters, encode_png};
use super::record::{Status, Versioned};
use super::slug::slug;
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::pixels::Picture;

/// Files that a run may leave and that an overwriting run removes; anything else in the folder is not ours.
const OURS: [&str; 6] =
    ["run.json", "trace.jsonl", "particles.jsonl", "best.png", "grid.png", "latents.safetensors"];

/// The folder of prompt number `index`, `OUT/0000-slug`.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Names the folder; touches nothing.
    pub fn new(out: &Path, index: usize, prompt: &str) -> RunDir {
        RunDir { path: out.join(format!("{index:04}-{}", slug(prompt))) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a folder that holds the results of an earlier run. To be asked for every prompt before the first
    /// is computed. A run that was killed or failed is no result.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the folder and the options `output` and `overwrite`.
    pub fn check(&self, overwrite: bool) -> Result<()> {
        let Ok(text) = fs::read_to_string(self.path.join("run.json")) else { return Ok(()) };
        let worthless = [Status::Running, Status::Failed].map(|status| serde_json::json!(status));
        let no_result =
            serde_json::from_str::<Value>(&text).is_ok_and(|run| worthless.contains(&run["status"]));
        if overwrite || no_result {
            return Ok(());
        }
        Err(Error::usage(format!("{} holds the results of an earlier run", self.path.display()))
            .option("overwrite")
            .advice("choose another directory with `output`, or replace them with `overwrite`"))
    }

    /// Finds out whether the folder can be made and written, and leaves nothing behind: writes a file into the
    /// folder, or into the nearest one above that exists, and removes it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the option `output`, where nothing can be written.
    pub fn probe(&self) -> Result<()> {
        let here = |path| if path == Path::new("") { Path::new(".") } else { path };
        let there = self.path.ancestors().map(here).find(|path| path.exists()).unwrap_or(Path::new("."));
        let file = there.join(format!(".das-cuda.{}.part", std::process::id()));
        fs::File::create(&file).and_then(|_| fs::remove_file(&file)).map_err(|e| self.unwritable(e))
    }

    fn unwritable(&self, e: std::io::Error) -> Error {
        Error::io(format!("{}: cannot be made or written", self.path.display())).because(e).fix(FIX_OUTPUT)
    }

    /// Makes the folder, without any file of an earlier run in it. To be called when everything that can be refused
    /// has been: the files of the earlier run are lost.
    ///
    /// # Errors
    /// As [`RunDir::check`]; [`ErrorKind::Io`](crate::ErrorKind::Io), naming the option `output`, where nothing can be written.
    pub fn start(&self, overwrite: bool) -> Result<()> {
        self.check(overwrite)?;
        let fail = |e| self.unwritable(e);
        fs::create_dir_all(&self.path).map_err(fail)?;
        for name in OURS {
            remove(&self.path.join(name)).map_err(fail)?;
        }
        if let Ok(entries) = fs::read_dir(self.path.join("particles")) {
            for entry in entries.flatten() {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if name.strip_suffix(".png").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) {
                    remove(&entry.path()).map_err(fail)?;
                }
            }
        }
        Ok(())
    }

    /// Writes `run.json`: `record` (an object) with `schema` and `status` in front.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn write_run(&self, status: Status, record: &impl Serialize) -> Result<()> {
        #[derive(Serialize)]
        struct Run<'a, T: Serialize> {
            status: Status,
            #[serde(flatten)]
            record: &'a T,
        }
        let path = self.path.join("run.json");
        let mut json = serde_json::to_vec_pretty(&Versioned::new(Run { status, record }))
            .map_err(|e| encode(&path, e))?;
        json.push(b'\n');
        write_atomic(&path, &json)
    }

    /// Opens `trace.jsonl` for a line per step.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn trace(&self) -> Result<Lines> {
        Lines::create(self.path.join("trace.jsonl"))
    }

    /// Writes `particles.jsonl`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn write_particles(&self, particles: &[impl Serialize]) -> Result<()> {
        let path = self.path.join("particles.jsonl");
        let mut text = Vec::new();
        for particle in particles {
            serde_json::to_writer(&mut text, &Versioned::new(particle)).map_err(|e| encode(&path, e))?;
            text.push(b'\n');
        }
        write_atomic(&path, &text)
    }

    /// Name of a particle's picture inside the folder.
    pub fn particle_name(index: usize) -> String {
        format!("particles/{index:03}.png")
    }

    /// Writes a picture under `name` (such as `best.png` or [`RunDir::particle_name`]); returns the file's SHA-256.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn write_png(
        &self,
        name: &str,
        picture: &Picture,
        parameters: Option<&Parameters>,
    ) -> Result<String> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| {
                Error::io(format!("{}: cannot be made", parent.display())).because(e).fix(FIX_OUTPUT)
            })?;
        }
        let file = encode_png(picture, parameters)?;
        write_atomic(&path, &file)?;
        Ok(sha256(&file))
    }
}

fn encode(path: &Path, e: serde_json::Error) -> Error {
    Error::io(format!("{}: cannot be encoded as JSON", path.display())).because(e).fix(FIX_REPORT)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A JSONL file that grows: each line is in the file, whole, when `push` returns.
pub struct Lines {
    path: PathBuf,
    file: fs::File,
}

impl Lines {
    fn create(path: PathBuf) -> Result<Lines> {
        match fs::File::create(&path) {
            Ok(file) => Ok(Lines { path, file }),
            Err(e) => {
                Err(Error::io(format!("{}: cannot be written", path.display())).because(e).fix(FIX_OUTPUT))
            }
        }
    }

    /// Appends one line, an object, with `schema` in front.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn push(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(&Versioned::new(line)).map_err(|e| encode(&self.path, e))?;
        text.push(b'\n');
        // One unbuffered write per line.
        self.file.write_all(&text).map_err(|e| {
            Error::io(format!("{}: cannot be written", self.path.display())).because(e).fix(FIX_OUTPUT)
        })
    }
}
