//! Weighing on the GPU: launcher of kernels/weigh.cu. Populations live in device memory, an event reads the
//! log ratios that the last move left there and leaves ancestors and strengths for the next one, and nothing
//! is waited for. Every number is bit for bit that of [`smc::weigh`].

use super::array64::Array64;
use super::resample;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Buffer, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::error::Result;
use crate::noise::{Key, Purpose};
use crate::smc::{Event, Population, Resampler, Rules, Tempering, Weighed, weights};

/// Most particles of a prompt that one launch weighs: one thread each.
const ONE_LAUNCH: usize = 1024;
/// Most particles of a prompt.
pub const MOST: usize = resample::MOST;
/// Numbers of a record before its four lists.
const HEAD: usize = 7;

params! {
    pub struct WeighParams {
        pub seed: u64,
        pub floor: f64,
        pub floor_next: f64,
        pub target: f64,
        pub below: f64,
        pub alpha: f64,
        pub uniform: f64,
        pub bound: f64,
        pub step: u32,
        pub purpose: u32,
        pub particles: i32,
        pub resampler: i32,
        pub adaptive: i32,
        pub first: i32,
        pub last: i32,
        pub gather: i32,
    }
}

kernels! {
    /// The kernels of weigh.cu.
    pub struct Table from "weigh" {
        fn weigh(
            log_ratio: In<f64>, narrow: In<f32>, wide: In<f64>, states: In<f64>, noises: In<f64>, grads: In<f64>,
            prompts: In<u32>, rewards: Out<f64>, log_weights: Out<f64>, psi: Out<f64>, lambdas: Out<f64>, log_z: Out<f64>,
            ancestors: Out<u32>, strength: Out<f32>, record: Out<f64>, p: WeighParams,
        );
        fn weigh_rows(
            log_ratio: In<f64>, narrow: In<f32>, wide: In<f64>, states: In<f64>, noises: In<f64>,
            rewards: Out<f64>, log_weights: In<f64>, psi: In<f64>, lambdas: Out<f64>, log_z: Out<f64>,
            relative: Out<f64>, record: Out<f64>, p: WeighParams,
        );
        fn settle(
            chosen: In<u32>, grads: In<f64>, log_weights: Out<f64>, psi: Out<f64>, ancestors: Out<u32>, strength: Out<f32>,
            record: Out<f64>, slots: i32, p: WeighParams,
        );
    }
}

/// What the particles of all prompts carry from event to event, in device memory; see [`Population`].
pub struct Populations {
    prompts: Buffer,
    /// The same on the host.
    host_prompts: Vec<u32>,
    particles: usize,
    log_weights: Array64,
    psi: Array64,
    lambda: Array64,
    log_z: Array64,
}

/// Which event, and by which rules.
#[derive(Clone, Copy, Debug)]
pub struct Weighing<'a> {
    /// How to weigh.
    pub rules: &'a Rules,
    /// Which event of the chain.
    pub event: Event,
    /// Step of the chain: it keys the uniforms, with `seed` and the number of the prompt.
    pub step: u32,
    /// Of the run.
    pub seed: u64,
    /// Potentials are `reward / alpha`, strengths `lambda_next / alpha` or less.
    pub alpha: f64,
    /// Twists travel with their particles. Without it they stay in their slots, as in the authors' program.
    pub gather: bool,
    /// The largest strength times gradient length ([`Rules::drift_bound`]).
    pub bound: Option<f64>,
}

/// What an event weighs by, a number per slot.
#[derive(Clone, Copy)]
pub(super) struct WeighInput<'a> {
    pub log_ratio: In<'a, f64>,
    /// Plain rewards, in one of two types.
    pub narrow: In<'a, f32>,
    pub wide: In<'a, f64>,
    /// Squared lengths of state and noise, or none.
    pub states: In<'a, f64>,
    pub noises: In<'a, f64>,
    /// Squared lengths of the gradients, or none.
    pub grads: In<'a, f64>,
}

/// What an event decided, in device memory.
pub struct Decision {
    /// Of each slot, index into the batch.
    pub(super) ancestors: Buffer,
    /// Of the guidance of the next move of each slot ([`smc::strength`](crate::smc::strength)).
    pub(super) strength: Buffer,
    record: Array64,
    particles: usize,
}

