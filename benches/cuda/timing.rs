//! How long work takes on the GPU.

use std::time::{Duration, Instant};

use das_cuda::Result;
use das_cuda::backend::{Backend, Record};
use das_cuda::cuda::Cuda;
use serde_json::{Value, json};

/// Times of one piece of work.
pub struct Times(pub Vec<Duration>);

impl Times {
    pub fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// Median, extremes and number, in milliseconds.
    pub fn json(&self) -> Value {
        let ms = |d: Option<&Duration>| d.map(|d| d.as_secs_f64() * 1e3);
        json!({
            "ms": ms(Some(&self.median())), "min": ms(self.0.iter().min()), "max": ms(self.0.iter().max()),
            "samples": self.0.len(),
        })
    }
}

/// Where nothing is measured: on the stand-in for a GPU.
#[derive(Clone, Copy)]
pub enum Effort {
    /// At least five samples, and as many as fit into this time.
    Measure(Duration),
    /// Each path once.
    Touch,
}

/// Least work in one sample: a mark is good to about a microsecond.
const SAMPLE: Duration = Duration::from_millis(2);
const MOST_LAUNCHES: u128 = 64;

/// Times `f`, started many times in a row. It is recorded as a graph where that is possible, so that the
/// host's part in starting it does not count, as in a run.
pub fn time(cuda: &Cuda, effort: Effort, mut f: impl FnMut() -> Result<()>) -> Result<Times> {
    f()?;
    let once = cuda.elapsed(&mut f)?;
    let launches = match effort {
        Effort::Measure(_) => (SAMPLE.as_nanos() / once.as_nanos().max(1)).clamp(1, MOST_LAUNCHES) as u32,
        Effort::Touch => 1,
    };
    let mut record = Record::default();
    let mut run = || -> Result<Duration> {
        let mut all = |_: &[_]| (0..launches).try_for_each(|_| f()).map(|()| Vec::new());
        cuda.elapsed(|| cuda.replay(&mut record, &[], &mut all).map(drop))
    };
    // As it is, recorded, and replayed once.
    run()?;
    run()?;
    let Effort::Measure(budget) = effort else { return Ok(Times(vec![run()?])) };
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || begin.elapsed() < budget {
        times.push(run()? / launches);
    }
    Ok(Times(times))
}
