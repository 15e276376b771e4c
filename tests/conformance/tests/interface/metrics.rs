//! That every metric moves with what it counts and by as much, that all of them are documented, and that nothing of a client's becomes
//! a label.

use crate::index::Index;
use crate::prometheus::Scrape;
use conformance::control_plane::{Kind, Reply};
use conformance::{ControlPlane, Home, Service, is_root, wait_until, with_few_pid_namespaces};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// In front of the names of our own.
const OWN: &str = "sandbox_executor_";

#[track_caller]
fn scrape(service: &Service) -> Scrape {
    let response = service.get("/metrics");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Scrape::read(response.text())
}

/// A figure of a service now, by its name without what is in front of it.
#[track_caller]
fn now(service: &Service, name: &str, labels: &[(&str, &str)]) -> f64 {
    scrape(service).sum(&format!("{OWN}{name}"), labels)
}

/// A figure, by its name and labels, and by how much it is to grow.
type Growth<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// Asserts by how much figures have grown while something was done.
#[track_caller]
fn grows(service: &Service, by: &[Growth<'_>], work: impl FnOnce()) {
    let before = scrape(service);
    work();
    let after = scrape(service);
    for (name, labels, expected) in by {
        let of = |scrape: &Scrape| scrape.sum(&format!("{OWN}{name}"), labels);
        assert_eq!(of(&after) - of(&before), *expected, "{name} {labels:?}");
    }
}

#[test]
fn executions_are_counted_by_language_and_end_with_what_they_took() {
    let service = Service::with(&[]);
    let execute = |request: serde_json::Value| service.execute(request);
    for (language, code) in [("python", "print('abc')"), ("javascript", "console.log('abc')"), ("shell", "echo abc")] {
        let of: &[(&str, &str)] = &[("language", language)];
        let completed: &[(&str, &str)] = &[("language", language), ("status", "completed")];
        let by = [
            ("executions_total", completed, 1.0),
            ("executions_total", &[], 1.0),
            ("execution_duration_seconds_count", of, 1.0),
            ("execution_startup_seconds_count", of, 1.0),
            ("execution_queue_seconds_count", &[], 1.0),
            ("output_bytes_total", &[("stream", "stdout")], 4.0),
            ("output_bytes_total", &[("stream", "stderr")], 0.0),
        ];
        grows(&service, &by, || drop(service.run(language, code)));
    }
    let ends: [(&str, serde_json::Value); 2] = [
        ("failed", json!({"language": "shell", "code": "echo ab >&2; exit 3"})),
        ("timeout", json!({"language": "shell", "code": "sleep 9", "timeout": 1})),
    ];
    for (status, request) in ends {
        grows(&service, &[("executions_total", &[("language", "shell"), ("status", status)], 1.0)], || {
            drop(execute(request))
        });
    }
    let took = scrape(&service).sum(&format!("{OWN}execution_duration_seconds_sum"), &[("language", "shell")]);
    assert!((1.0..3.0).contains(&took), "{took} s, of which a timeout of one");
    assert_eq!(now(&service, "output_bytes_total", &[("stream", "stderr")]), 3.0);
    grows(&service, &[("executions_total", &[("status", "cancelled")], 1.0)], || {
        let body = json!({"language": "shell", "code": "sleep 60", "execution_id": "cancelled"}).to_string();
        service.request("POST", "/execute", &[("Prefer", "respond-async")], body.as_bytes());
        wait_until("it runs", 10, || now(&service, "executions_active", &[]) == 1.0);
        assert_eq!(service.request("DELETE", "/executions/cancelled", &[], b"").status, 200);
    });
    // What is cut is counted all the same; what never ran, and what is asked for again, is not.
    let cut = json!({"language": "shell", "code": "head -c 1000 /dev/zero", "limits": {"output_bytes": 10}, "execution_id": "cut"});
    grows(&service, &[("output_bytes_total", &[("stream", "stdout")], 1000.0)], || drop(execute(cut.clone())));
    grows(&service, &[("executions_total", &[], 0.0), ("output_bytes_total", &[], 0.0)], || {
        execute(cut);
        service.post("{}").assert_error(400, "Executor.ValidationError");
    });
    let home = {
        let body = json!({"language": "shell", "code": "touch here; sleep 60", "session_id": "crash"}).to_string();
        service.request("POST", "/execute", &[("Prefer", "respond-async")], body.as_bytes());
        // It is written that it runs before it does.
        wait_until("it runs", 10, || service.path("workspaces/crash/here").exists());
        service.killed()
    };
    let service = Service::at(home, &[]);
    wait_until("it has crashed", 10, || {
        now(&service, "executions_total", &[("language", "shell"), ("status", "crashed")]) == 1.0
    });
}

#[test]
fn the_queue_is_told_as_it_is() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("MAX_QUEUED_EXECUTIONS", "1")]);
    assert_eq!(now(&service, "execution_slots", &[]), 1.0);
    let full: &[(&str, &str)] = &[("error_code", "QueueFull")];
    let code = "while ! [ -e go ]; do sleep 0.02; done";
    std::thread::scope(|scope| {
        let first = scope.spawn(|| service.execute(json!({"language": "shell", "code": code, "session_id": "first"})));
        wait_until("the first runs", 10, || now(&service, "executions_active", &[]) == 1.0);
        let second = scope.spawn(|| service.run("shell", ":"));
        wait_until("the second waits", 10, || now(&service, "executions_queued", &[]) == 1.0);
        grows(&service, &[("requests_refused_total", full, 1.0), ("executions_total", &[], 0.0)], || {
            service.post(json!({"language": "shell", "code": ":"}).to_string()).assert_error(503, "Executor.QueueFull");
        });
        std::thread::sleep(std::time::Duration::from_millis(500));
        wait_until("the first has its folder", 10, || service.path("workspaces/first").exists());
        std::fs::write(service.path("workspaces/first/go"), "").expect("a word to the first");
        first.join().expect("an answer");
        second.join().expect("an answer");
    });
    let waited = now(&service, "execution_queue_seconds_sum", &[]);
    assert!((0.5..20.0).contains(&waited), "{waited} s");
    assert_eq!((now(&service, "executions_active", &[]), now(&service, "executions_queued", &[])), (0.0, 0.0));
}

