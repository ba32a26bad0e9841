//! Sequential Monte Carlo on plain slices, one prompt at a time: the whole weighing event of
//! docs/spec.md 2.3. The sampler's engine for any backend (`sampler/host.rs`) calls it; tests compare the
//! CUDA kernels with it bit for bit.
//!
//! ```text
//! lw += log p/m of the move + lambda l - psi of the ancestor
//! c   = log sum exp lw;  log Z += c;  lw -= c
//! ESS < threshold P  =>  ancestors by W, lw = -log P, psi gathered
//! candidates        =>  once: fewer survivors by W, each at most once, with weights of their own
//! ```

pub mod error_bar;
pub mod math;
pub mod potentials;
pub mod resample;
pub mod temper;
pub mod thin;
pub mod weights;

pub use potentials::Potentials;
pub use resample::{Resampler, draw};
pub use temper::{Floor, Tempering};
pub use thin::thin;
pub use weights::{Weights, log_sum_exp};

/// How to weigh, and how far to shift: the same for all prompts and steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How lambda rises over the steps.
    pub tempering: Tempering,
    /// How ancestors are chosen.
    pub resampler: Resampler,
    /// Resample when the effective sample size is below this fraction of P (strictly): 0 never, 1 unless the
    /// weights are exactly equal, above 1 always.
    pub ess_threshold: f64,
    /// Bound on the shift of the mean by the reward's gradient, `kappa v s |g|`, in standard deviations
    /// `sqrt(v)` of the move's noise; a longer shift is shortened to it. `None`: no bound, as in the paper.
    /// Any shift is a valid proposal, since the weights contain its density ratio (docs/spec.md 1.3, 1.4);
    /// but a shift of `c` standard deviations adds about `c` to the scatter of a log-weight.
    pub max_shift: Option<f64>,
    /// What becomes of the rewards that a particle and its ancestors have had.
    pub potentials: Potentials,
}

/// The strength `s` of the drift of a particle whose gradient has squared length `squared_norm`:
/// `lambda_next / alpha`, or as much less as keeps `s |g|` within `bound`. A gradient that is not finite is
/// not followed anyway.
pub fn strength(lambda_next: f64, alpha: f64, bound: Option<f64>, squared_norm: f64) -> f32 {
    let (full, length) = (lambda_next / alpha, squared_norm.sqrt());
    match bound {
        Some(bound) if length.is_finite() && full * length > bound => (bound / length) as f32,
        _ => full as f32,
    }
}

/// How far above the threshold, relatively, an effective sample size still counts as below it where lambda is
/// adaptive: far more than rounding, far less than anybody can see.
const LANDING: f64 = 1e-9;

impl Rules {
    /// The largest `s |g|` that [`max_shift`](Rules::max_shift) allows for a move with this variance and
    /// factor of the drift.
    pub fn drift_bound(&self, kappa: f64, variance: f64) -> Option<f64> {
        self.max_shift.map(|most| most / (kappa * variance.sqrt()))
    }

    /// Effective sample size of `particles` below which an event resamples (strictly).
    ///
    /// An adaptive lambda aims at the threshold and lands on it up to rounding. That is to count as below, on
    /// every device and whatever the last digit: the particles are resampled, and lambda can rise again at
    /// the next event.
    pub fn resample_below(&self, particles: usize) -> f64 {
        let threshold = self.ess_threshold * particles as f64;
        match self.tempering {
            Tempering::Adaptive { .. } => threshold * (1.0 + LANDING),
            _ => threshold,
        }
    }
}

/// Which event of the chain is weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Guided step `j`, counted from the first guided one: the potential of the predicted clean image.
    Step(usize),
    /// The first look at the rewards of many candidates, by the full potential of the predicted clean image:
    /// this many of them go on ([`thin()`]). The move that follows is not guided.
    Thin(usize),
    /// The end of the chain: the true reward, factor 1, no resampling.
    Final,
}

/// What one prompt's particles carry from event to event. Slot `p` of every field is the same particle.
#[derive(Clone, Debug, PartialEq)]
pub struct Population {
    /// Normalised log-weights, P.
    pub log_weights: Vec<f64>,
    /// Log twist of each particle at the last event, P; 0 for a dead one. The sum of the logarithms of its
    /// potentials so far.
    pub psi: Vec<f64>,
    /// What [`Potentials`] keep of the particle's tempered rewards, P; minus infinity before the first event
    /// and where they keep nothing.
    pub kept: Vec<f64>,
    /// Lambda of the last event.
    pub lambda: f64,
    /// Log of the estimate of Z so far; -inf once every particle died.
    pub log_z: f64,
}

impl Population {
    /// Equal weights and no twist: the particles before any event.
    #[track_caller]
    pub fn new(particles: usize) -> Population {
        assert!(particles > 0, "no particles");
        Population {
            log_weights: weights::uniform(particles),
            psi: vec![0.0; particles],
            kept: vec![f64::NEG_INFINITY; particles],
            lambda: 0.0,
            log_z: 0.0,
        }
    }

    /// The population after an event. The caller gathers everything else that a particle has (its latent, its
    /// gradient and so on) by `weighed.ancestors`.
    pub fn after(&self, weighed: &Weighed) -> Population {
        Population {
            log_weights: weighed.next_log_weights.clone(),
            psi: weighed.psi.clone(),
            kept: weighed.kept.clone(),
            lambda: weighed.lambda,
            log_z: self.log_z + weighed.log_z_increment,
        }
    }
}

