//! Files of sessions over HTTP: list, download, upload, remove.
//!
//! Bytes pass through in pieces: neither direction holds a file in memory. A path in a URL is decoded once, here; where it leads is the
//! kernel's to say ([`crate::workspace::beneath`]). What a program wrote is handed out so that no browser takes it for a page of ours.

use std::fs::File;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use http_body_util::BodyExt;
use rustix::fs::Stat;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::body;
use super::openapi::answers::{FileContent, FilePage};
use super::problem::Problem;
use super::query::{limit, session_id, strange, value};
use super::range::{Asked, asked};
use super::routes::Service;
use crate::admission::fields::Violation;
use crate::config::Config;
use crate::disk::LEAST_FREE_BYTES;
use crate::pipeline::Executor;
use crate::workspace::artifact::{changed_at, mime_type_of, modified_at};
use crate::workspace::listing::{self, Listed};
use crate::workspace::path::{RelativePath, encoded};
use crate::workspace::quota::{self, Promise};
use crate::workspace::sessions::{Doing, Stay};
use crate::workspace::staged::{Condition, Placed, Staged, Unplaced, remove_file};
use crate::workspace::usage::bytes_on_disk;
use crate::workspace::{Workspace, beneath};

/// Files on a page, unless asked for another number, and at most.
const PAGE: usize = 1000;
const LARGEST_PAGE: usize = 10_000;
/// Bytes that pass through at a time.
const PIECE: usize = 128 * 1024;
/// Room that is kept at a time for an upload of unknown length.
const STEP: u64 = 1024 * 1024;

/// Its routes.
pub fn router() -> Router<Arc<Service>> {
    let file = get(download).put(upload).delete(remove);
    Router::new()
        .route("/sessions/{id}/files", get(list))
        .route("/sessions/{id}/files/", file.clone())
        .route("/sessions/{id}/files/{*path}", file)
}

/// The session and the path that a URL names.
fn named(uri: &Uri) -> Result<(String, RelativePath), Problem> {
    let rest = uri.path().strip_prefix("/sessions/").unwrap_or_default();
    let (id, path) = rest.split_once("/files/").unwrap_or((rest, ""));
    let (id, path) = (session_id(id), RelativePath::from_url(path));
    match (id, path) {
        (Ok(id), Ok(path)) => Ok((id, path)),
        (id, path) => {
            let path = path.err().map(|problem| Violation::new("path", problem));
            Err(Problem::Validation(id.err().into_iter().chain(path).collect()))
        }
    }
}

/// A page of files, as it is told.
#[derive(Serialize)]
pub struct Listing {
    files: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// All regular files of a session's workspace, by path.
#[utoipa::path(get, path = "/sessions/{id}/files", operation_id = "files", tag = "sessions",
    params(
        ("id" = String, Path, description = "The session's id"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10_000, description = "Files on a page; 1000 unless asked for"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before")),
    responses((status = 200, description = "A page of them", body = FilePage)))]
pub async fn list(State(service): State<Arc<Service>>, uri: Uri) -> Result<Json<Listing>, Problem> {
    let id = uri.path().strip_prefix("/sessions/").and_then(|rest| rest.strip_suffix("/files")).unwrap_or_default();
    let id = session_id(id);
    let limit = limit(&uri, PAGE, LARGEST_PAGE);
    let cursor = value(&uri, "cursor").map(RelativePath::from_url).transpose();
    let cursor = cursor.map_err(|_| Violation::new("cursor", "must be the next_cursor of an answer"));
    let strange = strange(&uri, &["limit", "cursor"]);
    let (id, limit, cursor) = match (id, limit, cursor) {
        (Ok(id), Ok(limit), Ok(cursor)) if strange.is_empty() => (id, limit, cursor),
        (id, limit, cursor) => {
            let wrong = id.err().into_iter().chain(limit.err()).chain(cursor.err());
            return Err(Problem::Validation(wrong.chain(strange).collect()));
        }
    };
    let (workspace, stay) = visit(&service, &id).await?;
    let page = blocking(move || {
        let page = listing::page(&workspace.folder, cursor.as_ref().map(RelativePath::as_bytes), limit);
        drop(stay);
        page
    });
    let page = page.await?;
    Ok(Json(Listing { files: page.files, next_cursor: page.end.map(|end| encoded(&end)) }))
}

/// Download a file, or a part of it.
#[utoipa::path(get, path = "/sessions/{id}/files/{path}", operation_id = "download", tag = "sessions",
    params(
        ("id" = String, Path, description = "The session's id"),
        ("path" = String, Path, description = "Relative to the workspace; slashes may be there"),
        ("Range" = Option<String>, Header, description = "One part, in bytes (RFC 9110)"),
        ("If-Range" = Option<String>, Header, description = "The part only of the file with this ETag, else all of it"),
        ("If-Match" = Option<String>, Header, description = "Only a file with one of these ETags"),
        ("If-None-Match" = Option<String>, Header, description = "Only a file with none of these ETags")),
    responses(
        (status = 200, description = "The file", body = FileContent, content_type = "application/octet-stream",
            headers(("ETag" = String, description = "Changes whenever the file does"))),
        (status = 206, description = "The part", body = FileContent, content_type = "application/octet-stream",
            headers(("Content-Range" = String, description = "Which part of how many bytes"))),
        (status = 304, description = "It has one of the ETags of `If-None-Match`")))]
