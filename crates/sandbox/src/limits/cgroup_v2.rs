//! Version 2 of cgroups: one hierarchy for all controllers. Follows Documentation/admin-guide/cgroup-v2.rst.
//!
//! A group may not have both processes and children with controllers ("no internal processes"). So before controllers
//! are enabled for the children of the own group, the service moves itself into a leaf, `<instance's group>/service`.
//! Other processes of the own group are not ours to move: if there are any, we say so and go without.

use std::path::{Path, PathBuf};

use super::detect::{Detected, fix};
use super::hierarchy::{Controller, Hierarchy, Mount, Refusal, Write, own_group, pids};
use super::{CPU_PERIOD_US, GROUP_PREFIX, SERVICE_GROUP, cpu_quota_us, file};
use crate::policy::Limits;

const WANTED: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];

/// What is written into the files of an execution's group, in this order.
pub(super) fn plan(limits: &Limits, controllers: &[Controller]) -> Vec<Write> {
    use Controller::{Cpu, Memory, Pids};
    use Refusal::{Fails, MayLack};
    let memory = limits.memory_bytes.to_string();
    let processes = limits.processes.to_string();
    let share = format!("{} {CPU_PERIOD_US}", cpu_quota_us(limits.cpu_cores));
    let mut writes = vec![
        Write::new(Memory, "memory.max", memory, Fails),
        Write::new(Memory, "memory.swap.max", "0".to_owned(), MayLack),
        // An execution that lost one of its processes has no use for the others. Linux 4.19.
        Write::new(Memory, "memory.oom.group", "1".to_owned(), MayLack),
        Write::new(Pids, "pids.max", processes, Fails),
        Write::new(Cpu, "cpu.max", share, Fails),
    ];
    writes.retain(|write| controllers.contains(&write.controller));
    writes
}

/// Which of the wanted controllers a `cgroup.controllers` or `cgroup.subtree_control` names.
fn named(text: &str) -> Vec<Controller> {
    WANTED.into_iter().filter(|controller| text.split_whitespace().any(|name| name == controller.name())).collect()
}

/// The folder of the own group; of the group above our own leaf if an earlier start moved us there.
fn own_directory(mounts: &[Mount], own: &str) -> Option<PathBuf> {
    let group = own_group(own, None)?;
    mounts.iter().filter(|mount| mount.is_v2).find_map(|mount| mount.directory(above_leaf(group)))
}

fn above_leaf(group: &str) -> &str {
    group
        .strip_suffix(SERVICE_GROUP)
        .and_then(|rest| rest.strip_suffix('/'))
        .and_then(|rest| rest.rsplit_once('/'))
        .filter(|(_, last)| last.starts_with(GROUP_PREFIX))
        .map_or(group, |(above, _)| if above.is_empty() { "/" } else { above })
}

/// Whether the unified hierarchy gives the process's own group the memory controller: then version 2 is in use.
pub(super) fn in_use(mounts: &[Mount], own: &str) -> bool {
    let v1 = mounts.iter().any(|mount| WANTED.iter().any(|&controller| mount.has(controller)));
    let v2 = own_directory(mounts, own).and_then(|own| std::fs::read_to_string(own.join("cgroup.controllers")).ok());
    match v2 {
        Some(controllers) => !v1 || named(&controllers).contains(&Controller::Memory),
        None => false,
    }
}

/// Whether this is the top of the system, which may have processes beside groups with controllers: every other group
/// has a `cgroup.type`.
fn is_top_of_system(own: &Path) -> bool {
    !own.join("cgroup.type").exists()
}

/// Whether the instance's group is right below it: then the service has no leaf.
pub(super) fn is_below_top(instance: &Path) -> bool {
    instance.parent().is_some_and(is_top_of_system)
}

/// Whether this process's own group is the top of the system.
#[cfg(test)]
pub(super) fn is_at_the_top(mounts: &[Mount], own: &str) -> bool {
    own_directory(mounts, own).is_some_and(|own| is_top_of_system(&own))
}

