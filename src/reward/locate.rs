//! Where the files of a reward are that is named as on the hub, or by its name alone.

use std::path::{Path, PathBuf};

use super::aesthetic;
use super::kind::RewardKind;
use super::spec::Spec;
use crate::error::Result;
use crate::hub::{Hub, Snapshot};
use crate::model::files::Source;
use crate::model::needed;

/// Where a reward is published, as its PATH.
struct Usual {
    reward: &'static str,
    path: &'static str,
    /// What it reads beside the towers where its PATH is a folder alone.
    beside: &'static [&'static str],
    /// Whether a model may bring files of its own, which then are meant instead.
    of_model: bool,
}

/// Rewards whose files are on the hub.
static USUAL: &[Usual] = &[
    Usual {
        reward: "aesthetic",
        path: "openai/clip-vit-large-patch14,\
               shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE/model.safetensors",
        beside: &[aesthetic::HEAD],
        of_model: true,
    },
    Usual { reward: "clip", path: "openai/clip-vit-large-patch14", beside: &[], of_model: true },
    Usual {
        reward: "pickscore",
        path: "yuvalkirstain/PickScore_v1,laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        beside: &[],
        of_model: false,
    },
];

fn usual(kind: &RewardKind) -> Option<&'static Usual> {
    USUAL.iter().find(|usual| usual.reward == kind.name)
}

impl Spec {
    /// Whether it looks through the towers that the model `model` brings: it names no path, and the model has
    /// some.
    pub fn uses_model(&self, model: &Source) -> bool {
        self.path.is_none()
            && usual(self.kind).is_some_and(|usual| usual.of_model)
            && model.exists("clip/config.json")
    }
}

impl RewardKind {
    /// The repositories where it is published, as its PATH: read where none is given and the model brings no
    /// files for it.
    pub fn usual_path(&self) -> Option<&'static str> {
        usual(self).map(|usual| usual.path)
    }
}

/// The path of `spec` on disk, what is not there downloaded; `None` for a reward that reads no file or the
/// model's own. What is no path of files, such as a command, stays as it is.
pub(super) fn locate(spec: &Spec, model: &Source, hub: &Hub) -> Result<Option<PathBuf>> {
    let Some(usual) = usual(spec.kind) else { return Ok(spec.path.clone()) };
    let given = match &spec.path {
        Some(path) => path.as_path(),
        None if spec.uses_model(model) => return Ok(None),
        None => Path::new(usual.path),
    };
    // Two paths, unless there is one that has the comma in its name.
    let two = given.to_str().filter(|_| !given.exists()).and_then(|text| text.rsplit_once(','));
    let Some((folder, second)) = two else {
        let missing = |snapshot: Snapshot<'_>| {
            let of_towers = if spec.kind.needs.prompt { needed::of_clip } else { needed::of_tower };
            let beside = usual.beside.iter().filter(|file| !snapshot.folder.join(file).is_file());
            Ok([beside.map(|file| file.to_string()).collect(), of_towers(snapshot)?].concat())
        };
        return hub.locate(given, &missing).map(Some);
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
