//! `hawser completions` and `hawser man`: what shells and man(1) know of the command line, made from the command line itself.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::error::{ExitCode, Failure};

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write every page there, hawser.1 and a page for each verb, instead of printing hawser.1.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Of `command`, the whole command line.
pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<ExitCode, Failure> {
    // Not to standard output directly: the crate panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "hawser", &mut text);
    print(&text, "completions")
}

/// The same.
pub(super) fn man(args: &ManArgs, command: Command) -> Result<ExitCode, Failure> {
    match &args.dir {
        Some(dir) => {
            write(command, dir).map_err(|error| {
                Failure::new(
                    ExitCode::Usage,
                    format!("the manual pages cannot be written to {}", dir.display()),
                )
                .because(error)
                .remedy("name a directory that exists and can be written to")
            })?;
            Ok(ExitCode::Success)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .map_err(|error| Failure::new(ExitCode::Internal, "the manual page").because(error))?;
            print(&page, "manual page")
        }
    }
}

fn write(command: Command, dir: &Path) -> io::Result<()> {
    clap_mangen::generate_to(command, dir)
}

fn print(text: &[u8], what: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::Success),
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::Success),
        Err(error) => Err(Failure::new(ExitCode::Internal, format!("print the {what}")).because(error)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_shell_knows_the_verbs() {
        for shell in [
            Shell::Bash,
            Shell::Fish,
            Shell::Zsh,
            Shell::Elvish,
            Shell::PowerShell,
        ] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hawser", &mut text);
            let text = String::from_utf8(text).unwrap();
            for verb in ["pause", "status", "migrate"] {
                assert!(text.contains(verb), "{shell}: {verb}");
            }
        }
    }

    #[test]
    fn every_verb_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        write(Cli::command(), dir.path()).unwrap();
        for verb in Cli::command()
            .get_subcommands()
            .filter(|verb| verb.get_name() != "help")
        {
            let page = dir.path().join(format!("hawser-{}.1", verb.get_name()));
            let text = std::fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{}", page.display());
        }
        assert!(dir.path().join("hawser.1").exists());
    }
}
