//! `imagereward`: how well people would like an image for its prompt (Xu et al. 2023), by BLIP and an affine
//! map of the state that it ends in.

use std::path::Path;

use super::Reward;
use super::head::Head;
use super::kind::{Needs, RewardKind};
use super::preprocess::{Fit, Preprocess};
use super::tower::encoded;
use super::two_paths::two_paths;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::blip::{Blip, BlipTexts};
use crate::model::checkpoint::{Checkpoint, unusable};
use crate::model::files::Source;
use crate::model::wordpiece::WordPiece;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

pub(super) static REWARD: RewardKind = RewardKind {
    name: "imagereward",
    about: "how people would like the image for its prompt, in standard deviations",
    needs: Needs {
        files: Some(
            "ImageReward.pt (or .safetensors), or its folder; vocab.txt of BERT beside it, or PATH,FOLDER",
        ),
        prompt: true,
        gradient: true,
    },
    default_alpha: 0.01,
    source: "docs/spec.md 7.6",
    open: |towers, name, path| {
        let Some(path) = path else { return Err(Error::usage("no path is given")) };
        let (path, vocabulary) = two_paths(path).map_or((path, None), |(path, folder)| (path, Some(folder)));
        let in_folder = || FILES.iter().map(|name| path.join(name)).find(|file| file.is_file());
        let path = in_folder().unwrap_or_else(|| path.to_path_buf());
        let file = open_file(&path)?;
        towers.remember(&file, "");
        let folder = vocabulary.or(path.parent()).unwrap_or(Path::new(""));
        let source = Source::Dir(folder.to_path_buf());
        Ok(Box::new(ImageReward::load(name, &file, &source, towers.backend())?))
    },
};

/// The weights in a folder given as PATH.
pub(super) const FILES: [&str; 2] = ["ImageReward.safetensors", "ImageReward.pt"];
/// Most tokens of a prompt.
const CONTEXT: usize = 35;
/// The published mean and deviation of what the head says.
const MEAN: f64 = 0.16717362830052426;
const STD: f64 = 1.0333394966054072;
/// What the file holds beside: projections for the loss that BLIP was trained with, and counters.
const BESIDE: [&str; 4] =
    ["blip.vision_proj.*", "blip.text_proj.*", "blip.text_encoder.pooler.*", "*position_ids"];

struct ImageReward {
    name: String,
    preprocess: Preprocess,
    blip: Blip,
    tokenizer: WordPiece,
    weight: Tensor,
    bias: Tensor,
    prompts: Option<BlipTexts>,
    warnings: Vec<String>,
}

const PUBLISHED: &str =
    "give ImageReward.pt of the repository THUDM/ImageReward, or the folder that holds it";

fn open_file(path: &Path) -> Result<Checkpoint> {
    let label = path.display();
    if let Some(e) = unusable(path) {
        return Err(e);
    }
    if path.is_dir() {
        return Err(Error::model(format!("{label}: no ImageReward.pt here")).advice(PUBLISHED));
    }
    let file = Checkpoint::open(path, None)?;
    let root = file.root();
    if !root.at("blip").at("visual_encoder").any() {
        let found = match () {
            () if root.at("visual").any() => "an OpenCLIP file",
            () if root.at("vision_model").any() => "a model of transformers",
            () if root.at("visual_encoder").any() => "BLIP alone, without the head that ImageReward has",
            () => "another model: there is no blip.visual_encoder",
        };
        return Err(Error::model(format!("{label}: this is {found}")).advice(PUBLISHED));
    }
    Ok(file)
}

impl ImageReward {
    fn load(name: &str, file: &Checkpoint, folder: &Source, backend: &dyn Backend) -> Result<ImageReward> {
        let blip = Blip::load(backend, file)?;
        let head = Head::read(file, &file.root().at("mlp"), blip.width())?;
        file.finish(&BESIDE)?;
        let tokenizer = WordPiece::open(folder, CONTEXT.min(blip.longest()))?;
        if tokenizer.size() != blip.vocabulary() {
            return Err(Error::model(format!(
                "{}: a vocabulary of {}, and a tokenizer of {}",
                file.label(),
                blip.vocabulary(),
                tokenizer.size()
            ))
            .advice("put vocab.txt of bert-base-uncased beside this file"));
        }
        let weight: Vec<f32> = head.weight.iter().map(|w| (w / STD) as f32).collect();
        let bias = ((head.bias - MEAN) / STD) as f32;
        Ok(ImageReward {
            name: name.to_string(),
            preprocess: Preprocess::with(blip.side(), None, None, backend)?,
            weight: backend.upload(Shape::vector(weight.len()), HostSlice::F32(&weight))?,
            bias: backend.upload(Shape::vector(1), HostSlice::F32(&[bias]))?,
            blip,
            tokenizer,
            prompts: None,
            warnings: Vec::new(),
        })
    }
}

impl Reward for ImageReward {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn differentiable(&self) -> bool {
        true
    }
    fn reads_prompt(&self) -> bool {
        true
    }
    fn prepare(&mut self, backend: &dyn Backend, prompts: &[String]) -> Result<()> {
        let tokenizer = &self.tokenizer;
        let (ids, warnings) =
            encoded(prompts, &self.name, tokenizer.context(), |text| tokenizer.encode(text));
        self.warnings = warnings;
        self.prompts = Some(self.blip.texts(backend, &ids)?);
        Ok(())
    }
    #[track_caller]
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, prompt_of: &[u32]) -> Result<Var> {
        let Some(prompts) = &self.prompts else { panic!("reward {}: score before prepare", self.name) };
        let pixels = self.preprocess.apply(tape, images, Fit::CubicCentre)?;
        let states = self.blip.states(tape, &pixels, prompts, prompt_of)?;
        tape.linear(&states, &self.weight, Some(&self.bias), None)
    }
    fn default_alpha(&self) -> f64 {
        REWARD.default_alpha
    }
    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}
