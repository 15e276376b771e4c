//! What hosts other than Linux have not, under the names that it has there: so that nothing else in the project has to ask where
//! it runs. What can't be made is a type without values; what can be asked says that there is none.

use crate::error::{SandboxError, Stage};

fn not_here(what: &str) -> SandboxError {
    SandboxError::new(Stage::Namespaces, what)
}

/// As on Linux; there is none.
pub mod native {
    use std::path::Path;

    use super::not_here;
    use crate::error::SandboxError;
    use crate::policy::Policy;
    use crate::prepare::Ground;
    use crate::seatbelt::Prepared;

    /// None.
    #[derive(Debug, Clone)]
    pub enum Native {}

    impl Native {
        /// None.
        ///
        /// # Errors
        /// Always.
        pub fn new(_place: &Path, _prefix: &str) -> Result<Self, SandboxError> {
            Err(not_here("namespaces are Linux's; on macOS unset ISOLATION, and Seatbelt is used"))
        }

        pub(crate) async fn prepare(&self, _ground: &Ground, _policy: &Policy) -> Result<Prepared, SandboxError> {
            match *self {}
        }
    }
}

/// As on Linux; there is none.
pub mod bubblewrap {
    use std::path::{Path, PathBuf};

    use super::not_here;
    use crate::error::SandboxError;
    use crate::policy::Policy;
    use crate::prepare::Ground;
    use crate::seatbelt::Prepared;

    /// None.
    #[derive(Debug, Clone)]
    pub enum Bubblewrap {}

    impl Bubblewrap {
        /// None.
        ///
        /// # Errors
        /// Always.
        pub fn installed() -> Result<(PathBuf, String), SandboxError> {
            Err(not_here(
                "bwrap not available: Bubblewrap (bwrap) is not installed, and macOS has none; unset ISOLATION, and Seatbelt \
                 (`which sandbox-exec` should say /usr/bin/sandbox-exec) is used",
            ))
        }

        /// None.
        ///
        /// # Errors
        /// Always.
        pub fn new(_place: &Path, _prefix: &str) -> Result<Self, SandboxError> {
            Self::installed().and_then(|_| Err(not_here("bwrap not available")))
        }

        /// None.
        pub fn version(&self) -> &str {
            match *self {}
        }

        pub(crate) async fn prepare(&self, _ground: &Ground, _policy: &Policy) -> Result<Prepared, SandboxError> {
            match *self {}
        }
    }
}

/// Only what does not need Linux's sockets.
pub mod channel {
    use std::io;
    use std::os::fd::OwnedFd;

    /// A file without a name with this content. Unlike Linux's it can be written to by whoever holds it: each is one execution's.
    ///
    /// # Errors
    /// The system calls' own.
    pub fn sealed(_name: &str, parts: &[&[u8]]) -> io::Result<OwnedFd> {
        let mut file = tempfile::tempfile()?;
        for part in parts {
            io::Write::write_all(&mut file, part)?;
        }
        io::Seek::rewind(&mut file)?;
        Ok(file.into())
    }
}

/// No cgroups.
pub mod limits {
    use std::io;

    /// What this process can do with cgroups: nothing.
    #[derive(Debug, Clone)]
    pub struct Cgroups;

    #[allow(missing_docs)] // As on Linux.
    impl Cgroups {
        pub fn detect(_instance: &str) -> Self {
            Self
        }

        pub fn memory(&self) -> bool {
            false
        }

        pub fn pids(&self) -> bool {
            false
        }

        pub fn cpu(&self) -> bool {
            false
        }

        pub fn version(&self) -> Option<u8> {
            None
        }

        pub fn unavailable(&self) -> Vec<String> {
            vec![
                "macOS has no cgroups: memory is measured forty times a second, the share of CPU is not bounded".into(),
            ]
        }

        #[allow(clippy::missing_errors_doc)]
        pub fn sweep(&self) -> io::Result<usize> {
            Ok(0)
        }

        pub fn close(self) {}
    }
}

