//! The store as its users see it, each test in a folder of its own.

use super::read::Known;
use super::*;
use rusqlite::Connection;
use tempfile::TempDir;

const KEEPING: Keeping = Keeping { retention: Duration::from_secs(3600), most_bytes: Keeping::MOST_BYTES };

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn open(&self) -> Store {
        Store::open(self.0.path(), KEEPING).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.path().join(FILE)
    }
}

fn record(store: &Store, id: &str) -> Record {
    Record {
        seq: store.next_seq(),
        id: id.into(),
        session_id: None,
        language: "python".into(),
        digest: Some([7; 32]),
        created_ms: 1,
    }
}

fn finished(body: &'static str) -> Finished {
    Finished {
        status: Status::Completed,
        exit_code: Some(0),
        started_ms: Some(2),
        finished_ms: 3,
        execution_time: 0.5,
        body: Bytes::from_static(body.as_bytes()),
        to_report: false,
    }
}

fn known(store: &Store, id: &str) -> Option<Status> {
    store.known(id).unwrap().map(|known| known.status)
}

#[tokio::test]
async fn an_execution_is_found_again_at_each_of_its_stages() {
    let place = Place::new();
    let store = place.open();
    let record = record(&store, "one");
    store.accept(record.clone(), Bytes::from_static(b"the request")).await.unwrap();
    assert_eq!(known(&store, "one"), Some(Status::Pending));
    assert_eq!(store.request(record.seq).await.unwrap().unwrap(), b"the request");
    assert_eq!(store.unfinished().await.unwrap().len(), 1);
    store.begin(record.clone(), 2, Wait::Durable).await.unwrap();
    assert_eq!(known(&store, "one"), Some(Status::Running));
    assert_eq!(store.request(record.seq).await.unwrap(), None);
    store.finish(record.clone(), finished("{}"), Wait::Written).await.unwrap();
    let expected = Known { seq: record.seq, digest: Some([7; 32]), status: Status::Completed };
    assert_eq!(store.known("one").unwrap(), Some(expected));
    assert_eq!(store.result("one").await.unwrap().unwrap(), b"{}");
    assert_eq!(store.result_bytes(record.seq).await.unwrap(), Some((2, Status::Completed)));
    assert!(store.unfinished().await.unwrap().is_empty());
    assert_eq!(store.known("two").unwrap(), None);
}

#[tokio::test]
async fn a_result_is_read_in_pieces_as_long_as_it_is_kept() {
    let place = Place::new();
    let store = place.open();
    let record = record(&store, "one");
    let body: Bytes = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let large = Finished { body: body.clone(), ..finished("") };
    store.finish(record.clone(), large, Wait::Written).await.unwrap();
    let stored = store.stored(record.seq, body.len());
    for (from, most) in [(0, 1), (0, 500_000), (777_777, 100_000), (1_199_999, 500_000)] {
        let piece = stored.piece(from, most).await.unwrap();
        assert_eq!(piece, body[from..(from + most).min(body.len())]);
    }
    store.forget(record.seq, Wait::Written).await.unwrap();
    store.change(change::Change::Drop { seqs: vec![record.seq] }, Wait::Written).await.unwrap();
    stored.piece(0, 1).await.unwrap_err();
}

#[tokio::test]
async fn what_was_written_is_there_after_the_store_was_closed_and_the_order_goes_on() {
    let place = Place::new();
    let store = place.open();
    let first = record(&store, "first");
    store.begin(first.clone(), 2, Wait::Written).await.unwrap();
    // Nobody waits for this one: closing does.
    drop(store.finish(first.clone(), finished("[1]"), Wait::Nothing));
    store.close().await;
    assert!(matches!(store.flush().await, Err(StoreError::Failed(_))));
    drop(store);
    let store = place.open();
    assert_eq!(store.result("first").await.unwrap().unwrap(), b"[1]");
    assert!(store.next_seq() > first.seq);
}

#[tokio::test]
async fn one_that_was_forgotten_was_never_there() {
    let place = Place::new();
    let store = place.open();
    let record = record(&store, "one");
    store.begin(record.clone(), 2, Wait::Written).await.unwrap();
    store.forget(record.seq, Wait::Written).await.unwrap();
    assert_eq!(store.known("one").unwrap(), None);
    let again = self::record(&store, "one");
    store.begin(again, 2, Wait::Written).await.unwrap();
}