pub async fn download(
    State(service): State<Arc<Service>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (id, path) = named(&uri)?;
    let (workspace, stay) = visit(&service, &id).await?;
    let wanted = path.clone();
    let opened = blocking(move || {
        let opened = beneath::open_file(&workspace.folder, wanted.as_bytes());
        let opened = opened.and_then(|(file, state)| {
            let mime_type = mime_type_of(&file, wanted.name())?;
            Ok((file, state, mime_type))
        });
        // Once it is opened, the file may go, and its session too.
        drop(stay);
        opened
    });
    let (file, state, mime_type) = opened.await?.map_err(|error| failed("reading a file", &error))?;
    let tag = tag(&state);
    if let Some(matches) = header_text(&headers, header::IF_MATCH)
        && !lists(matches, &tag)
    {
        return Err(Problem::PreconditionFailed);
    }
    let mut response = Response::new(Body::empty());
    describe(response.headers_mut(), &path, &mime_type, &tag);
    if header_text(&headers, header::IF_NONE_MATCH).is_some_and(|matches| lists(matches, &tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let size = u64::try_from(state.st_size).unwrap_or_default();
    let is_for_this = header_text(&headers, header::IF_RANGE).is_none_or(|one| one == tag);
    let range = header_text(&headers, header::RANGE).filter(|_| is_for_this);
    let (start, length) = match range.map_or(Asked::All, |range| asked(range, size)) {
        Asked::All => (0, size),
        Asked::Part { start, length } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {start}-{}/{size}", start + length - 1);
            insert(response.headers_mut(), header::CONTENT_RANGE, &range);
            (start, length)
        }
        Asked::Nothing => return Err(Problem::RangeNotSatisfiable(size)),
    };
    insert(response.headers_mut(), header::CONTENT_LENGTH, &length.to_string());
    if method != Method::HEAD {
        *response.body_mut() = content(file, start, length).await.map_err(|error| failed("reading a file", &error))?;
    }
    Ok(response)
}

/// So many bytes of the file and no more, however it grows. If it shrinks, the connection breaks off: there is no other way left to
/// tell.
async fn content(file: File, start: u64, length: u64) -> io::Result<Body> {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(PIECE);
    file.seek(io::SeekFrom::Start(start)).await?;
    Ok(Body::from_stream(ReaderStream::with_capacity(file.take(length), PIECE)))
}

/// Upload a file.
///
/// It appears whole, under its name, when all of it is there; the session and the folders on the way are made.
#[utoipa::path(put, path = "/sessions/{id}/files/{path}", operation_id = "upload", tag = "sessions",
    params(
        ("id" = String, Path, description = "The session's id"),
        ("path" = String, Path, description = "Relative to the workspace; slashes may be there"),
        ("If-Match" = Option<String>, Header, description = "Only replaces a file with one of these ETags"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only makes a new file")),
    request_body(content = FileContent, content_type = "application/octet-stream", description = "The file's bytes"),
    responses(
        (status = 201, description = "A new file",
            headers(("ETag" = String, description = "Of the file"), ("Location" = String, description = "Its path here"))),
        (status = 204, description = "It took the place of another",
            headers(("ETag" = String, description = "Of the file")))))]
pub async fn upload(State(service): State<Arc<Service>>, request: Request) -> Result<Response, Problem> {
    let (id, path) = named(request.uri())?;
    let headers = request.headers();
    let announced = body::announced(headers)?;
    if headers.contains_key(header::CONTENT_RANGE) {
        let message = "a part of a file can't be put: send all of it (RFC 9110, section 14.5)";
        return Err(Problem::Validation(vec![Violation::new("content-range", message)]));
    }
    let condition = condition(headers);
    let location = request.uri().path().to_owned();
    let most_mb = service.config.max_file_size_mb;
    if announced.is_some_and(|length| length > most_mb << 20) {
        return Err(Problem::FileTooLarge(most_mb));
    }
    let entered = service.executions.executor.workspaces.enter(&id, Doing::Transfer).await;
    let (workspace, stay) = entered.map_err(|error| failed("entering a session", &error))?;
    // Whatever ends this before the file has its place, also that the client is gone.
    let mut unused = Unused(Some((&service.executions.executor, &stay)));
    let line = quota::line(service.config.max_disk_mb);
    let length = announced.unwrap_or(0);
    let workspaces = &service.executions.executor.workspaces;
    if workspaces.free_bytes().is_ok_and(|free| free < length.saturating_add(LEAST_FREE_BYTES)) {
        return Err(Problem::InsufficientStorage);
    }
    let replaced = replaced_bytes(&workspace, &path);
    let promise = Promise::new(&stay, workspace.meter(), line, length.saturating_sub(replaced)).await;
    let promise = promise.ok_or(Problem::QuotaExceeded(service.config.max_disk_mb))?;
    let staged = workspaces.stage(workspace.identity);
    let staged = staged.map_err(|error| failed("making a file", &error))?;
    let mut pieces =
        Pieces { body: request.into_body().into_data_stream(), promise, granted: length.max(replaced), received: 0 };
    let received = tokio::select! {
        received = pieces.write_to(&staged, &service.config) => received,
        () = stay.ended() => Err(Problem::FilesConflict("the session was removed meanwhile")),
    };
    received?;
    let promise = pieces.promise;
    // Folders may have been made for it all the same.
    let if_not_placed = unused.0.take();
    let placed = placed(staged, &workspace, path, condition).await.inspect_err(|_| stay.forget_usage());
    if placed.is_err() {
        unused.0 = if_not_placed;
    }
    let (placed, tag) = placed?;
    promise.kept(placed.added, placed.is_new);
    let status = if placed.is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    let mut response = status.into_response();
    insert(response.headers_mut(), header::ETAG, &tag);
    if status == StatusCode::CREATED {
        insert(response.headers_mut(), header::LOCATION, &location);
    }
    Ok(response)
}

/// A session that an upload made, until it has a file: dropping this ends one that nobody else has been in.
struct Unused<'a>(Option<(&'a Executor, &'a Stay)>);

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        if let Some((executor, stay)) = self.0 {
            executor.end_unused_session(stay);
        }
    }
}

