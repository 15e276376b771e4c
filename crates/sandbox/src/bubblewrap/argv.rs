//! A policy as bubblewrap arguments (bwrap(1)): a pure function, so that what a sandbox is made of can be read and is
//! held by snapshots.

use std::path::{Path, PathBuf};

use crate::init::{Access, CONTROL_FD, EXECUTABLE_FD, INIT_ARGUMENT};
use crate::launcher::DATA_FD;
use crate::policy::Policy;

/// User and group id of the program as it sees itself.
const INNER_ID: u32 = 1000;
/// The workspace inside.
pub const WORKSPACE: &str = "/workspace";
/// The folder for files of ours inside.
pub const FILES: &str = "/run";

/// What of the host's files a sandbox is made from; looked up once (see [`HostFiles::look`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFiles {
    /// Entries of `/` beside `/usr` that programs need: a link with its target, or a folder.
    pub roots: Vec<(String, Option<String>)>,
    /// What of `/proc` is hidden, of [`HIDDEN_IN_PROC`]; whether it is a folder.
    pub proc_masks: Vec<(String, bool)>,
}

/// Kernel files that anybody may read and that tell about the host. What only its root may read needs no mask: nothing in a
/// sandbox is that.
const HIDDEN_IN_PROC: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_stats",
];

/// Devices that programs need; nothing to talk to a terminal, a disk or the kernel with.
const DEVICES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

impl HostFiles {
    /// Looks at this host.
    pub fn look() -> Self {
        let roots = ["/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"]
            .iter()
            .filter(|root| Path::new(root).exists())
            .map(|root| {
                let link = std::fs::read_link(root).ok().and_then(|target| target.into_os_string().into_string().ok());
                ((*root).to_owned(), link)
            })
            .collect();
        let there = HIDDEN_IN_PROC.iter().filter(|path| Path::new(path).exists());
        let proc_masks = there.map(|path| ((*path).to_owned(), Path::new(path).is_dir())).collect();
        Self { roots, proc_masks }
    }
}

/// What goes on bubblewrap's command line: the arguments proper come by descriptor, so that nothing shows in `/proc/1/cmdline`.
pub fn command(bwrap: &Path) -> Vec<String> {
    let executable = format!("/proc/self/fd/{EXECUTABLE_FD}");
    let bwrap = bwrap.to_string_lossy();
    [&bwrap, "--args", &DATA_FD.to_string(), "--", &executable, INIT_ARGUMENT].map(str::to_owned).to_vec()
}

/// The arguments proper. `workspace` and `etc` are the paths under which bubblewrap finds these folders.
pub fn arguments(policy: &Policy, host: &HostFiles, workspace: &str, etc: &str) -> Vec<String> {
    let mut argv = Vec::new();
    let mut push = |words: &[&str]| argv.extend(words.iter().map(|word| (*word).to_owned()));
    let id = INNER_ID.to_string();
    let memory = policy.limits.memory_bytes.to_string();

    // Every namespace there is; a user namespace without fail, and none below it.
    push(&["--unshare-all", "--unshare-user", "--disable-userns", "--uid", &id, "--gid", &id, "--hostname", "sandbox"]);
    // Our init is pid 1, in a session of its own, without capabilities or environment, and dies with its parent.
    push(&["--as-pid-1", "--new-session", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"]);

    push(&["--ro-bind", "/usr", "/usr"]);
    for (path, link) in &host.roots {
        match link {
            Some(target) => push(&["--symlink", target, path]),
            None => push(&["--ro-bind", path, path]),
        }
    }
    push(&["--ro-bind", etc, "/etc"]);
    for path in policy.read_only.iter().map(|path| path.to_string_lossy()) {
        push(&["--ro-bind", &path, &path]);
    }

    push(&["--proc", "/proc"]);
    for (path, is_folder) in &host.proc_masks {
        if *is_folder {
            push(&["--size", "4096", "--tmpfs", path, "--remount-ro", path]);
        } else {
            push(&["--ro-bind", "/dev/null", path]);
        }
    }
    // Last, so that what is mounted over it can be: nobody changes a kernel's setting from in here.
    push(&["--remount-ro", "/proc"]);

    push(&["--size", "65536", "--tmpfs", "/dev"]);
    for path in DEVICES {
        push(&["--dev-bind", path, path]);
    }
    for (target, path) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        push(&["--symlink", target, path]);
    }
    push(&["--perms", "1777", "--size", &memory, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]);
    push(&["--perms", "1777", "--size", &memory, "--tmpfs", "/tmp"]);
    push(&["--perms", "0755", "--size", &policy.files_bytes.to_string(), "--tmpfs", FILES]);
    push(&["--bind", workspace, WORKSPACE, "--chdir", WORKSPACE, "--remount-ro", "/"]);
    argv
}

/// What Landlock lets the program reach in this sandbox.
pub fn access(read_only: &[PathBuf], host: &HostFiles) -> Access {
    let folders = host.roots.iter().filter(|(_, link)| link.is_none()).map(|(path, _)| path.clone());
    let interpreters = read_only.iter().map(|path| path.to_string_lossy().into_owned());
    Access {
        executable: ["/usr".to_owned()].into_iter().chain(folders).chain(interpreters).collect(),
        writable: [WORKSPACE, "/tmp"].map(str::to_owned).to_vec(),
        writable_noexec: vec!["/dev/shm".to_owned()],
        devices: DEVICES.iter().map(|path| (*path).to_owned()).collect(),
    }
}

/// The descriptor that the init answers on is part of the command line's contract with it.
const _: () = assert!(CONTROL_FD < EXECUTABLE_FD && EXECUTABLE_FD < DATA_FD);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Identity, Limits};
    use std::sync::Arc;
    use std::time::Duration;

    fn policy(read_only: &[&str]) -> Policy {
        Policy {
            name: "one".into(),
            identity: Some(Identity { uid: 7, gid: 7 }),
            workspace: Arc::new(std::fs::File::open("/").unwrap().into()),
            read_only: read_only.iter().map(PathBuf::from).collect(),
            files_bytes: 1_048_576,
            limits: Limits {
                timeout: Duration::from_secs(1),
                memory_bytes: 512 * 1024 * 1024,
                cpu_cores: 1.0,
                processes: 128,
                file_size_bytes: 100,
                output_bytes: 100,
            },
        }
    }

    fn host() -> HostFiles {
        HostFiles {
            roots: vec![("/bin".into(), Some("usr/bin".into())), ("/lib64".into(), None)],
            proc_masks: vec![("/proc/acpi".into(), true), ("/proc/keys".into(), false)],
        }
    }

    /// One option with its operands a line.
    fn lines(arguments: &[String]) -> String {
        let mut text = String::new();
        for word in arguments {
            text += if word.starts_with("--") && !text.is_empty() { "\n" } else { " " };
            text += word;
        }
        text.trim().to_owned()
    }

    #[test]
    fn a_sandbox_is_made_of_this() {
        insta::assert_snapshot!(lines(&arguments(&policy(&["/opt/python"]), &host(), "/mnt", "/media")));
    }

    #[test]
    fn the_command_line_tells_nothing() {
        assert_eq!(
            command(Path::new("/usr/bin/bwrap")),
            ["/usr/bin/bwrap", "--args", "5", "--", "/proc/self/fd/4", "init"]
        );
    }

    #[test]
    fn landlock_lets_write_in_three_folders_only() {
        insta::assert_debug_snapshot!(access(&["/opt/python".into()], &host()));
    }
}
