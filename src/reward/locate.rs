//! Where the files of a reward are that is named as on the hub, or by its name alone.

use std::path::{Path, PathBuf};

use super::aesthetic;
use super::imagereward;
use super::kind::RewardKind;
use super::spec::Spec;
use super::towers::OPEN_CLIP;
use crate::error::Result;
use crate::hub::{Hub, Snapshot};
use crate::model::files::Source;
use crate::model::{needed, wordpiece};

/// A reward that reads files.
struct Files {
    reward: &'static str,
    /// Where it is published, as its PATH.
    published: Option<&'static str>,
    /// Whether a model may bring files of its own, which then are meant where no PATH is given.
    of_model: bool,
    /// What it reads of the repository that its PATH names.
    missing: fn(Snapshot<'_>) -> Result<Vec<String>>,
}

static FILES: &[Files] = &[
    Files {
        reward: "aesthetic",
        published: Some(
            "openai/clip-vit-large-patch14,\
             shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE/model.safetensors",
        ),
        of_model: true,
        missing: |snapshot| {
            let head = needed::of_files(snapshot, &[aesthetic::HEAD], &[]);
            Ok([head, needed::of_tower(snapshot)?].concat())
        },
    },
    Files {
        reward: "clip",
        published: Some("openai/clip-vit-large-patch14"),
        of_model: true,
        missing: needed::of_clip,
    },
    Files {
        reward: "pickscore",
        published: Some("yuvalkirstain/PickScore_v1,laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        of_model: false,
        missing: needed::of_clip,
    },
    Files { reward: "hpsv2", published: None, of_model: false, missing: of_open_clip },
    Files { reward: "hpsv2.1", published: None, of_model: false, missing: of_open_clip },
    Files {
        reward: "imagereward",
        published: None,
        of_model: false,
        missing: |snapshot| Ok(needed::of_files(snapshot, &[wordpiece::FILE, imagereward::FILE], &[])),
    },
];

fn of_open_clip(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    let beside = ["open_clip_config.json", "vocab.json", "merges.txt"];
    Ok(needed::of_files(snapshot, &[OPEN_CLIP], &beside))
}

fn files(kind: &RewardKind) -> Option<&'static Files> {
    FILES.iter().find(|files| files.reward == kind.name)
}

impl Spec {
    /// Whether it looks through the towers that the model `model` brings: it names no path, and the model has
    /// some.
    pub fn uses_model(&self, model: &Source) -> bool {
        self.path.is_none()
            && files(self.kind).is_some_and(|files| files.of_model)
            && model.exists("clip/config.json")
    }
}

impl RewardKind {
    /// The repositories where it is published, as its PATH: read where none is given and the model brings no
    /// files for it.
    pub fn published(&self) -> Option<&'static str> {
        files(self)?.published
    }
}

/// The path of `spec` on disk, what is not there downloaded; `None` for a reward that reads no file or the
/// model's own. What is no path of files, such as a command, stays as it is.
pub(super) fn locate(spec: &Spec, model: &Source, hub: &Hub) -> Result<Option<PathBuf>> {
    let Some(files) = files(spec.kind) else { return Ok(spec.path.clone()) };
    let given = match (&spec.path, files.published) {
        (Some(path), _) => path.as_path(),
        (None, Some(published)) if !spec.uses_model(model) => Path::new(published),
        (None, _) => return Ok(None),
    };
    // Two paths, unless there is one that has the comma in its name.
    let two = given.to_str().filter(|_| !given.exists()).and_then(|text| text.rsplit_once(','));
    let Some((folder, second)) = two else {
        return hub.locate(given, &files.missing).map(Some);
    };
    // Of a head, the name has the file.
    let nothing = |_: Snapshot<'_>| Ok(Vec::new());
    let second = match spec.kind.needs.prompt {
        true => hub.locate(Path::new(second), &needed::of_processor)?,
        false => hub.locate(Path::new(second), &nothing)?,
    };
    let mut path = hub.locate(Path::new(folder), &needed::of_tower)?.into_os_string();
    path.push(",");
    path.push(second);
    Ok(Some(path.into()))
}
