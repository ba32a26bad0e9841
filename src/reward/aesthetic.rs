//! `aesthetic`: the LAION predictor, an affine map of the image embedding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Reward;
use super::head::Head;
use super::kind::{Needs, RewardKind};
use super::preprocess::Fit;
use super::tower::Tower;
use super::towers::Towers;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

pub(super) static REWARD: RewardKind = RewardKind {
    name: "aesthetic",
    about: "CLIP image embedding and a linear or MLP head",
    needs: Needs {
        files: Some("FOLDER or FOLDER,HEAD.pth (or .safetensors)"),
        prompt: false,
        gradient: true,
    },
    default_alpha: 0.005,
    source: "docs/spec.md 7.1",
    open: |towers, name, path| {
        let (folder, head) = match path.map(folder_and_head) {
            Some((folder, head)) => (Some(folder), Some(head)),
            None => (None, None),
        };
        towers.check(folder.as_deref())?;
        let file = open_head(towers, head)?;
        towers.remember(&file, FOLDER);
        let tower = towers.clip(folder.as_deref())?;
        let head = Head::load(&file, tower.vision.config().projection_dim)?;
        Ok(Box::new(Aesthetic::new(name.to_string(), tower, &head, towers.backend())?))
    },
};

/// The folder of a model that holds its own head, where it has one.
const FOLDER: &str = "aesthetic";
/// The head beside the towers in a folder given as PATH: as converted, or as LAION published it.
pub(super) const HEADS: [&str; 2] = ["aesthetic.safetensors", "sac+logos+ava1-l14-linearMSE.pth"];

/// `FOLDER` or `FOLDER,HEAD`: a folder whose name has a comma wins over the split.
pub(super) fn folder_and_head(path: &Path) -> (PathBuf, PathBuf) {
    let text = path.to_string_lossy();
    match text.rsplit_once(',') {
        Some((folder, head)) if !path.is_dir() => (PathBuf::from(folder), PathBuf::from(head)),
        _ => {
            let heads = HEADS.map(|name| path.join(name));
            let found = heads.iter().find(|head| head.exists()).unwrap_or(&heads[0]).clone();
            (path.to_path_buf(), found)
        }
    }
}

/// The head in `path`, or the model's own.
fn open_head(towers: &Towers<'_>, path: Option<PathBuf>) -> Result<Checkpoint> {
    let Some(path) = path else { return towers.model().checkpoint(FOLDER, None) };
    if !path.exists() {
        return Err(Error::model(format!("{}: the aesthetic head is missing", path.display()))
            .advice(format!("put the head there, or write aesthetic:FOLDER,HEAD.pth; {}", REWARD.line())));
    }
    Checkpoint::open(&path, None)
}

/// An affine map of the image embedding.
struct Aesthetic {
    name: String,
    tower: Arc<Tower>,
    weight: Tensor,
    bias: Tensor,
}

impl Aesthetic {
    fn new(name: String, tower: Arc<Tower>, head: &Head, backend: &dyn Backend) -> Result<Aesthetic> {
        let weight: Vec<f32> = head.weight.iter().map(|w| *w as f32).collect();
        Ok(Aesthetic {
            name,
            tower,
            weight: backend.upload(Shape::vector(weight.len()), HostSlice::F32(&weight))?,
            bias: backend.upload(Shape::vector(1), HostSlice::F32(&[head.bias as f32]))?,
        })
    }
}

impl Reward for Aesthetic {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn differentiable(&self) -> bool {
        true
    }
    fn prepare(&mut self, _: &dyn Backend, _: &[String]) -> Result<()> {
        Ok(())
    }
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
        let embedding = self.tower.images(tape, images, Fit::Centre)?;
        tape.linear(&embedding, &self.weight, Some(&self.bias), None)
    }
    fn embed<'a>(&'a self, tape: &Tape<'a>, images: &Var) -> Result<Option<Var>> {
        self.tower.images(tape, images, Fit::Centre).map(Some)
    }
    fn default_alpha(&self) -> f64 {
        REWARD.default_alpha
    }
}
