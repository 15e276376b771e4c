//! What a session has, who else has it, and for how long.

use crate::{Index, body, layers, post, run, sync, version};
use conformance::{Service, assert_completed, keys, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A package with a command and another that it needs.
fn greeter(index: &Index) {
    index.add_module("wording", "2.0");
    index.add(
        json!({"name": "greeter", "version": "1.0", "requires": ["wording>=1"], "scripts": {"greet": "greeter:main"},
        "files": {"greeter.py": "import wording\nversion = '1.0'\ndef main(): print('hello', wording.version)\n"}}),
    );
}

#[test]
fn a_session_sees_what_it_asked_for_in_every_language_and_no_other_does() {
    let index = Index::new();
    greeter(&index);
    let service = index.service(&[]);
    let response = post(&service, &body("one", &["greeter==1.0"], "replace"));
    assert_eq!(response.status, 200, "{}", response.text());
    let answer = response.json();
    assert_eq!(keys(&answer), ["completed_at", "error", "installed_dependencies", "started_at", "status"]);
    let installed = answer["installed_dependencies"].as_array().cloned().unwrap_or_default();
    assert_eq!(installed.len(), 2, "{answer}");
    let expected = ["install_location", "install_time", "is_from_template", "name", "version"];
    assert_eq!(keys(&installed[0]), expected);
    assert_eq!((&installed[0]["name"], &installed[1]["name"]), (&json!("greeter"), &json!("wording")));
    assert_eq!((&installed[1]["version"], &installed[1]["is_from_template"]), (&json!("2.0"), &json!(false)));

    let location = installed[0]["install_location"].as_str().unwrap_or_default();
    assert_eq!(version(&service, "one", "greeter"), "1.0");
    let found = run(&service, "one", "python", "import greeter, sys; print(greeter.__file__, sys.path[:2])");
    assert!(
        found.starts_with(&format!("{location}/greeter.py ")) && found.contains(&format!("'{location}']")),
        "{found}"
    );
    assert_eq!(
        run(&service, "one", "shell", "greet; python3 -c 'import greeter; print(greeter.version)'"),
        "hello 2.0\n1.0"
    );
    let spawned = "console.log(require('child_process').execSync('greet').toString())";
    assert_eq!(run(&service, "one", "javascript", spawned), "hello 2.0");
    let children = "import multiprocessing as m, subprocess as s\ndef f(): import greeter; greeter.main()\n\
        if __name__ == '__main__':\n  print(s.check_output(['greet'], text=True), end='', flush=True)\n  \
        p = m.get_context('spawn').Process(target=f); p.start(); p.join()";
    assert_eq!(run(&service, "one", "python", children), "hello 2.0\nhello 2.0");

    for other in [Some("two"), None] {
        let mut request =
            json!({"language": "shell", "code": "command -v greet; python3 -c 'import greeter'; ls /packages; env"});
        request["session_id"] = json!(other);
        let answer = service.execute(request);
        let all = format!("{}{}", answer["stdout"], answer["stderr"]);
        assert!(all.contains("No module named 'greeter'") && all.contains("cannot access"), "{all}");
        assert!(!all.contains("hello") && !all.contains("PYTHONPATH"), "{all}");
    }
}

#[test]
fn what_the_caller_sets_goes_before_the_packages() {
    let index = Index::new();
    index.add_module("one", "1.0").add_module("two", "1.0");
    let service = index.service(&[]);
    sync(&service, "s", &["one==1.0", "two==1.0"], "replace");
    let code = "import one, two, sys; print(one.version, two.version, sys.path[1:4])";
    let theirs = json!({"session_id": "s", "language": "python", "code": code, "env_vars": {"PYTHONPATH": "/workspace/a:/workspace/b"}});
    run(&service, "s", "shell", "mkdir a b; echo \"version = 'mine'\" > b/one.py");
    let answer = service.execute(theirs);
    assert_completed(&answer);
    let expected = "mine 1.0 ['/workspace/a', '/workspace/b', '/packages']\n";
    if answer["stdout"] != expected {
        // Elsewhere they have other paths.
        assert!(answer["stdout"].as_str().is_some_and(|text| text.starts_with("mine 1.0 ")), "{answer}");
        assert_ne!(service.get("/health").json()["isolation"], "native");
    }
    run(&service, "s", "shell", "echo \"version = 'workspace'\" > two.py");
    assert_eq!(version(&service, "s", "two"), "workspace");
}

#[test]
fn warm_and_cold_show_the_same() {
    let index = Index::new();
    index.add_module("plain", "1.0");
    // Names of the standard library, one of which was imported ahead, and what an interpreter reads when it starts.
    index.add(json!({"name": "replaces", "version": "1.0", "files": {
        "bisect.py": "version = 'package'\n", "tabnanny.py": "version = 'package'\n",
        "sitecustomize.py": "print('sitecustomize of a package')\n", "x.pth": "import sys; print('pth of a package')\n"}}));
    let service = index.service(&[]);
    let is_native = service.get("/health").json()["isolation"] == "native";
    if is_native {
        service.wait_for_forks();
    }
    for (session, package) in [("s", "replaces"), ("t", "plain")] {
        sync(&service, session, &[&format!("{package}==1.0")], "replace");
        let code = "import os, sys, random, tabnanny\nimport bisect\n\
            print(sys.path, sorted(os.environ.items()), getattr(bisect, 'version', 1), getattr(tabnanny, 'version', 1),\n\
            sys.argv, 'site' in sys.modules, file=sys.stderr)\n\
            print(b'zygote' in open('/proc/self/cmdline', 'rb').read())";
        let run = |more: Value| {
            let env_vars = more;
            service.execute(json!({"session_id": session, "language": "python", "code": code, "env_vars": env_vars}))
        };
        // A variable of this kind makes the run start cold.
        let cold = run(json!({"LANG": "C.UTF-8"}));
        let said = cold["stderr"].as_str().unwrap_or_default();
        assert!(!said.contains("of a package"), "{said}");
        if package == "replaces" {
            // The standard library's own modules meet the package's.
            assert!(said.contains("cannot import name 'bisect' from 'bisect'"), "{said}");
        } else {
            assert!(cold["stdout"] == "False\n" && said.contains("'PYTHONPATH'"), "{cold}");
        }
        for _ in 0..4 {
            let warm = run(json!({}));
            assert_eq!((&warm["stderr"], &warm["exit_code"]), (&cold["stderr"], &cold["exit_code"]));
            if package == "plain" && is_native {
                assert_eq!(warm["stdout"], "True\n");
            }
            // For a stand of the session's own to be made.
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

#[test]
fn a_stand_that_was_made_before_is_not_used_after() {
    let index = Index::new();
    index.add_module("one", "1.0").add_module("one", "2.0");
    let service = index.service(&[]);
    for (dependencies, expected) in
        [(&["one==1.0"][..], "1.0"), (&["one==2.0"], "2.0"), (&[], "none"), (&["one==1.0"], "1.0")]
    {
        sync(&service, "s", dependencies, "replace");
        for _ in 0..3 {
            assert_eq!(version(&service, "s", "one"), expected);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn the_same_is_installed_once_for_all() {
    let index = Index::new();
    greeter(&index);
    index.add_module("other", "1.0");
    let service = index.service(&[]);
    sync(&service, "one", &["greeter==1.0", "other>=1"], "replace");
    let asked = index.requests().len();
    assert!(asked > 0 && layers(&service.path("state")).len() == 1);
    let start = Instant::now();
    assert_eq!(sync(&service, "two", &["Other>=1", "other >= 1", "GREETER==1.0"], "replace").len(), 3);
    // Of pip alone the start takes about as long.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!((index.requests().len(), layers(&service.path("state")).len()), (asked, 1));
    assert_eq!(version(&service, "two", "greeter"), "1.0");
    // Those who come while it is made wait for it.
    std::thread::scope(|scope| {
        for number in 0..4 {
            let service = &service;
            scope.spawn(move || sync(service, &format!("s{number}"), &["other==1.0"], "replace"));
        }
    });
    let files = index.requests().iter().filter(|path| path.contains("other-1.0")).count();
    assert_eq!((files, layers(&service.path("state")).len()), (2, 2), "{:?}", index.requests());
    let info = service.get("/info").json();
    assert_eq!((&info["packages"]["layers"], &info["packages"]["sessions"]), (&json!(2), &json!(6)), "{info}");
    assert_eq!(info["packages"]["indexes"], json!([format!("{}/", index.url())]));
}

#[test]
fn merge_adds_replace_replaces_and_a_failure_leaves_what_was() {
    let index = Index::new();
    index.add_module("one", "1.0").add_module("one", "2.0").add_module("two", "1.0").add_module("three", "1.0");
    index.add(
        json!({"name": "wants", "version": "1.0", "requires": ["one==1.0"], "files": {"wants.py": "version = '1.0'"}}),
    );
    let service = index.service(&[]);
    assert_eq!(sync(&service, "s", &["one==1.0"], "replace"), ["one 1.0"]);
    assert_eq!(sync(&service, "s", &["two==1.0"], "merge"), ["one 1.0", "two 1.0"]);
    assert_eq!(sync(&service, "s", &["One==2.0"], "merge"), ["one 2.0", "two 1.0"]);
    assert_eq!(sync(&service, "s", &[], "merge"), ["one 2.0", "two 1.0"]);
    for (dependencies, said) in [
        (&["one==3.0"][..], "No matching distribution found for one==3.0"),
        (&["nothing>=1"], "No matching distribution found for nothing>=1"),
        (&["wants==1.0"], "conflict"),
    ] {
        let response = post(&service, &body("s", dependencies, "merge"));
        let refused = response.assert_error(422, "Executor.DependencyInstallError");
        assert!(refused["error_detail"].as_str().is_some_and(|lines| lines.contains(said)), "{refused}");
        assert_eq!((version(&service, "s", "one"), version(&service, "s", "two")), ("2.0".into(), "1.0".into()));
    }
    assert_eq!(sync(&service, "s", &["three==1.0"], "replace"), ["three 1.0"]);
    assert_eq!((version(&service, "s", "one"), version(&service, "s", "three")), ("none".into(), "1.0".into()));
    assert_eq!(sync(&service, "s", &[], "replace"), [""; 0]);
    assert_eq!(version(&service, "s", "three"), "none");
}

#[test]
fn those_who_ask_for_one_session_at_once_come_one_after_the_other() {
    let index = Index::new();
    let names = ["one", "two", "three", "four"];
    for name in names {
        index.add_module(name, "1.0");
    }
    let service = index.service(&[]);
    std::thread::scope(|scope| {
        for name in names {
            let service = &service;
            scope.spawn(move || sync(service, "s", &[&format!("{name}==1.0")], "merge"));
        }
    });
    for name in names {
        assert_eq!(version(&service, "s", name), "1.0");
    }
}

#[test]
fn a_session_has_them_after_a_restart_and_until_its_end() {
    let index = Index::new();
    index.add_module("one", "1.0");
    let url = index.url();
    let settings = [("ALLOWED_INDEX_URLS", url.as_str())];
    let service = Service::with(&settings);
    sync(&service, "s", &["one==1.0"], "replace");
    sync(&service, "t", &["one==1.0"], "replace");
    let asked = index.requests().len();
    let mut home = service.killed();
    for _ in 0..2 {
        let service = Service::at(home, &settings);
        assert_eq!(version(&service, "s", "one"), "1.0");
        assert_eq!(sync(&service, "u", &["one==1.0"], "merge"), ["one 1.0"]);
        assert_eq!(index.requests().len(), asked);
        home = service.killed();
    }
    let service = Service::at(home, &[&settings[..], &[("SESSION_IDLE_TTL", "3")]].concat());
    assert_eq!(service.request("DELETE", "/sessions/s", &[], b"").status, 204);
    assert_eq!(version(&service, "s", "one"), "none");
    wait_until("the others are removed", 20, || service.get("/info").json()["packages"]["sessions"] == 0);
    let left = std::fs::read_dir(service.path("state/session-packages")).map(Iterator::count);
    assert_eq!(left.ok(), Some(0));
    // It is kept for the next who asks.
    assert_eq!(sync(&service, "v", &["one==1.0"], "replace"), ["one 1.0"]);
    assert_eq!(index.requests().len(), asked);
}

#[test]
fn a_session_that_ends_meanwhile_ends_the_waiting() {
    let index = Index::with("", 4.0);
    index.add_module("one", "1.0");
    let service = index.service(&[]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| post(&service, &body("s", &["one==1.0"], "replace")));
        wait_until("pip is at it", 20, || !index.requests().is_empty());
        let start = Instant::now();
        assert_eq!(service.request("DELETE", "/sessions/s", &[], b"").status, 204);
        assert!(start.elapsed() < Duration::from_secs(3));
        waiting.join().expect("an answer").assert_error(409, "Executor.Conflict");
    });
    assert_eq!(version(&service, "s", "one"), "none");
}
