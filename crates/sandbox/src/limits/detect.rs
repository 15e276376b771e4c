//! Finding out what works by doing it: a group is made, limits are written into it, it is removed. A folder that can
//! be listed says little; read-only mounts, missing delegation and controllers left out of a kernel show here only.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::PROBE_GROUP;
use super::hierarchy::{Controller, Hierarchy, Write};
use crate::policy::Limits;

/// What was found usable, and a sentence for each thing that was not.
#[derive(Debug, Default)]
pub(super) struct Detected {
    pub(super) hierarchies: Vec<Hierarchy>,
    pub(super) unavailable: Vec<String>,
}

impl Detected {
    pub(super) fn merge(&mut self, other: Detected) {
        self.hierarchies.extend(other.hierarchies);
        self.unavailable.extend(other.unavailable);
    }
}

/// What would be written for one execution.
pub(super) type Plan = fn(&Limits, &[Controller]) -> Vec<Write>;

impl Hierarchy {
    /// Tries a group with limits and keeps the controllers that took them. Returns a sentence for each other.
    pub(super) fn keep_what_works(&mut self, plan: Plan) -> Vec<String> {
        let _ = self.unmake(PROBE_GROUP);
        let mut unavailable = Vec::new();
        if let Err(error) = self.make(PROBE_GROUP) {
            let why = format!("making {}/{PROBE_GROUP} failed: {error}; {}", self.path.display(), fix(&error));
            unavailable.extend(self.controllers.drain(..).map(|controller| format!("{}: {why}", controller.loss())));
            return unavailable;
        }
        let mut working = self.controllers.clone();
        working.retain(|&controller| match self.try_controller(controller, plan) {
            Ok(()) => true,
            Err((file, error)) => {
                unavailable.push(format!(
                    "{}: using {}/{PROBE_GROUP}/{file} failed: {error}; {}",
                    controller.loss(),
                    self.path.display(),
                    fix(&error)
                ));
                false
            }
        });
        self.controllers = working;
        if let Err(error) = self.unmake(PROBE_GROUP) {
            tracing::warn!(path = %self.path.display(), %error, "a cgroup made for a test stays");
        }
        unavailable
    }

    fn try_controller(&self, controller: Controller, plan: Plan) -> Result<(), (&'static str, io::Error)> {
        for write in plan(&modest(), &[controller]) {
            self.carry_out(PROBE_GROUP, &write).map_err(|error| (write.file, error))?;
        }
        Ok(())
    }
}

/// Limits that any host can give to an empty group.
fn modest() -> Limits {
    Limits {
        timeout: Duration::from_secs(1),
        memory_bytes: 64 << 20,
        cpu_cores: 0.5,
        processes: 16,
        file_size_bytes: 1 << 20,
        output_bytes: 1 << 20,
    }
}

/// What to do about a refusal, as the end of a sentence.
pub(super) fn fix(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ROFS) => {
            "the cgroup file system is mounted read-only here: mount it writable for this container \
             (containerd 2.1 and later: `cgroup_writable`)"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "the service may not write there: run it as root, or have its group delegated to its user \
             (systemd: `Delegate=yes`)"
        }
        Some(Errno::BUSY) => "a process is in the way: start the service alone in its container or unit",
        Some(Errno::NOENT) => "this kernel or this group lacks it: enable the controller for the service's group",
        Some(Errno::OPNOTSUPP) => "the group is threaded: start the service in a group of type `domain`",
        Some(Errno::NOSPC | Errno::AGAIN) => "the host has too many cgroups: raise cgroup.max.descendants",
        _ => "see the documentation of cgroups in the kernel's Documentation/admin-guide",
    }
}
