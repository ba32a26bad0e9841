//! The root of the library: a [`Session`] opens a device, a model and rewards, and draws samples with them.
//! What the command line does beyond it is parsing, printing and keeping records.

mod builder;
mod device;
mod loaded;
mod measure;
pub mod memory;
mod normalise;
mod options;
mod plan;
mod populations;
mod run;
mod scorer;

pub use builder::SessionBuilder;
pub use device::{Device, Dtype};
pub use loaded::Judgement;
pub use normalise::{Normalise, PlainScores};
pub use options::{Checkpointing, Preset, Prompt, SampleOptions};
pub use plan::{Plan, seconds};
pub use populations::{Combined, Estimate, NOT_ESTIMATED, combine};
pub use run::{Run, RunSnapshot, Samples};
pub use scorer::{Scorer, Scores};

use crate::backend::Backend;
use crate::ddim::Schedule;
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::hub::Repository;
use crate::model::folder::ModelFolder;
pub use crate::model::pipeline::LongPrompts;
use crate::model::pipeline::{Pipeline, Size};
use crate::reward::Sum;
use device::Opened;
use loaded::{Loaded, Peer};

/// A model and rewards on a device, ready to sample.
///
/// ```no_run
/// use das_cuda::{SampleOptions, Session};
///
/// # fn main() -> das_cuda::Result<()> {
/// let mut session =
///     Session::builder().model("path/to/model").reward("clip=1:path/to/clip".parse()?).open()?;
/// let options = session.defaults().particles(8).seed(1);
/// let mut run = session.sample("a red star", &options)?;
/// for step in &mut run {
///     println!("effective sample size {:.1}", step?.prompts[0].ess);
/// }
/// let samples = run.conclude()?;
/// samples[0].best_picture().save("star.png")?;
/// # Ok(())
/// # }
/// ```
pub struct Session {
    // Tensors go before the device that they are on.
    loaded: Loaded,
    backend: Box<dyn EngineBackend>,
    peers: Vec<Peer>,
    builder: SessionBuilder,
    /// Bytes that could be taken before anything was loaded.
    available: Option<u64>,
}

impl SessionBuilder {
    /// Opens the device and loads the model and the rewards.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) and [`ErrorKind::Memory`](crate::ErrorKind::Memory) of
    /// the device, [`ErrorKind::Model`](crate::ErrorKind::Model) for files that are missing, damaged or not
    /// supported, [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a reward that lacks its path.
    pub fn open(self) -> Result<Session> {
        let (builder, _) = self.resolve_device();
        let Opened { backend, mut available } =
            builder.device.open(builder.resolved_dtype(), builder.machine)?;
        let loaded = Loaded::open(&*backend, &builder)?;
        let copies = SessionBuilder { hash_files: false, ..builder.clone() };
        let mut peers = Vec::new();
        for device in &builder.peers {
            let opened = device.open(builder.resolved_dtype(), builder.machine)?;
            // All devices get the same micro-batch.
            available = available.into_iter().chain(opened.available).min();
            let loaded = Loaded::open(&*opened.backend, &copies)?;
            peers.push(Peer { loaded, backend: opened.backend });
        }
        Ok(Session { loaded, backend, peers, builder, available })
    }
}

impl Session {
    /// What a session is made of, to be chosen.
    pub fn builder() -> SessionBuilder {
        SessionBuilder::default()
    }

    /// The options that suit this model and reward; see [`SessionBuilder::defaults`].
    pub fn defaults(&self) -> SampleOptions {
        self.builder.defaults()
    }

