//! The choice between our kernels and cuBLASLt for linear maps. The first product of a problem is made by
//! both and timed. A candidate of the library replaces the current best only if it is at least 1.1 times as
//! fast and its result agrees with ours to within rounding. Decisions stay for the life of the process, so
//! that results repeat, and in a file (cache.rs), so that they repeat from run to run. Any failure leaves the
//! problem to our kernels.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::cache::{Cache, Choice};
use super::cublaslt::{Addresses, Library, Plan, pause};
use super::problem::{Output, Problem};
use crate::backend::Backend;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Elem, nvtx};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// Products in one measurement, and measurements, of which the fastest counts.
const TIMES: u32 = 2;
const ROUNDS: usize = 3;
/// Most further measurements of our kernels before the first candidate, while they are still getting faster.
const SETTLING: usize = 20;
/// How many times as fast a candidate must be as the best before it. Measurements scatter by a few percent,
/// and GPUs of one kind should decide alike.
const CLEARLY: f64 = 1.1;

/// How one problem was decided, for benches.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// What was decided.
    pub problem: Problem,
    /// Time of our kernels.
    pub ours: Duration,
    /// Time of the library's best algorithm, if it has any.
    pub library: Option<Duration>,
    /// Whether the library makes this problem from now on.
    pub taken: bool,
}

/// The library, and the decisions so far.
pub struct Autotuner {
    library: Library,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The library's plan, or `None` for our kernels.
    plans: HashMap<Problem, Option<Arc<Plan>>>,
    cache: Cache,
    outcomes: Vec<Outcome>,
}

impl Autotuner {
    /// `None` where the library is not found. Decisions of earlier runs are read from their usual place.
    pub fn new(cuda: &Cuda) -> Option<Autotuner> {
        let library = Library::find(&cuda.device)?;
        let (gpu, version, elem) = (cuda.device.model(), library.version(), cuda.elem().name());
        let cache = Cache::usual(&format!("{gpu} {version} {elem}"));
        Some(Autotuner { library, known: Mutex::new(Known { cache, ..Known::default() }) })
    }

    /// The same with decisions from and to this file, or only for this process.
    pub fn with_cache(self, file: Option<&Path>) -> Autotuner {
        let cache = Cache::open(file.map(Path::to_owned));
        Autotuner { known: Mutex::new(Known { cache, ..Known::default() }), ..self }
    }

