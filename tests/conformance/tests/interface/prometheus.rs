//! Prometheus' text format, read as strictly as its own tools judge it: a family has its help and its type before its samples and is in
//! one piece, names and labels have their form, a counter's name says so, buckets are cumulative and end in all.

use std::collections::{BTreeMap, BTreeSet};

/// Labels, sorted.
pub type Labels = BTreeMap<String, String>;

/// A family with its samples, each with the end of its name.
#[derive(Debug, Default)]
pub struct Family {
    /// Such as `counter`.
    pub kind: String,
    /// By what follows the family's name, and labels.
    pub samples: BTreeMap<(String, Labels), f64>,
}

/// What a service counts, at one moment.
pub struct Scrape(pub BTreeMap<String, Family>);

impl Scrape {
    /// Reads the text; anything that Prometheus would not have fails the test.
    #[track_caller]
    pub fn read(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains('\r') && !text.contains("\n\n"), "lines");
        let mut families = BTreeMap::<String, Family>::new();
        let (mut helped, mut current) = (BTreeSet::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help");
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}: twice, or nothing");
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, current, "{line}: not behind its help");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(is_name(name) && (kind == "counter") == name.ends_with("_total"), "{line}");
                let family = Family { kind: kind.to_owned(), ..Family::default() };
                assert!(families.insert(name.to_owned(), family).is_none(), "{line}: twice");
            } else {
                let (name, labels, value) = sample(line);
                let family = families.get_mut(&current).unwrap_or_else(|| panic!("{line}: of no family"));
                let end = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line}: of another family"));
                let ends: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(ends.contains(&end), "{line}: of another family");
                assert!(family.kind == "gauge" || value >= 0.0, "{line}");
                assert!(family.samples.insert((end.to_owned(), labels), value).is_none(), "{line}: twice");
            }
        }
        for (name, family) in &families {
            assert!(!family.samples.is_empty(), "{name} has no sample");
            check_buckets(name, family);
        }
        Self(families)
    }

    /// The sum of all samples with these labels; 0 where there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let ends = ["_count", "_sum", ""];
        let (family, end) = ends
            .iter()
            .find_map(|end| Some((self.0.get(name.strip_suffix(end)?)?, *end)))
            .unwrap_or_else(|| panic!("no family {name}"));
        let has = |of: &Labels| labels.iter().all(|(key, value)| of.get(*key).is_some_and(|one| one == value));
        family.samples.iter().filter(|((one, of), _)| one == end && has(of)).map(|(_, value)| value).sum()
    }
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.bytes().all(good) && !name.as_bytes()[0].is_ascii_digit()
}

#[track_caller]
fn sample(line: &str) -> (String, Labels, f64) {
    let (head, value) = line.rsplit_once(' ').expect("a value");
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect("a number") };
    let (name, rest) = head.split_once('{').unwrap_or((head, "}"));
    assert!(is_name(name), "{line}");
    let inner = rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}: no end of labels"));
    let mut labels = Labels::new();
    let mut left = inner;
    while !left.is_empty() {
        let (key, rest) = left.split_once("=\"").unwrap_or_else(|| panic!("{line}: a label"));
        // Nothing here needs escaping.
        let (value, rest) = rest.split_once('"').unwrap_or_else(|| panic!("{line}: a label"));
        assert!(is_name(key) && !value.is_empty() && !value.contains('\\'), "{line}");
        assert!(labels.insert(key.to_owned(), value.to_owned()).is_none(), "{line}: {key} twice");
        left = rest.strip_prefix(',').unwrap_or(rest);
    }
    (name.to_owned(), labels, value)
}

#[track_caller]
fn check_buckets(name: &str, family: &Family) {
    let mut by_labels = BTreeMap::<Labels, Vec<(f64, f64)>>::new();
    for ((end, labels), value) in &family.samples {
        if end == "_bucket" {
            let mut labels = labels.clone();
            let bound = labels.remove("le").expect("a bound");
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound") };
            by_labels.entry(labels).or_default().push((bound, *value));
        }
    }
    for (labels, mut buckets) in by_labels {
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.is_sorted_by(|one, other| one.1 <= other.1), "{name}: not cumulative: {buckets:?}");
        let all = buckets.last().copied().expect("a bucket");
        let count = family.samples[&("_count".to_owned(), labels)];
        assert_eq!(all, (f64::INFINITY, count), "{name}");
    }
}
