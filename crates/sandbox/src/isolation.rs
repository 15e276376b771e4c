//! The adapters under one name.

use crate::bubblewrap::Bubblewrap;
use crate::error::SandboxError;
use crate::native::Native;
use crate::policy::Policy;
use crate::prepare::Ground;
use crate::running::Prepared;
use crate::unisolated::Unisolated;

/// How executions are kept apart.
#[derive(Debug, Clone)]
pub enum Isolation {
    /// By namespaces of our own making.
    Native(Native),
    /// By bwrap(1).
    Bubblewrap(Bubblewrap),
    /// Not at all.
    None,
}

impl Isolation {
    /// The name that configuration, `/health` and `/info` use.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            Self::Bubblewrap(_) => "bubblewrap",
            Self::None => "none",
        }
    }

    /// Whether nothing is isolated.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Version of the program that isolates, where there is one.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Bubblewrap(bubblewrap) => Some(bubblewrap.version()),
            Self::Native(_) | Self::None => None,
        }
    }

    /// Builds a sandbox.
    ///
    /// # Errors
    /// When that fails; never a weaker sandbox instead.
    pub async fn prepare(&self, ground: &Ground, policy: &Policy) -> Result<Prepared, SandboxError> {
        match self {
            Self::Native(native) => native.prepare(ground, policy).await,
            Self::Bubblewrap(bubblewrap) => bubblewrap.prepare(ground, policy).await,
            Self::None => Unisolated.prepare(ground, policy).await,
        }
    }
}
