//! Admission: is the request right, and is there room for it?

pub mod queue;
pub mod request;
