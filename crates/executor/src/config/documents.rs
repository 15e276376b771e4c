//! The documents that are made of the table of settings, `config.default.toml` and `docs/configuration.md`, and that they are
//! what it says.

use std::fmt::Write as _;
use std::path::Path;

use super::*;

pub(super) const DEFAULT_FILE: &str = include_str!("../../../../config.default.toml");
const PAGE: &str = include_str!("../../../../docs/configuration.md");
const UP_TO_DATE: &str = "`cargo test -p executor -- --ignored write_the_documents` brings it up to date";

/// What `config.default.toml` has to say, made from the table.
fn default_file() -> String {
    let mut text = String::from(
        "# The settings of sandbox-executor, each with its default. Copy this file, uncomment what you change, and\n\
         # start the service with --config FILE.\n\
         #\n\
         # A flag takes precedence over the environment variable, that over this file, that over the default. The variable of\n\
         # a setting is its key in capitals; the flag is named with each setting. Something that is set but empty counts\n\
         # as not set. A list is an array of strings, or a string with commas. A relative path counts from the folder in\n\
         # which the service is started. Sizes in MB are 1,048,576 bytes.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        if section != setting.section {
            section = setting.section;
            let _ = write!(text, "\n# ---- {section} ----\n");
        }
        text.push('\n');
        for line in setting.doc.lines() {
            let _ = writeln!(text, "# {}", line.trim());
        }
        let _ = writeln!(text, "# Allowed: {}. Flag: --{}", (setting.allowed)(), setting.flag());
        let value = match setting.shape {
            Shape::Number if setting.default.parse::<f64>().is_err() => format!("{:?}", setting.default),
            Shape::Number | Shape::Switch => setting.default.to_owned(),
            Shape::List if setting.default.is_empty() => "[]".to_owned(),
            _ => format!("{:?}", setting.default),
        };
        let _ = writeln!(text, "#{} = {value}", setting.key());
    }
    text
}

/// What `docs/configuration.md` has to say: what somebody wrote above the first section, and the sections.
fn page() -> String {
    let mut text = PAGE.split_inclusive('\n').take_while(|line| !line.starts_with("## ")).collect::<String>();
    text.truncate(text.trim_end().len());
    text.push('\n');
    let mut section = "";
    for setting in SETTINGS {
        if section != setting.section {
            section = setting.section;
            let _ =
                write!(text, "\n## {section}\n\n| variable, flag | default | meaning | allowed |\n|---|---|---|---|\n");
        }
        let cell = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let default = match setting.default {
            "" => "not set".to_owned(),
            // A line may break after a comma.
            list if setting.shape == Shape::List => format!("`{}`", list.replace(',', "`, `")),
            value => format!("`{value}`"),
        };
        let (name, flag) = (setting.name, setting.flag());
        let (doc, allowed) = (cell(setting.doc), cell(&(setting.allowed)()));
        let _ = writeln!(text, "| `{name}`<br>`--{flag}` | {default} | {doc} | {allowed} |");
    }
    text
}

#[test]
fn the_default_file_documents_every_setting() {
    assert!(DEFAULT_FILE == default_file(), "{}", UP_TO_DATE);
}

#[test]
#[ignore = "changes config.default.toml and docs/configuration.md"]
fn write_the_documents() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::write(root.join("config.default.toml"), default_file()).unwrap();
    std::fs::write(root.join("docs/configuration.md"), page()).unwrap();
}

#[test]
fn the_page_documents_every_setting() {
    assert!(PAGE == page(), "{}", UP_TO_DATE);
}
