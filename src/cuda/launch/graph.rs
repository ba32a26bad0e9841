//! Work recorded once as a CUDA graph and replayed: no launch costs a microsecond of the host any more, and
//! the GPU does not wait between kernels.
//!
//! The first call with a record runs as usual: it makes what is made once (forms of weights) and shows what
//! the results look like. The second is captured. Inputs and results have fixed places that are copied to and
//! from; memory taken and freed while capturing becomes part of the graph. Work that must wait for a result
//! cannot be captured: then the record says so, and every call runs as usual.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaGraph, sys};

use crate::backend::Record;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Captured, Elem};
use crate::error::{ErrorKind, Result};
use crate::tensor::{Shape, Tensor};

type Work<'a> = &'a mut dyn FnMut(&[Tensor]) -> Result<Vec<Tensor>>;

/// What is known of a piece of work.
enum State {
    /// Ran once: type and shape of each result.
    Seen(Vec<(Elem, Shape)>),
    Recorded(Recorded),
    /// Waits for results, or the driver cannot capture it.
    Never,
}

/// A graph, and the places it reads and writes.
struct Recorded {
    graph: Graph,
    context: Arc<CudaContext>,
    inputs: Vec<Tensor>,
    results: Vec<Tensor>,
}

/// What came of a recording.
enum Recording {
    Done(Recorded),
    /// The work must run once more as usual before it can be recorded.
    Postponed,
    /// The work waits for results, or the driver cannot capture it.
    Never,
}

/// A graph that may go to another thread.
struct Graph(CudaGraph);

// SAFETY: the driver ties graphs to no thread, and forbids only that two use one at once; one owner at a time
// cannot.
#[allow(unsafe_code)]
unsafe impl Send for Graph {}

impl Drop for Recorded {
    /// The graph is given back by whatever thread owns it last, which may not have used the device yet.
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
    }
}

/// Runs `f` on `inputs`, recorded where that is possible; see
/// [`Backend::replay`](crate::backend::Backend::replay).
pub fn replay(cuda: &Cuda, record: &mut Record, inputs: &[&Tensor], f: Work<'_>) -> Result<Vec<Tensor>> {
    let given: Vec<Tensor> = inputs.iter().map(|&x| x.clone()).collect();
    // Work inside recorded work is part of it.
    if !cuda.graphs || cuda.device.capture().active() {
        return f(&given);
    }
    // After an error nothing is known.
    let known = record.0.take().and_then(|state| state.downcast::<State>().ok()).map(|state| *state);
    let (state, results) = match known {
        None => {
            let results = f(&given)?;
            (State::Seen(results.iter().map(|y| (cuda.buffer(y).elem(), y.shape())).collect()), results)
        }
        Some(State::Never) => (State::Never, f(&given)?),
        Some(State::Seen(shapes)) => match Recorded::capture(cuda, &given, &shapes, f)? {
            Recording::Never => (State::Never, f(&given)?),
            Recording::Postponed => {
                let results = f(&given)?;
                (State::Seen(shapes), results)
            }
            Recording::Done(recorded) => {
                let results = recorded.run(cuda, &given)?;
                (State::Recorded(recorded), results)
            }
        },
        Some(State::Recorded(recorded)) => {
            let results = recorded.run(cuda, &given)?;
            (State::Recorded(recorded), results)
        }
    };
    record.0 = Some(Box::new(state));
    Ok(results)
}

impl Recorded {
    /// Captures `f`.
    fn capture(cuda: &Cuda, inputs: &[Tensor], results: &[(Elem, Shape)], f: Work<'_>) -> Result<Recording> {
        let device = &cuda.device;
        let place = |elem, shape| cuda.alloc(elem, shape).map(|y| cuda.wrap(shape, y));
        let inputs: Vec<Tensor> =
            inputs.iter().map(|x| place(cuda.buffer(x).elem(), x.shape())).collect::<Result<_>>()?;
        let results: Vec<Tensor> =
            results.iter().map(|&(elem, shape)| place(elem, shape)).collect::<Result<_>>()?;
        // The graph's memory is its own: what the pool keeps is in its way.
        device.trim()?;
        let failed = |e| device.failed("recording a graph", e);
        // Relaxed: nothing else uses this stream, and making a form of a weight may allocate.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        device.stream().begin_capture(mode).map_err(failed)?;
        device.capture().begin();
        let work = f(&inputs).and_then(|made| {
            assert_eq!(made.len(), results.len(), "recorded work makes the same results every time");
            made.iter().zip(&results).try_for_each(|(y, place)| cuda.overwrite(y, place))
        });
        let captured = device.capture().end();
        let whole = captured == Captured::Whole;
        // What went wrong in passing, as when memory of a capture that failed was freed: it would keep the
        // capture from being ended.
        let passing = device.context().check_err();
        let graph = device.stream().end_capture(sys::CUgraphInstantiate_flags(0));
        match (work, graph) {
            (Err(e), _) if whole && e.kind() == ErrorKind::Memory => Err(e),
            (Ok(()), Ok(Some(graph))) if whole && passing.is_ok() => {
                let context = device.context().clone();
                Ok(Recording::Done(Recorded { graph: Graph(graph), context, inputs, results }))
            }
            _ if captured == Captured::Postponed => Ok(Recording::Postponed),
            // The work runs without: if the fault was its own, it shows again.
            _ => Ok(Recording::Never),
        }
    }

    fn run(&self, cuda: &Cuda, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        inputs.iter().zip(&self.inputs).try_for_each(|(x, place)| cuda.overwrite(x, place))?;
        let launched = cuda.device.with_all_memory(|| self.graph.0.launch());
        launched.map_err(|e| cuda.device.failed("starting a graph", e))?;
        self.results.iter().map(|y| cuda.copy(y)).collect()
    }
}
