//! `health`: asks the service of this configuration whether it is well, over loopback: what the image's health check runs, where
//! there need be no other client. `/health` wants no token.

use std::net::SocketAddr;

use super::doctor::network::running_service;
use crate::config::Config;

/// Prints what the service says of itself; the exit code is 0 when it is well.
pub async fn run(config: &Config) -> u8 {
    let address = SocketAddr::new(config.host, config.port);
    let (word, code) = match running_service(address).await {
        Some(Ok(())) => ("healthy".to_owned(), 0),
        Some(Err(reason)) => (format!("unhealthy: {reason}"), 1),
        None => (format!("unhealthy: no sandbox-executor answers on {address}"), 1),
    };
    println!("{word}");
    code
}

#[cfg(test)]
mod tests {
    use super::super::doctor::network::tests::server;
    use super::*;

    #[tokio::test]
    async fn a_service_that_is_not_well_is_told_from_one_that_is() {
        let code = async |answer| {
            let address = server(answer).await;
            run(&Config::of(&[("EXECUTOR_PORT", &address.port().to_string())])).await
        };
        let well = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
                    {\"status\":\"healthy\",\"isolation\":\"native\",\"active_executions\":0}";
        let unwell = "HTTP/1.1 503 x\r\nconnection: close\r\n\r\n\
                      {\"status\":\"unhealthy\",\"isolation\":\"native\",\"active_executions\":0,\"reason\":\"disk is full\"}";
        assert_eq!(code(well).await, 0);
        assert_eq!(code(unwell).await, 1);
        assert_eq!(code("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await, 1);
    }
}
