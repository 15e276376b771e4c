//! Pairs of a run that leaves all that it can and one that looks for it: what the second finds is what a run of a service
//! that prepares nothing finds. That it would find it is shown in one interpreter, poison by poison.

use crate::client::Client;
use crate::difference::differences;
use crate::{COLD, is_warm, outcome};
use conformance::{Service, assert_completed, shortened};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const FINGERPRINT: &str = include_str!("../../programs/fingerprint.py");
pub(crate) const FINGERPRINT_JS: &str = include_str!("../../programs/fingerprint.cjs");
pub(crate) const FINGERPRINT_SH: &str = include_str!("../../programs/fingerprint.sh");
const POISON: &str = include_str!("../../programs/poison.py");
const POISON_JS: &str = include_str!("../../programs/poison.cjs");
const POISON_SH: &str = include_str!("../../programs/poison.sh");

/// Poisons and looks in one interpreter.
const BOTH: &str = "
def handler(event):
    done = spread(event['poisons'])
    return fingerprint()
";

/// What a warm run may rightly show otherwise than a cold one. It is then compared with the first run of the same service.
pub(crate) const MAY_DIFFER: [(&str, &str); 6] = [
    ("/modules", "what was imported ahead is there already"),
    ("/path_importer_cache", "it knows the folders that were searched when modules were imported ahead"),
    ("/exit functions", "modules that were imported ahead registered theirs"),
    ("/copyreg", "modules that were imported ahead registered their types"),
    ("/logging/4", "modules that were imported ahead have their loggers"),
    ("/settings/resources", "its streams were opened ahead"),
];

/// So many pairs follow each other in `make soak`, and in `make test` where interpreters are warm and where none is: there a
/// pair takes 100 ms of a processor.
const PAIRS: usize = 1000;
const WARM_PAIRS: usize = 200;
const COLD_PAIRS: usize = 40;
/// Every so many pairs the poisoner also breaks its interpreter, its descriptors and all that it can signal.
const LETHAL_EVERY: usize = 4;
/// As many as the smallest machine has processors.
const LANES: usize = 2;
const SHOWN: usize = 5;

/// Two programs of a language, and what is expected of them.
struct Pair {
    language: &'static str,
    poison: fn(usize) -> Value,
    /// What a poisoner prints when it has done all of it.
    done: &'static str,
    look: &'static str,
    /// Whether a run may show the files that the session's runs before it left in the workspace.
    session: bool,
}

const PYTHON: Pair = Pair {
    language: "python",
    poison: |number| match number % LETHAL_EVERY {
        0 => json!({"code": POISON, "event": {"poisons": ["gentle", "lethal"]}}),
        _ => json!({"code": POISON, "event": {"poisons": ["gentle"]}}),
    },
    done: "types",
    look: FINGERPRINT,
    session: false,
};

const JAVASCRIPT: Pair = Pair {
    language: "javascript",
    poison: |number| json!({"code": POISON_JS, "event": {"lethal": number % LETHAL_EVERY == 0}}),
    done: "done",
    look: FINGERPRINT_JS,
    session: false,
};

const SHELL: Pair = Pair {
    language: "shell",
    poison: |_| json!({"code": POISON_SH}),
    done: "done",
    look: FINGERPRINT_SH,
    session: false,
};

impl Pair {
    fn request(&self, lane: usize, own: Value) -> Value {
        let mut request = json!({"language": self.language, "timeout": 60});
        request.as_object_mut().expect("an object").extend(own.as_object().expect("an object").clone());
        if self.session {
            request["session_id"] = format!("leaks-{}-{lane}", self.language).into();
        }
        request
    }

    /// Runs the pairs, some at a time, and fails with what the first of them found.
    #[track_caller]
    fn run(&self, service: &Service, cold: &Service, pairs: usize) {
        let look = |lane| self.request(lane, json!({"code": self.look}));
        let expected = Expected::of(outcome(&cold.execute(look(LANES))));
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for lane in 0..LANES {
                let (next, found, expected) = (&next, &found, &expected);
                scope.spawn(move || {
                    let mut client = Client::of(service);
                    assert_eq!(
                        expected.compared(outcome(&client.execute(&look(lane)))),
                        [""; 0],
                        "before anything was left"
                    );
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= pairs {
                            return;
                        }
                        let poisoner = client.execute(&self.request(lane, (self.poison)(number)));
                        let stdout = poisoner["stdout"].as_str().unwrap_or_default();
                        assert!(stdout.contains(self.done), "pair {number}: {}", shortened(&poisoner));
                        let victim = outcome(&client.execute(&look(lane)));
                        let lines = expected.compared(self.without_workspace(victim, &expected.cold));
                        if !lines.is_empty() {
                            found.lock().expect("a list").push(format!("pair {number}: {}", lines.join("\n    ")));
                        }
                    }
                });
            }
        });
        let found = found.into_inner().expect("a list");
        let shown = &found[..found.len().min(SHOWN)];
        assert!(found.is_empty(), "{} of {pairs} victims found something:\n{}", found.len(), shown.join("\n"));
    }

    /// What a session keeps is its workspace.
    fn without_workspace(&self, mut victim: Value, expected: &Value) -> Value {
        if self.session {
            for path in ["/return_value/workspace", "/return_value/inside/workspace"] {
                if let (Some(here), Some(there)) = (victim.pointer_mut(path), expected.pointer(path)) {
                    let names = here.as_array().map(Vec::len).unwrap_or_default();
                    assert!(names > 0, "the session's workspace has lost what the run before left");
                    *here = there.clone();
                }
            }
        }
        victim
    }
}

