//! The port that the service listens on, and the control plane that it reports to.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::Check;
use crate::config::Config;

/// How long each step of a call may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Addresses of the control plane from where the service may run, as the troubleshooting document has them.
const CONTROL_PLANE_FIX: &str = "correct CONTROL_PLANE_URL:\n\
    Docker, to its host:  CONTROL_PLANE_URL=http://host.docker.internal:8000\n\
    Docker Compose:       CONTROL_PLANE_URL=http://control-plane:8000\n\
    Kubernetes:           CONTROL_PLANE_URL=http://control-plane-service:8000";

/// Whether the service can listen, and whether one of ours does already.
pub(super) async fn port(config: &Config) -> (Check, bool) {
    const NAME: &str = "port";
    let (host, port) = (config.host, config.port);
    let address = SocketAddr::new(host, port);
    let error = match TcpListener::bind(address) {
        Ok(_) if port == 0 => return (Check::ok(NAME, format!("{host}, any free port")), false),
        Ok(_) => return (Check::ok(NAME, format!("{address} is free")), false),
        Err(error) => error,
    };
    let another = if port == u16::MAX { port - 1 } else { port + 1 };
    let check = match error.kind() {
        ErrorKind::AddrInUse => match running_service(address).await {
            Some(Ok(())) => return (Check::ok(NAME, format!("{address} is used by a running sandbox-executor")), true),
            Some(Err(reason)) => {
                let cause = format!("the sandbox-executor that runs on {address} is not healthy: {reason}");
                return (Check::warning(NAME, cause, "see its log, and the other checks"), true);
            }
            None => {
                let fix = format!(
                    "see what listens there (ss -ltnp 'sport = :{port}') and stop it\n\
                     or use another port: export EXECUTOR_PORT={another}"
                );
                Check::problem(NAME, format!("{address} is used by another program"), fix)
            }
        },
        ErrorKind::PermissionDenied => {
            let fix = "use a port from 1024 up: export EXECUTOR_PORT=8080";
            Check::problem(NAME, format!("this user may not listen on {address}: {error}"), fix)
        }
        ErrorKind::AddrNotAvailable => {
            let fix = "use an address of this machine: export EXECUTOR_HOST=127.0.0.1, or 0.0.0.0 for all of them";
            Check::problem(NAME, format!("EXECUTOR_HOST = {host} is no address of this machine"), fix)
        }
        _ => {
            let fix = "correct EXECUTOR_HOST and EXECUTOR_PORT";
            Check::problem(NAME, format!("{address} can't be listened on: {error}"), fix)
        }
    };
    (check, false)
}

/// Whether the service that listens there says that it is well; `None` if it is none of ours.
async fn running_service(address: SocketAddr) -> Option<Result<(), String>> {
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let url = Url::parse(&format!("http://{}/health", SocketAddr::new(host, address.port()))).ok()?;
    let body = client(&url).ok()?.get(url).send().await.ok()?.json::<serde_json::Value>().await.ok()?;
    if body["error_code"].as_str().is_some_and(|code| code.starts_with("Executor.")) {
        return Some(Ok(()));
    }
    let ours = body["isolation"].is_string() && body["active_executions"].is_number();
    ours.then(|| match body["status"].as_str() {
        Some("healthy") => Ok(()),
        _ => Err(body["reason"].as_str().unwrap_or("it gives no reason").to_owned()),
    })
}

pub(super) fn access(config: &Config) -> Check {
    const NAME: &str = "access";
    match (config.listens_on_loopback(), config.api_token.is_some()) {
        (_, true) => Check::ok(NAME, "with the token EXECUTOR_API_TOKEN"),
        (true, false) => Check::ok(NAME, "from this machine only"),
        (false, false) => Check::warning(
            NAME,
            "the service listens beyond this machine without a token: whoever reaches the port can run code",
            "set EXECUTOR_API_TOKEN, or EXECUTOR_HOST=127.0.0.1",
        )
        .seen(format!("EXECUTOR_HOST = {}", config.host)),
    }
}

pub(super) async fn control_plane(config: &Config) -> Check {
    const NAME: &str = "control plane";
    let Some(base) = &config.control_plane_url else {
        return Check::skipped(NAME, "CONTROL_PLANE_URL is not set: nothing is reported");
    };
    let evidence = format!("CONTROL_PLANE_URL = {base}");
    match reach(base).await {
        Ok(answer) => Check::ok(NAME, format!("{evidence}, {answer}")),
        Err(Unreachable { cause, fix }) => Check::warning(NAME, cause, fix).seen(evidence),
    }
}

/// At which step it could not be reached, and why.
#[derive(Debug)]
struct Unreachable {
    cause: String,
    fix: String,
}

