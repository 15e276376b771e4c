//! Problem 1: what keeps sandboxes from being made.

use crate::{
    after_mounts, as_somebody, doctor, findings, found_in, home_of_somebody, is_root, skipped, started_by,
    under_seccomp,
};
use conformance::{Home, wait_until};
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs `inner` after this script as the root of a user namespace that has all ids of the host.
#[track_caller]
fn in_a_user_namespace(script: &str, inner: &Command) -> Output {
    // Capabilities come with an exec after the ids are there, hence the second shell.
    let script = format!("read -r go; exec sh -c '{script}; exec \"$@\"' sh \"$@\"");
    let mut command = started_by(&["unshare", "-U", "-m", "sh", "-c", &script, "sh"], inner);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("unshare");
    let own = std::fs::read_link("/proc/self/ns/user").expect("a namespace");
    let proc = std::path::PathBuf::from(format!("/proc/{}", child.id()));
    wait_until("the namespace", 10, || std::fs::read_link(proc.join("ns/user")).is_ok_and(|ns| ns != own));
    for map in ["uid_map", "gid_map"] {
        std::fs::write(proc.join(map), "0 0 4294967295").expect("all ids");
    }
    child.stdin.take().expect("its stdin").write_all(b"go\n").expect("it waits");
    child.wait_with_output().expect("its end")
}

#[test]
fn user_namespaces_that_are_not_allowed() {
    if !is_root("user namespaces that are not allowed") {
        return;
    }
    let home = Home::new();
    // The setting is one of each user namespace: the host's own is not touched.
    let found = found_in(&in_a_user_namespace("echo 0 >/proc/sys/user/max_user_namespaces", &doctor(&home)));
    found.assert_named("user namespaces", "problem", "no namespaces", &["sudo sysctl -w user.max_user_namespaces="]);
    assert_eq!(found.text("user namespaces", "evidence"), "user.max_user_namespaces = 0");
    found.assert_blamed("user namespaces");

    let found = found_in(&in_a_user_namespace("echo 0 >/proc/sys/user/max_pid_namespaces", &doctor(&home)));
    found.assert_named("user namespaces", "problem", "`pid`", &["sudo sysctl -w user.max_pid_namespaces="]);

    let well = found_in(&in_a_user_namespace("true", &doctor(&home)));
    well.assert_ok("user namespaces");
    well.assert_ok("sandbox");
}

