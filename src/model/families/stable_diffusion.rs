//! Stable Diffusion 1.x and 2.x, and models trained or distilled from them that run in the same pipeline.

use super::family::{Family, ONE_TEXT_ENCODER, text_config_with_mask, vae_config_scaled_only};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::config::{SchedulerFile, UNetConfig};
use crate::model::parts::Parts;
use crate::model::pipeline::{Pipeline, Recipe, TextStates};

/// `StableDiffusionPipeline`.
pub static FAMILY: Family = Family {
    class: "StableDiffusionPipeline",
    about: "Stable Diffusion 1.x and 2.x, SD-Turbo, BK-SDM: one text encoder",
    components: &ONE_TEXT_ENCODER,
    build,
};

/// The steps offset that the pipeline sets.
const OFFSET: usize = 1;

const SCHEDULER: &str = "scheduler/scheduler_config.json";

fn build(parts: &Parts, backend: &dyn Backend) -> Result<Pipeline> {
    let mut notes = Vec::new();
    let unet = parts.unet_config()?;
    let recipe = Recipe {
        scheduler: repaired(parts.scheduler()?, &parts.source().describe(SCHEDULER), &mut notes),
        vae: vae_config_scaled_only(parts, &mut notes)?,
        texts: vec![text_config_with_mask(parts, "text_encoder")?],
        text_states: TextStates::Last,
        unet: UNetConfig { sample_size: sample_size(&unet), ..unet },
        zeros_for_empty_prompt: false,
        notes,
    };
    Pipeline::assemble(backend, parts, recipe)
}

/// What the pipeline does to its scheduler on loading, since files of its first year lack these keys:
/// `clip_sample` is off, and the `steps_offset` of a scheduler that has one is 1.
fn repaired(mut file: SchedulerFile, place: &str, notes: &mut Vec<String>) -> SchedulerFile {
    let config = &mut file.config;
    if config.clip_sample.take().is_some() && file.states_clip_sample {
        notes.push(format!("{place}: clip_sample is true, but the pipeline of this model switches it off"));
    }
    if file.has_steps_offset && config.steps_offset != OFFSET {
        let stated = std::mem::replace(&mut config.steps_offset, OFFSET);
        // 0 is what samplers write that were made without a word about it.
        if stated != 0 {
            notes.push(format!(
                "{place}: steps_offset is {stated}, but the pipeline of this model sets {OFFSET}"
            ));
        }
    }
    file
}

/// Files from before diffusers 0.9 state half of the true size; the pipeline corrects it the same way.
fn sample_size(config: &UNetConfig) -> Option<(usize, usize)> {
    const TRUE_SIDE: usize = 64;
    config.sample_size.map(|(h, w)| match config.old_square_size && h < TRUE_SIDE {
        true => (TRUE_SIDE, TRUE_SIDE),
        false => (h, w),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ddim::SchedulerConfig;

    /// The configuration and the notes after loading.
    fn loaded(json: &str) -> (SchedulerConfig, String) {
        let mut notes = Vec::new();
        let file = SchedulerFile::parse("f.json", json.as_bytes()).expect("a scheduler");
        (repaired(file, "f.json", &mut notes).config, notes.join("; "))
    }

    #[test]
    fn the_scheduler_is_repaired_as_the_pipeline_does() {
        let sd = SchedulerConfig { set_alpha_to_one: true, ..SchedulerConfig::stable_diffusion() };
        let betas = r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear""#;
        let (config, notes) = loaded(&format!("{{{betas}}}"));
        assert_eq!((config, notes.as_str()), (sd.clone(), ""));
        let (config, notes) = loaded(&format!("{{{betas}, \"clip_sample\": true, \"steps_offset\": 3}}"));
        assert_eq!(config, sd);
        assert!(
            notes.contains("f.json: clip_sample is true") && notes.contains("steps_offset is 3"),
            "{notes}"
        );
        // A scheduler without that option keeps the offset of DDIM, 0.
        let singlestep = format!("{{\"_class_name\": \"DPMSolverSinglestepScheduler\", {betas}}}");
        assert_eq!(loaded(&singlestep).0, SchedulerConfig { steps_offset: 0, ..sd });
    }

    #[test]
    fn old_files_state_half_the_sample_size() {
        let sized = |size: serde_json::Value, version: &str| {
            let json =
                json!({"cross_attention_dim": 768, "sample_size": size, "_diffusers_version": version});
            sample_size(&UNetConfig::parse("config.json", json.to_string().as_bytes()).unwrap())
        };
        assert_eq!(sized(json!(32), "0.6.0"), Some((64, 64)));
        assert_eq!(sized(json!(32), "0.10.2"), Some((32, 32)));
        assert_eq!(sized(json!(96), "0.6.0"), Some((96, 96)));
        assert_eq!(sized(json!([16, 24]), "0.6.0"), Some((16, 24)));
    }
}
