//! What holds for every body of `POST /execute`: it is refused with reasons that name what the body has, or it becomes
//! the request that it describes, within the ceilings, and no name in it leads out of the workspace.
//!
//! The rules are written out once more here, from the contract. The fuzzer (`fuzz/fuzz_targets/request.rs`, `names.rs`)
//! and the unit tests share them.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use runtime::json;

use super::*;

const FIELDS: [&str; 13] = [
    "code",
    "language",
    "execution_id",
    "session_id",
    "timeout",
    "event",
    "env_vars",
    "stdin",
    "working_directory",
    "mode",
    "limits",
    "files",
    "outputs",
];

type Object = BTreeMap<String, Box<RawValue>>;

/// Small ceilings, so that short bodies reach them.
pub fn ceilings() -> Ceilings {
    Ceilings {
        code_bytes: 1000,
        file_size_mb: 1,
        default_timeout: Duration::from_secs(300),
        max_timeout: Duration::from_secs(3600),
        limits: RequestedLimits { memory_mb: 512, cpu_cores: 1.0, processes: 128, output_bytes: 1000, disk_mb: 1024 },
    }
}

/// Judges one body; returns whether it was accepted.
///
/// Panics when the property does not hold.
pub fn holds(body: &[u8]) -> bool {
    let ceilings = ceilings();
    let object = object(body);
    match (parse(body, &ceilings), object) {
        (Ok(request), Some(object)) => {
            assert_accepted(&request, &object, &ceilings);
            true
        }
        (Ok(request), None) => panic!("{request:?} out of no object"),
        (Err(violations), object) => {
            assert_refused(&violations, object.as_ref());
            false
        }
    }
}

/// Judges one text as an id and as a working directory; returns whether it was accepted as each.
///
/// Panics when the property does not hold.
pub fn names_hold(text: &str) -> (bool, bool) {
    (id_holds(text), working_directory_holds(text))
}

/// The body as a strict object. Whether text is strict JSON is the property of [`json`].
fn object(body: &[u8]) -> Option<Object> {
    let text = std::str::from_utf8(body).ok()?;
    json::check(text, json::Keys::Unique).ok()?;
    serde_json::from_str(text).ok()
}

fn assert_refused(violations: &[Violation], object: Option<&Object>) {
    assert!(!violations.is_empty() && violations.iter().all(|violation| !violation.message.is_empty()));
    let Some(object) = object else {
        assert!(matches!(violations, [Violation { field, .. }] if field == "body"), "{violations:?}");
        return;
    };
    for Violation { field, .. } in violations {
        let root = field.split('.').next().unwrap_or_default();
        assert!(FIELDS.contains(&root) || object.contains_key(field), "{field:?} is nowhere in the body");
    }
}

fn assert_accepted(request: &ExecuteRequest, object: &Object, ceilings: &Ceilings) {
    let raw = |name: &str| object.get(name).map(|value| value.get()).filter(|value| *value != "null");
    let string = |name: &str| raw(name).map(|value| serde_json::from_str::<String>(value).expect("a string"));
    for field in object.keys() {
        assert!(FIELDS.contains(&field.as_str()), "{field:?} is no field");
    }

    assert_eq!(Some(&request.code), string("code").as_ref());
    assert!(!request.code.is_empty() && request.code.len() as u64 <= ceilings.code_bytes);
    assert!(!request.code.contains('\0'));
    let language = match string("language").expect("required").as_str() {
        "python" | "python3" => Language::Python,
        "javascript" | "node" | "nodejs" => Language::Javascript,
        "shell" | "bash" | "sh" => Language::Shell,
        other => panic!("{other:?} is no language"),
    };
    assert_eq!(request.language, language);

    let given = string("execution_id");
    assert!(is_plain_name(&request.execution_id) && given.is_none_or(|given| given == request.execution_id));
    assert_eq!(request.session_id, string("session_id"));
    assert!(request.session_id.as_deref().is_none_or(is_plain_name));

    assert_eq!(request.event.get(), raw("event").unwrap_or("{}"));
    let event: Object = serde_json::from_str(request.event.get()).expect("an event is an object");
    let seconds = event.get("__timeout").map(|value| value.get()).or(raw("timeout"));
    let timeout = seconds.map(|seconds| Duration::from_secs(seconds.parse().expect("whole seconds")));
    assert_eq!(request.timeout, timeout.unwrap_or(ceilings.default_timeout));
    assert!(request.timeout >= Duration::from_secs(1) && request.timeout <= ceilings.max_timeout);

    let variables: BTreeMap<String, String> =
        raw("env_vars").map(|value| serde_json::from_str(value).expect("strings")).unwrap_or_default();
    assert!(variables.iter().map(|(name, value)| (name.clone(), value.clone())).eq(request.env_vars.iter().cloned()));
    assert!(variables.keys().all(|name| is_variable(name)), "{variables:?}");
    assert!(variables.iter().all(|(name, value)| name.len() + value.len() + 2 <= 131_072 && !value.contains('\0')));

    assert_eq!(request.stdin, string("stdin").unwrap_or_default());
    assert_eq!(
        Some(&request.working_directory),
        plain_folder(&string("working_directory").unwrap_or_default()).as_ref()
    );
    assert_inside(&request.working_directory);
    let mode = match string("mode").as_deref() {
        None | Some("auto") => Mode::Auto,
        Some("handler") => Mode::Handler,
        Some("script") => Mode::Script,
        Some(other) => panic!("{other:?} is no mode"),
    };
    assert_eq!(request.mode, mode);
    assert_limits(&request.limits, raw("limits"), &ceilings.limits);
    assert_files(&request.files, raw("files"));
    let patterns: Option<Vec<String>> = raw("outputs").map(|value| serde_json::from_str(value).expect("strings"));
    assert_eq!(request.outputs.is_some(), patterns.is_some());
    assert!(patterns.iter().flatten().all(|pattern| plain_folder(pattern).is_some_and(|plain| !plain.is_empty())));
}