/// Gives an uploaded file its place; what came of it, and its tag.
async fn placed(
    staged: Staged,
    workspace: &Workspace,
    path: RelativePath,
    condition: Condition,
) -> Result<(Placed, String), Problem> {
    let folder = Arc::clone(&workspace.folder);
    let placed = blocking(move || {
        let file = staged.file.try_clone()?;
        let placed = staged.place(&folder, &path, &condition)?;
        // The name is part of what the kernel keeps with a file, so its tag is told when it has one.
        Ok::<_, Unplaced>((placed, tag(&rustix::fs::fstat(&file).map_err(io::Error::from)?)))
    });
    placed.await?.map_err(unplaced)
}

/// A body on its way into a file.
struct Pieces<'a> {
    body: BodyDataStream,
    promise: Promise<'a>,
    /// Bytes that there is room for.
    granted: u64,
    received: u64,
}

impl Pieces<'_> {
    async fn write_to(&mut self, staged: &Staged, config: &Config) -> Result<(), Problem> {
        let (disk_mb, most_mb) = (config.max_disk_mb, config.max_file_size_mb);
        let file = staged.file.try_clone().map_err(|error| failed("writing a file", &error))?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(PIECE);
        loop {
            // How long it takes in all is the client's to say.
            let piece = match tokio::time::timeout(body::PAUSE, self.body.frame()).await {
                Err(_) => return Err(Problem::RequestTimeout),
                Ok(None) => break,
                Ok(Some(Err(_))) => return Err(body::cut_off()),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            self.received += piece.len() as u64;
            if self.received > most_mb << 20 {
                return Err(Problem::FileTooLarge(most_mb));
            }
            if self.received > self.granted {
                let more = (self.received - self.granted).max(STEP);
                let grown = self.promise.grow(more) || self.promise.grow(self.received - self.granted);
                if !grown {
                    return Err(Problem::QuotaExceeded(disk_mb));
                }
                self.granted += more;
            }
            file.write_all(&piece).await.map_err(|error| failed("writing a file", &error))?;
        }
        file.flush().await.map_err(|error| failed("writing a file", &error))
    }
}