#[test]
fn what_is_made_ahead_is_told_with_who_found_it() {
    let service = Service::with(&[("WARM_PYTHON", "2"), ("WARM_NODE", "1")]);
    service.wait_for_forks();
    for (language, code) in [("python", "pass"), ("javascript", "0"), ("shell", ":")] {
        let of: &[(&str, &str)] = &[("language", language)];
        wait_until("one waits", 30, || now(&service, "warm_idle", of) > 0.0);
        grows(&service, &[("warm_hits_total", of, 1.0), ("warm_misses_total", of, 0.0)], || {
            service.run(language, code);
        });
    }
    // What an interpreter reads at its start makes it start cold: nothing made ahead would have suited.
    let cold = json!({"language": "javascript", "code": "0", "env_vars": {"NODE_OPTIONS": ""}});
    let nodes: &[(&str, &str)] = &[("language", "javascript")];
    grows(&service, &[("warm_hits_total", nodes, 0.0), ("warm_misses_total", nodes, 0.0)], || {
        drop(service.execute(json!({"language": "javascript", "code": "0", "limits": {"memory_mb": 300}})));
    });
    drop(service.execute(cold));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| service.run("javascript", "setTimeout(() => {}, 1000)"));
        }
    });
    assert!(now(&service, "warm_misses_total", nodes) >= 1.0, "four at once, of one that waits");
}

