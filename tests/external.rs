//! Rewards that other programs compute: what is right steers as the same reward inside this program does, and
//! what is wrong is told, with the scorer, the prompt and the fix. The scorer is this test binary itself
//! (`external/scorer.rs`), so that nothing else need be installed.

#[path = "external/ends.rs"]
mod ends;
#[path = "common/harness.rs"]
mod harness;
#[path = "external/scorer.rs"]
mod scorer;
#[path = "external/server.rs"]
mod server;

use std::fs;
use std::path::Path;
use std::process::{ExitCode, Output};

use das_cuda::assets::SHAPES_FILES;
use das_cuda::backend::{Activation, Backend};
use das_cuda::cpu::Cpu;
use das_cuda::method::Bootstrap;
use das_cuda::model::files::Source;
use das_cuda::pixels::Picture;
use das_cuda::reward::{Reward, Spec, Sum, open};
use das_cuda::sampler::OnNan;
use das_cuda::tape::{Tape, Var};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use das_cuda::{Device, ErrorKind, Result, SampleOptions, Session, SessionBuilder};
use tempfile::TempDir;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mark, kind, log] = args.as_slice()
        && mark == SCORER
    {
        scorer::run(kind, log);
        return ExitCode::SUCCESS;
    }
    harness::main(&[TESTS, ends::TESTS, server::TESTS], None)
}

/// The first argument of this binary as a scorer.
const SCORER: &str = "be-a-scorer";

/// A scorer, and the log of what it did.
struct Scorer {
    folder: TempDir,
    kind: &'static str,
}

impl Scorer {
    fn new(kind: &'static str) -> Scorer {
        Scorer { folder: TempDir::new().expect("a temporary folder"), kind }
    }
    fn spec(&self) -> String {
        let program = std::env::current_exe().expect("this program");
        let log = self.folder.path().join("log");
        format!("exec:'{}' {SCORER} {} '{}'", program.display(), self.kind, log.display())
    }
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().map(String::from).collect()
    }
    fn starts(&self) -> usize {
        self.log().iter().filter(|line| line.starts_with("start")).count()
    }
    /// Whether a process that was started is there, be it as a zombie.
    fn is_there(&self) -> bool {
        let log = self.log();
        let ids = log.iter().filter_map(|line| line.strip_prefix("start "));
        ids.into_iter().any(|id| Path::new("/proc").join(id).exists())
    }
}

const PROMPTS: [&str; 2] = ["a star", "a \"ring\",\na cross"];

fn open_reward(spec: &str, backend: &dyn Backend) -> Result<Sum> {
    let specs = Spec::parse_all("reward", &[spec.to_string()])?;
    let mut reward = open(&specs, &Source::Embedded(SHAPES_FILES), backend)?;
    reward.prepare(backend, &PROMPTS.map(String::from))?;
    Ok(reward)
}

/// Two images of 5 x 4 pixels.
fn images(backend: &dyn Backend) -> (Vec<f32>, Tensor) {
    let values: Vec<f32> = (0..120).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
    let images = backend.upload(Shape::new(2, 5, 4, 3), HostSlice::F32(&values)).expect("uploaded");
    (values, images)
}

/// The reward of the scorer `smooth` inside this program.
struct Smooth {
    weight: Tensor,
}

impl Smooth {
    fn new(backend: &dyn Backend, size: usize) -> Result<Smooth> {
        let weight: Vec<f32> = (0..size).map(|i| scorer::weight(i, size) as f32).collect();
        Ok(Smooth { weight: backend.upload(Shape::rows(1, size), HostSlice::F32(&weight))? })
    }
}

impl Reward for Smooth {
    fn name(&self) -> String {
        "smooth".into()
    }
    fn differentiable(&self) -> bool {
        true
    }
    fn prepare(&mut self, _: &dyn Backend, _: &[String]) -> Result<()> {
        Ok(())
    }
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
        let shape = images.shape();
        let images = images.reshape(Shape::rows(shape.n, shape.sample()));
        tape.linear(&tape.activate(&images, Activation::Silu)?, &self.weight, None, None)
    }
    fn default_alpha(&self) -> f64 {
        0.25
    }
}

/// Scores, and the gradient of their sum weighted by 1 and -2.
fn graded(reward: &dyn Reward, backend: &dyn Backend) -> Result<(Vec<f32>, Vec<f32>)> {
    let tape = Tape::new(backend);
    let leaf = tape.watch(images(backend).1);
    let score = reward.score(&tape, &leaf, &[1, 0])?;
    let scores = backend.download(score.value())?;
    let seed = backend.upload(score.shape(), HostSlice::F32(&[1.0, -2.0]))?;
    let gradient = tape.gradient(&score, seed, &leaf)?.expect("a gradient");
    Ok((scores, backend.download(&gradient)?))
}

