//! What the service says of its own interface: the OpenAPI document, the page to read it, and the metrics. The document is held against
//! real requests and real answers of every route; the metrics against work of every kind.

mod document;
mod errors;
mod examples;
#[path = "../packages/index.rs"]
#[allow(dead_code, reason = "its own tests need more of it")]
mod index;
mod metrics;
mod page;
mod prometheus;
mod routes;
