//! Attacks on the sandbox: what a program must not be able to do, tried from inside the real service.
//!
//! A column is an adapter in one mode (as root, as an ordinary user) and a service of its own; every attack is a row.
//! A row passes when the attack is kept away by what should keep it away, and when its control, the same probe where
//! that wall is off, gets through: on the host itself, in throwaway namespaces, in a service with `ISOLATION=none`, or
//! under wider limits. What this host can't show (no such kernel part, no root to test with) is said and counted, never
//! passed over in silence, and a number of the catalogue that no row has fails the suite. Probes of files that belong to
//! the whole machine open them and never write.
//!
//! The probes are Python (`probes/`), the judging is done here, where no probe can reach it.
#![cfg(target_os = "linux")]

mod column;
mod host;
mod outside;
mod pace;
mod probes;
mod table;

pub use column::{COLUMNS, Column, Mode, copy_program, is_root, ordinary_user};
pub use host::Host;
pub use outside::{HostProcess, processes_with};
pub use pace::{Pace, STALL};
pub use probes::{Finding, Scene, on_the_host, request};
pub use table::{CATALOGUE, Control, Table};
