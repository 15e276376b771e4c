//! Interpreters that have started before their request comes.
//!
//! Each stands alone in a sandbox of its own, runs one program and ends with it: nothing is handed from run to run. Where a
//! zygote is ([`sandbox::zygote`]) it is a fork, otherwise a process that was started like any other, only earlier. It waits
//! at its [`Gate`] with every restriction in force.

mod gate;
pub mod pool;

pub use gate::{Gate, Input, Waiting};
pub use pool::Pool;