/// What each run must show: what a cold one does, and else what the first warm one did.
struct Expected {
    cold: Value,
    warm: Mutex<HashMap<&'static str, Value>>,
}

impl Expected {
    #[track_caller]
    fn of(cold: Value) -> Expected {
        assert_completed(&cold);
        Expected { cold, warm: Mutex::default() }
    }

    /// Where a run differs from what is expected of it.
    fn compared(&self, mut found: Value) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, why) in MAY_DIFFER {
            let path = format!("/return_value{name}");
            let (Some(cold), Some(here)) = (self.cold.pointer(&path), found.pointer_mut(&path)) else { continue };
            let here = std::mem::replace(here, cold.clone());
            if here == *cold {
                continue;
            }
            let mut warm = self.warm.lock().expect("nobody panics with it");
            let first = warm.entry(name).or_insert_with(|| here.clone());
            if !includes(first, cold) || first.to_string().contains("poison") {
                lines.push(format!("{name} ({why}) is not what a cold run has and more: {first}, cold {cold}"));
            }
            for line in differences(first, &here) {
                lines.push(format!("{name}, unlike the first warm run: {line}"));
            }
        }
        lines.extend(differences(&self.cold, &found));
        lines
    }
}

/// Whether one list holds another, or one number is no less.
fn includes(all: &Value, part: &Value) -> bool {
    match (all.as_array(), part.as_array()) {
        (Some(all), Some(part)) => part.iter().all(|item| all.contains(item)),
        _ => all.as_f64() >= part.as_f64(),
    }
}

/// In one interpreter each poison is found, so that its absence elsewhere says something.
#[test]
fn each_poison_is_found_by_one_who_looks_in_the_same_interpreter() {
    let service = Service::with(&COLD);
    let mut client = Client::of(&service);
    let code = format!("{POISON}\n{FINGERPRINT}\n{BOTH}");
    let mut look = |poisons: &[&str]| {
        let request = json!({"language": "python", "code": code, "event": {"poisons": poisons}, "timeout": 20});
        outcome(&client.execute(&request))
    };
    let clean = look(&[]);
    assert_completed(&clean);
    let again = look(&[]);
    assert_eq!(differences(&clean, &again), Vec::<String>::new(), "one who looks twice sees the same");
    let names: Vec<&str> = POISON
        .split("@poison(")
        .skip(1)
        .filter_map(|part| part.split_once("\ndef ")?.1.split_once('(').map(|(name, _)| name))
        .collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names.iter().filter(|name| **name != "everybody") {
        assert!(!differences(&clean, &look(&[name])).is_empty(), "nobody would notice the poison {name}");
    }
    // A signal to everybody leaves nothing to find but what it ended.
    let mut processes = |poisons: &[&str]| look(poisons)["return_value"]["processes"].as_array().map_or(0, Vec::len);
    let alone = processes(&[]);
    assert_eq!(processes(&["daemon"]), alone + 1);
    assert_eq!(processes(&["daemon", "everybody"]), alone);
}

fn pairs(service: &Service, language: &str) -> usize {
    if is_warm(service, language) { WARM_PAIRS } else { COLD_PAIRS }
}

fn in_a_session(pair: Pair) -> Pair {
    Pair { session: true, ..pair }
}

#[test]
fn python_leaves_nothing_for_the_next_run() {
    let (service, cold) = (Service::with(&[]), Service::with(&COLD));
    PYTHON.run(&service, &cold, pairs(&service, "python"));
}

#[test]
fn python_leaves_nothing_but_files_for_its_sessions_next_run() {
    let (service, cold) = (Service::with(&[]), Service::with(&COLD));
    in_a_session(PYTHON).run(&service, &cold, pairs(&service, "python") / 4);
}

#[test]
fn javascript_leaves_nothing_for_the_next_run() {
    let (service, cold) = (Service::with(&[]), Service::with(&COLD));
    JAVASCRIPT.run(&service, &cold, pairs(&service, "javascript") / 20 + 5);
    in_a_session(JAVASCRIPT).run(&service, &cold, pairs(&service, "javascript") / 20 + 5);
}

#[test]
fn a_shell_leaves_nothing_for_the_next_run() {
    let (service, cold) = (Service::with(&[]), Service::with(&COLD));
    SHELL.run(&service, &cold, 50);
}

#[test]
#[ignore = "it takes minutes; `make soak` runs it"]
fn a_thousand_pairs_of_each() {
    let (service, cold) = (Service::with(&[]), Service::with(&COLD));
    for pair in [PYTHON, in_a_session(PYTHON)] {
        pair.run(&service, &cold, PAIRS);
    }
    for pair in [JAVASCRIPT, in_a_session(JAVASCRIPT), SHELL] {
        pair.run(&service, &cold, PAIRS / 10);
    }
}
