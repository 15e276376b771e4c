//! The HTTP service: who may ask, what a body may be, and the routes.

mod about;
pub mod answer;
mod execute;
mod executions;
pub mod problem;
mod routes;
pub mod server;

pub use routes::{Service, router};
