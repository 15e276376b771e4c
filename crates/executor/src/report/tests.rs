//! Reports on their way from a store to a control plane, without executions around them.

use super::*;
use bytes::Bytes;
use conformance::ControlPlane;
use conformance::control_plane::{Call, Kind, Reply};
use std::time::Instant;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::store::{Finished, Keeping, Record, Status as Ended, Wait};

const KEEPING: Keeping = Keeping { retention: Duration::from_secs(3600), most_bytes: Keeping::MOST_BYTES };

/// A state folder, and what reports from it.
pub(super) struct Place {
    folder: TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Place {
    pub(super) fn new(plane: &ControlPlane) -> Self {
        let settings = vec![("CONTROL_PLANE_URL", plane.url()), ("HEARTBEAT_INTERVAL", "1".into())];
        Self { folder: TempDir::new().unwrap(), settings }
    }

    pub(super) fn start(&self) -> (Store, Reports) {
        self.start_with(&self.config())
    }

    fn config(&self) -> Config {
        let settings: Vec<(&str, &str)> = self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Config::of(&settings)
    }

    fn start_with(&self, config: &Config) -> (Store, Reports) {
        let store = Store::open(self.folder.path(), KEEPING).unwrap();
        let reports = Reports::start(config, store.clone()).unwrap().unwrap();
        (store, reports)
    }
}

/// Writes an execution's end.
pub(super) async fn finish(store: &Store, id: &str) {
    let record = Record {
        seq: store.next_seq(),
        id: id.into(),
        session_id: None,
        language: "python".into(),
        digest: None,
        created_ms: 1,
    };
    let body = format!(
        r#"{{"status":"completed","exit_code":0,"signal":null,"stdout":"{id}","stderr":"","return_value":1e30,"error":null,
            "execution_time":0.1,"metrics":{{}},"artifacts":[]}}"#
    );
    let finished = Finished {
        status: Ended::Completed,
        exit_code: Some(0),
        started_ms: Some(1),
        finished_ms: 1,
        execution_time: 0.1,
        body: Bytes::from(body),
        to_report: true,
    };
    store.finish(record, finished, Wait::Written).await.unwrap();
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn waiting(store: &Store) -> u64 {
    store.outbox_counts().await.unwrap().waiting
}