/// Everything one event decided.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Weighed {
    /// Factor of the potential in the weights.
    pub lambda: f64,
    /// Factor of the guidance of the move that follows.
    pub lambda_next: f64,
    /// Normalised log-weights of the slots, before any resampling.
    pub log_weights: Vec<f64>,
    /// Incremental log-weights of the slots, -inf for dead particles.
    pub increment: Vec<f64>,
    /// Log of the factor this event contributes to the estimate of Z.
    pub log_z_increment: f64,
    /// Effective sample size before any resampling, in [1, P].
    pub ess: f64,
    /// Every particle was dead and the weights were made equal again.
    pub collapsed: bool,
    /// Whether the ancestors were drawn; if not they are the identity.
    pub resampled: bool,
    /// Slot `p` goes on as particle `ancestors[p]`; the identity without resampling. As many as particles go
    /// on: fewer than P where they were thinned.
    pub ancestors: Vec<u32>,
    /// Log twist of the slots before the gather, 0 for dead particles.
    pub twist: Vec<f64>,
    /// Log twist of the particles that go on: `twist` gathered by `ancestors`.
    pub psi: Vec<f64>,
    /// What the potentials keep of the rewards of the particles that go on.
    pub kept: Vec<f64>,
    /// Log-weights to go on with: `-log P` after resampling, those of [`thin()`] after thinning, else
    /// `log_weights`.
    pub next_log_weights: Vec<f64>,
}

/// One weighing event of one prompt (docs/spec.md 1.4, 1.5, 2.5, 4): increment, tempering, normalisation, log
/// Z, effective sample size, the decision to resample and the ancestors.
///
/// `log_ratio` is `log p - log m` of the move that made each particle (0 for the first event and in the
/// unguided phase), `potential` its `reward / alpha`. A particle whose potential, ratio or weight is not
/// finite is dead. `uniforms` is drawn from only if the event resamples.
#[track_caller]
pub fn weigh(
    rules: &Rules,
    population: &Population,
    event: Event,
    log_ratio: &[f64],
    potential: &[f64],
    uniforms: &mut impl FnMut() -> f64,
) -> Weighed {
    let particles = population.log_weights.len();
    assert_eq!(potential.len(), particles, "particles differ in number");
    let (lambda, lambda_next) = lambdas(rules, population, event, log_ratio, potential);

    // lambda = 0 must not turn an infinite potential into a finite twist.
    let raw: Vec<f64> = potential.iter().map(|l| if l.is_finite() { lambda * l } else { *l }).collect();
    // At the end the twist is the whole reward, whatever the potentials before it were: their product is
    // exp(r / alpha), and the target what it would be without them.
    let (kept, raw) = match event {
        Event::Final => (population.kept.clone(), raw),
        Event::Step(_) | Event::Thin(_) => rules.potentials.twist(raw, &population.psi, &population.kept),
    };
    let increment = weights::increment(&population.log_weights, log_ratio, &raw, &population.psi);
    let log_weights = weights::reweigh(&population.log_weights, log_ratio, &raw, &population.psi);
    let weights = Weights::new(&log_weights);
    let alive = |p: usize| increment[p].is_finite();
    let twist: Vec<f64> = (0..particles).map(|p| if alive(p) { raw[p] } else { 0.0 }).collect();

    let below = weights.ess() < rules.resample_below(particles);
    let (resampled, ancestors, next_log_weights) = match event {
        Event::Thin(keep) => {
            let (kept, log_weights) = thin(&weights, keep, uniforms());
            (true, kept, log_weights)
        }
        Event::Step(_) if below => {
            let ancestors = rules.resampler.ancestors(weights.relative(), uniforms);
            (true, ancestors, weights::uniform(particles))
        }
        Event::Step(_) | Event::Final => {
            (false, (0..particles as u32).collect(), weights.log_weights().to_vec())
        }
    };
    Weighed {
        lambda,
        lambda_next,
        increment,
        log_z_increment: weights.log_sum(),
        ess: weights.ess(),
        collapsed: weights.collapsed(),
        resampled,
        psi: ancestors.iter().map(|&a| twist[a as usize]).collect(),
        kept: ancestors.iter().map(|&a| kept[a as usize]).collect(),
        ancestors,
        twist,
        next_log_weights,
        log_weights: weights.log_weights().to_vec(),
    }
}

fn lambdas(
    rules: &Rules,
    population: &Population,
    event: Event,
    log_ratio: &[f64],
    potential: &[f64],
) -> (f64, f64) {
    let j = match event {
        Event::Final => return (1.0, 1.0),
        Event::Thin(_) => return (1.0, 0.0),
        Event::Step(j) => j,
    };
    let (floor, floor_next) = rules.tempering.schedule(j);
    let Tempering::Adaptive { .. } = rules.tempering else { return (floor, floor_next) };
    let last = population.lambda;
    let lambda = if j == 0 {
        // The sequence of targets starts at the prior.
        floor
    } else {
        let base = weights::reweigh(
            &population.log_weights,
            log_ratio,
            &vec![0.0; potential.len()],
            &population.psi,
        );
        let base: Vec<f64> = base
            .iter()
            .zip(potential)
            .map(|(a, l)| if l.is_finite() { *a } else { f64::NEG_INFINITY })
            .collect();
        temper::adapt(&base, potential, rules.ess_threshold, last.max(floor).min(1.0))
    };
    // Look ahead by as much as lambda has just risen, or as the floor is about to rise.
    let rise = (lambda - last).max(floor_next - floor);
    (lambda, (lambda + rise).min(1.0))
}

#[cfg(test)]
mod tests;
