//! The manual page and completions, made of the definition of the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use crate::error::{Error, Result};

/// The completions of a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "das-cuda", &mut script);
    script
}

/// The program's part of the page, in which commands are not pages of their own, and each line of the version
/// is one.
fn without_other_pages(page: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(page);
    let line = |line: &str| match line.strip_prefix("das\\-cuda\\-").and_then(|rest| rest.strip_suffix("(1)"))
    {
        Some(command) => format!("\\fB{command}\\fR\n"),
        None if line.starts_with("commit: ") || line.starts_with("kernels: ") => format!(".br\n{line}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect::<String>().into_bytes()
}

/// The manual page: of the program, then of each command.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) if it cannot be rendered, which no input should cause.
pub fn page() -> Result<Vec<u8>> {
    let mut page = Vec::new();
    // Every command is in this page; what `help` does, `--help` says.
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let rendered = (|| {
        clap_mangen::Man::new(program.clone()).render(&mut page)?;
        page = without_other_pages(&page);
        for command in program.get_subcommands() {
            let man = clap_mangen::Man::new(command.clone());
            let name = command.get_name().to_uppercase();
            page.extend(format!(".SH \"COMMAND {name}\"\n").bytes());
            man.render_description_section(&mut page)?;
            man.render_options_section(&mut page)?;
            man.render_extra_section(&mut page)?;
        }
        std::io::Result::Ok(())
    })();
    match rendered {
        Ok(()) => Ok(page),
        Err(e) => Err(Error::io("the manual page cannot be rendered").because(e).advice("use --help")),
    }
}
