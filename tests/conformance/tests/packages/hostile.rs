//! Packages and indexes that mean harm: what is in a wheel, what it says that it needs, what an index answers.

use crate::apart::backend;
use crate::{Index, body, layers, post, run, sync, version};
use conformance::{Service, wait_until};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// What pip said of a set that has to be refused.
#[track_caller]
fn refused(service: &Service, session: &str, package: &str) -> String {
    let answer = post(service, &body(session, &[package], "replace"));
    let answer = answer.assert_error(422, "Executor.DependencyInstallError");
    answer["error_detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_wheel_that_needs_what_is_to_be_built_builds_nothing() {
    let index = Index::new();
    let reached = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = reached.local_addr().expect("an address");
    reached.set_nonblocking(true).expect("a socket");
    let call = format!("socket.create_connection(('127.0.0.1', {})).close()", at.port());
    index.add(json!({"name": "built", "version": "1.0", "backend": backend("built", &call)}));
    // Not by its name, which pip would look for wheels of, but by its address.
    let address = format!("built @ {}/built/built-1.0.tar.gz", index.url());
    index.add(json!({"name": "carrier", "version": "1.0", "requires": [address]}));
    let service = index.service(&[]);
    let said = refused(&service, "s", "carrier==1.0");
    assert!(said.contains("ALLOW_SOURCE_BUILDS"), "{said}");
    assert!(reached.accept().is_err(), "its code ran");
    assert_eq!(layers(&service.path("state")), [""; 0]);
    // That it would have.
    let service = index.service(&[("ALLOW_SOURCE_BUILDS", "true")]);
    post(&service, &body("s", &["carrier==1.0"], "replace"));
    assert!(reached.accept().is_ok());
}

#[test]
fn a_wheel_that_needs_one_from_elsewhere_is_not_installed() {
    let (index, elsewhere) = (Index::new(), Index::new());
    elsewhere.add_module("far", "1.0");
    index.add_module("near", "1.0");
    let address = format!("far @ {}/far/far-1.0-py3-none-any.whl", elsewhere.url());
    index.add(json!({"name": "carrier", "version": "1.0", "requires": [address]}));
    index.add(json!({"name": "honest", "version": "1.0", "requires": ["near==1.0"]}));
    let service = index.service(&[]);
    let said = refused(&service, "s", "carrier==1.0");
    assert!(said.contains("by its address") && said.contains("far"), "{said}");
    assert_eq!(layers(&service.path("state")), [""; 0]);
    // Of a sync that came to nothing no session is left.
    assert_eq!(service.get("/sessions").json(), json!({"sessions": []}));
    assert_eq!(sync(&service, "s", &["honest==1.0"], "replace"), ["honest 1.0", "near 1.0"]);
    assert_eq!(version(&service, "s", "near"), "1.0");
}

#[test]
fn what_unpacks_to_more_than_there_is_room_for_is_not_installed() {
    let index = Index::new();
    let large = 600 << 20;
    index.add(json!({"name": "zeros", "version": "1.0", "zeros": {"zeros.bin": large}}));
    index.add(json!({"name": "data", "version": "1.0", "zeros": {"data-1.0.data/data/share/zeros.bin": large}}));
    index.add(json!({"name": "many", "version": "1.0", "many": 20_000}));
    index.add(json!({"name": "needs", "version": "1.0", "requires": ["needs"], "times": 500_000}));
    index.add(json!({"name": "small", "version": "1.0", "zeros": {"zeros.bin": 5 << 20}, "many": 200, "requires": ["small"], "times": 50}));
    // pip reads all that a package says of itself: that takes its memory, and its alone.
    index.add(json!({"name": "words", "version": "1.0", "raw": {"words-1.0.dist-info/x": ""}, "zeros": {"words-1.0.dist-info/METADATA": 3_u64 << 30}}));
    let service = index.service(&[("MAX_PACKAGES_MB", "20"), ("MAX_INSTALL_TIME", "30")]);
    let start = Instant::now();
    for name in ["zeros", "data", "many"] {
        let said = refused(&service, "s", &format!("{name}==1.0"));
        assert!(said.contains("MAX_PACKAGES_MB"), "{name}: {said}");
    }
    for name in ["words", "needs"] {
        let answer = post(&service, &body("s", &[&format!("{name}==1.0")], "replace"));
        assert!(matches!(answer.status, 200 | 422), "{name}: {}", answer.text());
        service.assert_healthy_within(conformance::patience(2));
    }
    assert!(start.elapsed() < conformance::patience(170), "{:?}", start.elapsed());
    assert_eq!(sync(&service, "t", &["small==1.0"], "replace"), ["small 1.0"]);
    assert!(service.memory_kb("VmHWM") < 150 << 10, "{} kB", service.memory_kb("VmHWM"));
    wait_until("what pip worked in is removed", 20, || {
        let size = std::process::Command::new("du").arg("-sk").arg(service.path("workspaces")).output().expect("du");
        let text = String::from_utf8_lossy(&size.stdout).into_owned();
        text.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).is_some_and(|kb| kb < 20 << 10)
    });
}