/// This kernel need not have AppArmor: its setting is a file in a copy of `/proc/sys/kernel`, and what then fails is a
/// masked `/proc`, which the copy is.
#[test]
fn apparmor_of_ubuntu() {
    if !is_root("AppArmor of Ubuntu 24.04") {
        return;
    }
    let home = Home::new();
    let setting = |value: u8| {
        format!(
            "mkdir {0}; cp /proc/sys/kernel/over* /proc/sys/kernel/cap_last_cap {0}
             echo {value} >{0}/apparmor_restrict_unprivileged_userns
             mount --bind {0} /proc/sys/kernel",
            home.path(&format!("kernel-{value}")).display()
        )
    };
    let found = findings(&mut after_mounts(&setting(1), &doctor(&home)));
    let fix = ["userns,", "apparmor_parser", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"];
    found.assert_named("AppArmor", "problem", "AppArmor keeps ordinary users", &fix);
    assert!(found.text("AppArmor", "evidence").contains("apparmor_restrict_unprivileged_userns = 1"));
    found.assert_blamed("AppArmor");

    let well = findings(&mut after_mounts(&setting(0), &doctor(&home)));
    well.assert_ok("AppArmor");
    well.assert_blamed("proc");
}

#[test]
fn a_filter_of_the_container() {
    if !is_root("a filter of the container") {
        return;
    }
    let home = Home::new();
    let found = findings(&mut under_seccomp(&["refuse-namespaces"], &doctor(&home)));
    let fix = ["--security-opt seccomp=unconfined", "seccompProfile", "docker run --privileged", "privileged: true"];
    found.assert_named("seccomp", "problem", "system call filter", &fix);
    assert!(found.text("seccomp", "evidence").contains("Seccomp: 2"));
    found.assert_blamed("seccomp");

    let native = findings(&mut under_seccomp(&["refuse-namespaces"], doctor(&home).env("ISOLATION", "native")));
    native.assert_named("seccomp", "problem", "system call filter", &fix);
    native.assert_named("native", "problem", "it can't be used", &["the fix of `seccomp`"]);

    let well = findings(&mut under_seccomp(&["refuse-accounting"], &doctor(&home)));
    well.assert_ok("seccomp");
    assert!(well.text("seccomp", "evidence").contains("Seccomp: 2"), "the filter was there");
    well.assert_ok("sandbox");
}

#[test]
fn root_of_a_container_that_has_not_all_rights() {
    if !is_root("root of a container that has not all rights") {
        return;
    }
    let home = Home::new();
    let found = findings(&mut started_by(&["setpriv", "--bounding-set=-sys_admin"], &doctor(&home)));
    let fix = ["--user 1000:1000", "--cap-add SYS_ADMIN", "docker run --privileged"];
    found.assert_named("capabilities", "problem", "CAP_SYS_ADMIN", &fix);
    found.assert_blamed("capabilities");

    let well = findings(&mut started_by(&["setpriv", "--bounding-set=-sys_time"], &doctor(&home)));
    well.assert_ok("capabilities");
    well.assert_ok("sandbox");
}

#[test]
fn a_masked_proc() {
    if !is_root("a masked /proc") {
        return;
    }
    let home = Home::new();
    // As Docker does it: a folder with an empty one over it, a file with /dev/null over it.
    let masks = "mount -t tmpfs -o ro tmpfs /proc/bus; mount --bind /dev/null /proc/timer_list";
    let found = findings(&mut after_mounts(masks, &doctor(&home)));
    let fix = ["--security-opt systempaths=unconfined", "procMount: Unmasked"];
    found.assert_named("proc", "problem", "parts of /proc are masked", &fix);
    for mask in ["/proc/bus", "/proc/timer_list"] {
        assert!(found.text("proc", "evidence").contains(mask));
    }
    found.assert_blamed("proc");

    let found = findings(&mut after_mounts("mount -o remount,bind,ro /proc", &doctor(&home)));
    found.assert_named("proc", "problem", "masked", &["systempaths=unconfined"]);
    assert!(found.text("proc", "evidence").contains("/proc (read-only)"));

    // What is mounted over a folder that is empty for good hides nothing.
    let well = findings(&mut after_mounts("mount -t tmpfs tmpfs /proc/sys/fs/binfmt_misc", &doctor(&home)));
    well.assert_ok("proc");
    well.assert_ok("sandbox");

    // Our own adapter does without one where it must, which is for an ordinary user.
    if !home_of_somebody(&home) {
        return skipped("a masked /proc for an ordinary user", "the program lies where only root reads");
    }
    let mut native = doctor(&home);
    native.env("ISOLATION", "native").env("WORKSPACE_PATH", home.path("state/workspaces"));
    let found = findings(&mut after_mounts(masks, &as_somebody(&native)));
    found.assert_named("proc", "warning", "native does without one", &fix);
    found.assert_named("sandbox", "warning", "Sandboxes have no /proc", &["systempaths=unconfined"]);
    let well = findings(&mut as_somebody(&native));
    well.assert_ok("proc");
    well.assert_ok("sandbox");
}

#[test]
fn cgroups_that_can_not_be_written() {
    if !is_root("cgroups that can not be written") {
        return;
    }
    let home = Home::new();
    let limits = ["memory limit", "process limit", "CPU limit"];
    let well = findings(&mut doctor(&home));
    if limits.iter().any(|limit| well.check(limit)["status"] != "ok") {
        return skipped("cgroups that can not be written", "this host's can't be written anyhow");
    }
    let read_only = "for place in $(awk '$5 ~ \"^/sys/fs/cgroup\" {print $5}' /proc/self/mountinfo); do \
                     mount -o remount,bind,ro $place; done";
    let found = findings(&mut after_mounts(read_only, &doctor(&home)));
    for limit in limits {
        found.assert_named(limit, "warning", "not limited", &["mounted read-only", "cgroup_writable"]);
        assert!(found.text(limit, "cause").contains("Read-only file system"));
    }
    // A limit that is not the kernel's is told, and no reason not to run.
    assert_eq!(found.0["healthy"], true);

    if !home_of_somebody(&home) {
        return skipped("cgroups of an ordinary user", "the program lies where only root reads");
    }
    let found = findings(&mut as_somebody(&doctor(&home)));
    found.assert_named("memory limit", "warning", "Permission denied", &["run it as root", "Delegate=yes"]);
}

#[test]
fn sandboxes_that_share_a_host_uid() {
    if !is_root("sandboxes that share a host uid") {
        return;
    }
    let home = Home::new();
    findings(&mut doctor(&home)).assert_ok("host uids");
    if !home_of_somebody(&home) {
        return skipped("sandboxes that share a host uid", "the program lies where only root reads");
    }
    // This user is in no list of anybody's.
    let found = findings(&mut as_somebody(&doctor(&home)));
    let fix = ["apt-get install uidmap", "usermod --add-subuids"];
    found.assert_named("host uids", "warning", "every sandbox has this user's own", &fix);
    assert_eq!(findings(doctor(&home).env("ISOLATION", "none")).check("host uids")["status"], "skipped");
}

#[test]
fn a_kernel_with_landlock_says_its_version() {
    let home = Home::new();
    let found = findings(&mut doctor(&home));
    match found.check("Landlock")["status"].as_str() {
        Some("ok") => assert!(found.text("Landlock", "evidence").starts_with("ABI ")),
        _ => found.assert_named("Landlock", "warning", "no Landlock", &["lsm=landlock"]),
    }
}
