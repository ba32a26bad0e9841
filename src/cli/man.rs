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

/// The manual page: of the program, then of each command.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) if it cannot be rendered, which no input should cause.
pub fn page() -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut program = Cli::command();
    program.build();
    let rendered = (|| {
        clap_mangen::Man::new(program.clone()).render(&mut page)?;
        for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
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
