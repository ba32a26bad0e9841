//! Steps of a run queued on the GPU: squared lengths, the weighing event and the move of each step follow one
//! another in the stream, and their results are copied into memory of the host by the same stream. The host
//! waits for a step only when it collects the report of that step.

use std::collections::VecDeque;

use super::array64::Array64;
use super::particle::{self, Chunks, Slots};
use super::weigh::{self, MOST, Populations, WeighInput, Weighing};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Buffer, Elem, In, Pinned};
use crate::engine::{EngineSetup, EngineState, FinalInput, Scores, StepEngine, StepInput, StepReport};
use crate::error::Result;
use crate::smc::{Event, Rules, Weighed};
use crate::tensor::Tensor;

/// See [`EngineBackend::step_engine`](crate::engine::EngineBackend::step_engine).
pub fn step_engine<'a>(cuda: &'a Cuda, setup: EngineSetup<'_>) -> Result<Option<Box<dyn StepEngine + 'a>>> {
    let (slots, prompts) = (setup.ids.len(), setup.prompts.len());
    let particles = slots / prompts.max(1);
    if !(1..=MOST).contains(&particles) {
        return Ok(None);
    }
    let mut no_guidance = cuda.device.alloc(Elem::F32, slots)?;
    cuda.device.clear(&mut no_guidance)?;
    let mut last = Array64::alloc(cuda, record_len(slots, prompts))?;
    last.clear(cuda)?;
    Ok(Some(Box::new(Queue {
        cuda,
        rules: *setup.rules,
        alpha: setup.alpha,
        seed: setup.seed,
        populations: Populations::new(cuda, setup.prompts, particles)?,
        ids: particle::upload_ids(cuda, setup.ids)?,
        own_slots: cuda.indices(&(0..slots as u32).collect::<Vec<_>>())?,
        no_guidance,
        chunks: Chunks::new(cuda, setup.sample, slots, 3)?,
        last,
        state: EngineState::new(prompts, particles),
        prompts: setup.prompts.to_vec(),
        particles,
        under_way: VecDeque::new(),
        free: Vec::new(),
    })))
}

/// Length of the record of one step: five numbers of each slot ([`StepReport`] and the log ratio), then what
/// `weigh` records of each prompt.
fn record_len(slots: usize, prompts: usize) -> usize {
    5 * slots + prompts * weigh::record_len(slots / prompts)
}

struct Queue<'a> {
    cuda: &'a Cuda,
    rules: Rules,
    alpha: f64,
    seed: u64,
    populations: Populations,
    ids: Buffer,
    /// Ancestors of a step that weighs nothing: every slot its own.
    own_slots: Buffer,
    /// Strengths of the guidance of such a step: 0.
    no_guidance: Buffer,
    chunks: Chunks,
    /// Record of the step queued last. Its log ratios enter the weights of the next one.
    last: Array64,
    prompts: Vec<u32>,
    particles: usize,
    /// After the step collected last.
    state: EngineState,
    under_way: VecDeque<UnderWay>,
    /// Host memory of reports that have been read, for further ones.
    free: Vec<Pinned>,
}

/// A copy of the record of a step, on its way to the host.
struct UnderWay {
    place: Pinned,
    graded: bool,
    weighed: bool,
}

impl Queue<'_> {
    fn slots(&self) -> usize {
        self.prompts.len() * self.particles
    }
}

