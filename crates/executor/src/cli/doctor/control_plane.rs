//! The control plane: its name, a connection to it, a request of it, each a check of its own. The first that fails is the
//! cause, and those behind it are not made. And what waits to be reported to it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::Url;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::Check;
use super::network::{PATIENCE, client};
use crate::config::Config;
use crate::store::{self, OutboxCounts, Store};

const DNS: &str = "control plane DNS";
const TCP: &str = "control plane TCP";
const HTTP: &str = "control plane HTTP";
const REPORTS: &str = "reports";
/// A report that waits longer than this was tried more than once.
const WAITS_LONG: Duration = Duration::from_secs(15);
/// Addresses of the control plane from where the service may run, as the troubleshooting document has them.
const ADDRESSES: &str = "correct CONTROL_PLANE_URL:\n\
    Docker, to its host:  CONTROL_PLANE_URL=http://host.docker.internal:8000 \
    (on Linux with --add-host=host.docker.internal:host-gateway)\n\
    Docker Compose:       CONTROL_PLANE_URL=http://control-plane:8000\n\
    Kubernetes:           CONTROL_PLANE_URL=http://control-plane-service:8000";
/// How two containers get to see each other.
const NETWORK: &str = "that both are in one network (Docker: docker network connect sandbox-network sandbox-executor; \
    Compose: `networks: { sandbox-network: { driver: bridge } }`, named by both services)";

/// Looks at one step after the other. No token is sent.
pub(super) async fn control_plane(config: &Config) -> [Check; 3] {
    let Some(base) = &config.control_plane_url else {
        return [DNS, TCP, HTTP].map(|name| Check::skipped(name, "CONTROL_PLANE_URL is not set: nothing is reported"));
    };
    let evidence = format!("CONTROL_PLANE_URL = {base} ({})", config.source("CONTROL_PLANE_URL"));
    let url = match Url::parse(&format!("{base}/health")) {
        Ok(url) => url,
        Err(error) => {
            let check = Check::warning(DNS, format!("it is no address: {error}"), ADDRESSES).seen(evidence);
            return [check, after(TCP, DNS), after(HTTP, DNS)];
        }
    };
    let (name, addresses) = match look_up(&url, &evidence).await {
        Ok(found) => found,
        Err(check) => return [check, after(TCP, DNS), after(HTTP, DNS)],
    };
    let connection = connection(&url, &addresses, &evidence, super::Kernel::read().container).await;
    if connection.cause.is_some() {
        return [name, connection, after(HTTP, TCP)];
    }
    [name, connection, request(url, &evidence).await]
}

/// What waits to be reported, and what was put aside.
pub(super) async fn reports(config: &Config) -> Check {
    if !config.state_path.join(store::FILE).exists() {
        return Check::skipped(REPORTS, "nothing has been run with this STATE_PATH");
    }
    let counts = async { Store::open_beside(&config.state_path).ok()?.outbox_counts().await.ok() };
    let Some(OutboxCounts { waiting, put_aside, oldest_ms }) = counts.await else {
        return Check::skipped(REPORTS, format!("{} can't be read by this user", store::FILE));
    };
    let age = Duration::from_secs(oldest_ms.map_or(0, crate::timestamp::seconds_since));
    let oldest = if waiting > 0 { format!(", the oldest for {} s", age.as_secs()) } else { String::new() };
    let evidence = format!("{waiting} waiting{oldest}, {put_aside} put aside");
    if put_aside > 0 {
        let cause = format!(
            "Failed to report result: the control plane refused {put_aside} for good, see sandbox-executor outbox"
        );
        let fix = "see the control plane's own log for why; when it takes them: sandbox-executor outbox retry";
        return Check::warning(REPORTS, cause, fix).seen(evidence);
    }
    if age < WAITS_LONG {
        return Check::ok(REPORTS, evidence);
    }
    let fix = match config.control_plane_url {
        Some(_) => {
            "see the checks of the control plane, and sandbox-executor outbox for the last error of each; they are sent by \
                    themselves when it takes them"
        }
        None => "set CONTROL_PLANE_URL to the address of the control plane: without it nothing is sent",
    };
    Check::warning(REPORTS, format!("Failed to report result: {waiting} wait to be reported"), fix).seen(evidence)
}

fn after(name: &'static str, failed: &str) -> Check {
    Check::skipped(name, format!("not tried: `{failed}` has to be right first"))
}