fn results(plane: &ControlPlane) -> Vec<String> {
    plane.of_kind(Kind::Result).into_iter().map(|call| call.execution).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_before_the_result_and_never_behind_it() {
    let plane = ControlPlane::start();
    // The first heartbeat takes longer than the execution.
    plane.behave(|call: &Call| match call.kind {
        Kind::Heartbeat => Reply::Late(Duration::from_millis(300), 200),
        _ => Reply::Status(200),
    });
    let place = Place::new(&plane);
    let (store, reports) = place.start();
    let heartbeats = reports.started("short");
    finish(&store, "short").await;
    reports.finished(heartbeats);
    until("the result", async || waiting(&store).await == 0).await;
    let calls = plane.of_execution("short");
    assert_eq!(calls.iter().map(|call| call.kind).collect::<Vec<_>>(), [Kind::Heartbeat, Kind::Result]);
    assert!(calls[1].came >= calls[0].answered.unwrap().0);
    assert!(calls[1].text().contains(r#""return_value":1e30"#), "{}", calls[1].text());
    assert!(!reports.0.beating().contains("short"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_is_never_finished_beats_until_it_is_dropped() {
    let plane = ControlPlane::start();
    let place = Place::new(&plane);
    let (_store, reports) = place.start();
    let mut heartbeats = reports.started("long");
    heartbeats.beat_while(until("heartbeats", async || plane.count() >= 3)).await;
    drop(heartbeats);
    until("the end", async || reports.0.is_idle()).await;
    let count = plane.count();
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(plane.count(), count);
    assert!(results(&plane).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_did_not_run_is_never_heard_of() {
    let plane = ControlPlane::start();
    let place = Place::new(&plane);
    let (_store, reports) = place.start();
    let mut heartbeats = reports.started("refused");
    heartbeats.beat_while(std::future::ready(())).await;
    drop(heartbeats);
    until("the end", async || reports.0.is_idle()).await;
    assert_eq!(plane.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_that_end_in_a_panic_hold_no_result_back() {
    let plane = ControlPlane::start();
    let place = Place::new(&plane);
    // What no configuration can say: the timer panics.
    let mut config = place.config();
    config.heartbeat_interval = Duration::ZERO;
    let (store, reports) = place.start_with(&config);
    let mut heartbeats = reports.started("one");
    heartbeats.beat_while(sleep(Duration::from_millis(100))).await;
    assert_eq!(plane.count(), 0);
    finish(&store, "one").await;
    reports.finished(heartbeats);
    until("the result", async || waiting(&store).await == 0).await;
    assert_eq!(results(&plane), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_goes_out_in_order_when_it_answers_again_and_at_once() {
    let mut plane = ControlPlane::start();
    plane.close();
    let place = Place::new(&plane);
    let (store, reports) = place.start();
    for number in 0..200 {
        let id = format!("e{number:03}");
        finish(&store, &id).await;
        reports.finished_unstarted(&id);
    }
    until("a first attempt of each", async || {
        let rows = store.list_outbox().await.unwrap();
        rows.len() == 200
            && rows.iter().all(|row| row.attempts > 0 && row.last_error.as_deref() == Some("Connection refused"))
    })
    .await;
    // Into the longer delays, in which nothing is due by itself for some seconds.
    sleep(Duration::from_secs(4)).await;
    assert!(!reports.status().await.reachable);
    plane.open();
    let opened = Instant::now();
    until("all", async || waiting(&store).await == 0).await;
    assert!(opened.elapsed() < Duration::from_secs(10), "{:?}", opened.elapsed());
    let ids = results(&plane);
    assert_eq!(ids.len(), 200, "each once: {ids:?}");
    // Some are due by their own time before it is known that it answers; eight are on their way at a time.
    let first_of_sweep = ids.iter().position(|id| id == "e000").unwrap();
    let swept: Vec<&String> = ids[first_of_sweep..].iter().collect();
    for (place, id) in swept.iter().enumerate() {
        let later = swept[place..].iter().filter(|other| other < &id).count();
        assert!(later <= 16, "{id} before {later} older ones: {ids:?}");
    }
    assert!(reports.status().await.reachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_left_is_sent() {
    let mut plane = ControlPlane::start();
    plane.close();
    let place = Place::new(&plane);
    {
        let (store, reports) = place.start();
        finish(&store, "left").await;
        reports.finished_unstarted("left");
        until("an attempt", async || store.list_outbox().await.unwrap()[0].attempts > 0).await;
        reports.close(ExitReason::Sigterm).await;
        store.close().await;
    }
    plane.open();
    let (store, _reports) = place.start();
    until("the result", async || waiting(&store).await == 0).await;
    assert_eq!(results(&plane), ["left"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_refused_is_put_aside_and_another_process_brings_it_back() {
    let plane = ControlPlane::start();
    plane.behave(|call: &Call| Reply::Status(if call.kind == Kind::Result { 422 } else { 200 }));
    let place = Place::new(&plane);
    let (store, reports) = place.start();
    for id in ["a", "b"] {
        finish(&store, id).await;
        reports.finished_unstarted(id);
    }
    until("put aside", async || store.outbox_counts().await.unwrap().put_aside == 2).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(results(&plane).len(), 2);
    plane.behave(|_| Reply::Status(409));
    let beside = Store::open_beside(place.folder.path()).unwrap();
    assert_eq!(beside.bring_back().await.unwrap(), 2);
    beside.close().await;
    until("taken", async || store.list_outbox().await.unwrap().is_empty()).await;
    assert_eq!(results(&plane).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stalls_or_is_refused_holds_nothing_up() {
    let plane = ControlPlane::start();
    plane.behave(|call: &Call| match call.execution.as_str() {
        "stalled" => Reply::Stall,
        "refused" => Reply::Status(500),
        _ => Reply::Status(200),
    });
    let place = Place::new(&plane);
    let (store, reports) = place.start();
    for id in ["stalled", "refused", "others"] {
        let heartbeats = reports.started(id);
        finish(&store, id).await;
        reports.finished(heartbeats);
    }
    let start = Instant::now();
    until("the others", async || results(&plane).contains(&"others".to_owned())).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    until("a second attempt", async || results(&plane).iter().filter(|id| *id == "refused").count() == 2).await;
    let took = start.elapsed().as_secs_f64();
    assert!((0.9..2.0).contains(&took), "{took}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_told_after_the_last_results_and_nothing_behind_it() {
    let plane = ControlPlane::start();
    let place = Place::new(&plane);
    let (store, reports) = place.start();
    reports.ready(8080);
    plane.wait_for(Kind::Ready, 1, 10);
    let heartbeats = reports.started("last");
    finish(&store, "last").await;
    reports.finished(heartbeats);
    reports.close(ExitReason::Sigint).await;
    let kinds: Vec<Kind> = plane.calls().into_iter().map(|call| call.kind).collect();
    assert_eq!(kinds, [Kind::Ready, Kind::Heartbeat, Kind::Result, Kind::Exited]);
    let exited = plane.calls().pop().unwrap().json();
    assert_eq!((&exited["exit_reason"], &exited["executor_port"]), (&"sigint".into(), &8080.into()));
    // Nothing is called any more.
    finish(&store, "later").await;
    reports.finished_unstarted("later");
    sleep(Duration::from_millis(300)).await;
    assert_eq!((plane.count(), waiting(&store).await), (4, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_stalls_delays_the_end_by_a_second_at_most() {
    let plane = ControlPlane::start();
    plane.behave(|_| Reply::Stall);
    let place = Place::new(&plane);
    let (store, reports) = place.start();
    reports.ready(8080);
    let heartbeats = reports.started("last");
    finish(&store, "last").await;
    reports.finished(heartbeats);
    let start = Instant::now();
    reports.close(ExitReason::Sigterm).await;
    assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
    plane.wait_for(Kind::Exited, 1, 5);
}
