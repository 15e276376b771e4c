//! One keep-alive connection to the service: what a client pays for an execution without connecting anew.
//!
//! It shares the machine's cores with the service, so it does little: a request's bytes are made once, a response is read into
//! one buffer that stays, and of its head only the status and the length are looked at.

use crate::Result;
use conformance::Service;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const BUFFER_BYTES: usize = 16 * 1024;

/// A connection that requests go over one after the other.
pub struct Client {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn new(service: &Service) -> Result<Client> {
        let stream = service.connect();
        stream.set_nodelay(true)?;
        Ok(Client { stream, host: service.address().to_owned(), buffer: vec![0; BUFFER_BYTES] })
    }

    /// The bytes that ask for this execution.
    pub fn request(&self, body: &Value) -> Vec<u8> {
        let body = body.to_string();
        let head = format!(
            "POST /execute HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        (head + &body).into_bytes()
    }

    /// Sends a request; gives the body of the answer, and the time from the first byte sent to the last byte read. Anything but
    /// 200 is an error.
    pub fn exchange(&mut self, request: &[u8]) -> Result<(&[u8], Duration)> {
        let start = Instant::now();
        self.stream.write_all(request)?;
        let (body, end) = self.read_response()?;
        let took = start.elapsed();
        if !self.buffer.starts_with(b"HTTP/1.1 200 ") {
            return Err(String::from_utf8_lossy(&self.buffer[..end]).into());
        }
        Ok((&self.buffer[body..end], took))
    }

    /// Runs something and parses the answer.
    pub fn execute(&mut self, request: &Value) -> Result<(Value, Duration)> {
        let bytes = self.request(request);
        let (body, took) = self.exchange(&bytes)?;
        Ok((serde_json::from_slice(body)?, took))
    }

    /// Where in the buffer the body begins and ends. The next response comes only after the next request, so nothing of it is
    /// read here.
    fn read_response(&mut self) -> Result<(usize, usize)> {
        let (mut length, mut frame) = (0, None);
        loop {
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
            let read = self.stream.read(&mut self.buffer[length..])?;
            if read == 0 {
                return Err("the service closed the connection without an answer".into());
            }
            length += read;
            if frame.is_none() {
                frame = body_of(&self.buffer[..length])?;
            }
            match frame {
                Some((body, end)) if length >= end => return Ok((body, end)),
                _ => {}
            }
        }
    }
}

/// Where the body begins and ends, once the head is there.
fn body_of(received: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&received[..head])?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = lengths.next().ok_or("an answer without Content-Length")?;
    let body = head + 4;
    Ok(Some((body, body + length.trim().parse::<usize>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_begins_behind_its_head_and_has_the_length_told() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Length: 3\r\n\r\nabc";
        let body = body_of(bytes).unwrap().unwrap();
        assert_eq!(&bytes[body.0..body.1], b"abc");
        assert!(body_of(&bytes[..20]).unwrap().is_none());
        assert!(body_of(b"HTTP/1.1 200 OK\r\n\r\nabc").is_err());
    }
}
