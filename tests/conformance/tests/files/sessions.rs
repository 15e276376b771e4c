//! Which sessions there are, and how they end.

use crate::{list, shell, unique, url};
use conformance::{Home, Service, assert_completed, process, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn sessions(service: &Service) -> Vec<Value> {
    service.get("/sessions?limit=1000").json()["sessions"].as_array().cloned().unwrap_or_default()
}

fn remove(service: &Service, session: &str) -> u16 {
    service.request("DELETE", &format!("/sessions/{session}"), &[], b"").status
}

#[test]
fn sessions_are_listed_with_what_they_hold() {
    let service = Service::with(&[]);
    assert_eq!(service.get("/sessions").json(), json!({"sessions": []}));
    for session in ["b", "a", "c"] {
        shell(&service, session, "head -c 10000 /dev/zero > file; mkdir folder");
    }
    let all = sessions(&service);
    assert_eq!(all.iter().map(|one| one["session_id"].as_str().unwrap_or("")).collect::<Vec<_>>(), ["a", "b", "c"]);
    let keys = conformance::keys(&all[0]);
    assert_eq!(keys, ["created_at", "file_count", "last_used_at", "running", "session_id", "size"]);
    assert_eq!((&all[0]["file_count"], &all[0]["running"]), (&json!(2), &json!(0)));
    assert!(all[0]["size"].as_u64().is_some_and(|size| (10_000..40_000).contains(&size)), "{}", all[0]);
    let page = service.get("/sessions?limit=2").json();
    assert_eq!((page["sessions"].as_array().map(Vec::len), &page["next_cursor"]), (Some(2), &json!("b")));
    let rest = service.get("/sessions?limit=2&cursor=b").json();
    assert_eq!((&rest["sessions"][0]["session_id"], rest.get("next_cursor")), (&json!("c"), None));
    std::thread::sleep(Duration::from_millis(1100));
    std::thread::scope(|scope| {
        scope.spawn(|| shell(&service, "a", "sleep 1"));
        wait_until("it runs", 5, || sessions(&service)[0]["running"] == 1);
    });
    // Looking at it is no use, running is.
    let later = sessions(&service);
    assert!(later[0]["last_used_at"].as_str() > all[0]["last_used_at"].as_str());
    assert_eq!(later[1]["last_used_at"], all[1]["last_used_at"]);
    assert_eq!(later[0]["created_at"], all[0]["created_at"]);
    for wrong in ["/sessions?limit=0", "/sessions?foo=1", "/sessions?limit=1&limit=2", "/sessions/a/files?path=x"] {
        service.get(wrong).assert_error(400, "Executor.ValidationError");
    }
}

#[test]
fn a_restart_changes_nothing_of_what_is_listed() {
    let service = Service::with(&[]);
    shell(&service, "a", "head -c 100000 /dev/zero > file; mkdir folder; echo x > folder/x");
    assert_eq!(service.request("PUT", &url("b", "c/d"), &[], &[b'x'; 50_000]).status, 201);
    wait_until("nothing runs", 5, || sessions(&service)[0]["running"] == 0);
    let before = sessions(&service);
    assert_eq!((&before[0]["file_count"], &before[1]["file_count"]), (&json!(3), &json!(2)));
    let service = Service::at(service.killed(), &[]);
    assert_eq!(sessions(&service), before);
    let service = Service::at(service.stopped(), &[]);
    assert_eq!(sessions(&service), before);
    // What is there counts from the first upload on.
    let service = Service::at(service.stopped(), &[("MAX_DISK_MB", "1")]);
    let put = |bytes: usize| service.request("PUT", &url("a", "more"), &[], &vec![b'x'; bytes]);
    put(990_000).assert_error(507, "Executor.InsufficientStorage");
    assert_eq!(put(500_000).status, 201);
}

#[test]
fn a_removed_session_is_gone_whatever_it_held() {
    let service = Service::with(&[]);
    let folder = service.path("workspaces");
    for (name, code) in [
        ("plain", "echo x > file"),
        ("modes", "mkdir -p a/b/c; touch a/b/f; chmod 000 a/b/f a/b/c a/b a .; mkfifo x 2>/dev/null; true"),
        ("names", "mkdir -- -rf $'new\\nline' $'\\xff'; ln -s ../.. up; ln -s loop loop; mkfifo fifo"),
    ] {
        shell(&service, name, code);
        assert_eq!(remove(&service, name), 204, "{name}");
        assert!(!folder.join(name).exists(), "{name}");
        assert_eq!(remove(&service, name), 404, "{name}");
    }
    // The next execution of that name finds nothing, and the host's uids are free again: the lowest is taken first.
    assert_eq!(shell(&service, "plain", "ls -A")["stdout"], "");
    let owner =
        |name: &str| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.join(name)).expect("a folder"));
    let first = owner("plain");
    for _ in 0..3 {
        assert_eq!(remove(&service, "plain"), 204);
        shell(&service, "plain", "true");
        assert_eq!(owner("plain"), first);
    }
    let deep = "import os\nfor n in range(10000):\n  os.mkdir('d'); os.chdir('d')";
    assert_completed(&service.execute(json!({"language": "python", "code": deep, "session_id": "deep"})));
    assert_eq!(remove(&service, "deep"), 204);
    let gone = || {
        !std::fs::read_dir(&folder)
            .expect("a folder")
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains("gone-"))
    };
    wait_until("all is removed", 20, gone);
    service.get(&url("modes", "x")).assert_error(404, "Executor.NotFound");
}

