//! One call to the control plane: what is sent, what its answer means, and what a failure is called in the log.
//!
//! There is one client with a pool of connections. It goes straight to the address it was given, through no proxy and after no
//! redirect: the token is for that address alone. The status decides; what a body says is only read so that the connection
//! can be used again.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::course::Course;
use super::schedule;
use crate::config::Config;

/// How long a call may take, from the connection to the answer.
const CALL_TIME: Duration = Duration::from_secs(10);
/// How long the rest of an answer is waited for, and how much of it is read, before the connection is given up instead.
const REST_TIME: Duration = Duration::from_secs(1);
const REST_BYTES: usize = 64 * 1024;
/// Idle connections are closed before the other side does it: uvicorn, under which Python's control planes run, waits for 5 s.
const IDLE: Duration = Duration::from_secs(4);
const IDLE_CONNECTIONS: usize = 16;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The control plane will never take it as it is (RFC 9110, section 15.5): sending it again would change nothing.
const NEVER: [StatusCode; 6] = [
    StatusCode::BAD_REQUEST,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::GONE,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::UNPROCESSABLE_ENTITY,
];

/// The control plane as it is seen from here.
pub struct ControlPlane {
    client: Client,
    base: String,
    course: Mutex<Course>,
    /// Told when it answers again after it did not.
    pub recovered: Notify,
}

/// What is said to it.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    /// The port answers.
    Ready,
    /// The process ends.
    Exited,
    /// An execution runs.
    Heartbeat(&'a str),
    /// An execution has ended.
    Result(&'a str),
}

/// Why a call was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// In a few words, without addresses and tokens.
    pub why: String,
    /// What to do about it.
    pub remedy: Remedy,
}

/// What to do about a call that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Call again, but not before this time is over if it said so.
    Again(Option<Duration>),
    /// Call again: it was not even reached.
    Reach,
    /// Nothing: it will never be taken.
    Never,
}

impl Call<'_> {
    fn path(self) -> String {
        let rest = match self {
            Call::Ready => "containers/ready".to_owned(),
            Call::Exited => "containers/exited".to_owned(),
            // An id has no character that would have to be escaped.
            Call::Heartbeat(id) => format!("executions/{id}/heartbeat"),
            Call::Result(id) => format!("executions/{id}/result"),
        };
        format!("/api/v1/internal/{rest}")
    }
}

impl ControlPlane {
    /// The one that is configured, if one is.
    ///
    /// # Errors
    /// The system's certificates can't be read, above all.
    pub fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(base) = config.control_plane_url.clone() else { return Ok(None) };
        // Fails when there is one already, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let builder = Client::builder()
            .timeout(CALL_TIME)
            .no_proxy()
            .redirect(Policy::none())
            .default_headers(headers(config)?)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .user_agent(concat!("sandbox-executor/", env!("CARGO_PKG_VERSION")));
        // Without this the system's certificates are read also for what is not encrypted.
        let builder = if base.starts_with("http://") { builder.tls_certs_only([]) } else { builder };
        let client = builder.build().with_context(|| format!("CONTROL_PLANE_URL = {base} can't be called"))?;
        Ok(Some(Self { client, base, course: Mutex::default(), recovered: Notify::new() }))
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Whether the last call got an answer, whatever it said.
    pub fn reachable(&self) -> bool {
        self.course.lock().is_ok_and(|course| course.reachable())
    }

    /// Says something to it once.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn call(&self, call: Call<'_>, body: Vec<u8>) -> Result<(), Failed> {
        let result = self.send(call, body).await;
        let remedy = result.as_ref().map_err(|failed| failed.remedy).copied();
        if self.course.lock().is_ok_and(|mut course| course.note(remedy, Instant::now())) {
            self.recovered.notify_one();
        }
        result
    }

    async fn send(&self, call: Call<'_>, body: Vec<u8>) -> Result<(), Failed> {
        let mut request = self.client.post(format!("{}{}", self.base, call.path()));
        if let Call::Result(id) = call {
            request = request.header(IDEMPOTENCY_KEY, id);
        }
        let response = request.body(body).send().await.map_err(|error| unreached(&error))?;
        let judged = judge(&response);
        read_rest(response).await;
        judged
    }
}

fn headers(config: &Config) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(token) = &config.internal_api_token {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn judge(response: &Response) -> Result<(), Failed> {
    let status = response.status();
    if status.is_success() || status == StatusCode::CONFLICT {
        return Ok(());
    }
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ", see INTERNAL_API_TOKEN",
        status if status.is_redirection() => ", redirects are not followed",
        _ => "",
    };
    let remedy = if NEVER.contains(&status) {
        Remedy::Never
    } else {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        Remedy::Again(header(RETRY_AFTER).and_then(|text| schedule::retry_after(text, header(DATE), SystemTime::now())))
    };
    Err(Failed { why: format!("HTTP {status}{hint}"), remedy })
}

/// A connection serves again once its answer has been read.
async fn read_rest(mut response: Response) {
    let rest = async {
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > REST_BYTES {
                break;
            }
        }
    };
    timeout(REST_TIME, rest).await.ok();
}

fn unreached(error: &reqwest::Error) -> Failed {
    Failed { why: words(error), remedy: Remedy::Reach }
}

