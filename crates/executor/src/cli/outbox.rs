//! `outbox`: the reports that wait to be sent to the control plane and those that it refused; `outbox retry` has all of them sent
//! again. A running service notices by itself; without one they go at its next start.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::config::Config;
use crate::store::{OutboxRow, Store};
use crate::timestamp;

/// What to do.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print a JSON object instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Send all of them again, those put aside too
    Retry,
}

/// One report as it is printed.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    execution_id: String,
    attempts: u32,
    last_error: Option<String>,
    created_at: String,
}

#[derive(Debug, Default, Serialize)]
struct Listed {
    waiting: Vec<Report>,
    put_aside: Vec<Report>,
}

#[derive(Debug, Serialize)]
struct Retried {
    brought_back: usize,
    service_running: bool,
}

/// Prints what there is, or has it sent again.
///
/// # Errors
/// The file is there and can't be used.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<()> {
    let store = if config.state_path.join(crate::store::FILE).try_exists()? {
        Some(Store::open_beside(&config.state_path)?)
    } else {
        None
    };
    let printed = match arguments.action {
        None => {
            let rows = match &store {
                Some(store) => store.list_outbox().await?,
                None => Vec::new(),
            };
            let listed = listed(rows);
            if arguments.json { serde_json::to_string_pretty(&listed)? + "\n" } else { list_text(&listed) }
        }
        Some(Action::Retry) => {
            let brought_back = match &store {
                Some(store) => store.bring_back().await?,
                None => 0,
            };
            let retried = Retried { brought_back, service_running: crate::state::is_locked(&config.state_path) };
            if arguments.json { serde_json::to_string_pretty(&retried)? + "\n" } else { retry_text(&retried) }
        }
    };
    let mut out = io::stdout().lock();
    match out.write_all(printed.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn listed(rows: Vec<OutboxRow>) -> Listed {
    let mut listed = Listed::default();
    for row in rows {
        let is_put_aside = row.put_aside_reason.is_some();
        let report = Report {
            execution_id: row.execution_id,
            attempts: row.attempts,
            last_error: row.put_aside_reason.or(row.last_error),
            created_at: timestamp::seconds(timestamp::of_ms(row.created_ms)),
        };
        if is_put_aside { &mut listed.put_aside } else { &mut listed.waiting }.push(report);
    }
    listed
}

fn list_text(listed: &Listed) -> String {
    let all = listed.waiting.iter().chain(&listed.put_aside);
    let widest = all.map(|report| report.execution_id.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (kind, reports) in [("waiting", &listed.waiting), ("put aside", &listed.put_aside)] {
        for Report { execution_id, attempts, last_error, created_at } in reports {
            let error = last_error.as_deref().unwrap_or("not tried yet");
            let _ =
                writeln!(text, "{kind:9}  {execution_id:widest$}  since {created_at}, attempts: {attempts}, {error}");
        }
    }
    let (waiting, put_aside) = (listed.waiting.len(), listed.put_aside.len());
    let _ = writeln!(text, "{waiting} waiting, {put_aside} put aside");
    if put_aside > 0 {
        text.push_str("What is put aside was refused and is not sent again by itself: sandbox-executor outbox retry\n");
    }
    text
}

fn retry_text(retried: &Retried) -> String {
    let count = retried.brought_back;
    let reports = if count == 1 { "report" } else { "reports" };
    let when = match (count, retried.service_running) {
        (0, _) => return "Nothing waits and nothing was put aside\n".into(),
        (_, true) => "the running service sends them within seconds",
        (_, false) => "they are sent when the service starts",
    };
    format!("{count} {reports} to be sent again: {when}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(execution_id: &str, last_error: Option<&str>, put_aside_reason: Option<&str>) -> OutboxRow {
        OutboxRow {
            seq: 1,
            execution_id: execution_id.into(),
            attempts: 2,
            last_error: last_error.map(Into::into),
            put_aside_reason: put_aside_reason.map(Into::into),
            created_ms: 1_767_952_800_123,
        }
    }

    #[test]
    fn a_line_a_report_and_the_way_out() {
        let rows = vec![
            row("exec_001", Some("Connection refused"), None),
            row("e2", None, Some("HTTP 422 Unprocessable Entity")),
            row("e3", None, None),
        ];
        insta::assert_snapshot!(list_text(&listed(rows)), @"
        waiting    exec_001  since 2026-01-09T10:00:00Z, attempts: 2, Connection refused
        waiting    e3        since 2026-01-09T10:00:00Z, attempts: 2, not tried yet
        put aside  e2        since 2026-01-09T10:00:00Z, attempts: 2, HTTP 422 Unprocessable Entity
        2 waiting, 1 put aside
        What is put aside was refused and is not sent again by itself: sandbox-executor outbox retry
        ");
        insta::assert_snapshot!(list_text(&listed(Vec::new())), @"0 waiting, 0 put aside");
    }

    #[test]
    fn a_retry_says_when_they_go() {
        let text = |brought_back, service_running| retry_text(&Retried { brought_back, service_running });
        insta::assert_snapshot!(text(0, true), @"Nothing waits and nothing was put aside");
        insta::assert_snapshot!(text(1, true), @"1 report to be sent again: the running service sends them within seconds");
        insta::assert_snapshot!(text(2, false), @"2 reports to be sent again: they are sent when the service starts");
    }
}
