use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match das_cuda::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "error: {}", das_cuda::cli::report(&error));
            ExitCode::from(das_cuda::cli::exit_code(&error))
        }
    }
}
