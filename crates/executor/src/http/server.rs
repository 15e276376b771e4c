//! Accepting connections: HTTP/1.1 with a bound on how long a client may take for its request's head.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted. Beyond what tokio takes, 128, the kernel drops a burst's, and their clients try
/// again after a second (listen(2); net.core.somaxconn bounds it too).
const BACKLOG: u32 = 4096;
/// How long a request's head may take, and how long a connection may idle.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// The same for those that come when half of the places are taken: who waits to be accepted waits for somebody's time to be over.
const HEADER_TIME_IN_A_CROWD: Duration = Duration::from_secs(1);
/// Most connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: u64 = 8192;
/// How long a client may take nothing of an answer.
const WRITE_PAUSE: Duration = Duration::from_secs(30);

/// Listens.
///
/// # Errors
/// Those of bind(2), above all.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // The port may be one that a service has just left.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`, and then until every answer that is under way is out.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    // Executions need most of the descriptors.
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let places = (descriptors / 4).clamp(16, MAX_CONNECTIONS);
    let most = usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(most));
    let connections = TaskTracker::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: some will be given back.
                    tracing::warn!("Connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        stream.set_nodelay(true).ok();
        let (router, stop) = (router.clone(), stop.clone());
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(WRITE_PAUSE));
        let stream = Box::pin(stream);
        let is_crowded = places.available_permits() < most / 2;
        let header_time = if is_crowded { HEADER_TIME_IN_A_CROWD } else { HEADER_TIME };
        connections.spawn(async move {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(header_time);
            let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await.ok();
                }
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}