/// Largest difference relative to the largest value.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs())) / largest
}

fn scores_and_gradients_are_those_of_the_same_reward_inside() {
    let (cpu, scorer) = (Cpu::new(), Scorer::new("smooth"));
    let reward = open_reward(&scorer.spec(), &cpu).expect("it opens");
    assert!(reward.differentiable() && reward.reads_prompt());
    assert_eq!(reward.default_alpha(), 0.25, "as the hello says");
    let inside = Smooth::new(&cpu, 60).expect("it opens");
    let (found, expected) = (graded(&reward, &cpu).expect("found"), graded(&inside, &cpu).expect("expected"));
    // Sixty terms in f64 there and in f32 here: measured 1e-7.
    assert!(apart(&found.0, &expected.0) < 1e-6, "{found:?} {expected:?}");
    assert!(apart(&found.1, &expected.1) < 1e-6, "{found:?} {expected:?}");
    drop(reward);
    assert_eq!(scorer.starts(), 1);
    assert_eq!(scorer.log().last().map(String::as_str), Some("end"), "it was left to end by itself");
    assert!(!scorer.is_there());
}

/// Lineage of each particle, final rewards, and what was noted.
type Steered = (Vec<Vec<u32>>, Vec<f32>, Vec<String>);

/// Four particles of das, of which some are chosen twice.
fn steered(builder: SessionBuilder) -> Result<Steered> {
    let mut session = builder.device(Device::Cpu).open()?;
    let options =
        SampleOptions::new().particles(4).steps(4).alpha(0.05).ess_threshold(1.0).micro_batch(3).seed(5);
    let mut run = session.sample(PROMPTS[0], &options)?;
    let mut notes = Vec::new();
    for step in &mut run {
        notes.extend(step?.notes);
    }
    let population = run.conclude()?.swap_remove(0).population;
    Ok((population.lineage, population.rewards.iter().map(|r| *r as f32).collect(), notes))
}

fn with(spec: &str) -> SessionBuilder {
    Session::builder().reward(spec.parse().expect("a reward"))
}

fn das_follows_it_to_the_same_ancestors() {
    let inside = |backend: &dyn Backend| Smooth::new(backend, 3 * 64 * 64);
    let expected = steered(Session::builder().custom_reward(1.0, inside)).expect("the run inside");
    let mut lines = expected.0.iter().zip(0..);
    let resampled = lines.any(|(line, slot)| line.iter().any(|ancestor| *ancestor != slot));
    assert!(resampled, "{expected:?}");
    let scorer = Scorer::new("smooth");
    let found = steered(with(&scorer.spec())).expect("the run with a scorer");
    assert_eq!(found.0, expected.0);
    assert!(apart(&found.1, &expected.1) < 1e-4, "{found:?} {expected:?}");
    assert_eq!((scorer.starts(), found.2.len()), (1, 0));
    // One that ends in the middle is started again, and changes nothing.
    let crash = Scorer::new("crash");
    let again = steered(with(&crash.spec())).expect("the run with a crash");
    assert_eq!((&again.0, &again.1), (&found.0, &found.1));
    assert_eq!(crash.starts(), 2);
    assert!(
        again.2.iter().any(|note| note.contains("out of memory") && note.contains("again")),
        "{:?}",
        again.2
    );
    assert!(!scorer.is_there() && !crash.is_there());
}

fn a_second_crash_ends_the_run() {
    let scorer = Scorer::new("crashes");
    let error = steered(with(&scorer.spec())).expect_err("it crashes");
    assert_eq!((error.kind(), scorer.starts()), (ErrorKind::Model, 2));
    let error = error.to_string();
    for says in [SCORER, "crashes", "prompt 0, particle", "a star", "exit status: 9", "out of memory", "fix:"]
    {
        assert!(error.contains(says), "{says}: {error}");
    }
    assert!(!scorer.is_there());
}

