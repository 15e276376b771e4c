//! Admission: is the request right, and is there room for it?

pub mod files;
pub mod queue;
pub mod request;
