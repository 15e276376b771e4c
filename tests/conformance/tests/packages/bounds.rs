//! Time, disk, indexes that do not answer, services that are killed: what an installation may take, and what is left of one.

use crate::{Index, body, layers, post, sync, version};
use conformance::{Home, Service, process, wait_until};
use serde_json::json;
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn an_index_that_is_not_there_or_does_not_answer_is_told_in_time() {
    let (mut alive, mut dead) = (Index::new(), Index::new());
    alive.add_module("one", "1.0");
    dead.child.kill().expect("a child");
    dead.child.wait().expect("its end");
    // Takes connections, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_url = format!("http://{}", silent.local_addr().expect("an address"));
    let allowed = [alive.url(), dead.url(), silent_url.clone()].join(",");
    let service = Service::with(&[
        ("ALLOWED_INDEX_URLS", &allowed),
        ("MAX_INSTALL_TIME", "5"),
        ("WARM_PYTHON", "0"),
        ("WARM_NODE", "0"),
    ]);
    let folders = || process::private_workspaces(&service.path("workspaces")).len();
    let before = folders();
    assert_eq!(sync(&service, "s", &["one==1.0"], "replace"), ["one 1.0"]);
    for (url, said) in [(dead.url(), "one==2.0"), (silent_url, "MAX_INSTALL_TIME")] {
        let mut request = body("s", &["one==2.0"], "replace");
        request["python_package_index_url"] = json!(url);
        let start = Instant::now();
        let refused = post(&service, &request).assert_error(422, "Executor.DependencyInstallError");
        assert!(refused["error_detail"].as_str().is_some_and(|lines| lines.contains(said)), "{refused}");
        assert!(start.elapsed() < conformance::patience(30), "{:?}", start.elapsed());
        assert_eq!(version(&service, "s", "one"), "1.0");
    }
    assert_eq!(layers(&service.path("state")).len(), 1);
    wait_until("what pip worked in is removed", 10, || folders() == before);
    alive.child.kill().ok();
}

#[test]
fn more_than_there_is_room_for_is_not_installed() {
    let index = Index::new();
    let large = "x = 1 # 0123456789\n".repeat(200_000);
    index.add(json!({"name": "large", "version": "1.0", "files": {"large.py": large}}));
    for name in ["one", "two", "three"] {
        let text = format!("version = '1.0'\ntext = '{}'\n", "x".repeat(400_000));
        index.add(json!({"name": name, "version": "1.0", "files": {format!("{name}.py"): text}}));
    }
    let service = index.service(&[("MAX_PACKAGES_MB", "2")]);
    let refused =
        post(&service, &body("s", &["large==1.0"], "replace")).assert_error(422, "Executor.DependencyInstallError");
    assert!(refused["error_detail"].as_str().is_some_and(|lines| lines.contains("MAX_PACKAGES_MB")), "{refused}");
    // Each is a layer of more than two thirds of a megabyte, compiled.
    for (session, name) in [("a", "one"), ("b", "two")] {
        sync(&service, session, &[&format!("{name}==1.0")], "replace");
    }
    let state = service.path("state");
    let before = layers(&state);
    let third = || post(&service, &body("c", &["three==1.0"], "replace"));
    third().assert_error(507, "Executor.InsufficientStorage");
    assert!(["a", "b"].iter().zip(["one", "two"]).all(|(session, name)| version(&service, session, name) == "1.0"));
    // What no session has any more gives way, and only that.
    assert_eq!(service.request("DELETE", "/sessions/a", &[], b"").status, 204);
    assert_eq!(layers(&state).len(), 2);
    assert_eq!(third().status, 200);
    let after = layers(&state);
    assert_eq!((after.len(), before.iter().filter(|layer| after.contains(layer)).count()), (2, 1));
    assert_eq!((version(&service, "b", "two"), version(&service, "c", "three")), ("1.0".into(), "1.0".into()));
}