/// Remove a file.
#[utoipa::path(delete, path = "/sessions/{id}/files/{path}", operation_id = "remove_file", tag = "sessions",
    params(
        ("id" = String, Path, description = "The session's id"),
        ("path" = String, Path, description = "Relative to the workspace; slashes may be there"),
        ("If-Match" = Option<String>, Header, description = "Only a file with one of these ETags"),
        ("If-None-Match" = Option<String>, Header, description = "Only a file with none of these ETags")),
    responses((status = 204, description = "It is gone")))]
pub async fn remove(State(service): State<Arc<Service>>, uri: Uri, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let (id, path) = named(&uri)?;
    let (workspace, stay) = visit(&service, &id).await?;
    let condition = condition(&headers);
    let removed = blocking(move || {
        let removed = remove_file(&workspace.folder, &path, |state| condition.holds(Some(state)));
        stay.forget_usage();
        removed
    });
    removed.await?.map_err(unplaced)?;
    Ok(StatusCode::NO_CONTENT)
}

/// A session that there is, for a transfer.
async fn visit(service: &Service, id: &str) -> Result<(Workspace, Stay), Problem> {
    service.executions.executor.workspaces.visit(id).await.map_err(|error| failed("entering a session", &error))
}

/// Work on files, which may wait for a disk.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!("Work on files ended in a fault of ours: {error}");
        Problem::Internal
    })
}

/// What the caller gets to know of an error of the system's.
pub fn failed(doing: &str, error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => Problem::FileNotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Problem::InsufficientStorage,
        _ => {
            tracing::error!("{doing} failed: {error}");
            Problem::Internal
        }
    }
}

fn unplaced(error: Unplaced) -> Problem {
    match error {
        Unplaced::InTheWay => Problem::FileNotFound,
        Unplaced::Conflict(what) => Problem::FilesConflict(what),
        Unplaced::Condition => Problem::PreconditionFailed,
        Unplaced::System(error) => failed("placing a file", &error),
    }
}