#[test]
fn sessions_packages_results_and_disks_are_told() {
    let index = Index::new();
    index.add_module("six", "1.16.0");
    let service = index.service(&[]);
    let before = scrape(&service);
    for name in ["sessions", "results_kept", "package_sets", "packages_bytes", "reports_pending", "reports_put_aside"] {
        assert_eq!(before.sum(&format!("{OWN}{name}"), &[]), 0.0, "{name}");
    }
    for session in ["one", "two"] {
        service.execute(json!({"language": "shell", "code": ":", "session_id": session}));
    }
    let sync = json!({"session_id": "one", "dependencies": ["six==1.16.0"]}).to_string();
    assert_eq!(service.request("POST", "/internal/session-config/sync", &[], sync.as_bytes()).status, 200);
    wait_until("results are kept", 10, || now(&service, "results_kept", &[]) == 2.0);
    let after = scrape(&service);
    for (name, expected) in [("sessions", 2.0), ("package_sets", 1.0)] {
        assert_eq!(after.sum(&format!("{OWN}{name}"), &[]), expected, "{name}");
    }
    for name in ["packages_bytes", "store_bytes", "workspace_free_bytes"] {
        assert!(after.sum(&format!("{OWN}{name}"), &[]) > 1000.0, "{name}");
    }
    assert_eq!(service.request("DELETE", "/sessions/one", &[], b"").status, 204);
    assert_eq!(now(&service, "sessions", &[]), 1.0);
}

#[test]
fn reports_are_told_that_wait_that_are_put_aside_and_that_were_tried() {
    let plane = ControlPlane::start();
    plane.behave(|call| match (call.kind, call.execution.as_str()) {
        (Kind::Result, "refused") => Reply::Status(400),
        (Kind::Result, "late") => Reply::Status(500),
        _ => Reply::Status(200),
    });
    let service = Service::with(&[("CONTROL_PLANE_URL", &plane.url())]);
    for id in ["taken", "refused", "late"] {
        service.execute(json!({"language": "shell", "code": ":", "execution_id": id}));
    }
    for (result, least) in [("delivered", 1.0), ("put_aside", 1.0), ("failed", 2.0)] {
        wait_until(result, 20, || now(&service, "report_attempts_total", &[("result", result)]) >= least);
    }
    assert_eq!((now(&service, "reports_pending", &[]), now(&service, "reports_put_aside", &[])), (1.0, 1.0));
    assert_eq!(now(&service, "report_attempts_total", &[("result", "delivered")]), 1.0);
}

#[test]
fn a_sandbox_that_can_not_be_made_is_counted_by_its_stage() {
    if !is_root("a_sandbox_that_can_not_be_made_is_counted_by_its_stage") {
        return;
    }
    // Two pid namespaces are too few for what is asked for at once.
    let few = with_few_pid_namespaces(2);
    let outer = ["/usr/bin/python3", "-I", "-c", &few];
    let settings = [("ISOLATION", "native"), ("WARM_PYTHON", "0"), ("WARM_NODE", "0")];
    let service = Service::started_by(&outer, Home::new(), &settings);
    let request = json!({"language": "shell", "code": "sleep 1"}).to_string();
    let answers = std::thread::scope(|scope| {
        let running: Vec<_> = (0..8).map(|_| scope.spawn(|| service.post(&request))).collect();
        running.into_iter().map(|each| each.join().expect("an answer")).collect::<Vec<_>>()
    });
    let refused = answers.iter().filter(|answer| answer.status == 503).count();
    assert!(refused > 0, "the situation is another one");
    let counted = scrape(&service);
    assert_eq!(counted.sum(&format!("{OWN}sandbox_faults_total"), &[]), refused as f64);
    let code: &[(&str, &str)] = &[("error_code", "IsolationUnavailable")];
    assert_eq!(counted.sum(&format!("{OWN}requests_refused_total"), code), refused as f64);
}

