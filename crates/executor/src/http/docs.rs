//! The document of the interface, and a page to read and try it: Swagger UI, which lies in the program as it was packed and asks
//! nothing of other servers. Where a token is set the page needs it too; a browser sends none by itself, so there it is for who has
//! something in between that adds it, and anybody else takes `openapi.json` to a viewer of their own.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::openapi::service::Document;
use super::problem::Problem;
use super::routes::Service;

const PAGE: &str = include_str!("docs/index.html");
const START: &str = include_str!("docs/start.js");
/// Files of Swagger UI that the page has.
const ASSETS: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];
/// The page gets everything from here; `data:` are the pictures within its style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Its routes.
pub fn router() -> Router<Arc<Service>> {
    // What belongs to the page is nobody else's to ask for, and no part of the document.
    Router::new().route("/docs", get(page)).route("/openapi.json", get(document)).route("/docs/{file}", get(asset))
}

/// A page to read this document and to try the routes.
#[utoipa::path(get, path = "/docs", operation_id = "docs", tag = "service", responses(
    (status = 200, description = "Swagger UI", body = String, content_type = "text/html")))]
pub async fn page() -> Response {
    file("text/html; charset=utf-8", PAGE.as_bytes(), false)
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "service", responses(
    (status = 200, description = "OpenAPI 3.1", body = Document)))]
pub async fn document() -> Result<Response, Problem> {
    let text = super::document().to_pretty_json().map_err(|_| Problem::Internal)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

async fn asset(name: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|_| Problem::NotFound)?;
    if name == "start.js" {
        return Ok(file("text/javascript; charset=utf-8", START.as_bytes(), false));
    }
    let name = ASSETS.into_iter().find(|asset| *asset == name).ok_or(Problem::NotFound)?;
    let config = Arc::new(utoipa_swagger_ui::Config::from("openapi.json"));
    let found = utoipa_swagger_ui::serve(name, config).ok().flatten().ok_or(Problem::NotFound)?;
    let content_type =
        if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
    match found.bytes {
        // As it lies in the program: nothing is copied, and it stays compressed.
        Cow::Borrowed(bytes) => Ok(file(content_type, bytes, found.gzpipped)),
        Cow::Owned(_) => Err(Problem::NotFound),
    }
}

fn file(content_type: &'static str, content: &'static [u8], is_compressed: bool) -> Response {
    let mut response = Response::new(Body::from(content));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if is_compressed {
        // Whoever says nothing of encodings takes any (RFC 9110, section 12.5.3).
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