/// What has to happen before the own group's children may have controllers.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    /// Nothing.
    Free,
    /// The service is alone: it moves into its leaf.
    MoveSelf,
    /// These are in the way.
    Crowded(Vec<i32>),
}

fn room(processes: &[i32], service: i32, is_top_of_system: bool) -> Room {
    // The one group without a parent is exempt from the rule.
    if is_top_of_system || processes.is_empty() {
        return Room::Free;
    }
    let others: Vec<i32> = processes.iter().copied().filter(|&pid| pid != service).collect();
    if others.is_empty() { Room::MoveSelf } else { Room::Crowded(others) }
}

/// Makes room, enables the controllers and tries them.
pub(super) fn detect(group: &str, mounts: &[Mount], own: &str) -> Detected {
    let Some(own) = own_directory(mounts, own) else {
        return nothing(&WANTED, "the process's own group (/proc/self/cgroup) is under no cgroup2 mount; mount it");
    };
    let available = match std::fs::read_to_string(own.join("cgroup.controllers")) {
        Ok(text) => named(&text),
        Err(error) => {
            return nothing(&WANTED, &format!("reading {}/cgroup.controllers failed: {error}", own.display()));
        }
    };
    let absent: Vec<Controller> = WANTED.into_iter().filter(|controller| !available.contains(controller)).collect();
    let mut detected = nothing(
        &absent,
        &format!(
            "{}/cgroup.controllers does not name the controller; have it delegated to this group (systemd: \
             `Delegate=yes` in the unit)",
            own.display()
        ),
    );
    if !available.is_empty() {
        detected.merge(take(&own, group, &available));
    }
    detected
}

/// Uses the available controllers below `own`, or puts everything back.
fn take(own: &Path, group: &str, available: &[Controller]) -> Detected {
    let path = own.join(group);
    let mut hierarchy = match Hierarchy::open(path.clone(), available.to_vec()) {
        Ok(hierarchy) => hierarchy,
        Err(error) => {
            return nothing(available, &format!("making {} failed: {error}; {}", path.display(), fix(&error)));
        }
    };
    let moved = match make_room(own, &hierarchy) {
        Ok(moved) => moved,
        Err(why) => {
            hierarchy.close();
            return nothing(available, &why);
        }
    };
    let mut unavailable = Vec::new();
    for folder in [own, &path] {
        unavailable.extend(enable(folder, &mut hierarchy.controllers));
    }
    unavailable.extend(hierarchy.keep_what_works(plan));
    if !hierarchy.controllers.is_empty() {
        return Detected { hierarchies: vec![hierarchy], unavailable };
    }
    if moved {
        let _ = std::fs::write(own.join("cgroup.procs"), std::process::id().to_string());
        let _ = hierarchy.unmake(SERVICE_GROUP);
    }
    hierarchy.close();
    Detected { hierarchies: Vec::new(), unavailable }
}

/// Moves the service into its leaf if it must; whether it did.
fn make_room(own: &Path, hierarchy: &Hierarchy) -> Result<bool, String> {
    let read = |name: &str| std::fs::read_to_string(own.join(name));
    let enabled = named(&read("cgroup.subtree_control").unwrap_or_default());
    if hierarchy.controllers.iter().all(|controller| enabled.contains(controller)) {
        return Ok(false);
    }
    let processes =
        read("cgroup.procs").map_err(|error| format!("reading {}/cgroup.procs failed: {error}", own.display()))?;
    match room(&pids(&processes), std::process::id().cast_signed(), is_top_of_system(own)) {
        Room::Free => Ok(false),
        Room::Crowded(others) => Err(format!(
            "other processes are in the service's own group {} ({}; 0 is one of another pid namespace), and cgroups \
             allow no processes beside groups with limits; start the service alone in its container or unit",
            own.display(),
            others.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
        )),
        Room::MoveSelf => {
            let leaf = hierarchy.path.join(SERVICE_GROUP);
            Hierarchy::open(leaf.clone(), Vec::new())
                .and_then(|leaf| file::write_at(leaf.directory(), "cgroup.procs", &std::process::id().to_string()))
                .map_err(|error| {
                    let _ = hierarchy.unmake(SERVICE_GROUP);
                    format!("moving the service into {} failed: {error}; {}", leaf.display(), fix(&error))
                })?;
            Ok(true)
        }
    }
}

