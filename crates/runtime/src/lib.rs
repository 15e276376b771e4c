//! Languages: code and event become a program for a sandbox, and its outcome becomes a verdict.
//!
//! | step | where |
//! |---|---|
//! | which interpreter, and where it lies | [`interpreter`] |
//! | code and event → [`sandbox::running::Program`] | [`invocation`], and a folder for each language |
//! | what they know of installed packages | [`packages`] |
//! | interpreters that started before their request came | [`warm`] |
//! | the private channel to a language's bootstrap | [`protocol`] |
//! | [`sandbox::outcome::Outcome`] → status, exit code, return value, error | [`verdict`] |

#![forbid(unsafe_code)]

pub mod interpreter;
pub mod invocation;
mod javascript;
pub mod json;
pub mod language;
mod packages;
pub mod protocol;
pub mod python;
mod shell;
pub mod verdict;
pub mod warm;

pub use interpreter::Interpreter;
pub use invocation::{Invocation, Mode};
pub use language::Language;
pub use packages::Packages;
pub use verdict::Verdict;
