//! The processes of one execution, as the init sees them, and how all of them are ended.
//!
//! In a pid namespace of our own that is everything but the init. Without one (`ISOLATION=none`) the init is a child
//! subreaper (PR_SET_CHILD_SUBREAPER(2const)): whatever is orphaned below it becomes its child, so that its
//! descendants are found through `/proc`, however they were daemonised.

use std::io;

use super::proc::Proc;
use crate::sys::{self, Reaped};

/// The processes below this init.
pub struct Tree {
    own_namespace: bool,
    /// Where they are looked up.
    pub proc: Proc,
}

impl Tree {
    /// Makes this process the one that collects orphans.
    ///
    /// # Errors
    /// prctl(2)'s own.
    pub fn adopt(proc: Proc) -> io::Result<Self> {
        let own_namespace = std::process::id() == 1;
        if !own_namespace {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        }
        Ok(Self { own_namespace, proc })
    }

    /// Whether the kernel ends all of it when this process ends (pid_namespaces(7)).
    pub fn ends_with_us(&self) -> bool {
        self.own_namespace
    }

    /// The pids of all processes in it.
    pub fn pids(&self) -> Vec<i32> {
        let numbers = self.proc.pids().into_iter();
        if self.own_namespace {
            return numbers.filter(|&pid| pid != 1).collect();
        }
        let parents: Vec<(i32, i32)> = numbers.filter_map(|pid| Some((pid, self.parent_of(pid)?))).collect();
        let mut found = vec![std::process::id() as i32];
        let mut next = 0;
        while let Some(&this) = found.get(next) {
            found.extend(parents.iter().filter(|(_, parent)| *parent == this).map(|(pid, _)| *pid));
            next += 1;
        }
        found.split_off(1)
    }

    /// Kills all and collects them; returns the wait status of `program` if it was still there.
    pub fn kill(&self, program: i32) -> Option<i32> {
        let mut status_of_program = None;
        loop {
            if self.own_namespace {
                sys::kill_all_in_pid_namespace();
            } else {
                for pid in self.pids().into_iter().filter_map(rustix::process::Pid::from_raw) {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
            // Everything has the signal; whatever forked meanwhile is met in the next round.
            match sys::reap(true) {
                Reaped::Child(pid, status) if pid == program => status_of_program = Some(status),
                Reaped::Child(..) | Reaped::NoneYet => {}
                Reaped::NoChild => return status_of_program,
            }
        }
    }

    /// The fourth field of `/proc/pid/stat`, counted after the name, which may hold anything (proc_pid_stat(5)).
    fn parent_of(&self, pid: i32) -> Option<i32> {
        self.proc.text(pid, "stat")?.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    }
}