impl StepEngine for Queue<'_> {
    fn submit(&mut self, input: StepInput<'_>) -> Result<Tensor> {
        // What a step leaves for the next one cannot belong to a graph.
        self.cuda.device.capture().before_wait()?;
        let (cuda, n) = (self.cuda, self.slots());
        let StepInput { x, particles, event, held, shift, look, advance } = input;
        assert!(held.is_empty() && shift.is_empty() && look.is_none(), "steps of the host engine");
        assert_eq!(particles.x0.shape().n, n, "one state per slot");
        let graded = particles.grad.is_some();
        let mut record = Array64::alloc(cuda, self.last.len())?;
        // Parts of the record that no kernel writes are 0.
        if !graded || event.is_none() || advance.variance == 0.0 {
            record.clear(cuda)?;
        }
        let [mut norms, rewards, log_ratio, report] = record.parts([3 * n, n, n, self.last.len() - 5 * n]);
        let all = [Some(x), Some(particles.eps), particles.grad];
        let all: Vec<&Tensor> = all.into_iter().flatten().collect();
        particle::squares_into(cuda, &all, norms.reborrow(), &mut self.chunks)?;
        let [states, noises, grads] = [0, 1, 2].map(|i| norms.read_at(i * n));
        let decided = match event {
            Some((event, scores)) => {
                let (narrow, wide) = match scores {
                    Scores::Device(scores) => (Some(cuda.cast(scores, Elem::F32)?), None),
                    Scores::Host(scores) => (None, Some(Array64::upload(cuda, scores)?)),
                };
                let given = narrow.as_ref().map(|x| x.shape().len()).or(wide.as_ref().map(Array64::len));
                assert_eq!(given, Some(n), "one reward per particle");
                let weigh_input = WeighInput {
                    log_ratio: self.last.part(4 * n, n),
                    narrow: narrow.as_ref().map_or(In::none(), |x| cuda.buffer(x).f32()),
                    wide: wide.as_ref().map_or(In::none(), Array64::read),
                    states,
                    noises,
                    grads: if graded { grads } else { In::none() },
                };
                let weighing = Weighing {
                    rules: &self.rules,
                    event,
                    step: advance.step,
                    seed: self.seed,
                    alpha: self.alpha,
                    gather: true,
                    bound: self.rules.drift_bound(f64::from(advance.kappa), f64::from(advance.variance)),
                };
                Some(self.populations.weigh_into(cuda, weigh_input, weighing, rewards, report)?)
            }
            None => None,
        };
        let undecided = (&self.own_slots, &self.no_guidance);
        let (ancestors, strength) = decided.as_ref().map_or(undecided, |(a, s)| (a, s));
        let slots = Slots { ids: &self.ids, ancestors, strength };
        let grads = if graded { grads } else { In::none() };
        let y = particle::advance_into(cuda, particles, slots, grads, advance, log_ratio, &mut self.chunks)?;

        let mut place = match self.free.pop() {
            Some(place) => place,
            None => cuda.device.pinned(8 * record.len())?,
        };
        cuda.device.copy_behind(record.words(), &mut place)?;
        self.last = record;
        self.under_way.push_back(UnderWay { place, graded, weighed: event.is_some() });
        Ok(y)
    }

    #[track_caller]
    fn collect(&mut self) -> Result<StepReport> {
        let n = self.slots();
        let Some(UnderWay { place, graded, weighed }) = self.under_way.pop_front() else {
            panic!("no input is under way")
        };
        let numbers: Vec<f64> = bytemuck::pod_collect_to_vec(self.cuda.device.arrived(&place)?);
        self.free.push(place);
        let list = |i: usize, there: bool| if there { numbers[i * n..][..n].to_vec() } else { Vec::new() };
        let events = if weighed { weigh::read(&numbers[5 * n..], self.particles) } else { Vec::new() };
        let events: Vec<Weighed> = events.into_iter().map(|(weighed, _)| weighed).collect();
        self.state.advance(&events, list(4, true));
        Ok(StepReport {
            states: list(0, true),
            noises: list(1, true),
            grads: list(2, graded),
            rewards: list(3, weighed),
            weighed: events,
        })
    }

    /// While the host reads the record of one step, the device works on the next.
    fn lookahead(&self) -> usize {
        1
    }

    fn finish(&mut self, input: FinalInput<'_>) -> Result<StepReport> {
        assert!(self.under_way.is_empty(), "a step has not been collected");
        let (cuda, n) = (self.cuda, self.slots());
        assert_eq!(input.rewards.len(), n, "one reward per slot");
        let mut record = Array64::alloc(cuda, self.last.len())?;
        record.clear(cuda)?;
        let [mut norms, _, rewards, _, report] = record.parts([n, 2 * n, n, n, self.last.len() - 5 * n]);
        particle::squares_into(cuda, &[input.x], norms.reborrow(), &mut self.chunks)?;
        let scores = Array64::upload(cuda, input.rewards)?;
        let weigh_input = WeighInput {
            log_ratio: self.last.part(4 * n, n),
            narrow: In::none(),
            wide: scores.read(),
            states: norms.read_at(0),
            noises: norms.read_at(0),
            grads: In::none(),
        };
        let weighing = Weighing {
            rules: &self.rules,
            event: Event::Final,
            step: input.step,
            seed: self.seed,
            alpha: self.alpha,
            gather: true,
            bound: None,
        };
        self.populations.weigh_into(cuda, weigh_input, weighing, rewards, report)?;
        let numbers: Vec<f64> = record.download(cuda)?;
        let events = weigh::read(&numbers[5 * n..], self.particles);
        let weighed: Vec<Weighed> = events.into_iter().map(|(weighed, _)| weighed).collect();
        self.state.advance(&weighed, vec![0.0; n]);
        let list = |i: usize| numbers[i * n..][..n].to_vec();
        Ok(StepReport { states: list(0), rewards: list(3), weighed, ..StepReport::default() })
    }

    fn state(&self) -> &EngineState {
        &self.state
    }

    fn restore(&mut self, state: EngineState) -> Result<()> {
        let n = self.slots();
        assert_eq!(
            (state.populations.len(), state.log_ratio.len()),
            (self.prompts.len(), n),
            "another setup"
        );
        // Copies that are under way must land before their places serve again.
        while let Some(UnderWay { place, .. }) = self.under_way.pop_front() {
            self.cuda.device.arrived(&place)?;
            self.free.push(place);
        }
        self.populations = Populations::upload(self.cuda, &self.prompts, &state.populations)?;
        let mut last = vec![0.0; self.last.len()];
        last[4 * n..5 * n].copy_from_slice(&state.log_ratio);
        self.last = Array64::upload(self.cuda, &last)?;
        self.state = state;
        Ok(())
    }
}