#[test]
fn a_full_disk_of_the_state_leaves_what_there_was() {
    if !conformance::is_root("a_full_disk_of_the_state_leaves_what_there_was") {
        return;
    }
    let index = Index::new();
    index.add_module("one", "1.0");
    index.add(json!({"name": "large", "version": "1.0", "zeros": {"large.bin": 30 << 20}}));
    let home = Home::new();
    let state = home.path("state");
    std::fs::create_dir_all(&state).expect("a folder");
    let script = format!("set -e\nmount -t tmpfs -o size=24m none {}\nexec \"$@\"", state.display());
    let outer = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let url = index.url();
    let service = Service::started_by(&outer, home, &[("ALLOWED_INDEX_URLS", &url)]);
    assert_eq!(sync(&service, "s", &["one==1.0"], "replace"), ["one 1.0"]);
    let refused = post(&service, &body("s", &["large==1.0"], "merge"));
    refused.assert_error(507, "Executor.InsufficientStorage");
    assert_eq!(version(&service, "s", "one"), "1.0");
    let seen = std::path::PathBuf::from(format!("/proc/{}/root{}", service.pid(), state.display()));
    assert_eq!(layers(&seen).len(), 1, "{:?}", layers(&seen));
    index.add_module("two", "1.0");
    assert_eq!(sync(&service, "s", &["two==1.0"], "merge"), ["one 1.0", "two 1.0"]);
}

#[test]
fn of_an_installation_that_was_killed_nothing_is_used_or_left() {
    let index = Index::with("", 3.0);
    index.add_module("one", "1.0");
    let url = index.url();
    let settings = [("ALLOWED_INDEX_URLS", url.as_str())];
    let service = Service::with(&settings);
    let pid = service.pid();
    let mut stream = service.connect();
    let request = body("s", &["one==1.0"], "replace").to_string();
    let bytes = service.request_bytes("POST", "/internal/session-config/sync", &[], request.as_bytes());
    std::io::Write::write_all(&mut stream, &bytes).expect("a request");
    wait_until("pip is at it", 20, || !index.requests().is_empty());
    assert!(process::below(pid).iter().any(|name| name.contains("python")), "{:?}", process::below(pid));
    let home = service.killed();
    std::fs::create_dir_all(home.path("state/layers/.new-0123456789abcdef/packages")).expect("a leftover");
    std::fs::create_dir_all(home.path("state/layers/0123/packages")).expect("a leftover");
    let service = Service::at(home, &settings);
    assert_eq!(layers(&service.path("state")), [""; 0]);
    wait_until("nothing of it is left", 10, || {
        process::private_workspaces(&service.path("workspaces")).iter().all(|name| !name.contains("gone"))
    });
    assert_eq!(version(&service, "s", "one"), "none");
    assert_eq!(sync(&service, "s", &["one==1.0"], "replace"), ["one 1.0"]);
    assert_eq!(version(&service, "s", "one"), "1.0");
}

#[test]
fn a_stop_ends_an_installation() {
    let index = Index::with("", 30.0);
    index.add_module("one", "1.0");
    let service = index.service(&[]);
    std::thread::scope(|scope| {
        let address = service.address().to_owned();
        let waiting = scope.spawn(move || {
            let other = Service::elsewhere(&address, None);
            let bytes = body("s", &["one==1.0"], "replace").to_string();
            let bytes = other.request_bytes("POST", "/internal/session-config/sync", &[], bytes.as_bytes());
            other.raw(&bytes)
        });
        wait_until("pip is at it", 20, || !index.requests().is_empty());
        let start = Instant::now();
        drop(service.stopped());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        if let Ok(answer) = waiting.join().expect("a thread") {
            answer.assert_error(503, "Executor.ShuttingDown");
        }
    });
}

#[test]
fn a_folder_of_packages_needs_no_network() {
    let index = Index::new();
    index.add_module("one", "1.0");
    let home = Home::new();
    let folder = home.path("wheels");
    std::fs::create_dir(&folder).expect("a folder");
    for path in [home.path("."), folder.clone()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    }
    let name = "one-1.0-py3-none-any.whl";
    std::fs::copy(index.folder().join("one").join(name), folder.join(name)).expect("a wheel");
    let url = format!("file://{}", folder.display());
    let service = Service::with(&[("ALLOWED_INDEX_URLS", &url)]);
    assert_eq!(sync(&service, "s", &["one==1.0"], "replace"), ["one 1.0"]);
    assert_eq!(version(&service, "s", "one"), "1.0");
    post(&service, &body("s", &["two==1.0"], "merge")).assert_error(422, "Executor.DependencyInstallError");
    assert_eq!(index.requests(), [""; 0]);
    std::fs::remove_dir_all(&folder).expect("it goes");
    let refused =
        post(&service, &body("s", &["two==1.0"], "merge")).assert_error(422, "Executor.DependencyInstallError");
    assert!(refused["error_detail"].as_str().is_some_and(|lines| lines.contains("can't be read")), "{refused}");
    assert_eq!(version(&service, "s", "one"), "1.0");
}
