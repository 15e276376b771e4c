//! The namespaces of a sandbox as descriptors (namespaces(7)), and what of them outlives it.
//!
//! The next execution of a session, if it is alone in it, may stand where the last one stood: in its network, and, where that left
//! nothing in its folders in memory, behind its mounts, under its host name and as its user. Nothing of the last is alive then. What
//! could tell of it is new for each: processes and their `/proc`, System V IPC, the folder for our files
//! ([`crate::native::mounts::renew`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::plan::SandboxPlan;
use crate::policy::{Identity, Policy};

/// The namespaces of a sandbox, and its Landlock rules, if there are any.
#[derive(Debug)]
pub(crate) struct Namespaces {
    own: Vec<(&'static str, OwnedFd)>,
    /// Where it stands behind those of the one before it, what it has of them.
    walls: Option<Arc<Walls>>,
}

impl Namespaces {
    /// Of what belongs to every sandbox, by the names in `/proc/self/ns`; `user` is the program's own.
    pub const NAMES: [&'static str; 7] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];
    /// Of what is new also behind the walls of another.
    pub const NEW: [&'static str; 3] = ["pid", "ipc", "cgroup"];
    /// The user namespace that owns the others, where that is not the service's own.
    pub const OWNER: &'static str = "owner";
    /// The rules.
    pub const RULESET: &'static str = "ruleset";

    /// As they came beside an init's word, which names them.
    pub fn received(names: &[String], fds: Vec<OwnedFd>, walls: Option<Arc<Walls>>) -> Option<Self> {
        let known = || Self::NAMES.into_iter().chain([Self::OWNER, Self::RULESET]);
        let names: Option<Vec<&'static str>> = names.iter().map(|name| known().find(|each| each == name)).collect();
        let names = names.filter(|names| !names.is_empty() && names.len() == fds.len())?;
        Some(Self { own: names.into_iter().zip(fds).collect(), walls })
    }

    /// Each with its name.
    pub fn named(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let walls = self.walls.iter().flat_map(|walls| &walls.fds);
        self.own.iter().chain(walls).map(|(name, fd)| ((*name).to_owned(), fd.as_fd()))
    }

    /// Those of walls, if they can be another's: where one of the service's user owns the namespaces, they go with it.
    pub fn of_walls(mut self) -> Option<Self> {
        let can_stay = !self.own.iter().any(|(name, _)| *name == Self::OWNER);
        self.own.retain(|(name, _)| Walls::NAMES.contains(name));
        can_stay.then_some(self)
    }

    /// What an execution of the same session may find as this one left it: everything on this site, or without one its network, in
    /// which there is nobody now.
    pub fn into_walls(self, site: Option<Site>) -> Option<Arc<Walls>> {
        if site.is_some() && self.walls.is_some() {
            return self.walls;
        }
        let network = |walls: &Walls| Some(("net", walls.network()?.try_clone_to_owned().ok()?));
        let mut fds = self.own;
        fds.extend(self.walls.as_deref().and_then(network));
        fds.retain(|(name, _)| site.is_some() || *name == Walls::NAMES[0]);
        Some(Arc::new(Walls { fds, site }))
    }
}

/// What of a sandbox outlives it, for the next in the same session; never for another.
#[derive(Debug)]
pub struct Walls {
    fds: Vec<(&'static str, OwnedFd)>,
    /// For what they can be used as they are; their network always can.
    site: Option<Site>,
}

impl Walls {
    /// In the order in which they are lent; after these come the rules.
    const NAMES: [&'static str; 5] = ["net", "mnt", "uts", "user", Namespaces::RULESET];
    /// How many of them the init of another sandbox enters.
    pub(crate) const ENTERED: usize = 4;

    /// What a sandbox on this site is lent: all that is entered, or the network alone.
    pub(crate) fn lent(&self, site: Option<&Site>) -> Vec<BorrowedFd<'_>> {
        let named = |name: &&str| self.fds.iter().find(|(each, _)| each == name).map(|(_, fd)| fd.as_fd());
        let count = if site.is_some() && self.site.as_ref() == site { Self::ENTERED } else { 1 };
        Self::NAMES.iter().take(count).filter_map(named).collect()
    }

    fn network(&self) -> Option<BorrowedFd<'_>> {
        self.lent(None).pop()
    }
}

/// What a sandbox was made for. Another can stand behind its walls if it is the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Site {
    plan: SandboxPlan,
    identity: Option<Identity>,
    /// Device and inode of the workspace and of the packages.
    folders: Vec<(u64, u64)>,
}

impl Site {
    /// That of a sandbox with this plan.
    ///
    /// # Errors
    /// A folder of the policy can't be looked at.
    pub fn of(policy: &Policy, plan: &SandboxPlan) -> io::Result<Self> {
        let inode = |folder: &Arc<OwnedFd>| rustix::fs::fstat(folder).map(|state| (state.st_dev, state.st_ino));
        let folders = [&policy.workspace].into_iter().chain(&policy.packages).map(inode).collect::<Result<_, _>>()?;
        Ok(Self { plan: plan.clone(), identity: policy.identity, folders })
    }
}
