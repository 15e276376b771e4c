//! The adapters under one name, and their sandboxes under one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::bubblewrap::Bubblewrap;
use crate::capture::Chunk;
use crate::error::{SandboxError, Stage};
use crate::native::Native;
use crate::outcome::Outcome;
use crate::policy::{Identity, Limits, Policy};
use crate::prepare::Ground;
use crate::program::{Layout, Program};
#[cfg(target_os = "linux")]
use crate::running;
use crate::seatbelt::{self, Seatbelt};
use crate::walls::Walls;
use crate::zygote::{Recipe, Zygote};

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

    /// Where programs see packages, where that is not the folder's own path.
    pub fn packages(&self) -> Option<&'static str> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Native(_) | Self::Bubblewrap(_) => Some(crate::plan::PACKAGES),
            _ => None,
        }
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

impl Isolation {
    /// Starts a zygote that forks into sandboxes of this kind; tells what it lacks.
    ///
    /// # Errors
    /// As of [`Zygote::start`]; nothing can be forked into sandboxes of other kinds than native.
    pub async fn start_zygote(
        &self,
        ground: &Ground,
        recipe: &Recipe,
        identity: Option<Identity>,
    ) -> Result<(Zygote, Vec<String>), SandboxError> {
        match self {
            Self::Native(native) => Zygote::start(ground, native, recipe, identity).await,
            _ => Err(SandboxError::new(Stage::Launch, "nothing can be forked into these sandboxes")),
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

/// A sandbox with its program in it. Dropping it kills everything.
#[allow(clippy::large_enum_variant)] // Moved twice in its life; a box would cost more.
pub enum Started {
    /// There was a sandbox first.
    #[cfg(target_os = "linux")]
    Standing(running::Started),
    /// It came to be with the program.
    Seatbelt(seatbelt::Started),
}

/// What is left of a sandbox when nothing of its program is; to be dropped when nobody waits for the answer any more.
pub enum Remains {
    /// Processes of ours, namespaces, a cgroup.
    #[cfg(target_os = "linux")]
    Standing(running::Remains),
    /// Folders.
    Seatbelt(seatbelt::Remains),
}

impl Remains {
    /// What the next sandbox of the same session may be made with, once.
    pub fn take_walls(&mut self) -> Option<Arc<Walls>> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(remains) => remains.take_walls(),
            Self::Seatbelt(_) => None,
        }
    }

    /// To be told when a descriptor of it may be in the hands of somebody who is still alive: its cgroup is nobody else's then.
    pub fn was_not_alone(&mut self) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(remains) => remains.was_not_alone(),
            Self::Seatbelt(_) => {}
        }
    }
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

    /// Starts the program; its time begins.
    ///
    /// # Errors
    /// When the program could not be started; some of what keeps it from that is told by [`Started::finish`].
    pub async fn start(self, program: Program) -> Result<Started, SandboxError> {
        Ok(match self {
            #[cfg(target_os = "linux")]
            Self::Standing(prepared) => Started::Standing(prepared.start(program).await?),
            Self::Seatbelt(prepared) => Started::Seatbelt(prepared.start(program).await?),
        })
    }

    /// Has a zygote fork the program into it, with these descriptors from 4 up.
    ///
    /// # Errors
    /// The zygote is gone, or this is no sandbox that one can fork into (see [`Self::takes_forks`]).
    pub async fn start_from(
        self,
        zygote: &Zygote,
        stdin: OwnedFd,
        descriptors: Vec<OwnedFd>,
        result_bytes: u64,
    ) -> Result<Started, SandboxError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(prepared) => {
                prepared.start_from(zygote, stdin, descriptors, result_bytes).await.map(Started::Standing)
            }
            Self::Seatbelt(_) => {
                drop((zygote, stdin, descriptors, result_bytes));
                Err(SandboxError::new(Stage::Program, "nothing can be forked into this sandbox"))
            }
        }
    }

    /// Whether it still stands, as far as can be told.
    pub fn is_waiting(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(prepared) => prepared.is_waiting(),
            Self::Seatbelt(_) => true,
        }
    }

    /// Puts other limits in force; of what the sandbox was made for only the processes, the share of CPU, the time and the output
    /// may differ.
    ///
    /// # Errors
    /// Stage [`Stage::Limits`]: that can't be done.
    pub fn limit(&mut self, limits: &Limits) -> Result<(), SandboxError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(prepared) => prepared.limit(limits)?,
            Self::Seatbelt(prepared) => prepared.limit(limits),
        }
        Ok(())
    }

    /// Whether a zygote can fork into it.
    pub fn takes_forks(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(prepared) => prepared.takes_forks(),
            Self::Seatbelt(_) => false,
        }
    }

    /// Runs the program to its end, see [`Started::finish`].
    ///
    /// # Errors
    /// As of [`Self::start`] and [`Started::finish`].
    pub async fn run(
        self,
        program: Program,
        live: Option<mpsc::Sender<Chunk>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Outcome, Remains), SandboxError> {
        self.start(program).await?.finish(live, cancelled).await
    }
}

impl Started {
    /// Until a program that was started ahead says [`crate::pipes::AHEAD`].
    ///
    /// # Errors
    /// It ended before, or said something else.
    pub async fn arrived(&mut self) -> Result<(), SandboxError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(started) => started.arrived().await,
            Self::Seatbelt(started) => started.arrived().await,
        }
    }

    /// Whether it still waits for its request, as far as can be told.
    pub fn is_waiting(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(started) => started.is_waiting(),
            Self::Seatbelt(started) => started.is_waiting(),
        }
    }

    /// From here on the program's time counts, and these limits hold, see [`Prepared::limit`].
    ///
    /// # Errors
    /// As of [`Prepared::limit`].
    pub fn begin(&mut self, limits: &Limits) -> Result<(), SandboxError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(started) => started.begin(limits)?,
            Self::Seatbelt(started) => started.begin(limits),
        }
        Ok(())
    }

    /// Until its end. `live` gets output as it comes; the run is cancelled when `cancelled` resolves.
    ///
    /// Dropping the returned future kills everything.
    ///
    /// # Errors
    /// When the program could not be started or watched over; how it ended itself is the [`Outcome`].
    pub async fn finish(
        self,
        live: Option<mpsc::Sender<Chunk>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Outcome, Remains), SandboxError> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Standing(started) => {
                let (outcome, remains) = started.finish(live, cancelled).await?;
                Ok((outcome, Remains::Standing(remains)))
            }
            Self::Seatbelt(started) => {
                let (outcome, remains) = started.finish(live, cancelled).await?;
                Ok((outcome, Remains::Seatbelt(remains)))
            }
        }
    }
}
