use std::process::ExitCode;

fn main() -> ExitCode {
    das_cuda::cli::run()
}
