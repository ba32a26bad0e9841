//! Weighing events on the device: every number, every ancestor and every state bit for bit that of
//! `smc::weigh`.

use das_cuda::cuda::testing::{Array64, Populations, Weighing};
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::noise::{Key, Purpose, Uniforms, uniforms};
use das_cuda::smc::{Event, Floor, Population, Potentials, Resampler, Rules, Tempering, Weighed, weigh};

use crate::device;
use crate::note;

/// What rewards and density ratios look like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Spread by a few units.
    Usual,
    /// Some particles are dead, each in another way.
    SomeDead,
    AllDead,
    /// One particle has all the weight.
    OneHot,
    Equal,
    /// Spread over 2000 units: most weights vanish.
    Array64,
}

const KINDS: [Kind; 6] =
    [Kind::Usual, Kind::SomeDead, Kind::AllDead, Kind::OneHot, Kind::Equal, Kind::Array64];

fn stream(particle: u32, step: u32) -> Uniforms {
    uniforms(Key { seed: 77, prompt: 0, particle, step, purpose: Purpose::Data })
}

/// `(log ratio, reward)` of each slot.
fn inputs(kind: Kind, slots: usize, u: &mut Uniforms) -> (Vec<f64>, Vec<f64>) {
    let mut ratio: Vec<f64> = (0..slots).map(|_| 2.0 * u.draw() - 1.0).collect();
    let mut reward: Vec<f64> = (0..slots).map(|_| 6.0 * u.draw()).collect();
    for p in 0..slots {
        match kind {
            Kind::Usual => {}
            Kind::SomeDead => match (8.0 * u.draw()) as u32 {
                0 => reward[p] = f64::NAN,
                1 => reward[p] = f64::INFINITY,
                2 => ratio[p] = f64::NAN,
                3 => ratio[p] = f64::NEG_INFINITY,
                _ => {}
            },
            Kind::AllDead => reward[p] = f64::NAN,
            Kind::OneHot => reward[p] = if p == slots / 2 { 1e4 } else { -1e4 },
            Kind::Equal => (ratio[p], reward[p]) = (-0.25, 3.5),
            Kind::Array64 => reward[p] = 2000.0 * u.draw(),
        }
    }
    (ratio, reward)
}

/// Bits of everything, so that zeros have signs and NaN equals itself.
fn bits(x: &[f64]) -> Vec<u64> {
    x.iter().map(|x| x.to_bits()).collect()
}

type Bits = (Vec<u64>, Vec<Vec<u64>>, Vec<u32>, [bool; 2]);

fn weighed_bits(w: &Weighed) -> Bits {
    (
        bits(&[w.lambda, w.lambda_next, w.log_z_increment, w.ess]),
        [&w.log_weights, &w.increment, &w.twist, &w.psi, &w.next_log_weights].map(|x| bits(x)).to_vec(),
        w.ancestors.clone(),
        [w.collapsed, w.resampled],
    )
}

fn population_bits(p: &Population) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    (bits(&p.log_weights), bits(&p.psi), bits(&[p.lambda, p.log_z]))
}

struct Chain {
    rules: Rules,
    kind: Kind,
    prompts: usize,
    particles: usize,
    gather: bool,
}

impl Chain {
    /// Four events and the final one, on both sides. Counts the resamplings.
    fn run(&self, cuda: &Cuda, number: u32) -> usize {
        let Chain { rules, kind, prompts, particles, gather } = self;
        let what = format!("{prompts} x {particles}, {kind:?}, {rules:?}");
        let numbers: Vec<u32> = (0..*prompts as u32).map(|b| (1 << 28) - 1 - 5 * b).collect();
        let mut host = vec![Population::new(*particles); *prompts];
        let mut device = Populations::new(cuda, &numbers, *particles).unwrap();
        let mut resamplings = 0;
        for event in 0..5 {
            let event_kind = if event == 4 { Event::Final } else { Event::Step(event) };
            // A population of dead particles in the middle of the chain goes on.
            let kind = if *kind == Kind::AllDead && event != 1 { Kind::Usual } else { *kind };
            let (ratio, reward) = inputs(kind, prompts * particles, &mut stream(number, event as u32));
            let (seed, step, alpha) = (0xFEDC_BA98_7654_3210, 40 + event as u32, 0.37);
            let weighing =
                Weighing { rules, event: event_kind, step, seed, alpha, gather: *gather, bound: None };
            let up = |x: &[f64]| Array64::upload(cuda, x).unwrap();
            let decision = device.weigh(cuda, &up(&ratio), &up(&reward), weighing).unwrap();
            let found = decision.download(cuda).unwrap();
            let (ancestors, strength) = decision.moves(cuda).unwrap();
            let state = device.download(cuda).unwrap();
            for b in 0..*prompts {
                let key = Key { seed, prompt: numbers[b], particle: 0, step, purpose: Purpose::Resample };
                let mut u = uniforms(key);
                let slots = b * particles..(b + 1) * particles;
                let ratio = &ratio[slots.clone()];
                let potential: Vec<f64> = reward[slots.clone()].iter().map(|r| r / alpha).collect();
                let wanted = weigh(rules, &host[b], event_kind, ratio, &potential, &mut || u.draw());
                host[b] = host[b].after(&wanted);
                if !gather {
                    host[b].psi.clone_from(&wanted.twist);
                }
                let what = format!("{what}, event {event}, prompt {b}");
                assert_eq!(weighed_bits(&found[b].0), weighed_bits(&wanted), "{what}");
                assert_eq!(found[b].1.to_bits(), host[b].log_z.to_bits(), "{what}");
                assert_eq!(population_bits(&state[b]), population_bits(&host[b]), "{what}");
                let batch: Vec<u32> = wanted.ancestors.iter().map(|a| slots.start as u32 + a).collect();
                assert_eq!(ancestors[slots.clone()], batch, "{what}");
                assert!(strength[slots].iter().all(|&s| s == (wanted.lambda_next / alpha) as f32), "{what}");
                resamplings += usize::from(wanted.resampled);
            }
        }
        resamplings
    }
}