    pub fn outcomes(&self) -> Vec<Outcome> {
        self.known().outcomes.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The result `(rows, columns)` of `problem`: by `own`, our kernels, or by the library's product followed
    /// by `finish`, the epilogue. The first product of a problem is made by both.
    ///
    /// # Errors
    /// Of `own` and `finish`; and while recording, if the problem is not decided, which postpones the
    /// recording.
    pub fn product(
        &self,
        cuda: &Cuda,
        problem: Problem,
        [x, w, bias, add]: [Option<&Tensor>; 4],
        own: &dyn Fn() -> Result<Output>,
        finish: &dyn Fn(Tensor) -> Result<Output>,
    ) -> Result<Output> {
        let address = |t: Option<&Tensor>| t.map_or(0, |t| cuda.buffer(t).address());
        let [x, w, bias, add] = [x, w, bias, add].map(address);
        let at = Addresses { x, w, bias, add, y: 0 };
        let known = self.known().plans.get(&problem).cloned();
        let plan = match known {
            Some(plan) => plan,
            None => match self.remembered(cuda, problem, bias) {
                Some(plan) => plan,
                None => {
                    // Recorded work cannot be timed, and to record our kernels for a problem that the library
                    // may win later would make other bits in the first run than in the next.
                    cuda.device.capture().before_once()?;
                    let ours = own()?;
                    match self.decide(cuda, problem, at, &ours.0, own, finish) {
                        None => return Ok(ours),
                        plan => plan,
                    }
                }
            },
        };
        let Some(plan) = plan else { return own() };
        let shape = Shape::rows(problem.rows, problem.columns);
        let y = cuda.alloc(cuda.elem(), shape)?;
        if plan.run(&self.library, cuda, Addresses { y: y.address(), ..at }).is_err() {
            self.known().plans.insert(problem, None);
            return own();
        }
        finish(cuda.wrap(shape, y))
    }

    /// The decision of an earlier run; `None` if there is none, or if the library has no such algorithm.
    fn remembered(&self, cuda: &Cuda, problem: Problem, bias: u64) -> Option<Option<Arc<Plan>>> {
        let choice = self.known().cache.get(&problem)?;
        let plan = match choice {
            Choice::Own => None,
            // The same version of the library proposes the same candidates in the same order.
            Choice::Library(n) => {
                let candidates = Plan::candidates(&self.library, cuda, problem, bias).ok()?;
                Some(Arc::new(candidates.into_iter().nth(n)?))
            }
        };
        self.known().plans.insert(problem, plan.clone());
        Some(plan)
    }

    /// Times the problem and keeps the decision.
    fn decide(
        &self,
        cuda: &Cuda,
        problem: Problem,
        at: Addresses,
        y: &Tensor,
        own: &dyn Fn() -> Result<Output>,
        finish: &dyn Fn(Tensor) -> Result<Output>,
    ) -> Option<Arc<Plan>> {
        let measured = self.measure(cuda, problem, at, y, own, finish);
        let mut known = self.known();
        let (outcome, best) = measured.unzip();
        if let Some(outcome) = outcome {
            nvtx::push(&outcome.line());
            nvtx::pop();
            known.outcomes.push(outcome);
        }
        let best = best.flatten();
        // If the measurement failed (for want of memory), the next run may try again.
        if outcome.is_some() {
            known.cache.add(problem, best.as_ref().map_or(Choice::Own, |(n, _)| Choice::Library(*n)));
        }
        let plan = best.map(|(_, plan)| Arc::new(plan));
        known.plans.entry(problem).or_insert(plan).clone()
    }

    /// Times our kernels, whose result is `y`, and then the library's candidates in its order. Returns the
    /// outcome, and the number and plan of the candidate that won, if one did; `None` if the measurement
    /// itself fails.
    fn measure(
        &self,
        cuda: &Cuda,
        problem: Problem,
        at: Addresses,
        y: &Tensor,
        own: &dyn Fn() -> Result<Output>,
        finish: &dyn Fn(Tensor) -> Result<Output>,
    ) -> Option<(Outcome, Option<(usize, Plan)>)> {
        let plans = Plan::candidates(&self.library, cuda, problem, at.bias).ok()?;
        let shape = Shape::rows(problem.rows, problem.columns);
        let to = cuda.alloc(cuda.elem(), shape).ok()?;
        let at = Addresses { y: to.address(), ..at };
        let product = cuda.wrap(shape, to);
        let mut ours = time(cuda, &|| own().ok().map(drop))?;
        // A GPU that was idle takes a while to reach its clock, and what is timed first must not pay for it.
        for _ in 0..SETTLING {
            let next = time(cuda, &|| own().ok().map(drop))?;
            let settled = next.as_secs_f64() > 0.95 * ours.as_secs_f64();
            ours = ours.min(next);
            if settled {
                break;
            }
        }
        let (mut best, mut library, mut taken) = (ours, None::<Duration>, None);
        for (n, plan) in plans.into_iter().enumerate() {
            let run = || {
                plan.run(&self.library, cuda, at).ok()?;
                finish(product.clone()).ok()
            };
            let Some(took) = time(cuda, &|| run().map(drop)) else { continue };
            library = Some(library.map_or(took, |least| least.min(took)));
            if best.as_secs_f64() > CLEARLY * took.as_secs_f64() && agree(cuda, y, &run()?.0)? {
                (best, taken) = (took, Some((n, plan)));
            }
        }
        let won = taken.is_some();
        let outcome = Outcome { problem, ours, library, taken: won };
        Some((outcome, taken))
    }
}

impl Outcome {
    /// For a profiler.
    fn line(&self) -> String {
        let us = |t: Duration| t.as_secs_f64() * 1e6;
        format!(
            "{}: {}x{}x{}, {:.1} us by cuBLASLt, {:.1} us by own kernels",
            if self.taken { "cuBLASLt" } else { "own" },
            self.problem.rows,
            self.problem.columns,
            self.problem.depth,
            self.library.map_or(f64::NAN, us),
            us(self.ours)
        )
    }
}

/// The least time that one `f` takes on the GPU; `None` where it fails.
fn time(cuda: &Cuda, f: &dyn Fn() -> Option<()>) -> Option<Duration> {
    let round = |_| {
        pause(cuda)?;
        let start = cuda.mark().ok()?;
        (0..TIMES).try_for_each(|_| f())?;
        Some(cuda.between(&start, &cuda.mark().ok()?).ok()? / TIMES)
    };
    // The first call pays for what the driver loads lazily.
    f()?;
    (0..ROUNDS).map(round).min()?
}

/// Whether two results differ by no more than rounding: the length of the difference is at most twice the
/// largest relative error of one rounding, times the length of ours.
fn agree(cuda: &Cuda, ours: &Tensor, theirs: &Tensor) -> Option<bool> {
    let allowed = match cuda.elem() {
        Elem::F16 => 0.5_f64.powi(10),
        _ => 0.5_f64.powi(7),
    };
    let theirs = theirs.reshape(ours.shape());
    let difference = cuda.axpby(1.0, ours, -1.0, &theirs).ok()?;
    let sum = |t: &Tensor| Some(cuda.squared_norms(t).ok()?.iter().sum::<f64>());
    // A NaN in either makes this false.
    Some(sum(&difference)? <= allowed * allowed * sum(ours)?)
}
