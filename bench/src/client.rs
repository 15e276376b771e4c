//! One keep-alive connection to the service: what a client pays for an execution without connecting anew.

use crate::Result;
use conformance::{Service, read_response};
use serde_json::Value;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A connection that requests go over one after the other.
pub struct Client {
    stream: TcpStream,
    host: String,
}

impl Client {
    /// Connects.
    pub fn new(service: &Service) -> Result<Client> {
        let stream = service.connect();
        stream.set_nodelay(true)?;
        Ok(Client { stream, host: service.address().to_owned() })
    }

    /// Runs something; gives the answer and the time from the first byte sent to the last byte read.
    pub fn execute(&mut self, request: &Value) -> Result<(Value, Duration)> {
        let body = request.to_string();
        let head = format!(
            "POST /execute HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        let bytes = head + &body;
        let start = Instant::now();
        self.stream.write_all(bytes.as_bytes())?;
        // The next response comes only after the next request, so this reader can't take a part of it.
        let response = read_response(&self.stream)?;
        let took = start.elapsed();
        if response.status != 200 {
            return Err(format!("status {}: {}", response.status, String::from_utf8_lossy(&response.body)).into());
        }
        Ok((serde_json::from_slice(&response.body)?, took))
    }
}
