//! Groups of version 1 that an execution has left and the next may enter: to make one and to remove it takes the kernel longer than
//! to fork a program.
//!
//! A group is kept only if it is as good as new. Everything that was ever in it has ended; it was never short of memory nor held up
//! for its share of CPU; next to nothing is still charged to it; and its peak can be set back, which version 2 has only since Linux 6.12
//! and for one open file at a time. A socket is charged to the group that it was made in whoever uses it: so nothing of the execution may
//! be in another's hands either ([`Cgroup::occupy`]).

use std::sync::{Mutex, PoisonError};

use super::group::Cgroup;
use super::hierarchy::Controller;
use super::{Shared, Version, cgroup_v1, file};
use crate::policy::Limits;

/// How many are kept.
const MOST: usize = 32;
/// What may still be charged to one, bytes: what the kernel gives back later, or somebody else reads as well.
const LEFT_CHARGED: u64 = 256 * 1024;

/// Those that are kept, with the limits in force in each; `None` once none is any more.
#[derive(Debug)]
pub(super) struct Spares(Mutex<Option<Vec<(String, Limits)>>>);

impl Default for Spares {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Spares {
    /// One with these limits.
    pub(super) fn take(&self, limits: &Limits) -> Option<(String, Limits)> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.as_mut()?;
        let found = kept.iter().position(|(_, in_force)| in_force.same_group(limits))?;
        Some(kept.swap_remove(found))
    }

    /// All of them, for good: an execution's group may still be on its way here.
    pub(super) fn close(&self) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.into_iter().flatten().map(|(name, _)| name).collect()
    }

    /// Keeps one; whether there was room.
    pub(super) fn keep(&self, name: &str, limits: &Limits) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = kept.as_mut().filter(|kept| kept.len() < MOST) else { return false };
        kept.push((name.to_owned(), limits.clone()));
        true
    }
}

/// Sets back what an execution that has ended left in its group; whether it is as good as new then.
pub(super) fn renew(group: &Cgroup, shared: &Shared, limits: &Limits) -> bool {
    let (Version::V1, Some(memory)) = (shared.version, shared.with(Controller::Memory)) else { return false };
    let read = |controller, name: &str| shared.with(controller)?.read(group.name(), name).ok();
    let is_empty = read(Controller::Pids, "pids.current").is_some_and(|text| text.trim() == "0");
    let was_held_up =
        read(Controller::Cpu, "cpu.stat").is_some_and(|text| file::keyed_number(&text, "nr_throttled") != Some(0));
    let charged = read(Controller::Memory, "memory.usage_in_bytes").and_then(|text| text.trim().parse::<u64>().ok());
    is_empty
        && !was_held_up
        && !group.oom_killed()
        && charged.is_some_and(|bytes| bytes <= LEFT_CHARGED)
        && memory.write(group.name(), "memory.max_usage_in_bytes", "0").is_ok()
        // The share of a period that is used up is granted anew when it is written.
        && shared.with(Controller::Cpu).is_none_or(|cpu| {
            let writes = cgroup_v1::plan(limits, &[Controller::Cpu]);
            writes.iter().all(|write| cpu.carry_out(group.name(), write).is_ok())
        })
}
