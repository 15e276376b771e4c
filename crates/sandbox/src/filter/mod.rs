//! What the program may still ask of the kernel once it runs: Landlock for paths, seccomp for
//! calls.
//!
//! Both are the second wall. Namespaces and mounts decide what exists in the sandbox; these two
//! say what may be done even if that first wall has a mistake in it, or the kernel has. They are
//! applied last, by the process that is about to become the program, Landlock before seccomp, and
//! neither can be undone from inside. What they allow is data, so it can be read, printed and
//! tested without a kernel; the call that installs the filter lives in `sys`.

#[cfg(target_os = "linux")]
pub mod landlock;
pub mod seccomp;
