//! Version 1 of cgroups: one hierarchy per controller (or pair of them), no rule against processes in inner groups. CPU time is
//! not asked of it: that would take one more hierarchy, and the init counts the same (getrusage(2)) of what it collects.
//! Follows Documentation/admin-guide/cgroup-v1/{memory,pids}.rst and Documentation/scheduler/sched-bwc.rst.

use std::path::PathBuf;

use super::detect::{Detected, fix};
use super::hierarchy::{Controller, Hierarchy, Mount, Refusal, Write, own_group};
use super::{CPU_PERIOD_US, cpu_quota_us};
use crate::policy::Limits;

/// What is written into the files of an execution's group, in this order.
pub(super) fn plan(limits: &Limits, controllers: &[Controller]) -> Vec<Write> {
    use Controller::{Cpu, Memory, Pids};
    use Refusal::{Fails, MayBeTighterAbove, MayLack};
    let memory = limits.memory_bytes.to_string();
    let processes = limits.processes.to_string();
    let quota = cpu_quota_us(limits.cpu_cores).to_string();
    let mut writes = vec![
        Write::new(Memory, "memory.limit_in_bytes", memory.clone(), Fails),
        // Memory and swap together. Never below the limit of memory alone, so it comes second; equal means no swap.
        Write::new(Memory, "memory.memsw.limit_in_bytes", memory.clone(), MayLack),
        // What lies in buffers of TCP and UDP sockets counts nowhere else here, and is of the whole machine (tcp(7), tcp_mem).
        Write::new(Memory, "memory.kmem.tcp.limit_in_bytes", memory, MayLack),
        Write::new(Pids, "pids.max", processes, Fails),
        // cpu.cfs_period_us is CPU_PERIOD_US in every new group.
        Write::new(Cpu, "cpu.cfs_quota_us", quota, MayBeTighterAbove),
    ];
    writes.retain(|write| controllers.contains(&write.controller));
    writes
}

/// Finds the hierarchies, tries each, keeps those that work.
pub(super) fn detect(group: &str, mounts: &[Mount], own: &str) -> Detected {
    let mut detected = Detected::default();
    let mut left = vec![Controller::Memory, Controller::Pids, Controller::Cpu];
    while let Some(&first) = left.first() {
        let Some(mount) = mounts.iter().find(|mount| mount.has(first)) else {
            left.remove(0);
            detected.unavailable.push(format!(
                "{}: no cgroup hierarchy with the controller `{}` is mounted (/proc/self/mountinfo); mount it, or \
                 start the kernel with it enabled",
                first.loss(),
                first.name()
            ));
            continue;
        };
        let together: Vec<Controller> = left.extract_if(.., |&mut controller| mount.has(controller)).collect();
        let places = places(mount, own_group(own, Some(first)));
        detected.merge(first_that_works(group, &places, &together));
    }
    detected
}

/// Where the instance's group may be made: below the own group, else at the top of the mount.
fn places(mount: &Mount, own: Option<&str>) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = own.and_then(|group| mount.directory(group)).into_iter().collect();
    if !places.contains(&mount.point) {
        places.push(mount.point.clone());
    }
    places
}

fn first_that_works(group: &str, places: &[PathBuf], controllers: &[Controller]) -> Detected {
    let mut reasons = Vec::new();
    for place in places {
        let path = place.join(group);
        let mut hierarchy = match Hierarchy::open(path.clone(), controllers.to_vec()) {
            Ok(hierarchy) => hierarchy,
            Err(error) => {
                let why = format!("making {} failed: {error}; {}", path.display(), fix(&error));
                reasons.push(controllers.iter().map(|controller| format!("{}: {why}", controller.loss())).collect());
                continue;
            }
        };
        let refused = hierarchy.keep_what_works(plan);
        if !hierarchy.controllers.is_empty() {
            if hierarchy.has(Controller::Memory) {
                // Inherited by every group made in it, so it costs an execution nothing. Swap is ruled out by
                // memory.memsw.limit_in_bytes; where that file is missing this is what is left.
                let _ = super::file::write_at(hierarchy.directory(), "memory.swappiness", "0");
            }
            return Detected { hierarchies: vec![hierarchy], unavailable: refused };
        }
        hierarchy.close();
        reasons.push(refused);
    }
    // The own group is the place meant to work, so its reason is the one to show.
    Detected { hierarchies: Vec::new(), unavailable: reasons.into_iter().next().unwrap_or_default() }
}

// The kernel's default, so that one write per execution is saved.
const _: () = assert!(CPU_PERIOD_US == 100_000);

#[cfg(test)]
mod tests {
    use super::super::hierarchy::mounts;
    use super::super::tests::limits;
    use super::*;

    #[test]
    fn limits_become_writes_in_order() {
        let all = [Controller::Memory, Controller::Pids, Controller::Cpu];
        let writes = plan(&limits(), &all);
        let lines: Vec<String> = writes.iter().map(|write| format!("{}={}", write.file, write.value)).collect();
        assert_eq!(
            lines,
            [
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=67108864",
                "memory.kmem.tcp.limit_in_bytes=67108864",
                "pids.max=32",
                "cpu.cfs_quota_us=150000",
            ]
        );
        assert_eq!(writes[1].refusal, Refusal::MayLack);
        assert_eq!(writes[4].refusal, Refusal::MayBeTighterAbove);
        assert_eq!(plan(&limits(), &[Controller::Pids]).len(), 1);
    }

    #[test]
    fn the_own_group_is_tried_before_the_top() {
        let mounts = mounts("35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory");
        assert_eq!(places(&mounts[0], Some("/a/b")), [PathBuf::from("/cg/memory/a/b"), "/cg/memory".into()]);
        assert_eq!(places(&mounts[0], Some("/")), [PathBuf::from("/cg/memory")]);
        assert_eq!(places(&mounts[0], None), [PathBuf::from("/cg/memory")]);
    }

    #[test]
    fn what_is_not_mounted_is_said() {
        let detected = detect("sandbox-executor-test", &[], "");
        assert!(detected.hierarchies.is_empty());
        assert_eq!(detected.unavailable.len(), 3);
        assert!(detected.unavailable[0].contains("`memory`"), "{:?}", detected.unavailable);
    }

    #[test]
    fn a_place_that_refuses_is_named_with_its_errno() {
        let detected = first_that_works("x", &["/proc/self".into(), "/nowhere".into()], &[Controller::Memory]);
        assert!(detected.hierarchies.is_empty());
        assert_eq!(detected.unavailable.len(), 1);
        assert!(detected.unavailable[0].contains("/proc/self/x"), "{:?}", detected.unavailable);
        assert!(detected.unavailable[0].contains("os error"), "{:?}", detected.unavailable);
    }
}