/// A failure in the words that people look for; the library's own begin with the address.
fn words(error: &reqwest::Error) -> String {
    if error.is_dns() {
        let host = error.url().and_then(Url::host_str).unwrap_or_default();
        return format!("The name {host} is not known");
    }
    // The outermost error tells addresses.
    let mut innermost = error.source();
    while let Some(source) = innermost {
        if let Some(words) = source.downcast_ref::<io::Error>().and_then(|error| words_of(error.kind())) {
            return words.into();
        }
        if source.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
            return "Connection closed without an answer".into();
        }
        let Some(next) = source.source() else { break };
        innermost = Some(next);
    }
    if error.is_timeout() {
        return format!("No answer within {} s", CALL_TIME.as_secs());
    }
    innermost.map_or_else(|| "The call could not be made".into(), ToString::to_string)
}

fn words_of(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::ConnectionRefused => "Connection refused",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "Connection reset",
        ErrorKind::ConnectionAborted => "Connection aborted",
        ErrorKind::HostUnreachable => "No route to host",
        ErrorKind::NetworkUnreachable => "Network is unreachable",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const TOKEN: &str = "canary-token";

    fn plane(url: &str) -> ControlPlane {
        let config = Config::of(&[("CONTROL_PLANE_URL", url), ("INTERNAL_API_TOKEN", TOKEN)]);
        ControlPlane::of(&config).unwrap().unwrap()
    }

    /// What comes of a call to a server that gives this answer to whoever comes, and what it was sent.
    async fn called(answer: &'static str) -> (Result<(), Failed>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        });
        let result = plane(&url).call(Call::Result("exec_001"), b"{}".to_vec()).await;
        (result, server.await.unwrap())
    }

    async fn failed(answer: &'static str) -> (String, Remedy) {
        let failed = called(answer).await.0.unwrap_err();
        (failed.why, failed.remedy)
    }

    #[tokio::test]
    async fn a_call_is_what_the_contract_says() {
        let (result, request) = called("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(result, Ok(()));
        let (first, rest) = request.split_once("\r\n").unwrap();
        assert_eq!(first, "POST /base/api/v1/internal/executions/exec_001/result HTTP/1.1");
        let rest = rest.to_lowercase();
        for header in [
            "authorization: bearer canary-token\r\n",
            "content-type: application/json\r\n",
            "content-length: 2\r\n",
            "idempotency-key: exec_001\r\n",
        ] {
            assert!(rest.contains(header), "{rest}");
        }
        assert!(!rest.contains("transfer-encoding") && rest.ends_with("\r\n\r\n{}"), "{rest}");
    }

    #[tokio::test]
    async fn the_status_decides() {
        for taken in ["200 OK", "201 Created", "204 No Content", "299 x", "409 Conflict"] {
            let answer = format!("HTTP/1.1 {taken}\r\ncontent-length: 0\r\n\r\n").leak();
            assert_eq!(called(answer).await.0, Ok(()), "{taken}");
        }
        // Cut within the body, it is taken all the same.
        assert_eq!(called("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await.0, Ok(()));
        for status in [400, 405, 410, 413, 415, 422] {
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").leak();
            assert_eq!(failed(answer).await.1, Remedy::Never, "{status}");
        }
        for status in [301, 302, 307, 401, 402, 403, 404, 406, 408, 411, 418, 425, 429, 500, 501, 502, 503, 504, 599] {
            let location = "location: http://127.0.0.1:9/\r\n";
            let answer = format!("HTTP/1.1 {status} x\r\n{location}content-length: 0\r\n\r\n").leak();
            assert_eq!(failed(answer).await.1, Remedy::Again(None), "{status}");
        }
    }

    #[tokio::test]
    async fn a_time_that_is_asked_for_comes_with_it() {
        let asked = async |text: &str| {
            failed(format!("HTTP/1.1 429 x\r\nretry-after: {text}\r\ncontent-length: 0\r\n\r\n").leak()).await.1
        };
        assert_eq!(asked("7").await, Remedy::Again(Some(Duration::from_secs(7))));
        assert_eq!(asked("soon").await, Remedy::Again(None));
        let date = "Sun, 06 Nov 1994 08:49:47 GMT\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(asked(date).await, Remedy::Again(Some(Duration::from_secs(10))));
    }

    #[tokio::test]
    async fn failures_are_told_in_a_few_words() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let unreached = async |url: &str| {
            let plane = plane(url);
            let failed = plane.call(Call::Ready, Vec::new()).await.unwrap_err();
            assert_eq!((failed.remedy, plane.reachable()), (Remedy::Reach, false));
            failed.why
        };
        assert_eq!(unreached(&format!("http://{closed}")).await, "Connection refused");
        assert_eq!(unreached("http://no-such-host.invalid:8000").await, "The name no-such-host.invalid is not known");
        let nothing = failed("").await;
        assert!(
            ["Connection closed without an answer", "Connection reset"].contains(&nothing.0.as_str()),
            "{nothing:?}"
        );
        assert_eq!(nothing.1, Remedy::Reach);
        assert_eq!(failed("HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n").await.0, "HTTP 503 Service Unavailable");
        assert_eq!(
            failed("HTTP/1.1 401 x\r\ncontent-length: 0\r\n\r\n").await.0,
            "HTTP 401 Unauthorized, see INTERNAL_API_TOKEN"
        );
        let strange = failed("220 mail.example.com ESMTP\r\n").await;
        assert_eq!(strange.1, Remedy::Reach);
        assert!(!strange.0.contains("http://") && !strange.0.contains("127.0.0.1"), "{strange:?}");
        insta::assert_snapshot!(strange.0, @"invalid HTTP version parsed");
    }

    #[test]
    fn the_token_does_not_show() {
        let plane = plane("http://127.0.0.1:9");
        assert!(!format!("{:?}", plane.client).contains(TOKEN));
    }
}
