//! The JSON configurations of a model, each input read as every one of them.
#![no_main]

use das_cuda::ddim::Schedule;
use das_cuda::model::config::{
    AutoencoderConfig, ClipConfig, ClipTextConfig, ClipVisionConfig, OpenClipConfig, SchedulerFile,
    UNetConfig,
};
use das_cuda::model::files::Source;
use das_cuda::model::folder::ModelFolder;
use das_cuda_fuzz::{bounded, embedded, names};

/// Schedules of more training steps take long.
const MOST_STEPS: usize = 4000;

fn told<T>(read: das_cuda::Result<T>) -> Option<T> {
    read.map_err(|error| names(&error, "built-in:")).ok()
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| bounded(input.len(), 400, || {
    let input = embedded(input);
    let mut files = ["config.json", "open_clip_config.json", "scheduler_config.json", "model_index.json"]
        .map(|name| (name, input))
        .to_vec();
    let parts = ["unet/x", "vae/x", "scheduler/x", "text_encoder/x", "tokenizer/x", "text_encoder_2/x"];
    files.extend(parts.map(|name| (name, &b""[..])));
    // SAFETY: the source is gone when the list is.
    let files: &'static [(&str, &[u8])] = unsafe { std::mem::transmute(files.as_slice()) };
    let source = Source::Embedded(files);
    told(UNetConfig::open(&source, ""));
    told(AutoencoderConfig::open(&source, ""));
    told(ClipTextConfig::open(&source, ""));
    told(ClipVisionConfig::open(&source, ""));
    told(ClipConfig::open(&source, ""));
    told(OpenClipConfig::parse("built-in:open_clip_config.json", input));
    told(ModelFolder::from_source(source.clone(), None));
    let scheduler = told(SchedulerFile::open(&source, "", "DDIMScheduler"));
    if let Some(config) = scheduler.map(|file| file.config).filter(|c| c.num_train_timesteps <= MOST_STEPS) {
        let _ = Schedule::new(&config, 4, 1.0);
    }
}));
