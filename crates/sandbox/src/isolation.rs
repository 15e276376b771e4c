//! The adapters under one name, and their sandboxes under one.

use tokio::sync::mpsc;

use crate::bubblewrap::Bubblewrap;
use crate::capture::Chunk;
use crate::error::SandboxError;
use crate::native::Native;
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::prepare::Ground;
use crate::program::{Layout, Program};
#[cfg(target_os = "linux")]
use crate::running;
use crate::seatbelt::{self, Seatbelt};

/// How executions are kept apart.
#[derive(Debug, Clone)]
pub enum Isolation {
    /// By namespaces of our own making.
    Native(Native),
    /// By bwrap(1).
    Bubblewrap(Bubblewrap),
    /// By sandbox-exec(1).
    Seatbelt(Seatbelt),
    /// Not at all.
    None,
}

impl Isolation {
    /// The name that configuration, `/health` and `/info` use.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            Self::Bubblewrap(_) => "bubblewrap",
            Self::Seatbelt(_) => "seatbelt",
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
            Self::Seatbelt(seatbelt) => Some(seatbelt.version()),
            Self::Native(_) | Self::None => None,
        }
    }

    /// Builds a sandbox.
    ///
    /// # Errors
    /// When that fails; never a weaker sandbox instead.
    pub async fn prepare(&self, ground: &Ground, policy: &Policy) -> Result<Prepared, SandboxError> {
        match self {
            Self::Native(native) => native.prepare(ground, policy).await.map(Into::into),
            Self::Bubblewrap(bubblewrap) => bubblewrap.prepare(ground, policy).await.map(Into::into),
            Self::Seatbelt(seatbelt) => seatbelt.prepare(policy).map(Into::into),
            #[cfg(target_os = "linux")]
            Self::None => crate::unisolated::Unisolated.prepare(ground, policy).await.map(Into::into),
            #[cfg(not(target_os = "linux"))]
            Self::None => seatbelt::without_profile(policy).map(Into::into),
        }
    }
}

/// A sandbox that a program can be run in.
#[allow(clippy::large_enum_variant)] // Moved twice in its life; a box would cost more.
pub enum Prepared {
    /// It stands, with an init of ours inside.
    #[cfg(target_os = "linux")]
    Standing(running::Prepared),
    /// It comes to be with the program.
    Seatbelt(seatbelt::Prepared),
}

/// What is left of a sandbox when nothing of its program is; to be dropped when nobody waits for the answer any more.
pub enum Remains {
    /// Processes of ours, namespaces, a cgroup.
    #[cfg(target_os = "linux")]
    Standing(running::Remains),
    /// Folders.
    Seatbelt(seatbelt::Remains),
}

#[cfg(target_os = "linux")]
impl From<running::Prepared> for Prepared {
    fn from(prepared: running::Prepared) -> Self {
        Self::Standing(prepared)
    }
}

impl From<seatbelt::Prepared> for Prepared {
    fn from(prepared: seatbelt::Prepared) -> Self {
        Self::Seatbelt(prepared)
    }
}

impl Prepared {
    /// Where things are inside.
    pub fn layout(&self) -> &Layout {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(prepared) => prepared.layout(),
            Self::Seatbelt(prepared) => prepared.layout(),
        }
    }

    /// What this sandbox has to do without because the host does not allow it, as sentences; for example /proc.
    pub fn lacks(&self) -> Vec<String> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(prepared) => prepared.lacks().to_vec(),
            Self::Seatbelt(_) => seatbelt::LACKS.map(str::to_owned).to_vec(),
        }
    }

    /// Runs the program to its end. `live` gets output as it comes; the run is cancelled when `cancelled` resolves.
    ///
    /// Dropping the returned future kills everything.
    ///
    /// # Errors
    /// When the program could not be started or watched over; how it ended itself is the [`Outcome`].
    pub async fn run(
        self,
        program: Program,
        live: Option<mpsc::Sender<Chunk>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Outcome, Remains), SandboxError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(prepared) => {
                let (outcome, remains) = prepared.run(program, live, cancelled).await?;
                Ok((outcome, Remains::Standing(remains)))
            }
            Self::Seatbelt(prepared) => {
                let (outcome, remains) = prepared.run(program, live, cancelled).await?;
                Ok((outcome, Remains::Seatbelt(remains)))
            }
        }
    }
}