#[test]
fn requests_are_counted_by_route_and_nothing_of_a_client_becomes_a_label() {
    let service = Service::with(&[]);
    let one: &[(&str, &str)] = &[("route", "/executions/{id}"), ("status", "4xx")];
    let file: &[(&str, &str)] = &[("route", "/sessions/{id}/files/{path}"), ("status", "4xx")];
    let unmatched: &[(&str, &str)] = &[("route", "unmatched"), ("status", "4xx")];
    let not_found: &[(&str, &str)] = &[("error_code", "NotFound")];
    let by = [
        ("http_requests_total", one, 2.0),
        ("http_requests_total", file, 1.0),
        ("http_requests_total", unmatched, 1.0),
        ("http_requests_total", &[("route", "/metrics"), ("status", "2xx")], 1.0),
        ("requests_refused_total", not_found, 4.0),
    ];
    grows(&service, &by, || {
        for path in ["/executions/canary", "/executions/canary-2", "/sessions/canary/files/canary", "/canary"] {
            assert_eq!(service.get(path).status, 404, "{path}");
        }
    });
    let body = json!({"language": "shell", "code": ":", "execution_id": "canary-4", "session_id": "canary-5"});
    service.execute(body);
    service.request("BREW", "/execute", &[("x-request-id", "canary-6")], b"");
    assert!(!service.get("/metrics").text().contains("canary"));
    assert!(!service.get("/metrics").text().contains("BREW"));
}

#[test]
fn the_service_tells_of_itself() {
    let service = Service::with(&[]);
    let text = scrape(&service);
    let info = service.get("/info").json();
    let of = |name: &str| info[name].as_str().expect("text").to_owned();
    let (version, isolation) = (of("version"), of("isolation"));
    assert_eq!(text.sum(&format!("{OWN}build_info"), &[("version", &version), ("isolation", &isolation)]), 1.0);
    for limit in ["memory", "processes", "cpu"] {
        let enforced = if info["limits"]["enforcement"][limit] == "enforced" { 1.0 } else { 0.0 };
        assert_eq!(text.sum(&format!("{OWN}limit_enforced"), &[("limit", limit)]), enforced, "{limit}");
    }
    let resident = text.sum("process_resident_memory_bytes", &[]) / 1024.0;
    let kernel = service.memory_kb("VmRSS") as f64;
    assert!((resident / kernel - 1.0).abs() < 0.5, "{resident} kB, {kernel} kB by the kernel");
    let open = std::fs::read_dir(format!("/proc/{}/fd", service.pid())).expect("descriptors").count() as f64;
    assert!((text.sum("process_open_fds", &[]) - open).abs() <= 5.0, "{open} by the kernel");
    assert!(text.sum("process_max_fds", &[]) >= open);
    let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs_f64()
        - text.sum("process_start_time_seconds", &[]);
    assert!((0.0..60.0).contains(&age), "{age} s old");
    let cpu = text.sum("process_cpu_seconds_total", &[]);
    assert!(cpu > 0.0 && cpu < 60.0, "{cpu} s");
}

#[test]
fn whoever_accepts_open_metrics_gets_them() {
    let service = Service::with(&[]);
    let accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5";
    let response = service.request("GET", "/metrics", &[("Accept", accept)], b"");
    assert_eq!(response.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(response.text().ends_with("# EOF\n"));
    let families = |text: &str| text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(families(response.text()), families(service.get("/metrics").text()));
}

#[test]
fn every_metric_is_documented() {
    let service = Service::with(&[]);
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let document = std::fs::read_to_string(document).expect("docs/metrics.md");
    let rows: BTreeSet<(&str, &str)> = document
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().strip_suffix('`')?, cells.next()?.trim()))
        })
        .filter(|(_, kind)| ["counter", "gauge", "histogram"].contains(kind))
        .collect();
    let scrape = scrape(&service);
    for (name, family) in &scrape.0 {
        assert!(rows.contains(&(name.as_str(), family.kind.as_str())), "{name} is not in docs/metrics.md");
    }
    assert_eq!(rows.len(), scrape.0.len(), "docs/metrics.md has some that are not there");
}
