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
fn a_route_is_one_of_the_routers_whatever_is_asked_for() {
    let routes = Routes::new(["/a".to_owned(), "/a/{id}".to_owned()]);
    for (route, status) in [(Some("/a"), 200), (Some("/a/{id}"), 404), (Some("/a/17"), 404), (None, 599), (None, 42)] {
        routes.answered(route, status);
    }
    let is_made = |classes: &[OnceLock<Counter>]| classes.iter().map(|counter| counter.get().is_some()).collect();
    let counted: Vec<(&str, Vec<bool>)> =
        routes.0.iter().map(|(route, classes)| (route.as_str(), is_made(classes))).collect();
    assert_eq!(counted[0], ("/a", vec![false, true, false, false, false]));
    assert_eq!(counted[1], ("/a/{id}", vec![false, true, false, true, false]));
    assert_eq!(counted[2], (UNMATCHED, vec![true, true, false, true, true]));
}