async fn look_up(url: &Url, evidence: &str) -> Result<(Check, Vec<SocketAddr>), Check> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let failed = |cause: String, fix: String| Check::warning(DNS, cause, fix).seen(evidence);
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((Check::skipped(DNS, format!("{host} is an address, not a name")), vec![SocketAddr::new(ip, port)]));
    }
    match timeout(PATIENCE, lookup_host(format!("{host}:{port}"))).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            let ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            Ok((Check::ok(DNS, format!("{host} is {}", ips.join(", "))), addresses))
        }
        Ok(Err(error)) => {
            let fix =
                format!("{ADDRESSES}\nand see {NETWORK}\nthen try from there: nslookup {host}, getent hosts {host}");
            Err(failed(format!("the name {host} is not known: {error}"), fix))
        }
        Err(_) => {
            let fix = "see that the name servers in /etc/resolv.conf can be reached from here".to_owned();
            Err(failed(format!("no name server answered for {host} within {} s", PATIENCE.as_secs()), fix))
        }
    }
}

async fn connection(url: &Url, addresses: &[SocketAddr], evidence: &str, container: bool) -> Check {
    let tried = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let Err(error) = connect(addresses).await else { return Check::ok(TCP, format!("connected to {tried}")) };
    let cause = format!("Failed to callback Control Plane: no connection to {tried}: {error}");
    let own = container && addresses.iter().all(|address| address.ip().is_loopback());
    let fix = match error.kind() {
        ErrorKind::TimedOut => format!("see that no firewall and no NetworkPolicy is in between, and {NETWORK}"),
        _ if own => {
            format!("in a container {} is the container itself: {ADDRESSES}", url.host_str().unwrap_or_default())
        }
        _ => format!("start the control plane, and have it listen on 0.0.0.0 and on this port; or {ADDRESSES}"),
    };
    let fix = format!("{fix}\nthen try: docker exec -it sandbox-executor curl {url}");
    Check::warning(TCP, cause, fix).seen(evidence)
}

/// The last failure of those addresses.
async fn connect(addresses: &[SocketAddr]) -> std::io::Result<()> {
    let each = async {
        let mut result = Err(ErrorKind::AddrNotAvailable.into());
        for address in addresses {
            result = TcpStream::connect(address).await.map(drop);
            if result.is_ok() {
                break;
            }
        }
        result
    };
    timeout(PATIENCE, each).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

async fn request(url: Url, evidence: &str) -> Check {
    let answer = match client(&url) {
        Ok(client) => client.get(url.clone()).send().await,
        Err(error) => Err(error),
    };
    let failed = |cause: String, fix: &str| Check::warning(HTTP, cause, fix).seen(evidence);
    match answer {
        Ok(answer) if answer.status().is_server_error() => {
            let fix = format!("see the control plane's own log; then try: docker exec -it sandbox-executor curl {url}");
            failed(format!("Failed to report result: {url} answers {}", answer.status()), &fix)
        }
        Ok(answer) => Check::ok(HTTP, format!("{url} answers {}", answer.status())),
        Err(error) if error.is_timeout() => failed(
            format!("connected, but {url} gives no answer within {} s", PATIENCE.as_secs()),
            "see whether the control plane hangs: its own log, its load",
        ),
        Err(error) if url.scheme() == "https" => failed(
            chain(&error),
            "see that it speaks HTTPS on this port, and that its certificate's authority is known here \
             (apt-get install ca-certificates)",
        ),
        Err(error) => failed(
            chain(&error),
            "see that what listens there is the control plane, and that it does not want https://",
        ),
    }
}

/// The error with what caused it: its own text says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::network::tests::server;
    use super::*;

    async fn checked(url: &str) -> [Check; 3] {
        let config = Config::of(&[("CONTROL_PLANE_URL", url), ("INTERNAL_API_TOKEN", "canary")]);
        let checks = control_plane(&config).await;
        assert!(!format!("{checks:?}").contains("canary"));
        checks
    }

    #[tokio::test]
    async fn name_connection_and_request_are_told_apart() {
        use Status::{Ok, Skipped, Warning};
        let good = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let broken = server("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
        let strange = server("220 mail.example.com ESMTP\r\n").await;
        for (url, statuses) in [
            (format!("http://{good}"), [Skipped, Ok, Ok]),
            (format!("http://localhost:{}", good.port()), [Ok, Ok, Ok]),
            ("http://no-such-host.invalid:8000".to_owned(), [Warning, Skipped, Skipped]),
            (format!("http://{closed}"), [Skipped, Warning, Skipped]),
            (format!("http://{broken}"), [Skipped, Ok, Warning]),
            (format!("http://{strange}"), [Skipped, Ok, Warning]),
            (format!("https://{good}"), [Skipped, Ok, Warning]),
        ] {
            let checks = checked(&url).await;
            assert_eq!(checks.each_ref().map(|check| check.status), statuses, "{url}: {checks:?}");
        }
        let unset = control_plane(&Config::of(&[])).await;
        assert!(unset.iter().all(|check| check.status == Skipped));
    }

    #[tokio::test]
    async fn in_a_container_localhost_is_the_container() {
        let url = Url::parse("http://localhost:8000/health").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let fix = async |container| connection(&url, &[closed], "", container).await.fix.unwrap();
        assert!(fix(true).await.contains("is the container itself"));
        assert!(!fix(false).await.contains("is the container itself"));
    }
}