/// An index that answers each request with `head` and then without an end, `pause` between pieces of this size.
fn endless(head: &'static str, piece: usize, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _whatever = stream.read(&mut [0; 4096]);
                let text = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{head}");
                let mut sent = stream.write_all(text.as_bytes());
                while sent.is_ok() {
                    std::thread::sleep(pause);
                    sent = stream.write_all(&vec![b' '; piece]);
                }
            });
        }
    });
    format!("http://{address}")
}

#[test]
fn an_index_without_an_end_ends() {
    let head = "<!DOCTYPE html><html><body><a href='one-1.0-py3-none-any.whl'>one</a>";
    let drips = endless(head, 1, Duration::from_millis(200));
    let floods = endless(head, 1 << 20, Duration::ZERO);
    let allowed = format!("{drips},{floods}");
    let service = Service::with(&[("ALLOWED_INDEX_URLS", &allowed), ("MAX_INSTALL_TIME", "6")]);
    for url in [drips, floods] {
        let mut request = body("s", &["one==1.0"], "replace");
        request["python_package_index_url"] = json!(url);
        let start = Instant::now();
        let answer = post(&service, &request).assert_error(422, "Executor.DependencyInstallError");
        let said = answer["error_detail"].as_str().unwrap_or_default();
        assert!(said.contains("MAX_INSTALL_TIME") || said.contains("memory"), "{said}");
        assert!(start.elapsed() < conformance::patience(25), "{:?}", start.elapsed());
        service.assert_healthy_within(conformance::patience(2));
    }
    assert_eq!(layers(&service.path("state")), [""; 0]);
}