/// Enables controllers for the children of `folder`, each by itself so that one refusal costs one controller.
fn enable(folder: &Path, controllers: &mut Vec<Controller>) -> Vec<String> {
    let file = folder.join("cgroup.subtree_control");
    let enabled = named(&std::fs::read_to_string(&file).unwrap_or_default());
    let mut unavailable = Vec::new();
    controllers.retain(|controller| {
        if enabled.contains(controller) {
            return true;
        }
        let switch = format!("+{}", controller.name());
        let Err(error) = std::fs::write(&file, &switch) else {
            return true;
        };
        unavailable.push(format!(
            "{}: writing {switch} to {} failed: {error}; {}",
            controller.loss(),
            file.display(),
            fix(&error)
        ));
        false
    });
    unavailable
}

fn nothing(controllers: &[Controller], why: &str) -> Detected {
    let unavailable = controllers.iter().map(|controller| format!("{}: {why}", controller.loss())).collect();
    Detected { hierarchies: Vec::new(), unavailable }
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::mounts;
    use super::super::tests::limits;
    use super::*;

    #[test]
    fn limits_become_writes_in_order() {
        let lines: Vec<String> =
            plan(&limits(), &WANTED).iter().map(|write| format!("{}={}", write.file, write.value)).collect();
        assert_eq!(
            lines,
            ["memory.max=67108864", "memory.swap.max=0", "memory.oom.group=1", "pids.max=32", "cpu.max=150000 100000",]
        );
        assert_eq!(plan(&limits(), &[Controller::Cpu]).len(), 1);
    }

    #[test]
    fn controllers_are_whole_words() {
        assert_eq!(named("cpuset cpu io memory hugetlb pids rdma\n"), WANTED);
        assert_eq!(named("cpuset\n"), []);
    }

    #[test]
    fn our_own_leaf_is_not_taken_for_the_place_we_were_given() {
        assert_eq!(above_leaf("/a.service/sandbox-executor-1f/service"), "/a.service");
        assert_eq!(above_leaf("/sandbox-executor-1f/service"), "/");
        assert_eq!(above_leaf("/other/service"), "/other/service");
        assert_eq!(above_leaf("/service"), "/service");
        assert_eq!(above_leaf("/sandbox-executor-1f/my-service"), "/sandbox-executor-1f/my-service");
        assert_eq!(above_leaf("/"), "/");
    }

    #[test]
    fn only_a_service_alone_in_its_group_moves() {
        assert_eq!(room(&[], 5, false), Room::Free);
        assert_eq!(room(&[5], 5, false), Room::MoveSelf);
        assert_eq!(room(&[1, 5, 0], 5, false), Room::Crowded(vec![1, 0]));
        assert_eq!(room(&[1, 5], 5, true), Room::Free);
    }

    #[test]
    fn what_is_not_delegated_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("cgroup.controllers"), "cpuset io\n").expect("a file");
        let mounts = mounts(&format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw", folder.path().display()));
        let detected = detect("sandbox-executor-test", &mounts, "0::/\n");
        assert!(detected.hierarchies.is_empty());
        assert_eq!(detected.unavailable.len(), 3);
        assert!(detected.unavailable[0].contains("Delegate=yes"), "{:?}", detected.unavailable);
        assert!(in_use(&mounts, "0::/\n"));
    }

    #[test]
    fn a_v1_memory_hierarchy_wins_over_a_unified_one_without_controllers() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = "4:memory:/\n0::/\n";
        let mounts = mounts(&format!(
            "35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory\n41 31 0:38 / {} rw - cgroup2 cgroup2 rw",
            folder.path().display()
        ));
        std::fs::write(folder.path().join("cgroup.controllers"), "").expect("a file");
        assert!(!in_use(&mounts, own));
        std::fs::write(folder.path().join("cgroup.controllers"), "cpu memory pids").expect("a file");
        assert!(in_use(&mounts, own));
    }
}
