//! Where two JSON values differ, as lines that name the place.

use conformance::shortened;
use serde_json::Value;

/// A line for each place at which they differ: its path, and what is in each.
pub fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    collect("", expected, found, &mut lines);
    lines
}

fn collect(path: &str, expected: &Value, found: &Value, lines: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(left), Value::Object(right)) => {
            let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path} › {name}") };
                let of =
                    |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or("(nothing)".into());
                collect(&path, &of(left), &of(right), lines);
            }
        }
        (Value::String(left), Value::String(right))
            if left != right && (left.contains('\n') || right.contains('\n')) =>
        {
            let only = |these: &str, those: &str| {
                let those: Vec<&str> = those.lines().collect();
                these.lines().filter(|line| !those.contains(line)).collect::<Vec<_>>().join("⏎")
            };
            lines.push(format!("{path}: expected lines “{}”, found “{}”", only(left, right), only(right, left)));
        }
        (left, right) if left != right => {
            lines.push(format!("{path}: expected {}, found {}", shortened(left), shortened(right)));
        }
        _ => {}
    }
}

#[test]
fn a_difference_is_named_by_its_place() {
    use serde_json::json;
    let (one, other) = (json!({"a": {"b": [1], "c": 2}, "t": "x\ny"}), json!({"a": {"b": [2]}, "t": "x\nz"}));
    assert_eq!(
        differences(&one, &other),
        [
            "a › b: expected [1], found [2]",
            "a › c: expected 2, found \"(nothing)\"",
            "t: expected lines “y”, found “z”"
        ]
    );
    assert!(differences(&one, &one).is_empty());
}