/// Folders that somebody keeps beside the workspaces are nobody's sessions.
#[test]
fn what_no_session_made_is_never_removed_for_being_idle() {
    let home = Home::new();
    std::fs::create_dir_all(home.path("workspaces/project")).expect("a folder");
    std::fs::write(home.path("workspaces/project/file"), "mine").expect("a file");
    std::thread::sleep(Duration::from_millis(1500));
    // Without isolation every session has the service's own user, as the folder has.
    for isolation in ["none", "native"] {
        let service = Service::with(&[
            ("ISOLATION", isolation),
            ("WORKSPACE_PATH", home.path("workspaces").to_str().expect("a path")),
            ("SESSION_IDLE_TTL", "1"),
        ]);
        shell(&service, "made", "touch x");
        wait_until("the session is removed", 10, || !home.path("workspaces/made").exists());
        assert_eq!(std::fs::read_to_string(home.path("workspaces/project/file")).expect("a file"), "mine");
    }
}

#[test]
fn removing_a_session_ends_what_goes_on_in_it() {
    let service = Service::with(&[]);
    let marker = unique("to-be-ended");
    let code = format!("touch started; exec -a {marker} sleep 60");
    let request = json!({"language": "shell", "code": code, "session_id": "s"});
    std::thread::scope(|scope| {
        let running = scope.spawn(|| service.execute(request.clone()));
        wait_until("it runs", 10, || conformance::processes_named(&marker) > 0);
        let start = Instant::now();
        assert_eq!(remove(&service, "s"), 204);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(conformance::processes_named(&marker), 0);
        let answer = running.join().expect("an answer");
        assert_eq!((&answer["status"], &answer["error"]["kind"]), (&json!("cancelled"), &json!("cancelled")));
    });
    assert!(sessions(&service).is_empty());
    // So it is with an upload that never ends.
    assert_eq!(service.request("PUT", &url("s", "x"), &[], b"x").status, 201);
    let head = service.request_bytes("PUT", &url("s", "y"), &[("Content-Length", "1000")], b"half");
    let mut stream = service.connect();
    std::io::Write::write_all(&mut stream, &head).expect("half of an upload");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(remove(&service, "s"), 204);
    conformance::read_response(stream).expect("a response").assert_error(409, "Executor.Conflict");
    assert!(sessions(&service).is_empty());
}

#[test]
fn executions_and_the_end_of_their_session_never_meet_half_way() {
    let service = Service::with(&[]);
    let stop = Instant::now() + Duration::from_secs(4);
    let code = "test -z \"$(ls -A | grep -v ^mine)\" || echo foreign; touch mine-$$; test -f mine-$$ || echo lost";
    let request = json!({"language": "shell", "code": code, "session_id": "s"});
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while Instant::now() < stop {
                    let answer = service.execute(request.clone());
                    let is_fine =
                        answer["status"] == "completed" && answer["stdout"] == "" || answer["status"] == "cancelled";
                    assert!(is_fine, "{answer}");
                }
            });
        }
        scope.spawn(|| {
            while Instant::now() < stop {
                assert!(matches!(service.request("PUT", &url("s", "mine-too"), &[], b"x").status, 201 | 204 | 409));
            }
        });
        scope.spawn(|| {
            let mut removed = 0;
            while Instant::now() < stop {
                removed += usize::from(remove(&service, "s") == 204);
                std::thread::sleep(Duration::from_millis(7));
            }
            assert!(removed > 10, "{removed}");
        });
    });
    remove(&service, "s");
    assert!(sessions(&service).is_empty());
    assert_eq!(shell(&service, "s", "ls -A")["stdout"], "");
}

#[test]
fn a_session_that_nobody_comes_back_to_is_removed() {
    let service = Service::with(&[("SESSION_IDLE_TTL", "2")]);
    // A program can set the times of its folder, and not that of its last use.
    shell(&service, "idle", "touch x; touch -d 2100-01-01 .");
    shell(&service, "busy", "touch -d 1990-01-01 .");
    std::thread::scope(|scope| {
        scope.spawn(|| shell(&service, "running", "sleep 6; touch x"));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            shell(&service, "busy", "echo x >> file");
            std::thread::sleep(Duration::from_millis(200));
        }
        let left = sessions(&service);
        let ids: Vec<&str> = left.iter().filter_map(|one| one["session_id"].as_str()).collect();
        assert_eq!(ids, ["busy", "running"]);
        assert!(start.elapsed() < Duration::from_secs(6));
    });
    assert_eq!(list(&service, "running"), ["x"]);
    wait_until("all are removed", 8, || sessions(&service).is_empty());
    assert!(process::private_workspaces(&service.path("workspaces")).iter().all(|name| !name.contains("gone-")));
}

#[test]
fn how_long_a_session_was_idle_survives_a_restart() {
    let home = Home::new();
    let keep = home.path("kept");
    let environment = [("WORKSPACE_PATH", keep.to_str().expect("a path")), ("SESSION_IDLE_TTL", "3")];
    let state = home.path("state");
    let environment = [environment[0], environment[1], ("STATE_PATH", state.to_str().expect("a path"))];
    let used = Instant::now();
    {
        let service = Service::with(&environment);
        shell(&service, "s", "touch x");
    }
    std::thread::sleep(Duration::from_millis(1500));
    let service = Service::with(&environment);
    assert_eq!(list(&service, "s"), ["x"], "it is removed too soon");
    drop(service);
    // That was a use as well. One that is down for as long as the time to live finds it due.
    std::thread::sleep(Duration::from_millis(3200));
    let service = Service::with(&environment);
    wait_until("it is removed", 3, || sessions(&service).is_empty());
    assert!(used.elapsed() > Duration::from_secs(3));
    let forever = Service::with(&[("SESSION_IDLE_TTL", "0")]);
    shell(&forever, "s", "touch x");
}