#[tokio::test]
async fn an_id_is_there_once() {
    let place = Place::new();
    let store = place.open();
    store.accept(record(&store, "one"), Bytes::new()).await.unwrap();
    store.accept(record(&store, "one"), Bytes::new()).await.unwrap_err();
    // And what was written with it in one transaction is written.
    let (a, b) = tokio::join!(
        store.accept(record(&store, "one"), Bytes::new()),
        store.accept(record(&store, "two"), Bytes::new())
    );
    assert!(a.is_err() && b.is_ok());
    store.room().unwrap();
}

#[tokio::test]
async fn the_outbox_holds_a_report_until_it_is_delivered() {
    let place = Place::new();
    let store = place.open();
    for id in ["a", "b", "c"] {
        let record = record(&store, id);
        store.finish(record, Finished { to_report: true, ..finished("{}") }, Wait::Written).await.unwrap();
    }
    let ids = |waiting: Vec<Waiting>| waiting.into_iter().map(|one| one.execution_id).collect::<Vec<_>>();
    let waiting = store.waiting(0, 10).await.unwrap();
    let after_first = waiting[0].seq;
    assert_eq!(ids(waiting), ["a", "b", "c"]);
    assert_eq!(ids(store.waiting(after_first, 1).await.unwrap()), ["b"]);
    store.delivered("a").await.unwrap();
    store.attempted("b", 3, "connection refused").await.unwrap();
    store.put_aside("c", "422").await.unwrap();
    assert_eq!(store.waiting(0, 10).await.unwrap()[0].attempts, 3);
    let counts = store.outbox_counts().await.unwrap();
    assert_eq!(counts, OutboxCounts { waiting: 1, put_aside: 1, oldest_ms: Some(3) });
    let rows = store.list_outbox().await.unwrap();
    let OutboxRow { execution_id, attempts, created_ms, .. } = &rows[0];
    assert_eq!((execution_id.as_str(), *attempts, *created_ms), ("b", 3, 3));
    assert_eq!(rows[0].last_error.as_deref(), Some("connection refused"));
    assert_eq!(rows[1].put_aside_reason.as_deref(), Some("422"));
    assert_eq!(store.bring_back().await.unwrap(), 2);
    assert_eq!(store.waiting(0, 1).await.unwrap()[0].attempts, 0);
    assert_eq!(ids(store.waiting(0, 10).await.unwrap()), ["b", "c"]);
}

#[tokio::test]
async fn another_process_brings_reports_back_and_the_service_notices() {
    let place = Place::new();
    let store = place.open();
    let one = record(&store, "one");
    store.finish(one, Finished { to_report: true, ..finished("{}") }, Wait::Written).await.unwrap();
    store.put_aside("one", "400").await.unwrap();
    let before = store.data_version().await.unwrap();
    assert_eq!(store.data_version().await.unwrap(), before);
    let beside = Store::open_beside(place.0.path()).unwrap();
    assert_eq!(beside.bring_back().await.unwrap(), 1);
    beside.close().await;
    assert_ne!(store.data_version().await.unwrap(), before);
    assert_eq!(store.waiting(0, 10).await.unwrap().len(), 1);
    assert!(Store::open_beside(TempDir::new().unwrap().path()).is_err());
}

