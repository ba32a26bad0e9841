//! Recorded work: replayed with other inputs it gives what running it gives, and work that cannot be recorded
//! still runs.

use std::cell::Cell;

use das_cuda::backend::{Activation, Backend, Record};
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::error::Result;
use das_cuda::tensor::{HostSlice, Shape, Tensor};

use crate::device::{gpu_required, open};

const SHAPE: Shape = Shape::new(2, 3, 4, 8);

fn input(device: &Cuda, seed: usize) -> Tensor {
    let values: Vec<f32> =
        (0..SHAPE.len()).map(|i| ((i * 37 + seed * 61) % 101) as f32 / 25.0 - 2.0).collect();
    device.upload(SHAPE, HostSlice::F32(&values)).unwrap()
}

/// A few operations with memory of their own, an upload among them.
fn work(device: &Cuda, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let y = device.activate(&x[0], Activation::Gelu)?;
    let threes = device.upload(SHAPE, HostSlice::F32(&vec![3.0; SHAPE.len()]))?;
    let sum = device.axpby(2.0, &y, 1.0, &threes)?;
    Ok(vec![device.blend(&x[1], &sum, &x[0])?, device.repeat(&sum, 2)?])
}

fn coefficients(device: &Cuda, k: [f32; 2]) -> Tensor {
    device.upload(Shape::vector(2), HostSlice::F32(&k)).unwrap()
}

fn recorded_work_gives_what_running_it_gives() {
    for elem in [Elem::F32, Elem::Bf16] {
        let device = open(elem);
        let (mut record, calls) = (Record::default(), Cell::new(0));
        let before = (!gpu_required()).then(das_cuda_emulator::counters);
        for round in 0..5 {
            let (x, k) = (input(&device, round), coefficients(&device, [round as f32, 0.5]));
            let expected = work(&device, &[x.clone(), k.clone()]).unwrap();
            let found = device
                .replay(&mut record, &[&x, &k], &mut |x| {
                    calls.set(calls.get() + 1);
                    work(&device, x)
                })
                .unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.shape(), expected.shape());
                assert_eq!(
                    device.download(found).unwrap(),
                    device.download(expected).unwrap(),
                    "round {round}"
                );
            }
        }
        assert_eq!(calls.get(), 2, "once to see it, once to record it");
        if let Some(before) = before {
            assert!(das_cuda_emulator::counters().graph_launches >= before.graph_launches + 4);
        }
    }
}

fn results_of_one_replay_survive_the_next() {
    let device = open(Elem::F32);
    let (mut record, mut kept) = (Record::default(), Vec::new());
    for round in 0..4 {
        let (x, k) = (input(&device, round), coefficients(&device, [1.0, 1.0]));
        let y = device.replay(&mut record, &[&x, &k], &mut |x| work(&device, x)).unwrap().swap_remove(0);
        kept.push((device.download(&y).unwrap(), y));
    }
    drop(record);
    for (then, y) in &kept {
        assert_eq!(&device.download(y).unwrap(), then);
    }
}

fn work_that_waits_for_a_result_runs_every_time() {
    let device = open(Elem::F32);
    let (mut record, calls) = (Record::default(), Cell::new(0));
    for round in 0..4 {
        let x = input(&device, round);
        let y = device
            .replay(&mut record, &[&x], &mut |x| {
                let y = device.scale(2.0, &x[0])?;
                let host = device.download(&y)?;
                calls.set(calls.get() + 1);
                Ok(vec![device.upload(SHAPE, HostSlice::F32(&host))?])
            })
            .unwrap();
        let expected: Vec<f32> = device.download(&x).unwrap().iter().map(|x| 2.0 * x).collect();
        assert_eq!(device.download(&y[0]).unwrap(), expected);
    }
    assert_eq!(calls.get(), 4, "every call came to its end once");
}

fn an_error_inside_recorded_work_comes_out_and_leaves_the_device_usable() {
    let device = open(Elem::F32);
    let mut record = Record::default();
    let x = input(&device, 0);
    for round in 0..4 {
        let fails = round == 1;
        let result = device.replay(&mut record, &[&x], &mut |x| {
            let y = device.scale(2.0, &x[0])?;
            if fails { Err(das_cuda::Error::numerical("on purpose")) } else { Ok(vec![y]) }
        });
        assert_eq!(result.is_err(), fails, "round {round}");
        assert!(device.download(&x).is_ok());
    }
}

crate::tests![
    recorded_work_gives_what_running_it_gives,
    results_of_one_replay_survive_the_next,
    work_that_waits_for_a_result_runs_every_time,
    an_error_inside_recorded_work_comes_out_and_leaves_the_device_usable,
];
