//! Runs that the GPU weighs by itself, one step ahead of the host: they are those that the host weighs,
//! number for number, and nothing between two steps waits.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use das_cuda::ErrorKind;
use das_cuda::assets::SHAPES_FILES;
use das_cuda::backend::{Backend, ParticleId};
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::ddim::{self, Schedule, SchedulerConfig};
use das_cuda::error::{Error, Result};
use das_cuda::method::{BestOfN, Bootstrap, Das, Dps, Fk, FreeDom, Method, Mpgd, Plain, Svdd, Tds};
use das_cuda::model::files::Source;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt};
use das_cuda::reward::{self, Reward};
use das_cuda::sampler::{Candidates, Compat, Evaluation, FinalScores, Need, OnNan, Options, Sampler, Target};
use das_cuda::smc::{Floor, Potentials, Resampler, Rules, Tempering};
use das_cuda::tape::Recompute;
use das_cuda::target::{Diffusion, Gradient, Settings};
use das_cuda::tensor::{Shape, Tensor};

use crate::device;
use crate::laws::{Closed, Grid, Law, Seen};
use crate::note;
use crate::resume;

fn chain(steps: usize) -> Schedule {
    Schedule::new(&SchedulerConfig::stable_diffusion(), steps, 1.0).unwrap()
}

fn options(
    method: &'static dyn Method,
    tempering: Tempering,
    resampler: Resampler,
    ess_threshold: f64,
) -> Options {
    let rules =
        Rules { tempering, resampler, ess_threshold, max_shift: None, potentials: Potentials::Difference };
    Options { method, rules, prompts: vec![4, 0], particles: 5, alpha: 0.7, ..Options::new(20, 1) }
}

/// With a bound on the shift, in standard deviations of the noise.
fn bounded(options: Options, max_shift: f64) -> Options {
    Options { rules: Rules { max_shift: Some(max_shift), ..options.rules }, ..options }
}

/// Everything a run says, with the end's latents in bits; `{:?}` tells numbers apart that differ.
fn tell(sampler: Sampler<'_>, cuda: &Cuda) -> Vec<String> {
    let mut sampler = sampler;
    let mut told = Vec::new();
    for step in &mut sampler {
        match step {
            Ok(step) => told.push(format!("{:?}", (step.step, step.t, step.prompts, step.non_finite))),
            Err(e) => told.push(format!("{e:?}")),
        }
    }
    if told.len() == sampler.steps() {
        for end in sampler.populations().unwrap() {
            let x: Vec<u32> = cuda.download(&end.x).unwrap().iter().map(|x| x.to_bits()).collect();
            let weights = (end.rewards, end.log_weights, end.log_z, end.log_z_error, end.lineage);
            told.push(format!("{x:?} {weights:?}"));
        }
    }
    told
}

fn compare(cuda: &Cuda, target: &dyn Target, schedule: &Schedule, options: &Options) {
    let sampler = || Sampler::new(cuda, target, schedule, options.clone()).unwrap();
    let (own, host) = (tell(sampler(), cuda), tell(sampler().on_host(), cuda));
    assert_eq!(own.len(), host.len(), "{options:?}");
    for (own, host) in own.iter().zip(&host) {
        assert_eq!(own, host, "{options:?}");
    }
}

/// Methods, temperings and resamplers.
fn kinds() -> Vec<Options> {
    let exp = Tempering::Exp { gamma: 0.3 };
    let adaptive = Tempering::Adaptive { floor: Floor::Exp { gamma: 0.1 } };
    let candidates = Some(Candidates { count: 11, until: 0.4 });
    vec![
        options(&Das, exp, Resampler::Ssp, 0.5),
        options(&Das, adaptive, Resampler::Systematic, 0.6),
        Options { tempering_start: 0.45, ..options(&Das, exp, Resampler::Stratified, 1.0) },
        options(&Tds, Tempering::None, Resampler::Residual, 0.9),
        Options { candidates, ..options(&Das, Tempering::None, Resampler::Ssp, 0.5) },
        Options {
            candidates,
            tempering_start: 0.6,
            ..options(&Bootstrap, Tempering::None, Resampler::Ssp, 2.0)
        },
        bounded(options(&Das, exp, Resampler::Ssp, 0.5), 0.3),
        bounded(options(&Tds, Tempering::None, Resampler::Systematic, 0.9), 1e-3),
        options(&Bootstrap, exp, Resampler::Multinomial, 2.0),
        options(&Plain, exp, Resampler::Ssp, 0.5),
        options(&BestOfN, exp, Resampler::Ssp, 0.5),
        Options { weigh_every: 3, ..options(&Bootstrap, exp, Resampler::Ssp, 2.0) },
        // The host's engine does these on any device.
        options(&Dps, exp, Resampler::Ssp, 0.5).by_method(&Dps, 8),
        options(&FreeDom, exp, Resampler::Ssp, 0.5).by_method(&FreeDom, 8),
        options(&Mpgd, exp, Resampler::Ssp, 0.5).by_method(&Mpgd, 8),
        options(&Svdd, exp, Resampler::Ssp, 0.5).by_method(&Svdd, 8),
        options(&Fk, exp, Resampler::Ssp, 0.5).by_method(&Fk, 8),
        Options { compat: Compat::Reference, ..options(&Das, exp, Resampler::Ssp, 0.5) },
    ]
}

