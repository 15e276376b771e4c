//! What the program `sandbox-executor` is made of; its command line is in `main.rs`.
//!
//! A library beside the program, so that the fuzzer reaches what reads a stranger's request. Nobody else is to use it.

#![forbid(unsafe_code)]

mod admission;
mod answer;
pub mod cli;
pub mod config;
mod disk;
mod executions;
mod http;
mod interpreters;
mod offload;
mod packages;
mod pipeline;
mod report;
mod state;
mod store;
pub mod telemetry;
mod timestamp;
mod warm;
mod workspace;

#[cfg(fuzzing)]
pub use admission::request::property as request_property;
