use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use time::macros::datetime;

use super::*;

/// An output that can be looked into, and that fails while `room` is 0.
#[derive(Clone)]
struct Paper {
    text: Arc<Mutex<Vec<u8>>>,
    room: Arc<Mutex<usize>>,
}

impl Paper {
    fn new() -> Self {
        Self { text: Arc::default(), room: Arc::new(Mutex::new(usize::MAX)) }
    }

    fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut room = self.room.lock().unwrap();
        let count = bytes.len().min(*room);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *room -= count;
        self.text.lock().unwrap().extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn settings() -> LogSettings {
    LogSettings { level: Level::Info, format: Format::Text, file: None, secrets: Vec::new() }
}

/// What is logged meanwhile, without the timestamps of text lines.
fn logged(settings: &LogSettings, log: impl FnOnce()) -> String {
    let paper = Paper::new();
    let (lines, handle) = assemble(settings, Box::new(paper.clone())).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
    handle.flush();
    let text = paper.text();
    text.lines()
        .map(|line| line.find('[').filter(|at| *at < 26).map_or(line, |at| &line[at..]))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn text_is_the_message() {
    let text = logged(&settings(), || {
        let (id, session) = ("exec_001", "session_001");
        tracing::debug!("unseen");
        tracing::info!(
            execution_id = id,
            session_id = session,
            "Starting execution: {id} (language: python, session: {session})"
        );
        tracing::error!(execution_id = id, "Execution timeout: {id} (timeout: 300s)");
        tracing::warn!(status = 5);
    });
    insta::assert_snapshot!(text, @"
    [INFO] Starting execution: exec_001 (language: python, session: session_001)
    [ERROR] Execution timeout: exec_001 (timeout: 300s)
    [WARNING] status=5
    ");
}

#[test]
fn a_line_begins_with_utc_milliseconds() {
    let now = datetime!(2026-01-09 10:00:01.2349 UTC);
    let line = line::render(Format::Text, now, Level::Info, true, Fields::message("hello".to_owned()));
    assert_eq!(&*line, "2026-01-09T10:00:01.234Z [INFO] hello\n");
    let line = line::render(Format::Json, now, Level::Warning, true, Fields::message("hello".to_owned()));
    assert_eq!(&*line, "{\"timestamp\":\"2026-01-09T10:00:01.234Z\",\"level\":\"WARNING\",\"message\":\"hello\"}\n");
}

#[test]
fn json_keeps_the_fields_and_their_types() {
    let text = logged(&LogSettings { format: Format::Json, ..settings() }, || {
        tracing::info!(
            execution_id = "exec_001",
            duration_ms = 1234,
            load = 0.5,
            broken = f64::NAN,
            warm = true,
            level = "mine",
            shown = %"as text",
            "Execution completed: {} (duration: {}ms)", "exec_001", 1234
        );
    });
    insta::assert_snapshot!(text.split_once("Z\",").unwrap().1, @r#""level":"INFO","message":"Execution completed: exec_001 (duration: 1234ms)","execution_id":"exec_001","duration_ms":1234,"load":0.5,"broken":"NaN","warm":true,"shown":"as text"}"#);
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
}

#[test]
fn other_crates_show_from_warning_on_unless_debugging() {
    let log = || {
        tracing::info!(target: "hyper::proto", "chatter");
        tracing::warn!(target: "rustls", reason = "odd", "trouble");
        tracing::info!(target: "sandbox::probe", "ours");
        tracing::info!(target: "sandboxed", "not ours");
    };
    let at = |level| logged(&LogSettings { level, ..settings() }, log);
    assert_eq!(at(Level::Info), "[WARNING] trouble reason=\"odd\"\n[INFO] ours");
    assert_eq!(at(Level::Error), "");
    assert_eq!(at(Level::Debug).lines().count(), 4);
}

#[test]
fn nobody_can_write_lines_of_ours() {
    let evil = "a\n2026-01-09T10:00:00.000Z [ERROR] forged\r\x1b[2J\u{9b}\u{2028}\u{202e}\0b\tö";
    let text = logged(&settings(), || tracing::info!("session: {evil}"));
    insta::assert_snapshot!(text, @r"[INFO] session: a\n2026-01-09T10:00:00.000Z [ERROR] forged\r\u{1b}[2J\u{9b}\u{2028}\u{202e}\u{0}b\tö");
    let json = logged(&LogSettings { format: Format::Json, ..settings() }, || tracing::info!(evil, "session: {evil}"));
    assert!(!json.contains(char::is_control) && !json.contains('\u{2028}'));
    let object: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(object["evil"], evil);
}

#[test]
fn secrets_are_cut_out() {
    let secrets = vec!["tok".to_owned(), "tok-\"en\\1".to_owned(), String::new()];
    for format in [Format::Text, Format::Json] {
        let text = logged(&LogSettings { format, secrets: secrets.clone(), ..settings() }, || {
            let header = "Bearer tok-\"en\\1";
            tracing::error!(header, debug = ?header, "sent {header} and {header:?} and tok");
        });
        assert!(
            text.contains("sent Bearer [redacted] and \\\"Bearer [redacted]\\\" and [redacted]")
                || format == Format::Text
        );
        assert!(!text.contains("tok") && !text.contains("en\\"), "{text}");
    }
}

#[test]
fn a_long_message_is_cut() {
    let text = logged(&settings(), || tracing::info!("{}", "ö".repeat(100_000)));
    assert!(text.len() < 20_000 && text.ends_with("ö…"));
}

fn with_file(path: &Path, log: impl FnOnce(&LogHandle)) {
    let settings = LogSettings { file: Some(path.to_owned()), ..settings() };
    let (lines, handle) = assemble(&settings, Box::new(io::sink())).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || log(&handle));
}

#[test]
fn a_moved_file_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("executor.log"), folder.path().join("executor.log.1"));
    fs::write(&path, "before\n").unwrap();
    with_file(&path, |handle| {
        tracing::info!("one");
        handle.flush();
        fs::rename(&path, &moved).unwrap();
        tracing::info!("two");
        handle.flush();
        handle.reopen().unwrap();
        tracing::info!("three");
    });
    let lines = |path| {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| line.split(' ').next_back().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (lines(moved), lines(path.clone())),
        (vec!["before".into(), "one".into(), "two".into()], vec!["three".into()])
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
}

#[test]
fn a_file_that_cannot_be_reopened_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let (inner, moved) = (folder.path().join("a"), folder.path().join("b"));
    fs::create_dir(&inner).unwrap();
    with_file(&inner.join("log"), |handle| {
        fs::rename(&inner, &moved).unwrap();
        assert!(handle.reopen().is_err());
        tracing::info!("still here");
    });
    assert!(fs::read_to_string(moved.join("log")).unwrap().contains("still here"));
}

#[test]
fn a_file_that_cannot_be_opened_stops_the_start() {
    let settings = LogSettings { file: Some("/nowhere/executor.log".into()), ..settings() };
    let Err(error) = assemble(&settings, Box::new(io::sink())) else { panic!("it was opened") };
    insta::assert_snapshot!(error.to_string(), @"LOG_FILE = /nowhere/executor.log cannot be opened for writing: No such file or directory (os error 2); allowed: a file in a folder that exists");
}

#[test]
fn a_full_disk_costs_lines_and_is_told() {
    let paper = Paper::new();
    let (lines, handle) = assemble(&settings(), Box::new(paper.clone())).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
        *paper.room.lock().unwrap() = 40;
        for message in ["the disk is full within this line", "and stays full"] {
            tracing::info!("{message}");
            handle.flush();
        }
        *paper.room.lock().unwrap() = usize::MAX;
        tracing::info!("empty again");
        handle.flush();
    });
    let text = paper.text();
    let lines: Vec<_> = text.lines().map(|line| &line[25..]).collect();
    assert_eq!(
        lines,
        ["[INFO] the disk", "[WARNING] Log lines lost: 2 (they could not be written)", "[INFO] empty again"]
    );
}

#[test]
fn a_stalled_output_never_blocks() {
    let (reader, writer) = io::pipe().unwrap();
    let (lines, handle) = assemble(&settings(), Box::new(writer)).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
        for _ in 0..20_000 {
            tracing::info!("nobody reads this {}", "x".repeat(100));
        }
    });
    let before = std::time::Instant::now();
    handle.flush();
    assert!(before.elapsed() < FLUSH_WAIT * 2);
    drop(reader);
}
