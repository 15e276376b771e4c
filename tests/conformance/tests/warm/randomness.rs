//! No two runs draw the same, in whatever way they draw.

use crate::client::Client;
use crate::{COLD, is_warm};
use conformance::{Service, assert_completed, skipped};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::process::Command;

const PYTHON: &str = include_str!("../../programs/random.py");
const JAVASCRIPT: &str = "
const crypto = require('crypto');
exports.handler = () => ({
  random: Math.random(),
  second: [Math.random(), Math.random()],
  randomUUID: crypto.randomUUID(),
  randomBytes: crypto.randomBytes(16).toString('hex'),
  randomInt: crypto.randomInt(2 ** 47),
  web: String(globalThis.crypto.getRandomValues(new Uint32Array(4))),
  uuid: globalThis.crypto.randomUUID(),
  folder: require('fs').mkdtempSync('/tmp/'),
});";
// One number of these has 15 bits, of which two runs in a hundred share one.
const SHELL: &str = r#"printf '{"RANDOM":"%s %s %s %s","SRANDOM":"%s %s","mktemp":"%s"}' \
    $RANDOM $RANDOM $RANDOM $RANDOM $SRANDOM $SRANDOM $(mktemp) >&3"#;

/// Runs the program so many times, one after the other, and asserts that what it draws is another each time.
#[track_caller]
fn assert_never_twice(service: &Service, language: &str, code: &str, times: usize) -> Value {
    let mut client = Client::of(service);
    let mut drawn: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    let mut last = Value::Null;
    for _ in 0..times {
        let answer = client.execute(&json!({"language": language, "code": code}));
        assert_completed(&answer);
        last = answer["return_value"].clone();
        for (name, value) in last.as_object().expect("what was drawn") {
            drawn.entry(name.clone()).or_default().insert(value.to_string());
        }
    }
    let again: Vec<String> = drawn
        .iter()
        .filter(|(_, values)| values.len() < times)
        .map(|(name, values)| {
            format!("{name}: only {} of {times} differ, such as {:?}", values.len(), values.iter().next())
        })
        .collect();
    assert!(again.is_empty(), "{language} drew the same again:\n{}", again.join("\n"));
    last
}

fn times(service: &Service, language: &str) -> usize {
    if is_warm(service, language) { 300 } else { 60 }
}

#[test]
fn python_draws_the_same_never_twice() {
    let service = Service::with(&[]);
    assert_never_twice(&service, "python", PYTHON, times(&service, "python"));
}

#[test]
fn a_program_that_seeds_gets_what_it_seeded() {
    // The control of the test above: what is drawn from a known state is found to be the same.
    let (service, cold) = (Service::with(&[]), Service::with(&COLD));
    let code = "import random\nrandom.seed(7)\nprint([random.random() for _ in range(5)], random.getrandbits(64))";
    let drawn: HashSet<String> =
        [&service, &service, &cold].map(|service| service.run("python", code)["stdout"].to_string()).into();
    assert_eq!(drawn.len(), 1, "{drawn:?}");
}

#[test]
fn numpy_draws_the_same_never_twice() {
    const TEST: &str = "numpy_draws_the_same_never_twice";
    let found = Command::new("/usr/bin/python3").args(["-c", "import numpy"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        return skipped(TEST, "numpy is not installed here");
    }
    let service = Service::with(&[("WARM_PYTHON_IMPORTS", "numpy,random")]);
    let code = format!("import numpy\n{PYTHON}");
    let last = assert_never_twice(&service, "python", &code, 100);
    assert!(last["numpy"].is_number(), "{last}");
}

#[test]
fn javascript_draws_the_same_never_twice() {
    let service = Service::with(&[]);
    assert_never_twice(&service, "javascript", JAVASCRIPT, times(&service, "javascript") / 4);
}

#[test]
fn a_shell_draws_the_same_never_twice() {
    assert_never_twice(&Service::with(&[]), "shell", SHELL, 200);
}

/// Runs of one service may share the seed of hashes, which SECURITY.md says; nobody can know it beforehand.
#[test]
fn the_seed_of_hashes_is_another_in_each_service() {
    let code = "import sys\nprint(hash('x'), sys.flags.hash_randomization)";
    let drawn: HashSet<String> = (0..3)
        .map(|_| {
            let answer = Service::with(&[]).run("python", code);
            assert_completed(&answer);
            let text = answer["stdout"].as_str().expect("text").to_owned();
            assert!(text.ends_with(" 1\n"), "{text}");
            text
        })
        .collect();
    assert_eq!(drawn.len(), 3, "{drawn:?}");
}