/// Each of them is in the workspace, under the path that it was sent with.
fn assert_files(files: &Files, sent: Option<&str>) {
    let sent: BTreeMap<String, String> =
        sent.map(|value| serde_json::from_str(value).expect("strings")).unwrap_or_default();
    let plain: BTreeMap<String, &String> =
        sent.iter().map(|(path, content)| (plain_folder(path).expect("a path inside"), content)).collect();
    assert_eq!((files.len(), plain.len()), (sent.len(), sent.len()));
    for (path, content) in files {
        let path = std::str::from_utf8(path.as_bytes()).expect("it came as text");
        assert_inside(path);
        assert!(!path.is_empty());
        let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, plain[path]);
        assert_eq!(decoded.as_ref().ok(), Some(content), "{path:?}");
        let is_below = |other: &str| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        assert!(!plain.keys().any(|other| is_below(other)), "{path:?} is a folder as well");
    }
}

fn assert_limits(limits: &RequestedLimits, asked: Option<&str>, own: &RequestedLimits) {
    let asked: Object = asked.map(|asked| serde_json::from_str(asked).expect("an object")).unwrap_or_default();
    let names = ["memory_mb", "cpu_cores", "processes", "output_bytes", "disk_mb"];
    assert!(asked.keys().all(|name| names.contains(&name.as_str())), "{asked:?}");
    let number = |name: &str| asked.get(name).map(|value| value.get().parse::<u64>().expect("a whole number"));
    assert_eq!(limits.memory_mb, number("memory_mb").unwrap_or(own.memory_mb));
    assert_eq!(u64::from(limits.processes), number("processes").unwrap_or(own.processes.into()));
    assert_eq!(limits.output_bytes, number("output_bytes").unwrap_or(own.output_bytes));
    assert!((1..=own.memory_mb).contains(&limits.memory_mb) && (1..=own.processes).contains(&limits.processes));
    assert!(limits.output_bytes <= own.output_bytes);
    assert_eq!(limits.disk_mb, number("disk_mb").unwrap_or(own.disk_mb));
    assert!((1..=own.disk_mb).contains(&limits.disk_mb));
    assert!(limits.cpu_cores > 0.0 && limits.cpu_cores <= own.cpu_cores, "{limits:?}");
    assert!(asked.contains_key("cpu_cores") || limits.cpu_cores == own.cpu_cores);
}

fn id_holds(text: &str) -> bool {
    let is_id = is_id(text);
    assert_eq!(is_id, is_plain_name(text), "{text:?}");
    if is_id {
        // Folders of ours begin with a dot: no session has the name of one.
        assert!(!text.starts_with('.') && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
        let folder = Path::new("/root").join(text);
        assert_eq!(folder.parent(), Some(Path::new("/root")), "{text:?}");
        assert_eq!(folder.file_name(), Some(text.as_ref()), "{text:?}");
    }
    is_id
}

fn working_directory_holds(text: &str) -> bool {
    let body = serde_json::json!({"code": "1", "language": "sh", "working_directory": text}).to_string();
    let parsed = parse(body.as_bytes(), &ceilings());
    match (&parsed, plain_folder(text)) {
        (Ok(request), Some(plain)) => {
            assert_eq!(request.working_directory, plain, "{text:?}");
            assert_inside(&plain);
        }
        (Err(violations), None) => {
            assert!(matches!(&violations[..], [Violation { field, .. }] if field == "working_directory"));
        }
        (parsed, due) => panic!("{parsed:?} instead of {due:?}: {text:?}"),
    }
    parsed.is_ok()
}

/// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`
fn is_plain_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.chars().enumerate().all(|(at, letter)| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' => true,
            '.' | '_' | '-' => at > 0,
            _ => false,
        })
}

/// `[A-Za-z_][A-Za-z0-9_]*`
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.chars().enumerate().all(|(at, letter)| match letter {
            'a'..='z' | 'A'..='Z' | '_' => true,
            '0'..='9' => at > 0,
            _ => false,
        })
}

/// The plain form of a path that stays below where it starts, as the standard library reads paths.
fn plain_folder(text: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().filter(|part| part.len() <= 255)?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (text.len() <= 1024 && !text.contains('\0')).then(|| parts.join("/"))
}

/// However it is joined to the workspace, it stays there.
fn assert_inside(folder: &str) {
    for joined in [Path::new("/workspace").join(folder), format!("/workspace/{folder}").into()] {
        let below = joined.strip_prefix("/workspace").expect("below the workspace");
        assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "{joined:?}");
    }
}