impl Populations {
    /// `population[i]` is that of the prompt numbered `prompts[i]`.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn upload(cuda: &Cuda, prompts: &[u32], populations: &[Population]) -> Result<Populations> {
        assert_eq!(prompts.len(), populations.len(), "one population per prompt");
        let particles = populations.first().map_or(1, |p| p.log_weights.len());
        assert!((1..=MOST).contains(&particles), "{particles} particles");
        let alike = populations.iter().all(|p| p.log_weights.len() == particles && p.psi.len() == particles);
        assert!(alike, "populations of different size");
        let list = |f: fn(&Population) -> &[f64]| -> Vec<f64> {
            populations.iter().flat_map(|p| f(p).iter().copied()).collect()
        };
        Ok(Populations {
            prompts: cuda.indices(prompts)?,
            host_prompts: prompts.to_vec(),
            particles,
            log_weights: Array64::upload(cuda, &list(|p| &p.log_weights))?,
            psi: Array64::upload(cuda, &list(|p| &p.psi))?,
            lambda: Array64::upload(cuda, &list(|p| std::slice::from_ref(&p.lambda)))?,
            log_z: Array64::upload(cuda, &list(|p| std::slice::from_ref(&p.log_z)))?,
        })
    }

    /// Particles of each prompt before any event.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn new(cuda: &Cuda, prompts: &[u32], particles: usize) -> Result<Populations> {
        Populations::upload(cuda, prompts, &vec![Population::new(particles); prompts.len()])
    }

    /// Waits for the device.
    ///
    /// # Errors
    /// Of the backend.
    pub fn download(&self, cuda: &Cuda) -> Result<Vec<Population>> {
        let (log_weights, psi) = (self.log_weights.download(cuda)?, self.psi.download(cuda)?);
        let (lambda, log_z) = (self.lambda.download(cuda)?, self.log_z.download(cuda)?);
        let of_prompt = |list: &[f64], b: usize| list[b * self.particles..][..self.particles].to_vec();
        let population = |b: usize| Population {
            log_weights: of_prompt(&log_weights, b),
            psi: of_prompt(&psi, b),
            // The device knows no potential that keeps anything.
            kept: vec![f64::NEG_INFINITY; self.particles],
            lambda: lambda[b],
            log_z: log_z[b],
        };
        Ok((0..self.prompts.len()).map(population).collect())
    }

    /// One weighing event of all prompts. `log_ratio` and `rewards` have one number per slot, prompt after
    /// prompt.
    ///
    /// # Errors
    /// Of the backend.
    #[track_caller]
    pub fn weigh(
        &mut self,
        cuda: &Cuda,
        log_ratio: &Array64,
        rewards: &Array64,
        weighing: Weighing<'_>,
    ) -> Result<Decision> {
        let (prompts, particles) = (self.prompts.len(), self.particles);
        let slots = prompts * particles;
        assert_eq!((log_ratio.len(), rewards.len()), (slots, slots), "one number per slot");
        let mut record = Array64::alloc(cuda, prompts * record_len(particles))?;
        let input = WeighInput {
            log_ratio: log_ratio.read(),
            narrow: In::none(),
            wide: rewards.read(),
            states: In::none(),
            noises: In::none(),
            grads: In::none(),
        };
        let (ancestors, strength) = self.weigh_into(cuda, input, weighing, Out::none(), record.write())?;
        Ok(Decision { ancestors, strength, record, particles })
    }

    /// The same, with the rewards it weighed by written to `rewards`, and the record to `record`:
    /// [`record_len`] numbers of each prompt. Returns ancestors and strengths.
    pub(super) fn weigh_into(
        &mut self,
        cuda: &Cuda,
        input: WeighInput<'_>,
        weighing: Weighing<'_>,
        rewards: Out<'_, f64>,
        record: Out<'_, f64>,
    ) -> Result<(Buffer, Buffer)> {
        let (prompts, particles) = (self.prompts.len(), self.particles);
        let slots = prompts * particles;
        let Weighing { rules, event, step, seed, alpha, gather, bound } = weighing;
        let (floor, floor_next) = match event {
            Event::Step(j) => rules.tempering.schedule(j),
            Event::Final => (1.0, 1.0),
            Event::Thin(_) => panic!("particles are thinned by the host engine"),
        };
        let p = WeighParams {
            seed,
            floor,
            floor_next,
            target: rules.ess_threshold * particles as f64,
            below: rules.resample_below(particles),
            alpha,
            uniform: weights::uniform(particles)[0],
            bound: bound.unwrap_or(f64::INFINITY),
            step,
            purpose: Purpose::Resample as u32,
            particles: particles as i32,
            resampler: rules.resampler as i32,
            adaptive: i32::from(matches!(rules.tempering, Tempering::Adaptive { .. })),
            first: i32::from(event == Event::Step(0)),
            last: i32::from(event == Event::Final),
            gather: i32::from(gather),
        };
        if particles > ONE_LAUNCH {
            return self.weigh_rows(cuda, input, rules.resampler, rewards, record, p);
        }
        let mut ancestors = cuda.device.alloc(Elem::U32, slots)?;
        let mut strength = cuda.device.alloc(Elem::F32, slots)?;
        cuda.weigh.weigh(
            &cuda.device,
            Launch::line(prompts, particles.next_multiple_of(32) as u32),
            input.log_ratio,
            input.narrow,
            input.wide,
            input.states,
            input.noises,
            input.grads,
            self.prompts.u32(),
            rewards,
            self.log_weights.write(),
            self.psi.write(),
            self.lambda.write(),
            self.log_z.write(),
            ancestors.write(Elem::U32),
            strength.f32_mut(),
            record,
            p,
        )?;
        Ok((ancestors, strength))
    }

    /// The same for more particles than one launch weighs. Ancestors are chosen whether the event resamples
    /// or not, since only the device knows, and taken where it does.
    fn weigh_rows(
        &mut self,
        cuda: &Cuda,
        input: WeighInput<'_>,
        resampler: Resampler,
        rewards: Out<'_, f64>,
        mut record: Out<'_, f64>,
        p: WeighParams,
    ) -> Result<(Buffer, Buffer)> {
        let (device, prompts, particles) = (&cuda.device, self.host_prompts.len(), self.particles);
        let slots = prompts * particles;
        assert!(slots < 1 << 31, "{slots} slots");
        // Each prompt's begin at a multiple of 16 bytes.
        let stride = particles.next_multiple_of(2);
        let mut relative = Array64::alloc(cuda, prompts * stride)?;
        cuda.weigh.weigh_rows(
            device,
            Launch::line(prompts, ONE_LAUNCH as u32),
            input.log_ratio,
            input.narrow,
            input.wide,
            input.states,
            input.noises,
            rewards,
            self.log_weights.read(),
            self.psi.read(),
            self.lambda.write(),
            self.log_z.write(),
            relative.write(),
            record.reborrow(),
            p,
        )?;
        let mut chosen = device.alloc(Elem::U32, slots)?;
        if p.last == 0 {
            for (b, &prompt) in self.host_prompts.iter().enumerate() {
                let key = Key { seed: p.seed, prompt, particle: 0, step: p.step, purpose: Purpose::Resample };
                let mut all = chosen.write(Elem::U32);
                let own = all.part(b * particles);
                let weights = relative.part(b * stride, particles);
                resample::choose(cuda, weights, particles, resampler, &key, own)?;
            }
        }
        let mut ancestors = device.alloc(Elem::U32, slots)?;
        let mut strength = device.alloc(Elem::F32, slots)?;
        cuda.weigh.settle(
            device,
            Launch::cover(slots, 256),
            chosen.u32(),
            input.grads,
            self.log_weights.write(),
            self.psi.write(),
            ancestors.write(Elem::U32),
            strength.f32_mut(),
            record,
            slots as i32,
            p,
        )?;
        Ok((ancestors, strength))
    }
}

