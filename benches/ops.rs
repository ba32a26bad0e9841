//! Time of each large case of the table, forward and transpose. Throughput is what the meter counts:
//! operations per second of matrix products, bytes per second of everything else.
//!
//! `cargo bench --bench ops -- conv` runs the convolutions only.

#[path = "../tests/common/cases.rs"]
mod cases;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::meter::{Counts, Meter};
use das_cuda::tensor::HostSlice;

fn throughput(counts: &Counts) -> Throughput {
    if counts.flops > 0 { Throughput::Elements(counts.flops) } else { Throughput::Bytes(counts.bytes) }
}

fn ops(criterion: &mut Criterion) {
    let (cpu, meter) = (Cpu::new(), Meter::new());
    // Criterion filters too late: setting up a large convolution costs more than most benches.
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    for case in cases::large() {
        if !format!("{}/{}", case.op.name(), case.name()).contains(&wanted) {
            continue;
        }
        let host = case.host_inputs();
        let run = |backend: &dyn Backend| -> das_cuda::Result<_> {
            let inputs = case.upload(backend, &host)?;
            let results = case.forward(backend, &inputs)?;
            let dy = case.host_cotangent(results[0].shape().len());
            let dy = backend.upload(results[0].shape(), HostSlice::F32(&dy))?;
            Ok((inputs, results, dy))
        };
        let (inputs, results, dy) = run(&meter).expect("the meter never fails");
        let count = |f: &dyn Fn()| {
            meter.reset_counts();
            f();
            throughput(&meter.counts())
        };
        let forward = count(&|| drop(case.forward(&meter, &inputs)));
        let back =
            (case.op.differentiable() > 0).then(|| count(&|| drop(case.vjp(&meter, &inputs, &results, &dy))));

        let mut group = criterion.benchmark_group(case.op.name());
        group.sample_size(10);
        let (inputs, results, dy) = run(&cpu).expect("the host has memory");
        group.throughput(forward);
        group.bench_function(case.name(), |b| b.iter(|| case.forward(&cpu, &inputs)));
        if let Some(back) = back {
            group.throughput(back);
            let name = format!("{} vjp", case.name());
            group.bench_function(name, |b| b.iter(|| case.vjp(&cpu, &inputs, &results, &dy)));
        }
        group.finish();
    }
}

criterion_group!(benches, ops);
criterion_main!(benches);
