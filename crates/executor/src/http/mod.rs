//! The HTTP service: who may ask, what a body may be, and the routes.

mod about;
pub mod answer;
mod body;
mod execute;
mod executions;
mod files;
pub mod problem;
mod query;
mod range;
mod routes;
pub mod server;
mod session_config;
mod sessions;

pub use routes::{Service, router};