impl Decision {
    /// What [`smc::weigh`](crate::smc::weigh) would have returned for each prompt, and log Z after the event.
    /// Waits for the device.
    ///
    /// # Errors
    /// Of the backend.
    pub fn download(&self, cuda: &Cuda) -> Result<Vec<(Weighed, f64)>> {
        Ok(read(&self.record.download::<f64>(cuda)?, self.particles))
    }

    /// Ancestors (index into the batch) and strengths of the slots. Waits for the device.
    ///
    /// # Errors
    /// Of the backend.
    pub fn moves(&self, cuda: &Cuda) -> Result<(Vec<u32>, Vec<f32>)> {
        let mut ancestors = vec![0_u32; self.ancestors.len()];
        let mut strength = vec![0_f32; self.strength.len()];
        cuda.device.copy_out(&self.ancestors, bytemuck::cast_slice_mut(&mut ancestors))?;
        cuda.device.copy_out(&self.strength, bytemuck::cast_slice_mut(&mut strength))?;
        Ok((ancestors, strength))
    }
}

/// Length of the record of one prompt.
pub fn record_len(particles: usize) -> usize {
    HEAD + 4 * particles
}

/// What the records of prompts of `n` particles say: the event, and log Z after it.
pub fn read(record: &[f64], n: usize) -> Vec<(Weighed, f64)> {
    let read = |row: &[f64]| {
        let (head, lists) = row.split_at(HEAD);
        let list = |i: usize| lists[i * n..][..n].to_vec();
        let ancestors: Vec<u32> = list(3).iter().map(|&a| a as u32).collect();
        let (log_weights, twist, resampled) = (list(0), list(2), head[5] != 0.0);
        let weighed = Weighed {
            kept: vec![f64::NEG_INFINITY; n],
            lambda: head[0],
            lambda_next: head[1],
            increment: list(1),
            log_z_increment: head[2],
            ess: head[3],
            collapsed: head[6] != 0.0,
            resampled,
            psi: ancestors.iter().map(|&a| twist[a as usize]).collect(),
            ancestors,
            twist,
            next_log_weights: if resampled { weights::uniform(n) } else { log_weights.clone() },
            log_weights,
        };
        (weighed, head[4])
    };
    record.chunks_exact(record_len(n)).map(read).collect()
}
