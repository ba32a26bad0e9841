//! Runs that stop after every step and go on in another process: every later record and the end are the same
//! bits as those of the run that was not stopped.

use std::fs;
use std::path::Path;

use das_cuda::ErrorKind;
use das_cuda::ddim::Schedule;
use das_cuda::engine::EngineBackend;
use das_cuda::method::{Bootstrap, Das, Fk, Guidance, METHODS, Method};
use das_cuda::sampler::{Candidates, Compat, Options, Sampler, Snapshot};
use das_cuda::smc::{Floor, Potentials, Resampler, Rules, Tempering};

use crate::laws::{Closed, Grid, Seen};

/// The variable that tells the other process where the files are.
pub const FOLDER: &str = "DAS_TEST_SNAPSHOTS";

/// A run, and whether some of its particles die on the way.
struct Case {
    options: Options,
    deaths: bool,
}

/// Every method by its own rules, every tempering with every resampler, deaths, a late start, and the books
/// of the reference.
fn cases() -> Vec<Case> {
    let steps = 5;
    let base = Options { prompts: vec![4, 0], particles: 6, alpha: 0.7, ..Options::new(20, steps) };
    let case = |method: &'static dyn Method, rules: Rules| Case {
        options: Options { method, rules, ..base.clone() },
        deaths: false,
    };
    let mut cases: Vec<Case> = METHODS
        .iter()
        .map(|&method| Case { options: base.clone().by_method(method, steps), deaths: false })
        .collect();
    let temperings = [
        Tempering::Exp { gamma: 0.3 },
        Tempering::Poly { gamma: 0.25, power: 2.0 },
        Tempering::Adaptive { floor: Floor::Last },
        Tempering::Adaptive { floor: Floor::Exp { gamma: 0.1 } },
    ];
    for (i, tempering) in temperings.into_iter().enumerate() {
        for resampler in Resampler::ALL {
            let method: &'static dyn Method = if i % 2 == 0 { &Das } else { &Bootstrap };
            cases.push(case(
                method,
                Rules {
                    tempering,
                    resampler,
                    ess_threshold: 0.8,
                    max_shift: None,
                    potentials: Potentials::Difference,
                },
            ));
        }
    }
    let often = Rules {
        tempering: temperings[0],
        resampler: Resampler::Ssp,
        ess_threshold: 2.0,
        max_shift: None,
        potentials: Potentials::Difference,
    };
    let never = Rules { ess_threshold: 0.0, ..often };
    cases.push(Case { deaths: true, ..case(&Das, often) });
    cases.push(Case { deaths: true, ..case(&Das, never) });
    for until in [0.0, 0.5] {
        let mut case = case(&Das, Rules { tempering: Tempering::None, ess_threshold: 0.8, ..often });
        case.options.candidates = Some(Candidates { count: 15, until });
        cases.push(case);
    }
    for (deaths, until) in [(false, None), (true, None), (false, Some(0.3))] {
        let tempering = until.map_or(often.tempering, |_| Tempering::None);
        let mut case = Case { deaths, ..case(&Das, Rules { tempering, ..often }) };
        case.options.gradient_every = 2;
        case.options.candidates = until.map(|until| Candidates { count: 15, until });
        cases.push(case);
    }
    for potentials in [Potentials::Max, Potentials::Sum] {
        let mut case = case(&Fk, Rules { potentials, ..often });
        case.options.weigh_every = 2;
        cases.push(case);
    }
    for compat in [Compat::Paper, Compat::Reference] {
        let mut case = case(&Das, often);
        case.options = Options { compat, tempering_start: 0.45, ..case.options };
        cases.push(case);
    }
    cases
}

