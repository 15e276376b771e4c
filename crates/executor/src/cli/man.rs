//! `man`: the manual page, made from the definition of the command line, for those who make packages; hidden in the help.
//!
//! One page for all commands: nearly every option is a setting, and a setting can be given to each of them.

use std::io::{self, Write};

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

/// What no definition of an option says: heading, then terms with their text.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "EXIT STATUS",
        &[
            ("0", "It was done; for run: the program ended with 0."),
            ("1", "It failed; for doctor: executions cannot run on this machine."),
            ("2", "A setting or an argument is not allowed."),
            (
                "124, 125, 137",
                "For run: timeout, failure of the sandbox, out of memory. Any other is the program's own.",
            ),
            ("143", "The service was stopped by a signal."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/sandbox-executor/config.toml", "Settings of the packaged service; any other file with --config."),
            ("/etc/sandbox-executor/environment", "Its environment, for the tokens; read by systemd."),
            ("/var/lib/sandbox-executor", "Results, reports that wait, packages, workspaces of sessions."),
        ],
    ),
];

/// Writes the page in roff.
///
/// # Errors
/// `out` can't be written to.
pub fn run(command: Command, out: &mut dyn Write) -> io::Result<()> {
    // The short help leaves the settings out, and the page would name them without a word.
    let mut command = command.disable_help_subcommand(true).mut_args(|argument| argument.hide_short_help(false));
    command.build();
    let page = Man::new(command.clone()).manual("sandbox-executor");
    page.render_title(out)?;
    // Names are neither pulled apart nor hyphenated.
    Roff::default().control("ad", ["l"]).control("nh", []).to_writer(out)?;
    page.render_name_section(out)?;
    synopsis(&command).to_writer(out)?;
    page.render_description_section(out)?;
    commands(&command).to_writer(out)?;
    page.render_options_section(out)?;
    for (heading, entries) in SECTIONS {
        let mut section = Roff::default();
        section.control("SH", [*heading]);
        for (term, text) in *entries {
            section.control("TP", []).text([bold(*term)]).text([roman(*text)]);
        }
        section.to_writer(out)?;
    }
    out.flush()
}

fn synopsis(command: &Command) -> Roff {
    let mut section = Roff::default();
    section.control("SH", ["SYNOPSIS"]).text([bold(command.get_name()), roman(" [OPTIONS] [COMMAND]")]);
    section
}

/// Each command with what it alone takes.
fn commands(command: &Command) -> Roff {
    let mut section = Roff::default();
    section.control("SH", ["COMMANDS"]);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let own = || sub.get_arguments().filter(|argument| !is_of_all(argument));
        let mut term = vec![bold(sub.get_name())];
        for argument in own().filter(|argument| argument.is_positional()) {
            term.extend([roman(" "), italic(value_names(argument))]);
        }
        section.control("TP", []).text(term).text([roman(sentence(sub.get_about()))]);
        section.control("RS", []);
        for argument in own() {
            let term = match argument.get_long() {
                Some(long) if argument.get_action().takes_values() => {
                    vec![bold(format!("--{long}")), roman(" "), italic(value_names(argument))]
                }
                Some(long) => vec![bold(format!("--{long}"))],
                None => vec![italic(value_names(argument))],
            };
            section.control("TP", []).text(term).text([roman(sentence(argument.get_help()))]);
        }
        for action in sub.get_subcommands() {
            section.control("TP", []).text([bold(action.get_name())]).text([roman(sentence(action.get_about()))]);
        }
        section.control("RE", []);
    }
    section
}

/// Whether every command takes it: settings have a heading.
fn is_of_all(argument: &Arg) -> bool {
    argument.get_help_heading().is_some() || matches!(argument.get_id().as_str(), "help" | "version")
}

fn value_names(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    if names.is_empty() { argument.get_id().as_str().to_uppercase() } else { names.join(" ") }
}

fn sentence(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;

    #[test]
    fn the_page_has_every_setting_and_every_command_with_its_words() {
        let command = Command::new("sandbox-executor")
            .about("Runs code")
            .args(crate::config::arguments())
            .subcommand(crate::cli::run::Arguments::augment_args(Command::new("run")).about("One execution"))
            .subcommand(Command::new("secret").about("Not for people").hide(true));
        let mut page = Vec::new();
        run(command, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace("\\*(Aq", "'").replace('\\', "");
        for setting in crate::config::SETTINGS {
            assert!(page.contains(&format!("--{}", setting.flag())), "{}", setting.name);
            let first = setting.doc.lines().next().unwrap().trim();
            assert!(page.contains(first), "{}: {first}", setting.name);
        }
        assert!(page.contains("One execution") && page.contains("--language"));
        assert!(!page.contains("Not for people"));
    }
}
