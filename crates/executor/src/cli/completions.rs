//! `completions SHELL`: what the shell needs to complete our commands and flags.

use std::io::{self, Write};

use clap::Command;
use clap_complete::{Generator, Shell};

/// Writes the completion script of `shell` for `command`.
///
/// # Errors
/// `out` can't be written to.
pub fn run(shell: Shell, command: &mut Command, out: &mut dyn Write) -> io::Result<()> {
    let name = command.get_name().to_owned();
    command.set_bin_name(name);
    command.build();
    shell.try_generate(command, out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that has gone away.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn command() -> Command {
        Command::new("sandbox-executor").args(crate::config::arguments()).subcommand(Command::new("serve"))
    }

    #[test]
    fn every_shell_gets_the_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let mut script = Vec::new();
            run(shell, &mut command(), &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("sandbox-executor") && script.contains("max-memory-mb"), "{shell}");
        }
    }

    #[test]
    fn a_closed_output_is_an_error_and_no_panic() {
        let error = run(Shell::Bash, &mut command(), &mut Closed).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
