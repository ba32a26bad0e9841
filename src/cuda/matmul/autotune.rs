//! Who makes a linear map: our kernels, or cuBLASLt where it is found. The first product of a shape is made
//! by both and timed; the library gets the shape if its result is the same up to rounding and it was clearly
//! faster. Choices last: within a process, so that results repeat themselves, and in a file, so that they do
//! from run to run. Nothing here is needed: any failure leaves the shape to our kernels.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::cache::{Choice, Choices};
use super::cublaslt::{Addresses, Library, Plan, pause};
use super::problem::{Output, Problem};
use crate::backend::{Backend, Epilogue};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Elem, nvtx};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// Products in one measurement, and measurements, of which the least counts.
const TIMES: u32 = 2;
const ROUNDS: usize = 3;
/// Measurements more, at most, until ours are no longer getting faster.
const SETTLING: usize = 20;
/// How much faster the next contender must be: measurements scatter by a few percent, and a shape should not
/// change hands from machine to machine of a kind.
const CLEARLY: f64 = 1.1;

/// How a contest went, for benches.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    /// Whether the weight was transposed.
    pub turned: bool,
    pub bias: bool,
    pub add: bool,
    /// What followed, and whether what it was given was kept.
    pub then: Option<(Epilogue, bool)>,
    /// Time of our kernels, and of the library's best way, if it has any.
    pub ours: Duration,
    pub library: Option<Duration>,
    /// Whether the library makes this shape from now on.
    pub taken: bool,
}

/// The library, and who makes which shape.
pub struct Contest {
    library: Library,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// `None` where we do.
    plans: HashMap<Problem, Option<Arc<Plan>>>,
    choices: Choices,
    outcomes: Vec<Outcome>,
}

impl Contest {
    /// With the library, if it is found; choices of earlier runs are taken from its usual place.
    pub fn new(cuda: &Cuda) -> Option<Contest> {
        let library = Library::find(&cuda.device)?;
        let of = (cuda.device.model(), library.version(), cuda.elem());
        let choices = Choices::usual(&format!("{} {} {}", of.0, of.1, of.2.name()));
        Some(Contest { library, known: Mutex::new(Known { choices, ..Known::default() }) })
    }

    /// The same with choices from and to this file, or only for this process.
    pub fn choices(self, file: Option<&Path>) -> Contest {
        let choices = Choices::of(file.map(Path::to_owned));
        Contest { known: Mutex::new(Known { choices, ..Known::default() }), ..self }
    }