fn a_run_is_that_of_the_host() {
    let cuda = device::open(Elem::F32);
    let schedule = chain(8);
    for options in kinds() {
        compare(&cuda, &Closed::new(&cuda, Grid::new()), &schedule, &options);
    }
}

/// Rewards, gradients and noise that are not finite: dropped with the same words, or the end of the run at
/// the same step.
fn what_is_not_finite_costs_what_it_costs_on_the_host() {
    let cuda = device::open(Elem::F32);
    let schedule = chain(8);
    let at = schedule.steps[3].t;
    for all in [false, true] {
        let mut target = Closed::new(&cuda, Grid::new());
        target.spoil = Some(Box::new(move |t, id, seen: &mut Seen<2>| match (id.prompt, id.particle) {
            (4, _) if t == at && all => seen.reward = f64::NAN,
            (4, 1) if t == at => seen.reward = f64::NEG_INFINITY,
            (4, 2) if t == at => seen.grad[1] = f64::NAN,
            (4, 3) if t == at => seen.eps[0] = f64::INFINITY,
            (4, 4) if t == at => (seen.x0[1], seen.grad[0]) = (f64::NAN, f64::INFINITY),
            (4, 0) if t == 0 => seen.reward = f64::NAN,
            _ => {}
        }));
        for ess_threshold in [0.0, 2.0] {
            for on_nan in [OnNan::Drop, OnNan::Abort] {
                let das = options(&Das, Tempering::Exp { gamma: 0.3 }, Resampler::Ssp, ess_threshold);
                compare(&cuda, &target, &schedule, &Options { on_nan, ..das });
            }
        }
    }
}

/// States of several chunks: `N(0, I)` data, and the reward of their mean.
struct Long;
const LONG: usize = 2100;

impl Law<LONG> for Long {
    fn evaluate(&self, x: [f64; LONG], step: &ddim::Step) -> Seen<LONG> {
        let (a, b) = (step.alpha_bar.sqrt(), (1.0 - step.alpha_bar).sqrt());
        let grad = [a / LONG as f64 * 40.0; LONG];
        Seen { x0: x.map(|x| a * x), eps: x.map(|x| b * x), reward: a * self.reward(x), grad }
    }
    fn reward(&self, x: [f64; LONG]) -> f64 {
        40.0 * x.iter().sum::<f64>() / LONG as f64
    }
}

fn long_states_too() {
    let cuda = device::open(Elem::Bf16);
    let schedule = chain(3);
    let at = schedule.steps[1].t;
    let mut target = Closed::new(&cuda, Long);
    target.spoil = Some(Box::new(move |t, id, seen: &mut Seen<LONG>| {
        if (t, id.particle) == (at, 2) {
            seen.grad[LONG - 1] = f64::NAN;
        }
    }));
    compare(&cuda, &target, &schedule, &options(&Das, Tempering::None, Resampler::Ssp, 0.9));
}

/// A target whose evaluation number `left` fails.
struct Fails<'a> {
    target: Closed<'a, 2, Grid>,
    left: AtomicUsize,
}

impl Target for Fails<'_> {
    fn latent(&self) -> Shape {
        self.target.latent()
    }
    fn evaluate(&self, x: &Tensor, ids: &[ParticleId], step: &ddim::Step, need: Need) -> Result<Evaluation> {
        let left = self.left.load(Ordering::Relaxed);
        let Some(left) = left.checked_sub(1) else { return Err(Error::device("no evaluation")) };
        self.left.store(left, Ordering::Relaxed);
        self.target.evaluate(x, ids, step, need)
    }
    fn finish(&self, x: &Tensor, ids: &[ParticleId]) -> Result<FinalScores> {
        self.target.finish(x, ids)
    }
}

/// What was queued before a failure is told before it.
fn a_failure_ahead_loses_no_step() {
    let cuda = device::open(Elem::F32);
    let schedule = chain(6);
    let das = options(&Das, Tempering::None, Resampler::Ssp, 0.9);
    for left in 0..6 {
        let target = Fails { target: Closed::new(&cuda, Grid::new()), left: AtomicUsize::new(left) };
        let results: Vec<_> = Sampler::new(&cuda, &target, &schedule, das.clone()).unwrap().collect();
        assert_eq!(results.len(), left + 1);
        assert!(results[..left].iter().all(|r| r.is_ok()));
        assert_eq!(results[left].as_ref().err().map(Error::kind), Some(ErrorKind::Device));
    }
}