    /// Begins to draw the particles of one prompt. What the run computes, it computes step by step; dropping
    /// it ends it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for options that cannot work, alone, together, or with
    /// this model and these rewards. Those of the text encoders and the device.
    pub fn sample(&mut self, prompt: impl Into<Prompt>, options: &SampleOptions) -> Result<Run<'_>> {
        self.sample_together(&[prompt.into()], options)
    }

    /// Begins to draw the particles of several prompts together: network calls then mix them. Each prompt
    /// gets what it gets alone under its number: the first of the options, and those that follow. With
    /// [`LongPrompts::Chunk`] all have to fill as many windows.
    ///
    /// # Errors
    /// As [`Session::sample`].
    pub fn sample_together(&mut self, prompts: &[Prompt], options: &SampleOptions) -> Result<Run<'_>> {
        options.check_prompts(prompts)?;
        self.measure_scales(prompts, options, |_, _| Ok(()))?;
        let (options, notes) = self.builder.settle(&prompts[0], options, self.available)?;
        self.loaded.start(&*self.backend, &mut self.peers, prompts, &options, notes)
    }

    /// Decides what the options leave open and only the cost can tell: the chains of best-of-n, on a GPU the
    /// micro-batch, and checkpointing. Also returns what the user should know of the decisions.
    /// [`Session::sample`] does this by itself; where many prompts are drawn, it is cheaper once.
    ///
    /// # Errors
    /// As [`Session::sample`]; on the CPU also [`ErrorKind::Memory`](crate::ErrorKind::Memory) for a run that
    /// needs more than was free when the session was opened: there nothing else would stop it before the
    /// system does.
    pub fn settle(&self, prompt: &Prompt, options: &SampleOptions) -> Result<(SampleOptions, Vec<String>)> {
        let settled = self.builder.settle(prompt, options, self.available)?;
        let pictures = self
            .size(&settled.0)?
            .bytes()
            .saturating_mul((settled.0.populations * settled.0.chains()) as u64);
        self.builder.refuse_too_large(prompt, &settled.0, pictures, self.available)?;
        Ok(settled)
    }

    /// The cost of one prompt, counted without computing anything.
    ///
    /// # Errors
    /// As [`Session::sample`].
    pub fn plan(&self, prompt: impl Into<Prompt>, options: &SampleOptions) -> Result<Plan> {
        let prompt = prompt.into();
        let (options, _) = self.builder.settle(&prompt, options, self.available)?;
        self.builder.plan(&prompt, &options)
    }

    /// Scores final images by all rewards, as the exact images and as 8-bit pictures, a micro-batch at a
    /// time. Rewards that read prompts use those of the latest run; `prompt` is the place of the images'
    /// prompt there.
    ///
    /// # Errors
    /// Of the rewards.
    pub fn judge(&self, samples: &Samples, prompt: usize, options: &SampleOptions) -> Result<Judgement> {
        self.loaded.judge(&*self.backend, samples, prompt as u32, options)
    }

    /// The final images of at most the first `most` particles as unit vectors, through the CLIP model of the
    /// first reward that has one, held-out rewards before the others; `None` where none has.
    ///
    /// # Errors
    /// Of the rewards.
    pub fn embed(
        &self,
        samples: &Samples,
        most: usize,
        options: &SampleOptions,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        self.loaded.embed(&*self.backend, samples, most, options)
    }

    /// Refuses prompts and options that this model and these rewards cannot serve, before anything is drawn.
    ///
    /// # Errors
    /// As [`Session::sample`].
    pub fn check(&self, prompts: &[Prompt], options: &SampleOptions) -> Result<()> {
        options.check()?;
        self.loaded.check_prompts(prompts, options)?;
        self.schedule(options)?;
        self.size(options).map(drop)
    }

    /// Names of the embeddings that stand in none of these prompts, negative ones included: they change
    /// nothing.
    pub fn unused_embeddings(&self, prompts: &[Prompt]) -> Vec<String> {
        self.loaded.unused_embeddings(prompts)
    }

    /// The device; of several the first, which has the particles.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }
    /// For records: the names of the devices.
    pub fn device_names(&self) -> Vec<String> {
        let peers = self.peers.iter().map(|peer| peer.backend.name());
        [self.backend.name()].into_iter().chain(peers).collect()
    }
    /// Where the session computes, of several devices the first; never [`Device::Auto`].
    pub fn device(&self) -> Device {
        self.builder.device
    }
    /// The model.
    pub fn pipeline(&self) -> &Pipeline {
        &self.loaded.pipeline
    }
    /// The model's files.
    pub fn folder(&self) -> &ModelFolder {
        &self.loaded.folder
    }
    /// What the samples are aligned to.
    pub fn reward(&self) -> &Sum {
        &self.loaded.reward
    }
    /// Held-out rewards, which are only reported.
    pub fn eval_reward(&self) -> Option<&Sum> {
        self.loaded.eval.as_ref()
    }
    /// `shapes` for the embedded model, else the path of its folder.
    pub fn model_name(&self) -> String {
        self.builder.model_name()
    }

    /// The repositories that the model and the rewards were read from.
    pub fn repositories(&self) -> Vec<Repository> {
        self.builder.repositories()
    }

    /// The chain that the options ask for.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for steps that the model has not.
    pub fn schedule(&self, options: &SampleOptions) -> Result<Schedule> {
        self.loaded.schedule(options)
    }
    /// The size of the images that the options ask for, and of their latents.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a size that the networks cannot have.
    pub fn size(&self, options: &SampleOptions) -> Result<Size> {
        self.loaded.size(options)
    }
    /// Alpha of the target `p(x) exp(r(x) / alpha)`.
    pub fn alpha(&self, options: &SampleOptions) -> f64 {
        self.loaded.alpha(options)
    }
    /// Particles per network call.
    ///
    /// # Errors
    /// As [`Session::size`].
    pub fn micro_batch(&self, options: &SampleOptions) -> Result<usize> {
        Ok(options.micro_batch_for(self.size(options)?))
    }
    /// Evaluations of the UNet for one prompt: populations, particles, steps and branches of the guidance.
    pub fn evaluations(&self, options: &SampleOptions) -> u64 {
        self.loaded.evaluations(options).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_runs_may_go_to_other_threads() {
        fn send<T: Send>() {}
        send::<Session>();
        send::<Run<'_>>();
        send::<Scorer>();
        send::<SessionBuilder>();
    }
}