#[tokio::test]
async fn lists_are_newest_first_and_can_be_narrowed_and_continued() {
    let place = Place::new();
    let store = place.open();
    for number in 0..10 {
        let session_id = (number % 2 == 0).then(|| "even".to_owned());
        let record = Record { session_id, ..record(&store, &format!("e{number}")) };
        let status = if number < 5 { Status::Completed } else { Status::Failed };
        store.finish(record, Finished { status, ..finished("{}") }, Wait::Written).await.unwrap();
    }
    let list = async |filter: Filter, most| {
        let rows = store.list(filter, most).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(list(Filter::default(), 3).await, ["e9", "e8", "e7"]);
    let before_seq = store.known("e7").unwrap().map(|known| known.seq);
    assert_eq!(list(Filter { before_seq, ..Filter::default() }, 2).await, ["e6", "e5"]);
    let even = Filter { session_id: Some("even".into()), ..Filter::default() };
    assert_eq!(list(even.clone(), 9).await, ["e8", "e6", "e4", "e2", "e0"]);
    assert_eq!(list(Filter { status: Some(Status::Failed), ..even.clone() }, 9).await, ["e8", "e6"]);
    assert_eq!(list(Filter { status: Some(Status::Completed), ..even }, 9).await, ["e4", "e2", "e0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_wait_for_the_disk_share_a_sync() {
    let place = Place::new();
    let store = place.open();
    let before = store.0.writer.syncs.load(Ordering::Relaxed);
    let clients = (0..32).map(|client| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..20 {
                let record = record(&store, &format!("{client}-{number}"));
                store.accept(record, Bytes::from_static(b"request")).await.unwrap();
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let syncs = store.0.writer.syncs.load(Ordering::Relaxed) - before;
    assert_eq!(store.unfinished().await.unwrap().len(), 640);
    assert!((20..=128).contains(&syncs), "{syncs} syncs for 640 executions by 32 clients");
}

#[tokio::test]
async fn results_leave_when_their_time_is_over_but_not_those_to_be_reported() {
    let place = Place::new();
    let store = Store::open(place.0.path(), Keeping { retention: Duration::from_secs(100), ..KEEPING }).unwrap();
    for (id, to_report) in [("old", false), ("reported", true)] {
        let record = record(&store, id);
        // The wall clock goes back and forth; that is for people.
        let finished = Finished { to_report, finished_ms: -1_000_000, ..finished("{}") };
        store.finish(record, finished, Wait::Written).await.unwrap();
    }
    store.0.writer.clock().advance(50);
    store.finish(record(&store, "new"), finished("{}"), Wait::Written).await.unwrap();
    store.0.writer.clock().advance(50);
    until(|| known(&store, "old").is_none()).await;
    assert_eq!(known(&store, "reported"), Some(Status::Completed));
    assert_eq!(known(&store, "new"), Some(Status::Completed));
}

#[tokio::test]
async fn the_oldest_leave_when_there_are_too_many_bytes_and_their_room_is_given_back() {
    let place = Place::new();
    let most_bytes = 8 * 1024 * 1024;
    let store = Store::open(place.0.path(), Keeping { most_bytes, ..KEEPING }).unwrap();
    let large = Bytes::from(vec![b'x'; 1024 * 1024]);
    let first = record(&store, "to report");
    let to_report = Finished { to_report: true, body: large.clone(), ..finished("") };
    store.finish(first, to_report, Wait::Written).await.unwrap();
    for number in 0..40 {
        let record = record(&store, &format!("e{number}"));
        store.finish(record, Finished { body: large.clone(), ..finished("") }, Wait::Written).await.unwrap();
    }
    until(|| known(&store, "e30").is_none()).await;
    assert_eq!(known(&store, "to report"), Some(Status::Completed));
    assert_eq!(store.result("to report").await.unwrap().unwrap(), large);
    store.finish(record(&store, "last"), finished("{}"), Wait::Written).await.unwrap();
    let size = || std::fs::metadata(place.file()).map_or(0, |file| file.len());
    until(|| size() < 3 * most_bytes).await;
    store.close().await;
    drop(store);
    assert!(size() < 3 * most_bytes, "{}", size());
    assert!(!place.0.path().join("executions.db-wal").exists());
}

#[tokio::test]
async fn the_log_stays_short_while_something_is_written_all_the_time() {
    let place = Place::new();
    let store = Store::open(place.0.path(), Keeping { most_bytes: 64 * 1024 * 1024, ..KEEPING }).unwrap();
    let body = Bytes::from(vec![b'x'; 512 * 1024]);
    let log = place.0.path().join("executions.db-wal");
    let most = 4 * super::writer::LONG_LOG_BYTES;
    let (mut longest, mut written) = (0, 0);
    // As long as that it would be without.
    while written < 2 * most {
        let record = record(&store, &format!("e{written}"));
        store.finish(record, Finished { body: body.clone(), ..finished("") }, Wait::Written).await.unwrap();
        written += body.len() as u64;
        longest = longest.max(std::fs::metadata(&log).map_or(0, |log| log.len()));
        // Not faster than a disk: what is written within one pause counts on top.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(longest < most, "{longest} of {written}");
}

async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 30 s");
}

/// Not a test: the process that the next one kills. It works in the folder that it was started in, and says what it was promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is killed by another test"]
async fn a_process_that_writes_until_it_is_killed() {
    let store = Store::open(Path::new("."), KEEPING).unwrap();
    let body = Bytes::from(vec![b'x'; 20_000]);
    for _ in 0..1_000_000 {
        let record = self::record(&store, &format!("e{}", crate::workspace::random()));
        println!("accepting {}", record.id);
        store.accept(record.clone(), body.clone()).await.unwrap();
        println!("accepted {}", record.id);
        if record.seq % 3 > 0 {
            store.begin(record.clone(), 2, Wait::Written).await.unwrap();
            println!("begun {}", record.id);
        }
        if record.seq % 3 > 1 {
            let finished = Finished { body: body.clone(), to_report: true, ..finished("") };
            store.finish(record.clone(), finished, Wait::Written).await.unwrap();
            println!("finished {}", record.id);
        }
    }
}

#[tokio::test]
async fn what_a_killed_process_was_promised_is_there() {
    use std::io::{BufRead, BufReader};
    let place = Place::new();
    let mut promised = std::collections::HashMap::new();
    for kill in 1..=10 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::a_process_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .current_dir(place.0.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: String| {
            if let Some((what, id)) = line.split_once(' ').filter(|(_, id)| id.starts_with('e')) {
                promised.insert(id.to_owned(), what.to_owned());
            }
        };
        // Killed wherever it is after some more of them each time; what it said by then counts, too.
        (0..13 * kill).for_each(|_| note(lines.next().unwrap().unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(note);
        let store = place.open();
        let verdict = Connection::open(place.file()).unwrap();
        let verdict = verdict.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(verdict, "ok");
        for (id, what) in &promised {
            let found = known(&store, id);
            // It may have come further than it could say.
            let right = match what.as_str() {
                "accepting" => true,
                "accepted" => found.is_some(),
                "begun" => matches!(found, Some(Status::Running | Status::Completed)),
                _ => found == Some(Status::Completed) && store.result(id).await.unwrap().unwrap().len() == 20_000,
            };
            assert!(right, "{id} was {what} and is {found:?}");
        }
        let reports = store.list_outbox().await.unwrap().into_iter().map(|row| row.execution_id);
        let mut completed =
            promised.keys().filter(|id| known(&store, id) == Some(Status::Completed)).collect::<Vec<_>>();
        let mut reports = reports.collect::<Vec<_>>();
        completed.sort_unstable();
        reports.sort_unstable();
        assert_eq!(reports.iter().collect::<Vec<_>>(), completed, "a result and its report are there together");
    }
    assert!(promised.values().filter(|what| *what == "finished").count() > 10);
}

#[tokio::test]
async fn only_its_user_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.open();
    store.accept(record(&store, "one"), Bytes::new()).await.unwrap();
    for entry in std::fs::read_dir(place.0.path()).unwrap().flatten() {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o77, 0, "{:?}: {mode:o}", entry.file_name());
    }
}

/// A closed store with a few results.
async fn filled(place: &Place) {
    let store = place.open();
    for number in 0..200 {
        let record = record(&store, &format!("e{number}"));
        drop(store.finish(record, finished("{\"some\": \"result\"}"), Wait::Nothing));
    }
    store.close().await;
}

fn refused(place: &Place) -> OpenError {
    let before = std::fs::read(place.file()).unwrap();
    let error = Store::open(place.0.path(), KEEPING).unwrap_err();
    assert_eq!(std::fs::read(place.file()).unwrap(), before, "it was touched");
    let text = error.to_string();
    assert!(text.contains(place.file().to_str().unwrap()) && !text.contains('\n'), "{text}");
    error
}

#[tokio::test]
async fn a_foreign_file_is_refused_and_not_touched() {
    for content in ["", "something else", &"no database at all ".repeat(100)] {
        let place = Place::new();
        std::fs::write(place.file(), content).unwrap();
        assert!(matches!(refused(&place), OpenError::Foreign { .. }), "{content:?}");
    }
    let place = Place::new();
    Connection::open(place.file()).unwrap().execute_batch("CREATE TABLE executions (a)").unwrap();
    assert!(matches!(refused(&place), OpenError::Foreign { .. }));
}

#[tokio::test]
async fn a_newer_file_is_refused_and_not_touched() {
    let place = Place::new();
    filled(&place).await;
    Connection::open(place.file()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(refused(&place), OpenError::Newer { found: 99, .. }));
    assert!(matches!(Store::open_beside(place.0.path()), Err(OpenError::Newer { .. })));
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_not_touched() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("cut off", |bytes| bytes.truncate(bytes.len() / 2)),
        ("a page of zeros", |bytes| bytes[3 * 4096..4 * 4096].fill(0)),
        ("pages of noise", |bytes| {
            for (number, byte) in bytes[2 * 4096..].iter_mut().enumerate() {
                *byte = (number * 31 % 251) as u8;
            }
        }),
        ("no schema", |bytes| bytes[100..4096].fill(0xff)),
    ];
    for (what, damage) in damages {
        let place = Place::new();
        filled(&place).await;
        let mut bytes = std::fs::read(place.file()).unwrap();
        damage(&mut bytes);
        std::fs::write(place.file(), &bytes).unwrap();
        assert!(matches!(refused(&place), OpenError::Damaged { .. }), "{what}");
    }
    // The same file as it was opens.
    let place = Place::new();
    filled(&place).await;
    assert_eq!(known(&place.open(), "e199"), Some(Status::Completed));
}
