//! What files cost an execution that does not touch them.

use crate::{shell, unique};
use conformance::Service;
use serde_json::json;
use std::time::{Duration, Instant};

const ROUNDS: usize = 60;

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Medians of executions that do nothing, in a full and in an empty workspace, in turn.
fn medians(service: &Service, full: &str, empty: &str) -> (Duration, Duration) {
    let run = |session: &str| {
        let request = json!({"language": "python", "code": "def handler(event): return 1", "session_id": session});
        let start = Instant::now();
        let answer = service.execute(request);
        let took = start.elapsed();
        assert_eq!((&answer["return_value"], &answer["artifacts"]), (&json!(1), &json!([])));
        // Until what the next one finds ready is there.
        std::thread::sleep(Duration::from_millis(20));
        took
    };
    let (mut in_full, mut in_empty) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        in_full.push(run(full));
        in_empty.push(run(empty));
    }
    (median(&mut in_full), median(&mut in_empty))
}

#[test]
fn twenty_thousand_untouched_files_cost_next_to_nothing() {
    let service = Service::alone(&[]);
    let (full, empty) = (unique("full"), unique("empty"));
    shell(&service, &full, "for d in $(seq 200); do mkdir $d; (cd $d; touch $(seq 100)); done");
    shell(&service, &empty, "true");
    // On a machine with other things to do a figure is worth what the best of some is.
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (in_full, in_empty) = medians(&service, &full, &empty);
        ratios.push(in_full.as_secs_f64() / in_empty.as_secs_f64());
        if ratios.iter().any(|ratio| *ratio <= 1.3) {
            break;
        }
    }
    eprintln!("an execution in a workspace of 20,000 files, against an empty one: {ratios:.2?}");
    assert!(ratios.iter().any(|ratio| *ratio <= 1.3), "{ratios:?}");
}
