//! Every attack in every column, and one table of all.
//!
//! `SECURITY_COLUMNS="bubblewrap × user,native × root"` tries those columns alone; `SECURITY_WITHOUT=resources,http` leaves
//! those parts out, which hold on no slow machine. Either is said, and so the table is not held against the catalogue.
#![cfg(target_os = "linux")]

mod burdens;
mod elsewhere;
mod files;
mod http;
mod neighbours;
mod outcomes;
mod resources;
mod sandbox;
mod swaps;
mod workspaces;

use conformance::assert_completed;
use security::{COLUMNS, Column, Finding, Host, Mode, Table, copy_program, is_root};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Instant;

/// A part of the suite: what it is called, and its rows.
type Part = (&'static str, fn(&mut Table, &Column, &mut Host));

const PARTS: [Part; 9] = [
    ("sandbox", sandbox::attack),
    ("neighbours", neighbours::attack),
    ("workspaces", workspaces::attack),
    ("files", files::attack),
    ("swaps", swaps::attack),
    ("outcomes", outcomes::attack),
    ("resources", resources::attack),
    ("http", http::attack),
    ("elsewhere", elsewhere::list),
];

#[test]
fn every_attack_in_every_column() {
    let left_out = named("SECURITY_WITHOUT", &PARTS.map(|(name, _)| name.to_owned()));
    let (skipped, parts): (Vec<Part>, Vec<Part>) = PARTS.into_iter().partition(|(name, _)| left_out.contains(*name));
    let chosen = named("SECURITY_COLUMNS", &COLUMNS.map(column_name));
    let is_chosen = |column: &(&str, Mode)| chosen.is_empty() || chosen.contains(&column_name(*column));
    let (columns, others): (Vec<_>, Vec<_>) = COLUMNS.into_iter().partition(is_chosen);
    for (name, _) in &skipped {
        say(&format!("SKIPPED: the part {name}: SECURITY_WITHOUT names it"));
    }
    for column in &others {
        say(&format!("SKIPPED: the column {}: SECURITY_COLUMNS does not name it", column_name(*column)));
    }
    let mut table = Table::default();
    for (adapter, mode) in columns {
        attack(&mut table, &parts, adapter, mode);
    }
    table.finish(skipped.is_empty() && others.is_empty());
}

/// The names in this variable, with commas between them; each must be one of `known`.
#[expect(clippy::disallowed_methods, reason = "what is tested is named by the environment")]
fn named(variable: &str, known: &[String]) -> std::collections::HashSet<String> {
    let names = std::env::var(variable).unwrap_or_default();
    let names: std::collections::HashSet<String> =
        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    for name in &names {
        assert!(known.contains(name), "{variable} = {name}: there are {}", known.join(", "));
    }
    names
}

fn column_name((adapter, mode): (&str, Mode)) -> String {
    format!("{adapter} × {}", mode.name())
}

fn attack(table: &mut Table, parts: &[Part], adapter: &'static str, mode: Mode) {
    let name = column_name((adapter, mode));
    if mode == Mode::Root && !is_root() {
        return say(&format!("SKIPPED: the column {name} needs the tests to run as root"));
    }
    let mut host = Host::new();
    let secrets = [("INTERNAL_API_TOKEN", host.secret()), ("CANARY_OF_THE_TEST", host.secret())];
    let column = match Column::start(adapter, mode, host.folder(), &secrets) {
        Ok(column) => column,
        Err(why) => return say(&format!("SKIPPED: the column {name}: {why}")),
    };
    table.begin(&name);
    let mut times = Vec::new();
    for &(part, attack) in parts {
        let start = Instant::now();
        // A part that breaks off is a failed row; the table is printed all the same.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| attack(table, &column, &mut host))) {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            table.broke_off(part, text.unwrap_or("it panicked"));
        }
        times.push(format!("{part} {:.1} s", start.elapsed().as_secs_f64()));
    }
    let ready = column.standing_ready();
    say(&format!("{name}: {ready} processes stood ready; {}", times.join(", ")));
}

/// Past the test runner's capture.
fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(format!("  {text}\n").as_bytes());
}

/// Tells the facts of a column to the probes.
fn facts(host: &Host, column: &Column) -> Value {
    let mut facts = host.facts();
    facts["service_port"] = column.port().into();
    facts["state"] = json!(column.path("state"));
    facts["workspaces"] = json!(column.path("workspaces"));
    facts["pids"] = json!([host.canary_pid(), column.pid(), std::process::id()]);
    facts
}

/// The return value of an execution that ran through.
#[track_caller]
fn returned(answer: Value) -> Value {
    assert_completed(&answer);
    answer["return_value"].clone()
}

#[track_caller]
fn findings(answer: Value) -> Vec<Finding> {
    serde_json::from_value(returned(answer)).expect("findings")
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}

#[test]
fn it_works_when_the_program_lies_below_a_folder_of_roots_alone() {
    if !is_root() {
        return say("SKIPPED, 1 test: the program below a 0700 folder needs the tests to run as root");
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).expect("a mode");
    let below = folder.path().join("clone/target/release");
    std::fs::create_dir_all(&below).expect("folders");
    let program = below.join("sandbox-executor");
    copy_program(&program);

    // That the folder does keep others out.
    let by_another = Command::new(&program).arg("--version").uid(65_534).gid(65_534).spawn();
    assert_eq!(by_another.expect_err("it is root's alone").kind(), std::io::ErrorKind::PermissionDenied);

    let programs = [
        ("python", "def handler(event): return 'hello'"),
        ("javascript", "exports.handler = () => 'hello'"),
        ("shell", "echo '\"hello\"' >&3"),
    ];
    for (adapter, (language, code)) in
        ["native", "bubblewrap"].into_iter().flat_map(|adapter| programs.map(|program| (adapter, program)))
    {
        let file = below.join(language);
        std::fs::write(&file, code).expect("the code");
        let mut command = Command::new(&program);
        command
            .args(["run", "--language", language])
            .arg(&file)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("ISOLATION", adapter)
            .env("STATE_PATH", below.join("state"))
            .env("WORKSPACE_PATH", below.join("workspaces"))
            .current_dir(&below);
        let output = conformance::output_within(60, &mut command);
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("hello"), "{adapter}, {language}: {text}\n{errors}");
    }
}
