//! The port that the service listens on, and who reaches it.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::Check;
use crate::config::Config;

/// How long each step of a call may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

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
pub(in crate::cli) async fn running_service(address: SocketAddr) -> Option<Result<(), String>> {
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
    // One that waits for room to start says nothing of isolation.
    let is_told = body["isolation"].is_string() || body["status"] == "unhealthy";
    let ours = is_told && body["active_executions"].is_number();
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

/// A client that goes straight there.
pub(super) fn client(url: &Url) -> reqwest::Result<Client> {
    // Fails when there is one already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let builder = Client::builder().timeout(PATIENCE).no_proxy().redirect(Policy::none());
    match url.scheme() {
        // Without this it needs the system's certificates also for what is not encrypted.
        "http" => builder.tls_certs_only([]).build(),
        _ => builder.build(),
    }
}

#[cfg(test)]
pub(in crate::cli) mod tests {
    use super::super::Status;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that gives this answer to whoever comes.
    pub(in crate::cli) async fn server(answer: &'static str) -> SocketAddr {
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