/// Name, connection, request: the first that fails is the cause. No token is sent.
async fn reach(base: &str) -> Result<String, Unreachable> {
    let failed = |cause: String, fix: &str| Unreachable { cause, fix: fix.to_owned() };
    let url = Url::parse(&format!("{base}/health")).map_err(|error| failed(error.to_string(), CONTROL_PLANE_FIX))?;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));

    let looked_up = timeout(PATIENCE, lookup_host(format!("{host}:{port}"))).await;
    let addresses: Vec<SocketAddr> = match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            let fix = format!("{CONTROL_PLANE_FIX}\nthen try: getent hosts {host}");
            return Err(failed(format!("DNS: the name {host} is not known: {error}"), &fix));
        }
        Err(_) => {
            let fix = "see that the name servers in /etc/resolv.conf can be reached from here";
            return Err(failed(format!("DNS: no answer for {host} within {} s", PATIENCE.as_secs()), fix));
        }
    };

    if let Err(error) = connect(&addresses).await {
        let tried = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let fix = if error.kind() == ErrorKind::TimedOut {
            "see that no firewall or network policy is in between, and that both are in one network \
             (Docker: docker network connect)"
                .to_owned()
        } else {
            format!("start the control plane, or {CONTROL_PLANE_FIX}")
        };
        return Err(failed(format!("TCP: Failed to callback Control Plane: {tried}: {error}"), &fix));
    }

    let answer = match client(&url) {
        Ok(client) => client.get(url.clone()).send().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) if answer.status().is_server_error() => {
            let cause = format!("HTTP: it answers {}", answer.status());
            Err(failed(cause, "see the control plane's own log"))
        }
        Ok(answer) => Ok(format!("reachable: it answers {}", answer.status())),
        Err(error) if error.is_timeout() => {
            let cause = format!("HTTP: connected, but no answer within {} s", PATIENCE.as_secs());
            Err(failed(cause, "see whether the control plane hangs: its own log, its load"))
        }
        Err(error) => {
            let fix = if url.scheme() == "https" {
                "see that it speaks HTTPS on this port, and that its certificate's authority is known here \
                 (apt-get install ca-certificates)"
            } else {
                "see that what listens there is the control plane, and that it does not want https://"
            };
            Err(failed(format!("HTTP: {}", chain(&error)), fix))
        }
    }
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

/// A client that goes straight there.
fn client(url: &Url) -> reqwest::Result<Client> {
    // Fails when there is one already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let builder = Client::builder().timeout(PATIENCE).no_proxy().redirect(Policy::none());
    match url.scheme() {
        // Without this it needs the system's certificates also for what is not encrypted.
        "http" => builder.tls_certs_only([]).build(),
        _ => builder.build(),
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
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that gives this answer to whoever comes.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _asked = stream.read(&mut [0; 4096]).await;
                    stream.write_all(answer.as_bytes()).await.ok();
                });
            }
        });
        address
    }

    async fn checked(url: &str) -> Check {
        let config = Config::of(&[("CONTROL_PLANE_URL", url), ("INTERNAL_API_TOKEN", "canary")]);
        let check = control_plane(&config).await;
        assert!(!format!("{check:?}").contains("canary"));
        check
    }

    #[tokio::test]
    async fn name_connection_and_request_are_told_apart() {
        let good = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        let check = checked(&format!("http://{good}")).await;
        assert_eq!(check.status, Status::Ok, "{check:?}");
        assert_eq!(control_plane(&Config::of(&[])).await.status, Status::Skipped);

        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let broken = server("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
        let strange = server("220 mail.example.com ESMTP\r\n").await;
        for (url, beginning) in [
            ("http://no-such-host.invalid:8000".to_owned(), "DNS: "),
            (format!("http://{closed}"), "TCP: "),
            (format!("http://{broken}"), "HTTP: it answers 502"),
            (format!("http://{strange}"), "HTTP: "),
            (format!("https://{good}"), "HTTP: "),
        ] {
            let check = checked(&url).await;
            assert_eq!(check.status, Status::Warning, "{url}: {check:?}");
            assert!(check.cause.as_ref().unwrap().starts_with(beginning), "{url}: {check:?}");
        }
    }

    #[tokio::test]
    async fn a_port_is_free_ours_or_anothers() {
        let check = async |address: SocketAddr| {
            port(&Config::of(&[("EXECUTOR_PORT", &address.port().to_string()), ("EXECUTOR_HOST", "127.0.0.1")])).await
        };
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(check(free).await.0.status, Status::Ok);

        let (found, ours) = check(server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await).await;
        assert_eq!((found.status, ours), (Status::Problem, false));
        let well = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
                    {\"status\":\"healthy\",\"isolation\":\"bubblewrap\",\"active_executions\":0}";
        let (found, ours) = check(server(well).await).await;
        assert_eq!((found.status, ours), (Status::Ok, true), "{found:?}");
        let unwell = "HTTP/1.1 503 x\r\nconnection: close\r\n\r\n\
                      {\"status\":\"unhealthy\",\"isolation\":\"x\",\"active_executions\":0,\"reason\":\"disk is full\"}";
        let (found, ours) = check(server(unwell).await).await;
        assert_eq!((found.status, ours), (Status::Warning, true), "{found:?}");
        assert!(found.cause.unwrap().contains("disk is full"));
    }

    #[test]
    fn a_port_that_everybody_reaches_wants_a_token() {
        assert_eq!(access(&Config::of(&[])).status, Status::Ok);
        assert_eq!(access(&Config::of(&[("EXECUTOR_HOST", "0.0.0.0")])).status, Status::Warning);
        let with_token = [("EXECUTOR_HOST", "0.0.0.0"), ("EXECUTOR_API_TOKEN", "token")];
        assert_eq!(access(&Config::of(&with_token)).status, Status::Ok);
    }
}
