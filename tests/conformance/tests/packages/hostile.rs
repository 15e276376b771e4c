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
