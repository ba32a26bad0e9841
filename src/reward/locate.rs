//! Where the files of a reward are that is named as on the hub, or by its name alone.

use std::path::{Path, PathBuf};

use super::aesthetic;
use super::imagereward;
use super::kind::RewardKind;
use super::spec::Spec;
use super::towers::OPEN_CLIP;
use super::two_paths::two_paths;
use crate::error::Result;
use crate::hub::{Hub, Snapshot};
use crate::model::files::Source;
use crate::model::{needed, wordpiece};

/// What lacks of the files that a reward reads.
type Lacks = fn(Snapshot<'_>) -> Result<Vec<String>>;

/// A reward that reads files.
struct Files {
    reward: &'static str,
    /// Where it is published, as its PATH.
    published: &'static str,
    /// Whether a model may bring files of its own, which then are meant where no PATH is given.
    of_model: bool,
    /// Of the repository that its PATH names.
    whole: Lacks,
    /// Of the two where its PATH names two, parted by a comma.
    parts: [Lacks; 2],
}

static FILES: &[Files] = &[
    Files {
        reward: "aesthetic",
        published: "openai/clip-vit-large-patch14,trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth",
        of_model: true,
        whole: |snapshot| {
            let head = needed::of_one(snapshot, &aesthetic::HEADS);
            Ok([head, needed::of_tower(snapshot)?].concat())
        },
        // The name of a head has the file.
        parts: [needed::of_tower, |_| Ok(Vec::new())],
    },
    Files {
        reward: "clip",
        published: "openai/clip-vit-large-patch14",
        of_model: true,
        whole: needed::of_clip,
        parts: [needed::of_tower, needed::of_processor],
    },
    Files {
        reward: "pickscore",
        published: "yuvalkirstain/PickScore_v1,laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        of_model: false,
        whole: needed::of_clip,
        parts: [needed::of_tower, needed::of_processor],
    },
    Files {
        reward: "hpsv2",
        published: "xswu/HPSv2/HPS_v2_compressed.pt",
        of_model: false,
        whole: of_open_clip,
        parts: [of_open_clip, needed::of_processor],
    },
    Files {
        reward: "hpsv2.1",
        published: "xswu/HPSv2/HPS_v2.1_compressed.pt",
        of_model: false,
        whole: of_open_clip,
        parts: [of_open_clip, needed::of_processor],
    },
    Files {
        reward: "imagereward",
        published: "THUDM/ImageReward/ImageReward.pt,google-bert/bert-base-uncased",
        of_model: false,
        whole: |snapshot| Ok([of_vocabulary(snapshot)?, of_blip(snapshot)?].concat()),
        parts: [of_blip, of_vocabulary],
    },
];

fn of_open_clip(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    let beside = needed::of_files(snapshot, &[], &["open_clip_config.json", "vocab.json", "merges.txt"]);
    Ok([beside, needed::of_one(snapshot, &OPEN_CLIP)].concat())
}

fn of_blip(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    Ok(needed::of_one(snapshot, &imagereward::FILES))
}

fn of_vocabulary(snapshot: Snapshot<'_>) -> Result<Vec<String>> {
    Ok(needed::of_files(snapshot, &[wordpiece::FILE], &[]))
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

impl Spec {
    /// Where its files are on disk, what is not there downloaded; `None` for a reward that reads no file, and
    /// for the model's own.
    ///
    /// # Errors
    /// As [`Hub::locate`].
    pub fn find(&self, model: &Source, hub: &Hub) -> Result<Option<PathBuf>> {
        locate(self, model, hub)
    }

    /// The file of an aesthetic head that the path names, there or not; `None` for other rewards and without
    /// a path.
    pub fn head(&self) -> Option<PathBuf> {
        let path = self.path.as_deref().filter(|_| self.kind == &aesthetic::REWARD)?;
        Some(aesthetic::folder_and_head(path).1)
    }
}

impl RewardKind {
    /// The repositories where it is published, as its PATH: read where none is given and the model brings no
    /// files for it.
    pub fn published(&self) -> Option<&'static str> {
        files(self).map(|files| files.published)
    }
}

/// The path of `spec` on disk, what is not there downloaded; `None` for a reward that reads no file or the
/// model's own. What is no path of files, such as a command, stays as it is.
pub(super) fn locate(spec: &Spec, model: &Source, hub: &Hub) -> Result<Option<PathBuf>> {
    let Some(files) = files(spec.kind) else { return Ok(spec.path.clone()) };
    let given = match &spec.path {
        Some(path) => path.as_path(),
        None if spec.uses_model(model) => return Ok(None),
        None => Path::new(files.published),
    };
    let Some((first, second)) = two_paths(given) else { return hub.locate(given, &files.whole).map(Some) };
    let second = hub.locate(second, &files.parts[1])?;
    let mut path = hub.locate(first, &files.parts[0])?.into_os_string();
    path.push(",");
    path.push(second);
    Ok(Some(path.into()))
}
