//! Many executions that only wait, all at once: what is prepared is used up at the first few, and the rest must not stand in line
//! for a processor that nobody needs.

use crate::client::Client;
use crate::setup::Setup;
use crate::{Result, progress};
use conformance::Service;
use serde::Serialize;
use serde_json::json;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

pub const SLEEPERS: usize = 200;
const STACK_BYTES: usize = 256 * 1024;

/// How long all of them took.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sleepers {
    pub setup: Setup,
    pub count: usize,
    pub seconds: f64,
}

/// Starts a service with as many slots and fills them.
pub fn measure(setup: Setup) -> Result<Sleepers> {
    progress(&format!("{SLEEPERS} sleepers at once, {}", setup.name()));
    let service = setup.start(&[("MAX_CONCURRENT_EXECUTIONS", &SLEEPERS.to_string())]);
    service.assert_alive();
    let line = Barrier::new(SLEEPERS + 1);
    let time: Result<Duration> = thread::scope(|scope| {
        let mut clients = Vec::new();
        for _ in 0..SLEEPERS {
            let work = || sleeper(&service, &line);
            clients.push(thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?);
        }
        line.wait();
        let start = Instant::now();
        for client in clients {
            client.join().map_err(|_| "a sleeper panicked")??;
        }
        Ok(start.elapsed())
    });
    Ok(Sleepers { setup, count: SLEEPERS, seconds: time?.as_secs_f64() })
}

fn sleeper(service: &Service, line: &Barrier) -> Result<()> {
    let client = Client::new(service);
    line.wait();
    let request = json!({"language": "shell", "code": "sleep 1; echo '\"awake\"' >&3", "timeout": 60});
    let (answer, _) = client?.execute(&request)?;
    if answer["return_value"] == "awake" { Ok(()) } else { Err(format!("a sleeper: {answer}").into()) }
}