/// The stand-in counts for the whole process, so this is asked of a process that does nothing else.
fn nothing_waits_between_steps() {
    device::stand_in_only("a GPU does not count what waits");
    let test = ["--ignored", "--exact", "queue::alone_nothing_waits_between_steps", "--nocapture"];
    let output = Command::new(std::env::current_exe().unwrap()).args(test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    note!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"));
}

/// Small pictures of the model inside the program, two particles one at a time, with graphs and without: a
/// step waits once, for what the step before it told, and copies nothing but that.
fn alone_nothing_waits_between_steps() {
    for (graphs, steps) in [(true, 4), (false, 3)] {
        let cuda = device::open(Elem::Bf16);
        let cuda = if graphs { cuda } else { cuda.without_graphs() };
        let folder = ModelFolder::from_source(Source::Embedded(SHAPES_FILES), None).unwrap();
        let pipeline = Pipeline::load(&cuda, &folder).unwrap();
        let mut reward = reward::open(&["aesthetic".parse().unwrap()], folder.source(), &cuda).unwrap();
        reward.prepare(&cuda, &["a star".into()]).unwrap();
        let size = pipeline.size(Some(16), Some(16)).unwrap();
        let texts = pipeline
            .encode(&cuda, &[Prompt { text: "a star", negative: None }], size, 1.0, LongPrompts::Cut)
            .unwrap();
        let settings = Settings {
            cfg_scale: 1.0,
            micro_batch: 1,
            recompute: Recompute::Nothing,
            gradient: Gradient::State,
        };
        let target = Diffusion::new(&cuda, &pipeline, &reward, texts, vec![0], size, settings);
        let schedule = Schedule::new(&pipeline.scheduler, steps, 1.0).unwrap();
        let options = Options { particles: 2, rules: Das.rules(steps), ..Options::new(3, steps) };
        let mut sampler = Sampler::new(&cuda, &target, &schedule, options).unwrap();
        let mut before = das_cuda_emulator::counters();
        for k in 0..steps {
            sampler.next().unwrap().unwrap();
            let now = das_cuda_emulator::counters();
            let waits = now.synchronisations - before.synchronisations;
            let (to, from) =
                (now.copies_to_device - before.copies_to_device, now.copies_to_host - before.copies_to_host);
            note!("graphs {graphs}, step {k}: {waits} waits, {to} copies to the device, {from} back");
            // The first steps see the work, make forms of weights and record graphs.
            let settled = if graphs { 2 } else { 1 };
            assert!(k < settled || (waits, to, from) == (1, 0, 1));
            before = now;
        }
    }
}

/// More particles than one launch weighs: part of a second row, and more than one tile of the resampler.
fn large_populations_too() {
    let cuda = device::open(Elem::F32);
    let schedule = chain(4);
    let exp = Tempering::Exp { gamma: 0.3 };
    let adaptive = Tempering::Adaptive { floor: Floor::Exp { gamma: 0.1 } };
    let at = schedule.steps[1].t;
    let mut target = Closed::new(&cuda, Grid::new());
    target.spoil = Some(Box::new(move |t, id, seen: &mut Seen<2>| {
        if t == at && id.particle % 700 == 3 {
            seen.reward = f64::NAN;
        }
    }));
    for (method, tempering, resampler, ess_threshold, particles) in [
        (&Das as &'static dyn Method, exp, Resampler::Ssp, 2.0, 1500),
        (&Das, adaptive, Resampler::Systematic, 0.6, 1500),
        (&Bootstrap, exp, Resampler::Stratified, 0.9, 1500),
        (&Tds, Tempering::None, Resampler::Residual, 0.9, 5000),
        (&Das, adaptive, Resampler::Multinomial, 0.5, 5000),
        (&Das, exp, Resampler::Ssp, 0.5, 5000),
        (&BestOfN, exp, Resampler::Ssp, 0.5, 1500),
    ] {
        let prompts = if particles > 4096 { vec![2] } else { vec![4, 0] };
        let run = options(method, tempering, resampler, ess_threshold);
        compare(&cuda, &target, &schedule, &Options { particles, prompts, ..run });
    }
}

/// With one step more under way than has been yielded.
fn a_run_goes_on_after_any_step_as_if_it_had_not_been_stopped() {
    let folder = tempfile::tempdir().unwrap();
    resume::leave(&device::open(Elem::F32), &chain(5), folder.path());
    let test = ["--ignored", "--exact", "queue::alone_runs_go_on", "--nocapture"];
    let mut program = Command::new(std::env::current_exe().unwrap());
    let output = program.args(test).env(resume::FOLDER, folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    note!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"));
}

fn alone_runs_go_on() {
    note!("{} runs went on", resume::go_on(&device::open(Elem::F32), &chain(5)));
}

fn a_snapshot_of_another_run_is_refused() {
    resume::refuse(&device::open(Elem::F32), &chain(5));
}

crate::tests![
    a_run_is_that_of_the_host,
    large_populations_too,
    a_run_goes_on_after_any_step_as_if_it_had_not_been_stopped,
    #[ignore = "for `a_run_goes_on_after_any_step_as_if_it_had_not_been_stopped`"]
    alone_runs_go_on,
    a_snapshot_of_another_run_is_refused,
    what_is_not_finite_costs_what_it_costs_on_the_host,
    long_states_too,
    a_failure_ahead_loses_no_step,
    nothing_waits_between_steps,
    #[ignore = "for `nothing_waits_between_steps`"]
    alone_nothing_waits_between_steps,
];