const TEMPERINGS: [Tempering; 6] = [
    Tempering::Exp { gamma: 0.2 },
    Tempering::None,
    Tempering::Poly { gamma: 0.3, power: 2.0 },
    Tempering::Adaptive { floor: Floor::Last },
    Tempering::Adaptive { floor: Floor::Exp { gamma: 0.2 } },
    Tempering::Adaptive { floor: Floor::Poly { gamma: 0.3, power: 0.5 } },
];

fn weighing_is_bit_for_bit_that_of_the_host() {
    let cuda = device::open(Elem::F32);
    let (mut chains, mut resamplings) = (0_u32, 0);
    for particles in [1, 2, 4, 16, 31, 32, 33, 64, 1000, 1024] {
        for resampler in Resampler::ALL {
            for kind in KINDS {
                // Large populations take a part of the combinations in turn.
                if particles >= 1000 && !(chains + kind as u32).is_multiple_of(3) {
                    chains += 1;
                    continue;
                }
                let tempering = TEMPERINGS[chains as usize % TEMPERINGS.len()];
                let adaptive = matches!(tempering, Tempering::Adaptive { .. });
                let ess_threshold = if adaptive { 0.5 } else { [0.5, 2.0, 0.9][chains as usize % 3] };
                let chain = Chain {
                    rules: Rules {
                        tempering,
                        resampler,
                        ess_threshold,
                        max_shift: None,
                        potentials: Potentials::Difference,
                    },
                    kind,
                    prompts: [1, 3][chains as usize % 2],
                    particles,
                    gather: !chains.is_multiple_of(5),
                };
                resamplings += chain.run(&cuda, chains);
                // Prime to the numbers of temperings, thresholds and kinds.
                chains += 1;
            }
        }
        chains += 1;
    }
    note!("{chains} chains, {resamplings} resamplings");
    assert!(resamplings > 500);
}

/// Every tempering with every kind of population.
fn every_tempering_meets_every_population() {
    let cuda = device::open(Elem::F32);
    for (i, tempering) in TEMPERINGS.into_iter().enumerate() {
        for (j, kind) in KINDS.into_iter().enumerate() {
            for particles in [16, 40] {
                let rules = Rules {
                    tempering,
                    resampler: Resampler::ALL[(i + j) % 5],
                    ess_threshold: 0.5,
                    max_shift: None,
                    potentials: Potentials::Difference,
                };
                Chain { rules, kind, prompts: 2, particles, gather: true }.run(&cuda, (100 * i + j) as u32);
            }
        }
    }
}

/// The comparison sees other uniforms, and the resamplers are not one another.
fn other_uniforms_and_other_rules_choose_other_ancestors() {
    let cuda = device::open(Elem::F32);
    let (ratio, reward) = inputs(Kind::Usual, 64, &mut stream(1, 1));
    let ancestors = |resampler, seed| {
        let rules = Rules {
            tempering: Tempering::None,
            resampler,
            ess_threshold: 2.0,
            max_shift: None,
            potentials: Potentials::Difference,
        };
        let weighing = Weighing {
            rules: &rules,
            event: Event::Step(0),
            step: 1,
            seed,
            alpha: 1.0,
            gather: true,
            bound: None,
        };
        let up = |x: &[f64]| Array64::upload(&cuda, x).unwrap();
        let mut population = Populations::new(&cuda, &[3], 64).unwrap();
        let decision = population.weigh(&cuda, &up(&ratio), &up(&reward), weighing).unwrap();
        decision.moves(&cuda).unwrap().0
    };
    let mut seen: Vec<Vec<u32>> =
        Resampler::ALL.into_iter().flat_map(|r| [1, 2].map(|seed| ancestors(r, seed))).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10);
}

/// More particles than one launch weighs: a part of a row, whole rows, several tiles of the resampler, odd
/// and even.
fn large_populations_are_weighed_as_on_the_host() {
    let cuda = device::open(Elem::F32);
    let (mut chains, mut resamplings) = (0_u32, 0);
    for (particles, kinds) in
        [(1025, &KINDS[..]), (2048, &KINDS[..3]), (5000, &KINDS[..]), (12_291, &KINDS[..1])]
    {
        for &kind in kinds {
            let tempering = TEMPERINGS[chains as usize % TEMPERINGS.len()];
            let adaptive = matches!(tempering, Tempering::Adaptive { .. });
            let ess_threshold = if adaptive { 0.5 } else { [0.5, 2.0, 0.9][chains as usize % 3] };
            let chain = Chain {
                rules: Rules {
                    tempering,
                    resampler: Resampler::ALL[chains as usize % 5],
                    ess_threshold,
                    max_shift: None,
                    potentials: Potentials::Difference,
                },
                kind,
                prompts: if particles == 1025 { 3 } else { 1 },
                particles,
                gather: !chains.is_multiple_of(4),
            };
            resamplings += chain.run(&cuda, 1000 + chains);
            chains += 1;
        }
    }
    note!("{chains} chains, {resamplings} resamplings");
    assert!(resamplings > 20);
}

crate::tests![
    weighing_is_bit_for_bit_that_of_the_host,
    large_populations_are_weighed_as_on_the_host,
    every_tempering_meets_every_population,
    other_uniforms_and_other_rules_choose_other_ancestors,
];
