//! A client that keeps its connection, since thousands of small runs follow each other.

use conformance::{Response, Service, read_response};
use serde_json::Value;
use std::io::Write;
use std::net::TcpStream;

/// One connection to a service.
pub struct Client<'a> {
    service: &'a Service,
    stream: TcpStream,
}

impl Client<'_> {
    /// Connects.
    #[track_caller]
    pub fn of(service: &Service) -> Client<'_> {
        Client { service, stream: service.connect() }
    }

    /// Runs something and gives the answer; anything but 200 fails the test.
    #[track_caller]
    pub fn execute(&mut self, request: &Value) -> Value {
        let body = request.to_string();
        let headers = [("Connection", "keep-alive")];
        let bytes = self.service.request_bytes("POST", "/execute", &headers, body.as_bytes());
        self.stream.write_all(&bytes).expect("a request");
        let response: Response = read_response(&self.stream).expect("an answer");
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        response.json()
    }
}