fn scores_of_bytes_serve_methods_without_gradient() {
    let (cpu, scorer) = (Cpu::new(), Scorer::new("bytes"));
    let reward = open_reward(&scorer.spec(), &cpu).expect("it opens");
    assert!(!reward.differentiable());
    let (values, tensor) = images(&cpu);
    let score = reward.score(&Tape::off(&cpu), &tensor.into(), &[1, 0]).expect("scores");
    let expected = |i: usize, prompt: usize| {
        let picture = Picture::from_floats(4, 5, &values[i * 60..(i + 1) * 60]);
        scorer::redness(&picture.rgb, PROMPTS[prompt]) as f32
    };
    assert_eq!(cpu.download(score.value()).expect("scores"), [expected(0, 1), expected(1, 0)]);
    drop(reward);
    let error = steered(with(&scorer.spec())).expect_err("das needs a gradient").to_string();
    assert!(error.contains("gradient") && error.contains("exec"), "{error}");
}

/// An image that is not finite is not shown to the scorer, and null is no number either.
fn what_is_no_number_is_nan() {
    let cpu = Cpu::new();
    let scorer = Scorer::new("smooth");
    let reward = open_reward(&scorer.spec(), &cpu).expect("it opens");
    let mut values = images(&cpu).0;
    values[3] = f32::NAN;
    let tensor = cpu.upload(Shape::new(2, 5, 4, 3), HostSlice::F32(&values)).expect("uploaded");
    let score = reward.score(&Tape::off(&cpu), &tensor.into(), &[0, 0]).expect("scores");
    let scores = cpu.download(score.value()).expect("scores");
    assert!(scores[0].is_nan() && scores[1].is_finite(), "{scores:?}");

    let scorer = Scorer::new("null");
    let mut session = with(&scorer.spec()).device(Device::Cpu).open().expect("a session");
    let options = SampleOptions::new().method(&Bootstrap).particles(2).steps(2).alpha(1.0).micro_batch(2);
    let mut run = session.sample(PROMPTS[0], &options).expect("a run");
    let lost: usize = run.by_ref().map(|step| step.expect("a step").non_finite.len()).sum();
    assert!(lost > 0, "a particle without a score is reported");
    assert!(run.conclude().expect("samples").swap_remove(0).population.rewards.iter().any(|r| r.is_finite()));
    let mut run = session.sample(PROMPTS[0], &options.on_nan(OnNan::Abort)).expect("a run");
    let error = run.find_map(Result::err).expect("it is aborted").to_string();
    for says in ["the reward is not finite", "the scorer gave no number (null) for 1 image", "fix:"] {
        assert!(error.contains(says), "{says}: {error}");
    }
    for (kind, says) in [("null", "gave no number (null) for 1 image"), ("huge", "gave a score of 1e300")] {
        let scorer = Scorer::new(kind);
        let picture = picture(scorer.folder.path());
        let output = program(&["score", &picture, "-p", "a star", "--reward", &scorer.spec()]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.contains(says), "{error}");
        assert!(error.contains("exec gave no finite number") && !error.contains("--kl"), "{error}");
    }
}

fn what_a_scorer_does_wrong_is_told() {
    let cpu = Cpu::new();
    let (mute, chatty) = (Scorer::new("mute"), Scorer::new("chatty"));
    let protect = "das_cuda.protect_stdout()";
    for (scorer, says, fix) in
        [(mute, "exit status: 3", "by itself"), (chatty, "Loading checkpoint shards", protect)]
    {
        let error = open_reward(&scorer.spec(), &cpu).err().expect("no hello").to_string();
        let (_, advice) = error.split_once("fix:").expect("advice");
        assert!(error.contains(says) && error.contains(scorer.kind) && advice.contains(fix), "{error}");
        assert!(!scorer.is_there(), "{}", scorer.kind);
    }
    for (kind, says, fix) in [
        ("nan", "JSON has no NaN", "with one line"),
        ("few", "1 score for 2 images", "with one line"),
        ("garbage", "step 3: loss 0.2", "with one line"),
        ("other", "request 1000", "with one line"),
        ("flat", "3 bytes for image 0, which needs 240", "with one line"),
        ("fails", "says: no such file: weights.pt", "see what the scorer says"),
        ("floods", "xxx", "write nothing but its hello"),
    ] {
        let scorer = Scorer::new(kind);
        let reward = open_reward(&scorer.spec(), &cpu).expect(kind);
        let error = graded(&reward, &cpu).expect_err(kind);
        assert_eq!(error.kind(), ErrorKind::Model);
        let error = error.to_string();
        for says in [says, kind, "2 images", r#""a \"ring\",\na cross""#, "fix: ", fix] {
            assert!(error.contains(says), "{kind}: {says}: {error}");
        }
        assert!(!scorer.is_there(), "{kind}");
    }
}

