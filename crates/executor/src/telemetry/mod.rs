//! What an operator sees of the service while it runs.

pub mod log;
pub mod metrics;