/// Bytes on the disk that go when this path gets another file: of one with holes not its length.
fn replaced_bytes(workspace: &Workspace, path: &RelativePath) -> u64 {
    let there = beneath::open_file(&workspace.folder, path.as_bytes());
    let only_name = there.ok().filter(|(_, state)| state.st_nlink == 1);
    only_name.map_or(0, |(_, state)| bytes_on_disk(&state).min(u64::try_from(state.st_size).unwrap_or_default()))
}

/// What names a state of a file: another as soon as the kernel sees it change.
fn tag(state: &Stat) -> String {
    let ((modified, modified_ns), (changed, changed_ns)) = (modified_at(state), changed_at(state));
    format!("\"{:x}-{:x}-{modified:x}.{modified_ns:x}-{changed:x}.{changed_ns:x}\"", state.st_ino, state.st_size)
}

/// The condition of a request that changes something. One that can't be read is one that does not hold, never none.
fn condition(headers: &HeaderMap) -> Condition {
    let all = |name: HeaderName| -> Option<String> {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.map(std::borrow::Cow::into_owned).reduce(|one, other| format!("{one},{other}"))
    };
    if let Some(wanted) = all(header::IF_MATCH) {
        return Condition::Present(|state, wanted| lists(wanted, &tag(state)), wanted);
    }
    match all(header::IF_NONE_MATCH) {
        Some(unwanted) if lists(&unwanted, "*") => Condition::Absent,
        Some(unwanted) => Condition::Not(|state, unwanted| lists(unwanted, &tag(state)), unwanted),
        None => Condition::None,
    }
}

/// Whether a list of tags has this one, or is any.
fn lists(list: &str, tag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
}

/// What is told of a file beside its content. It is a stranger's: a browser is to store it, not to show it as something of ours.
fn describe(headers: &mut HeaderMap, path: &RelativePath, mime_type: &str, tag: &str) {
    insert(headers, header::CONTENT_TYPE, mime_type);
    insert(headers, header::CONTENT_DISPOSITION, &disposition(path.name()));
    insert(headers, header::ETAG, tag);
    insert(headers, header::ACCEPT_RANGES, "bytes");
    insert(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    insert(headers, header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'");
    insert(headers, header::CACHE_CONTROL, "private, no-cache");
}

/// RFC 6266: a name that every client can read, and the name itself (RFC 8187). Neither can hold a line break or a quote.
fn disposition(name: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._- ".contains(&byte);
    let simple: String = name.iter().map(|byte| if plain(*byte) { char::from(*byte) } else { '_' }).collect();
    let whole = encoded(String::from_utf8_lossy(name).as_bytes());
    format!("attachment; filename=\"{simple}\"; filename*=UTF-8''{whole}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_session_and_a_file() {
        let named = |path: &str| named(&path.parse().unwrap());
        let (id, path) = named("/sessions/s-1/files/a%20b/c%FF").unwrap();
        assert_eq!((id.as_str(), path.as_bytes()), ("s-1", &b"a b/c\xff"[..]));
        let (_, path) = named("/sessions/s/files/x/files/y").unwrap();
        assert_eq!(path.as_bytes(), b"x/files/y");
        for bad in [
            "/sessions/s/files/",
            "/sessions/s/files//etc/passwd",
            "/sessions/s/files/%2e%2e/x",
            "/sessions/..%2fx/files/a",
        ] {
            assert!(matches!(named(bad), Err(Problem::Validation(_))), "{bad}");
        }
    }

    #[test]
    fn a_name_can_not_break_out_of_its_header() {
        let header = disposition("a\"\r\nX: y;\u{e9}\u{7f}.txt".as_bytes());
        assert_eq!(
            header,
            "attachment; filename=\"a___X_ y____.txt\"; filename*=UTF-8''a%22%0D%0AX%3A%20y%3B%C3%A9%7F.txt"
        );
        assert!(HeaderValue::from_str(&header).is_ok());
    }

    #[test]
    fn tags_are_compared_as_lists() {
        assert!(lists("\"a\", W/\"b\"", "\"b\"") && lists("*", "\"x\"") && !lists("\"a\"", "\"b\""));
    }
}