/// Nothing is made ahead.
pub mod prepare {
    use std::io;
    use std::sync::Arc;

    use crate::limits::Cgroups;

    /// What all sandboxes of a service are made with.
    #[derive(Clone)]
    pub struct Ground {
        /// There are none.
        pub cgroups: Arc<Cgroups>,
    }

    impl Ground {
        /// Of nothing.
        ///
        /// # Errors
        /// None.
        pub async fn new(cgroups: Cgroups) -> io::Result<Self> {
            Ok(Self { cgroups: cgroups.into() })
        }
    }
}

/// Only what a program is.
pub mod running {
    pub use crate::program::{Layout, Program};
}

/// None is carried out.
pub mod plan {
    /// None: a program sees the host's own folders.
    pub fn covered_by(_path: &std::path::Path) -> Option<&'static str> {
        None
    }

    /// None.
    pub enum SandboxPlan {}

    impl SandboxPlan {
        /// None.
        pub fn mount_in_words(&self, _index: usize) -> Option<String> {
            match *self {}
        }
    }
}

/// No host uids beside the user's own.
pub mod subordinate {
    use std::io;

    /// Enters nothing.
    ///
    /// # Errors
    /// None.
    pub fn enter() -> io::Result<Result<(), String>> {
        Ok(Err("macOS has no user namespaces".into()))
    }

    /// Never.
    pub fn is_root_of_a_namespace() -> bool {
        false
    }
}

/// Nothing of a sandbox outlives it.
pub mod walls {
    /// None.
    #[derive(Debug)]
    pub enum Walls {}
}

/// Nothing can be forked into a sandbox.
pub mod zygote {
    /// None.
    #[derive(Debug, Clone)]
    pub enum Zygote {}

    /// As on Linux.
    #[derive(Debug, Clone)]
    #[allow(missing_docs)]
    pub struct Recipe {
        pub argv: Vec<String>,
        pub env: Vec<(String, String)>,
        pub source: String,
        pub arguments: Vec<String>,
        pub read_only: Vec<std::path::PathBuf>,
        pub ready_within: std::time::Duration,
    }

    impl Zygote {
        /// None.
        ///
        /// # Errors
        /// Always.
        pub async fn start(
            _ground: &crate::prepare::Ground,
            native: &crate::native::Native,
            _recipe: &Recipe,
            _identity: Option<crate::policy::Identity>,
        ) -> Result<(Self, Vec<String>), crate::error::SandboxError> {
            match *native {}
        }

        /// None.
        pub fn last_word(&self) -> String {
            match *self {}
        }

        /// None.
        pub fn kill(&self) {
            match *self {}
        }
    }

    /// None can.
    ///
    /// # Errors
    /// Always.
    pub fn check(
        _program: &std::path::Path,
        _identity: Option<crate::policy::Identity>,
    ) -> Result<(), crate::error::SandboxError> {
        Err(crate::error::SandboxError::new(crate::error::Stage::Launch, "there are no zygotes on this system"))
    }
}

/// As on Linux; there are none.
pub mod project {
    use std::io;
    use std::os::fd::BorrowedFd;

    /// What the files of a project take, or may.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[allow(missing_docs)]
    pub struct Amount {
        pub bytes: u64,
        pub files: u64,
    }

    /// None are.
    ///
    /// # Errors
    /// Always.
    pub fn are_enforced(_folder: BorrowedFd<'_>) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// None.
    ///
    /// # Errors
    /// Always.
    pub fn handed_on_by(_folder: BorrowedFd<'_>) -> io::Result<Option<u32>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// To none.
    ///
    /// # Errors
    /// Always.
    pub fn assign(_file: BorrowedFd<'_>, _project: u32, _is_folder: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Of none.
    ///
    /// # Errors
    /// Always.
    pub fn limit(_folder: BorrowedFd<'_>, _project: u32, _most: Option<Amount>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// By none.
    ///
    /// # Errors
    /// Always.
    pub fn taken(_folder: BorrowedFd<'_>, _project: u32) -> io::Result<Amount> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