/// A scorer that says something else of itself once it is started again is another one.
fn a_scorer_that_changes_is_refused() {
    let (cpu, scorer) = (Cpu::new(), Scorer::new("fickle"));
    let reward = open_reward(&scorer.spec(), &cpu).expect("it opens");
    let error = (0..3).find_map(|_| graded(&reward, &cpu).err()).expect("it changed").to_string();
    assert!(error.contains("said") && error.contains("fix:"), "{error}");
}

fn a_command_that_is_none_is_refused() {
    let cpu = Cpu::new();
    for (spec, says, kind) in [
        ("exec", "no command", ErrorKind::Usage),
        ("exec:'a", "words", ErrorKind::Usage),
        ("exec:/no/such/program x=1:2,3", "/no/such/program", ErrorKind::Model),
        ("http", "no address", ErrorKind::Usage),
        ("http:host", "no address", ErrorKind::Usage),
        ("http:https://host/", "encrypted", ErrorKind::Usage),
        ("http://127.0.0.1:99999/ok", "a port that is none", ErrorKind::Usage),
        ("http://127.0.0.1:/ok", "a port that is none", ErrorKind::Usage),
        ("http://[::1]:x/ok", "a port that is none", ErrorKind::Usage),
        ("http:///ok", "no address of a server", ErrorKind::Usage),
        ("http://host/a b", "no address of a server", ErrorKind::Usage),
        ("http=2://user:secret@host/", "the address of host has a user's name", ErrorKind::Usage),
    ] {
        let error = open_reward(spec, &cpu).err().expect(spec);
        assert_eq!(error.kind(), kind, "{spec}: {error}");
        let error = error.to_string();
        assert!(error.contains(says) && error.contains("fix:"), "{spec}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

/// The program, which sees no GPU, with at most two seconds for an answer.
fn program(args: &[&str]) -> Output {
    let mut command =
        assert_cmd::Command::cargo_bin("das-cuda").expect("the program is built with its tests");
    command.env("CUDA_VISIBLE_DEVICES", "").env("DAS_REWARD_TIMEOUT", "2");
    command.args(args).output().expect("the program starts")
}

fn picture(folder: &Path) -> String {
    let path = folder.join("picture.png");
    Picture::new(8, 8, vec![100; 192]).save(&path).expect("saved");
    path.display().to_string()
}

fn a_scorer_that_never_answers_is_given_up() {
    for kind in ["hangs", "sleeps"] {
        let scorer = Scorer::new(kind);
        let picture = picture(scorer.folder.path());
        let output = program(&["score", &picture, "-p", "a star", "--reward", &scorer.spec()]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains("within 2 s") && error.contains("DAS_REWARD_TIMEOUT"), "{error}");
        assert!(!scorer.is_there(), "{kind}");
    }
}

/// What a scorer writes about is not taken for an option of the program, and a wrong time keeps its own fix.
fn what_the_program_says_is_its_own() {
    let scorer = Scorer::new("mute");
    let picture = picture(scorer.folder.path());
    let args = ["score", &picture, "-p", "a `steps` star", "--reward", &scorer.spec()];
    let error = String::from_utf8_lossy(&program(&args).stderr).into_owned();
    assert!(error.contains("no module called 'steps'") && !error.contains("--steps"), "{error}");
    let mut command = assert_cmd::Command::cargo_bin("das-cuda").expect("the program");
    let output = command.env("DAS_REWARD_TIMEOUT", "soon").args(args).output().expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("fix: set it to a number above 0"), "{error}");
}

/// Counting what a run costs starts a scorer at most once, to hear what it is, and asks it nothing.
fn a_plan_asks_nothing() {
    let scorer = Scorer::new("smooth");
    let spec = scorer.spec();
    let small = ["-p", "a star", "--particles", "2", "--steps", "2", "--device", "cpu", "--reward", &spec];
    let output = program(&[&["plan"], &small[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(scorer.log().len(), 2, "a start and an end: {:?}", scorer.log());
    let out = scorer.folder.path().join("out").display().to_string();
    let output = program(&[&["sample", "-q", "-o", &out, "--eval-reward", &spec], &small[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(scorer.starts(), 2, "one process for the reward and the held-out reward");
}

tests![
    scores_and_gradients_are_those_of_the_same_reward_inside,
    das_follows_it_to_the_same_ancestors,
    a_second_crash_ends_the_run,
    scores_of_bytes_serve_methods_without_gradient,
    what_is_no_number_is_nan,
    what_a_scorer_does_wrong_is_told,
    a_scorer_that_changes_is_refused,
    a_command_that_is_none_is_refused,
    a_scorer_that_never_answers_is_given_up,
    what_the_program_says_is_its_own,
    a_plan_asks_nothing,
];