fn target<'a>(backend: &'a dyn EngineBackend, schedule: &Schedule, deaths: bool) -> Closed<'a, 2, Grid> {
    let at = schedule.steps[2].t;
    let mut target = Closed::new(backend, Grid::new());
    if deaths {
        target.spoil = Some(Box::new(move |t, id, seen: &mut Seen<2>| match (id.prompt, id.particle) {
            (4, 1) if t == at => seen.reward = f64::NEG_INFINITY,
            (4, 2) if t == at => seen.grad[1] = f64::NAN,
            (4, 3) if t == at => (seen.x0[1], seen.grad[0]) = (f64::NAN, f64::INFINITY),
            (0, _) if t == at => seen.reward = f64::NAN,
            (4, 0) if t == 0 => seen.reward = f64::NAN,
            _ => {}
        }));
    }
    target
}

/// What the run says from here on; the numbers of the end in bits. `after` is called before the first step
/// and after every one.
fn tell(
    backend: &dyn EngineBackend,
    mut sampler: Sampler<'_>,
    mut after: impl FnMut(&Sampler<'_>),
) -> Vec<String> {
    let mut lines = Vec::new();
    after(&sampler);
    while let Some(step) = sampler.next() {
        let step = step.expect("a step");
        // What is printed of an f64 tells it from every other number.
        lines.push(format!("{:?}", (step.step, step.t, step.prompts, step.non_finite)));
        after(&sampler);
    }
    for end in sampler.populations().expect("populations") {
        let bits =
            |x| backend.download(x).expect("numbers").iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        let weights = (end.rewards, end.log_weights, end.log_z, end.log_z_error, end.lineage);
        lines.push(format!("{:?} {:?} {weights:?}", bits(&end.x), bits(&end.images)));
    }
    lines
}

/// Runs every case, and leaves in `folder` a snapshot of every step and what was told.
pub fn leave(backend: &dyn EngineBackend, schedule: &Schedule, folder: &Path) {
    for (i, case) in cases().iter().enumerate() {
        let target = target(backend, schedule, case.deaths);
        let sampler = || Sampler::new(backend, &target, schedule, case.options.clone()).expect("a run");
        let mut taken = 0;
        let lines = tell(backend, sampler(), |sampler| {
            let snapshot = sampler.snapshot().expect("a snapshot");
            assert_eq!(snapshot.step(), taken);
            let bytes = snapshot.to_bytes().expect("bytes");
            fs::write(folder.join(format!("{i}-{taken}.safetensors")), bytes).expect("written");
            taken += 1;
        });
        assert_eq!(lines, tell(backend, sampler(), |_| {}), "case {i}: snapshots disturb nothing");
        fs::write(folder.join(format!("{i}.txt")), lines.join("\n")).expect("written");
    }
}

/// Goes on from every snapshot in the folder that the variable names; on the host's engine too, whatever the
/// backend has. Returns how many there were.
pub fn go_on(backend: &dyn EngineBackend, schedule: &Schedule) -> usize {
    let folder = std::env::var_os(FOLDER).expect("a folder");
    let folder = Path::new(&folder);
    let mut count = 0;
    for (i, case) in cases().iter().enumerate() {
        let target = target(backend, schedule, case.deaths);
        let told = fs::read_to_string(folder.join(format!("{i}.txt"))).expect("what was told");
        let told: Vec<&str> = told.lines().collect();
        let steps = Sampler::new(backend, &target, schedule, case.options.clone()).expect("a run").steps();
        for k in 0..=steps {
            let bytes = fs::read(folder.join(format!("{i}-{k}.safetensors"))).expect("a snapshot");
            let snapshot = Snapshot::from_bytes(&bytes).expect("a snapshot");
            assert_eq!(snapshot.to_bytes().expect("bytes"), bytes, "written again");
            let sampler = || Sampler::new(backend, &target, schedule, case.options.clone()).expect("a run");
            for sampler in [sampler(), sampler().on_host()] {
                let sampler = sampler.restore(&snapshot).expect("the run it is of");
                assert_eq!(tell(backend, sampler, |_| {}), told[k..], "case {i}, after {k} steps");
                count += 1;
            }
        }
    }
    count
}

/// Snapshots of other runs and damaged ones are refused, and say why.
pub fn refuse(backend: &dyn EngineBackend, schedule: &Schedule) {
    let mut shifted = schedule.clone();
    shifted.steps[3].variance *= 1.0 + f64::EPSILON;
    let target = target(backend, schedule, false);
    let run = Options { particles: 3, ..Options::new(1, 5) };
    let sampler = |options: &Options, schedule| Sampler::new(backend, &target, schedule, options.clone());
    let mut begun = sampler(&run, schedule).expect("a run");
    begun.next().expect("a step").expect("no error");
    let snapshot = begun.snapshot().expect("a snapshot");
    let rules = Rules { ess_threshold: 0.4, ..run.rules };
    let plain = Rules { tempering: Tempering::None, ..run.rules };
    let kept = Rules { potentials: Potentials::Sum, ..run.rules };
    for (other, name) in [
        (Options { seed: 2, ..run.clone() }, "seed"),
        (Options { particles: 4, ..run.clone() }, "particles"),
        (Options { alpha: 1.5, ..run.clone() }, "alpha"),
        (Options { prompts: vec![1], ..run.clone() }, "prompts"),
        (Options { method: &Bootstrap, ..run.clone() }, "method"),
        (Options { rules, ..run.clone() }, "ess_threshold"),
        (Options { gradient_every: 2, ..run.clone() }, "gradient_every"),
        (Options { weigh_every: 2, ..run.clone() }, "weigh_every"),
        (Options { duplicates: 2, ..run.clone() }, "duplicates"),
        (Options { guidance: Guidance { strength: 0.5, ..run.guidance }, ..run.clone() }, "guidance"),
        (Options { rules: kept, ..run.clone() }, "potential"),
        (Options { tempering_start: 0.5, ..run.clone() }, "tempering_start"),
        (
            Options { candidates: Some(Candidates { count: 9, until: 0.5 }), rules: plain, ..run.clone() },
            "candidates",
        ),
        (Options { compat: Compat::Reference, ..run.clone() }, "compat"),
    ] {
        let error = sampler(&other, schedule).expect("a run").restore(&snapshot).err().expect("refused");
        let text = error.to_string();
        assert!(
            error.kind() == ErrorKind::Usage && text.contains(&format!("another run: {name} is")),
            "{text}"
        );
    }
    let error = sampler(&run, &shifted).expect("a run").restore(&snapshot).err().expect("refused");
    assert!(error.to_string().contains("another run: chain is"), "{error}");

    let bytes = snapshot.to_bytes().expect("bytes");
    let named = |from: &str, to: &str| {
        let mut bytes = bytes.clone();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("there");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    for damaged in [
        Vec::new(),
        b"no file of ours".to_vec(),
        bytes[..bytes.len() - 1].to_vec(),
        named("das-cuda snapshot", "das-cuda snapshop"),
        named("log_ratio", "log_ratia"),
    ] {
        assert_eq!(Snapshot::from_bytes(&damaged).err().map(|e| e.kind()), Some(ErrorKind::Io));
    }
    // More initial particles than any memory holds.
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let at = file.tensor("initial").expect("there").data().as_ptr() as usize - bytes.as_ptr() as usize;
    let mut many = bytes.clone();
    many[at..at + 4].fill(0xFF);
    let many = Snapshot::from_bytes(&many).expect("no contradiction by itself");
    let refused = sampler(&run, schedule).expect("a run").restore(&many).err().expect("refused");
    assert_eq!(refused.kind(), ErrorKind::Io);
    let newer = named(r#"schema\":4"#, r#"schema\":5"#);
    let Err(refused) = Snapshot::from_bytes(&newer) else { panic!("a newer version was read") };
    assert!(refused.to_string().contains("version 5"), "{refused}");
}
