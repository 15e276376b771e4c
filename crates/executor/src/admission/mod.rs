//! Admission: is the request right, and is there room for it?

mod digest;
pub mod fields;
pub mod files;
pub mod queue;
pub mod request;