    pub fn outcomes(&self) -> Vec<Outcome> {
        self.known().outcomes.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The product `(rows, columns)` with what follows, by `own`, our kernels, or by the library and `apart`;
    /// a first one is made by both.
    ///
    /// # Errors
    /// Of `own` and `apart`.
    pub fn product(
        &self,
        cuda: &Cuda,
        key: Problem,
        [x, w, bias, add]: [Option<&Tensor>; 4],
        own: &dyn Fn() -> Result<Output>,
        apart: &dyn Fn(Tensor) -> Result<Output>,
    ) -> Result<Output> {
        let address = |t: Option<&Tensor>| t.map_or(0, |t| cuda.buffer(t).address());
        let [x, w, bias, add] = [x, w, bias, add].map(address);
        let at = Addresses { x, w, bias, add, y: 0 };
        let known = self.known().plans.get(&key).cloned();
        let plan = match known {
            Some(plan) => plan,
            // What is being recorded cannot be timed.
            None if cuda.device.capture().active() => return own(),
            None => match self.remembered(cuda, key, bias) {
                Some(plan) => plan,
                None => {
                    let made = own()?;
                    match self.decide(cuda, key, at, &made.0, own, apart) {
                        None => return Ok(made),
                        plan => plan,
                    }
                }
            },
        };
        let Some(plan) = plan else { return own() };
        let shape = Shape::rows(key.rows, key.columns);
        let y = cuda.alloc(cuda.elem(), shape)?;
        if plan.run(&self.library, cuda, Addresses { y: y.address(), ..at }).is_err() {
            self.known().plans.insert(key, None);
            return own();
        }
        apart(cuda.wrap(shape, y))
    }

    /// What an earlier run chose.
    fn remembered(&self, cuda: &Cuda, key: Problem, bias: u64) -> Option<Option<Arc<Plan>>> {
        let choice = self.known().choices.get(&key)?;
        let plan = match choice {
            Choice::Own => None,
            // As many ways as then, since it is the same library.
            Choice::Way(n) => {
                Some(Arc::new(Plan::candidates(&self.library, cuda, key, bias).ok()?.into_iter().nth(n)?))
            }
        };
        self.known().plans.insert(key, plan.clone());
        Some(plan)
    }

    /// Holds the contest, and keeps what comes out.
    fn decide(
        &self,
        cuda: &Cuda,
        key: Problem,
        at: Addresses,
        y: &Tensor,
        own: &dyn Fn() -> Result<Output>,
        apart: &dyn Fn(Tensor) -> Result<Output>,
    ) -> Option<Arc<Plan>> {
        let held = self.hold(cuda, key, at, y, own, apart);
        let mut known = self.known();
        let (outcome, way) = held.unzip();
        if let Some(outcome) = outcome {
            nvtx::push(&outcome.line());
            nvtx::pop();
            known.outcomes.push(outcome);
        }
        let way = way.flatten();
        // A contest that could not be held (memory) may be in the next run.
        if outcome.is_some() {
            known.choices.add(key, way.as_ref().map_or(Choice::Own, |(n, _)| Choice::Way(*n)));
        }
        let plan = way.map(|(_, plan)| Arc::new(plan));
        known.plans.entry(key).or_insert(plan).clone()
    }

    /// Times our kernels, whose result is `y`, and then the library's ways in its order; each must be clearly
    /// faster than the best before. `None` where that fails.
    fn hold(
        &self,
        cuda: &Cuda,
        key: Problem,
        at: Addresses,
        y: &Tensor,
        own: &dyn Fn() -> Result<Output>,
        apart: &dyn Fn(Tensor) -> Result<Output>,
    ) -> Option<(Outcome, Option<(usize, Plan)>)> {
        let plans = Plan::candidates(&self.library, cuda, key, at.bias).ok()?;
        let shape = Shape::rows(key.rows, key.columns);
        let to = cuda.alloc(cuda.elem(), shape).ok()?;
        let at = Addresses { y: to.address(), ..at };
        let product = cuda.wrap(shape, to);
        let mut ours = time(cuda, &|| own().ok().map(drop))?;
        // A GPU that was idle takes a while to reach its clock: the first contender must not pay for it.
        for _ in 0..SETTLING {
            let again = time(cuda, &|| own().ok().map(drop))?;
            let settled = again.as_secs_f64() > 0.95 * ours.as_secs_f64();
            ours = ours.min(again);
            if settled {
                break;
            }
        }
        let (mut best, mut library, mut taken) = (ours, None::<Duration>, None);
        for (n, plan) in plans.into_iter().enumerate() {
            let run = || {
                plan.run(&self.library, cuda, at).ok()?;
                apart(product.clone()).ok()
            };
            let Some(took) = time(cuda, &|| run().map(drop)) else { continue };
            library = Some(library.map_or(took, |least| least.min(took)));
            if best.as_secs_f64() > CLEARLY * took.as_secs_f64() && agree(cuda, y, &run()?.0)? {
                (best, taken) = (took, Some((n, plan)));
            }
        }
        let Problem { rows, columns, depth, turned, bias, add, then } = key;
        let outcome =
            Outcome { rows, columns, depth, turned, bias, add, then, ours, library, taken: taken.is_some() };
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
            self.rows,
            self.columns,
            self.depth,
            self.library.map_or(f64::NAN, us),
            us(self.ours)
        )
    }
}

/// The least time of one `f` on the GPU; `None` where it fails.
fn time(cuda: &Cuda, f: &dyn Fn() -> Option<()>) -> Option<Duration> {
    let round = |_| {
        pause(cuda)?;
        let start = cuda.mark().ok()?;
        (0..TIMES).try_for_each(|_| f())?;
        Some(cuda.between(&start, &cuda.mark().ok()?).ok()? / TIMES)
    };
    // The first loads what is loaded at first use.
    f()?;
    (0..ROUNDS).map(round).min()?
}

/// Whether two results differ by their rounding only: twice the largest relative error of one, squared.
fn agree(cuda: &Cuda, ours: &Tensor, theirs: &Tensor) -> Option<bool> {
    let allowed = match cuda.elem() {
        Elem::F16 => 0.5_f64.powi(10),
        _ => 0.5_f64.powi(7),
    };
    let difference = cuda.axpby(1.0, ours, -1.0, theirs).ok()?;
    let sum = |t: &Tensor| Some(cuda.squared_norms(t).ok()?.iter().sum::<f64>());
    // Not so where either is no number.
    Some(sum(&difference)? <= allowed * allowed * sum(ours)?)
}
