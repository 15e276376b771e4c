//! Problem 3: the control plane, and the port.

use crate::{Findings, after_mounts, doctor, findings, is_root, skipped};
use conformance::{Home, Service};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};

const NAME: &str = "control plane DNS";
const CONNECTION: &str = "control plane TCP";
const REQUEST: &str = "control plane HTTP";
const ADDRESSES: [&str; 3] = [
    "CONTROL_PLANE_URL=http://host.docker.internal:8000",
    "CONTROL_PLANE_URL=http://control-plane:8000",
    "CONTROL_PLANE_URL=http://control-plane-service:8000",
];

/// A server that gives this answer to everybody, for as long as the tests run; without one it takes what comes and says
/// nothing.
fn server(answer: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            if let Some(answer) = answer {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            } else {
                held.push(stream);
            }
        }
    });
    address
}

const WELL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[track_caller]
fn with_control_plane(url: &str) -> Findings {
    let home = Home::new();
    let found = findings(doctor(&home).env("CONTROL_PLANE_URL", url).env("INTERNAL_API_TOKEN", "canary-internal"));
    assert!(!found.0.to_string().contains("canary"), "{:#}", found.0);
    assert_eq!(found.0["healthy"], true, "code runs without a control plane: {:#}", found.0);
    found
}

#[track_caller]
fn assert_statuses(found: &Findings, statuses: [&str; 3]) {
    let seen = [NAME, CONNECTION, REQUEST].map(|name| found.check(name)["status"].as_str().expect("a status"));
    assert_eq!(seen, statuses);
}

#[test]
fn a_control_plane_that_is_well() {
    let found = with_control_plane(&format!("http://localhost:{}", server(Some(WELL)).port()));
    assert_statuses(&found, ["ok", "ok", "ok"]);
    assert!(found.text(REQUEST, "evidence").contains("200"));
}

#[test]
fn a_name_that_is_not_known() {
    let found = with_control_plane("http://control-plane.invalid:8000");
    found.assert_named(NAME, "warning", "the name control-plane.invalid is not known", &ADDRESSES);
    found.assert_named(NAME, "warning", "", &["nslookup control-plane.invalid", "sandbox-network"]);
    assert_statuses(&found, ["warning", "skipped", "skipped"]);
}

#[test]
fn a_name_server_that_does_not_answer() {
    let test = "a name server that does not answer";
    if !is_root(test) {
        return;
    }
    // On a loopback address that is nobody else's.
    let Ok(_silent) = UdpSocket::bind("127.53.53.53:53") else { return skipped(test, "port 53 can't be had") };
    let home = Home::new();
    let file = home.write("resolv.conf", "nameserver 127.53.53.53\noptions timeout:10 attempts:1\n");
    let script = format!("mount --bind {} /etc/resolv.conf", file.display());
    let mut inner = doctor(&home);
    inner.env("CONTROL_PLANE_URL", "http://control-plane:8000");
    let found = findings(&mut after_mounts(&script, &inner));
    found.assert_named(NAME, "warning", "no name server answered for control-plane", &["/etc/resolv.conf"]);
    assert_statuses(&found, ["warning", "skipped", "skipped"]);
}

#[test]
fn a_port_where_nobody_listens() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let found = with_control_plane(&format!("http://localhost:{}", closed.port()));
    found.assert_named(CONNECTION, "warning", "Failed to callback Control Plane", &ADDRESSES);
    found.assert_named(CONNECTION, "warning", "Connection refused", &["docker exec -it sandbox-executor curl"]);
    assert_statuses(&found, ["ok", "warning", "skipped"]);
}

#[test]
fn a_control_plane_that_answers_500_or_not_at_all() {
    let found = with_control_plane(&format!("http://{}", server(Some(BROKEN))));
    found.assert_named(REQUEST, "warning", "answers 500", &["the control plane's own log", "curl"]);
    assert_statuses(&found, ["skipped", "ok", "warning"]);

    let found = with_control_plane(&format!("http://{}", server(None)));
    found.assert_named(REQUEST, "warning", "no answer within 3 s", &["hangs"]);
    assert_statuses(&found, ["skipped", "ok", "warning"]);

    let found = with_control_plane(&format!("http://{}", server(Some("220 mail ESMTP\r\n"))));
    found.assert_named(REQUEST, "warning", "HTTP", &["is the control plane"]);
}

#[test]
fn without_a_control_plane_nothing_is_looked_for() {
    let found = findings(&mut doctor(&Home::new()));
    assert_statuses(&found, ["skipped", "skipped", "skipped"]);
}

#[test]
fn a_port_that_is_in_use() {
    let home = Home::new();
    let port = server(Some(WELL)).port().to_string();
    let found = findings(doctor(&home).env("EXECUTOR_PORT", &port));
    found.assert_named("port", "problem", "is used by another program", &["ss -ltnp", "export EXECUTOR_PORT="]);

    // Beside a running service all is well, but a second one does not start on its folder.
    let service = Service::with(&[("ISOLATION", "bubblewrap")]);
    let port = service.address().rsplit(':').next().expect("a port").to_owned();
    let beside =
        |port: &str| findings(doctor(&home).env("EXECUTOR_PORT", port).env("STATE_PATH", service.path("state")));
    let found = beside(&port);
    found.assert_ok("port");
    found.assert_ok("state");
    assert!(found.text("port", "evidence").contains("a running sandbox-executor"));
    beside("0").assert_named("state", "warning", "another running service", &["STATE_PATH", "EXECUTOR_PORT"]);
    service.assert_alive();
}

#[test]
fn a_service_that_everybody_reaches() {
    let home = Home::new();
    let found = findings(doctor(&home).env("EXECUTOR_HOST", "0.0.0.0"));
    found.assert_named("access", "warning", "without a token", &["EXECUTOR_API_TOKEN", "127.0.0.1"]);
    findings(doctor(&home).env("EXECUTOR_HOST", "0.0.0.0").env("EXECUTOR_API_TOKEN", "canary")).assert_ok("access");
}
