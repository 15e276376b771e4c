use std::collections::{BTreeMap, BTreeSet};

use super::*;

const DOCUMENT: &str = include_str!("../../../../../docs/metrics.md");
const BEGIN: &str = "<!-- begin of what a test writes -->\n";
const END: &str = "<!-- end of it -->\n";

/// Metrics of which every family has a member.
fn all() -> Metrics {
    let metrics = Metrics::new();
    metrics.requests.get_or_create(&OfRoute { route: "/".into(), status: "2xx" }).inc();
    metrics.build.get_or_create(&[("version", "0"), ("isolation", "none")]).set(1);
    metrics.enforced.get_or_create(&[("limit", "memory")]).set(1);
    metrics
}

/// A row for each family, from what Prometheus would read.
fn table() -> String {
    let text = all().text("").1;
    let (mut types, mut labels) = (BTreeMap::new(), BTreeMap::<&str, BTreeSet<&str>>::new());
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            types.insert(name, kind);
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let of = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let keys = of.split(',').filter_map(|pair| Some(pair.split_once('=')?.0)).filter(|key| *key != "le");
            labels.entry(family).or_default().extend(keys);
        }
    }
    let mut rows = "| name | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for line in text.lines() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else { continue };
        let labels: Vec<String> = labels[name].iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels, meaning) = (types[name], labels.join(", "), help.trim_end_matches('.'));
        rows += &format!("| `{name}` | {kind} | {labels} | {meaning} |\n");
    }
    rows
}

fn parts() -> (&'static str, &'static str, &'static str) {
    let (before, rest) = DOCUMENT.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    (before, written, after)
}

#[test]
fn every_family_is_documented() {
    assert!(
        parts().1 == table(),
        "`cargo test -p executor -- --ignored write_the_table_of_metrics` brings it up to date"
    );
}

#[test]
#[ignore = "changes docs/metrics.md"]
fn write_the_table_of_metrics() {
    let (before, _, after) = parts();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
}

#[test]
fn a_route_has_a_counter_for_each_class_of_statuses_that_it_answered() {
    let metrics = all();
    for (route, status) in [("/a", 200), ("/a", 204), ("/b/{*path}", 404), ("/b/{*path}", 599), (UNMATCHED, 42)] {
        metrics.answered(route, status);
    }
    let text = metrics.text("").1;
    let counted: BTreeSet<&str> = text.lines().filter(|line| line.contains("http_requests_total{route")).collect();
    let line = |route: &str, status: &str, count: u64| {
        format!("sandbox_executor_http_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}")
    };
    let expected = [
        line("/", "2xx", 1),
        line("/a", "2xx", 2),
        line("/b/{path}", "4xx", 1),
        line("/b/{path}", "5xx", 1),
        line(UNMATCHED, "1xx", 1),
        line(UNMATCHED, "4xx", 0),
    ];
    assert_eq!(counted, expected.iter().map(String::as_str).collect());
}
