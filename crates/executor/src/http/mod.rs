//! The HTTP service: who may ask, what a body may be, and the routes.

mod about;
pub mod answer;
mod body;
mod docs;
mod execute;
mod executions;
mod files;
mod openapi;
pub mod problem;
mod query;
mod range;
mod routes;
pub mod server;
mod session_config;
mod sessions;
pub mod waiting;

pub use openapi::document;
pub use routes::{Service, router};