#[test]
fn a_wheel_with_everything_in_it_changes_nothing_but_its_sessions_packages() {
    let index = Index::new();
    let mark = "open('/workspace/ran', 'a').write(__name__ + '\\n')\nversion = '1.0'\n";
    let mut files = json!({"evil.py": "version = '1.0'\n", "evil.pth": "import marked\n", "marked.py": mark});
    for name in [
        "sitecustomize",
        "usercustomize",
        "compileall",
        "ssl",
        "json/__init__",
        "random",
        "pip/__init__",
        "pip/__main__",
    ] {
        files[format!("{name}.py")] = json!(mark);
    }
    for name in
        ["pkg_resources/__init__.py", "setuptools/__init__.py", "__pycache__/evil.cpython-311.pyc", "__main__.py"]
    {
        files[name] = json!(mark);
    }
    let scripts =
        json!({"python3": "evil:x", "sh": "evil:x", "../../climbed": "evil:x", "/workspace/rooted": "evil:x"});
    index.add(json!({"name": "evil", "version": "1.0", "files": files, "scripts": scripts}));
    for (name, path) in
        [("up", "up-1.0.data/data/../../../../tmp/up.py"), ("script", "script-1.0.data/scripts/../../../../up")]
    {
        index.add(json!({"name": name, "version": "1.0", "raw": {path: mark}}));
    }
    index.add(json!({"name": "liar", "version": "1.0", "raw": {"liar-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: pip\nVersion: 99\n"}}));
    index.add_module("plain", "1.0");
    let service = index.service(&[]);
    sync(&service, "plain", &["plain==1.0"], "replace");
    for name in ["up", "script", "liar"] {
        let answer = post(&service, &body("s", &[&format!("{name}==1.0")], "replace"));
        assert!(matches!(answer.status, 200 | 422), "{name}: {}", answer.text());
    }
    let answer = post(&service, &body("s", &["evil==1.0"], "replace"));
    assert!(matches!(answer.status, 200 | 422), "{}", answer.text());
    // Names that climb are nobody's; without them it is installed.
    index.add(
        json!({"name": "worse", "version": "1.0", "files": files, "scripts": {"python3": "evil:x", "sh": "evil:x"}}),
    );
    assert_eq!(sync(&service, "s", &["worse==1.0"], "replace"), ["worse 1.0"]);
    assert_eq!(run(&service, "s", "python", "import evil; print(evil.version)"), "1.0");
    assert_eq!(run(&service, "s", "shell", "cat ran 2>/dev/null || echo unread"), "unread");
    // pip and its Python are the machine's own, whatever the session's packages are called.
    assert_eq!(sync(&service, "s", &["plain==1.0"], "merge"), ["plain 1.0", "worse 1.0"]);
    assert_eq!(run(&service, "s", "shell", "cat ran 2>/dev/null || echo unread"), "unread");
    // And it is there, for who asks for it.
    let asked = "import random; print(random.version); print(open('/workspace/ran').read())";
    assert!(run(&service, "s", "python", asked).contains("random"));
    for session in ["plain", "t"] {
        let clean = "import json, random, os; print(hasattr(random, 'version'), os.path.exists('/workspace/ran'))";
        assert_eq!(run(&service, session, "python", clean), "False False");
    }
    for path in ["/tmp/up.py", "/climbed", "/rooted", "/up"] {
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
    let mut state: Vec<_> = std::fs::read_dir(service.path("state/layers")).expect("layers").flatten().collect();
    state.retain(|entry| entry.file_name().len() != 64);
    assert!(state.is_empty(), "{state:?}");
}

#[test]
fn what_is_built_finds_no_secret_of_the_services() {
    let index = Index::with("me:p4ssw0rd", 0.0);
    let service_token = "t0ken-of-the-service";
    let url = index.url().replace("//", "//me:p4ssw0rd@");
    let service = Service::with(&[
        ("ALLOWED_INDEX_URLS", &url),
        ("ALLOW_SOURCE_BUILDS", "true"),
        ("EXECUTOR_API_TOKEN", service_token),
        ("INTERNAL_API_TOKEN", "t0ken-of-the-plane"),
    ]);
    let look = format!(
        "import glob, urllib.error\n\
         for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n    \
           try: found += open(path).read()\n    \
           except OSError: pass\n\
         found += str(sorted(os.listdir('/'))) + str(os.listdir('/workspace'))\n\
         try: found += str(urllib.request.urlopen('http://{}/sessions').status)\n\
         except urllib.error.HTTPError as error: found += ' status ' + str(error.code)\n",
        service.address()
    );
    index.add(json!({"name": "looker", "version": "1.0", "backend": backend("looker", &look)}));
    let answer = service.request(
        "POST",
        "/internal/session-config/sync",
        &[("Authorization", &format!("Bearer {service_token}"))],
        body("s", &["looker==1.0"], "replace").to_string().as_bytes(),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let code = json!({"session_id": "s", "language": "python", "code": "import looker; print(looker.found)"});
    let authorized = [("Authorization", format!("Bearer {service_token}"))];
    let headers: Vec<(&str, &str)> = authorized.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let found = service.request("POST", "/execute", &headers, code.to_string().as_bytes()).json();
    let found = found["stdout"].as_str().expect("output");
    assert!(!found.contains("t0ken"), "{found}");
    assert!(found.contains(" status 401"), "{found}");
    // That it would have found one: the index's is there, as the documentation says.
    assert!(found.contains("p4ssw0rd"), "{found}");
}
