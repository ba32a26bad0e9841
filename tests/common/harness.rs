//! The harness of the tests that run kernels. Without a C++ compiler there is no stand-in for a GPU, and
//! these tests cannot run: they are counted as ignored, and the reason is printed. `DAS_EMULATOR=require`
//! makes that an error. Otherwise names, filters and options are those of any test binary.

// Each test binary uses its part.
#![allow(dead_code)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::{Arguments, Completion, Trial};

/// A test, as [`tests`] lists it.
pub struct Test {
    /// With the path of its module, the crate's name first.
    pub name: &'static str,
    pub run: fn(),
    /// Why it runs only where it is asked for; empty for most.
    pub on_request: &'static [&'static str],
}

/// Lists the tests of a module. One that is left out is dead code, which the compiler reports.
#[macro_export]
macro_rules! tests {
    ($($(#[ignore = $why:literal])? $name:ident),* $(,)?) => {
        pub const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            run: $name,
            on_request: &[$($why)?],
        }),*];
    };
}

/// `println!`, where `--nocapture` asks for it.
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => {
        if $crate::harness::talks() {
            println!($($arg)*);
        }
    };
}

static TALKS: AtomicBool = AtomicBool::new(false);

pub fn talks() -> bool {
    TALKS.load(Ordering::Relaxed)
}

/// Why a test cannot go on.
struct Skipped(String);

/// Ends the calling test: it is counted as ignored, for this reason.
pub fn skip(reason: impl Into<String>) -> ! {
    resume_unwind(Box::new(Skipped(reason.into())))
}

/// The names on the command line, of which the usual harness takes several, and everything else.
fn split(args: impl Iterator<Item = String>) -> (Vec<String>, Vec<String>) {
    const WITH_VALUE: [&str; 5] = ["--test-threads", "--logfile", "--skip", "--color", "--format"];
    // The first is the program.
    let (mut names, mut options, mut is_value) = (Vec::new(), Vec::new(), true);
    for arg in args {
        let is_name = !is_value && !arg.starts_with('-');
        is_value = WITH_VALUE.contains(&arg.as_str());
        if is_name { names.push(arg) } else { options.push(arg) }
    }
    (names, options)
}

/// The `main` of a test binary: `unavailable` is why none of its tests can run here.
pub fn main(modules: &[&[Test]], unavailable: Option<String>) -> ExitCode {
    let (names, options) = split(std::env::args());
    let args = Arguments::from_iter(options);
    TALKS.store(args.nocapture, Ordering::Relaxed);
    if let Some(why) = &unavailable {
        eprintln!("every test is ignored: {why}");
        if std::env::var("DAS_EMULATOR").is_ok_and(|v| v == "require") {
            eprintln!("DAS_EMULATOR=require: that is an error");
            return ExitCode::FAILURE;
        }
    }
    let trial = |test: &Test| {
        let (run, name) = (test.run, test.name.split_once("::").map_or(test.name, |(_, name)| name));
        let ignored = unavailable.is_some() || !test.on_request.is_empty();
        Trial::ignorable_test(name, move || match catch_unwind(AssertUnwindSafe(run)) {
            Ok(()) => Ok(Completion::Completed),
            Err(payload) => match payload.downcast::<Skipped>() {
                Ok(skipped) => Ok(Completion::ignored_with(skipped.0)),
                Err(payload) => resume_unwind(payload),
            },
        })
        .with_ignored_flag(ignored)
    };
    let asked = |trial: &Trial| {
        let is = |name: &String| if args.exact { trial.name() == name } else { trial.name().contains(name) };
        names.is_empty() || names.iter().any(is)
    };
    let trials = modules.iter().flat_map(|tests| tests.iter()).map(trial).filter(asked).collect();
    libtest_mimic::run(&args, trials).exit_code()
}
