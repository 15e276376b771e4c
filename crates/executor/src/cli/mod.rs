//! The commands, a file each.

pub mod completions;
pub mod config;
pub mod doctor;
pub mod health;
pub mod man;
pub mod openapi;
pub mod outbox;
mod room;
pub mod run;
pub mod serve;
