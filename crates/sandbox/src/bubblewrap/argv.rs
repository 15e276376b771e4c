//! A plan as bubblewrap arguments (bwrap(1)): a pure function, held by a snapshot.

use std::path::Path;

use crate::init::{CONTROL_FD, EXECUTABLE_FD, INIT_ARGUMENT};
use crate::launcher::DATA_FD;
use crate::plan::{HOSTNAME, INNER_ID, Mount, SandboxPlan, Source, WORKSPACE};

/// What goes on bubblewrap's command line: the arguments proper come by descriptor, so that nothing shows in `/proc/1/cmdline`.
pub fn command(bwrap: &Path) -> Vec<String> {
    let executable = format!("/proc/self/fd/{EXECUTABLE_FD}");
    let bwrap = bwrap.to_string_lossy();
    [&bwrap, "--args", &DATA_FD.to_string(), "--", &executable, INIT_ARGUMENT].map(str::to_owned).to_vec()
}

/// The arguments proper. `found` are the paths under which bubblewrap finds the workspace, the folder for `/etc` and the packages.
pub fn arguments(plan: &SandboxPlan, found: &[String]) -> Vec<String> {
    let mut argv = Vec::new();
    let mut push = |words: &[&str]| argv.extend(words.iter().map(|word| (*word).to_owned()));
    let id = INNER_ID.to_string();

    // Every namespace there is; a user namespace without fail, and none below it.
    push(&["--unshare-all", "--unshare-user", "--disable-userns", "--uid", &id, "--gid", &id, "--hostname", HOSTNAME]);
    if plan.host_network {
        push(&["--share-net"]);
    }
    // Our init is pid 1, in a session of its own, without capabilities or environment, and dies with its parent.
    push(&["--as-pid-1", "--new-session", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"]);

    let found = |number: usize| found.get(number).cloned().unwrap_or_default();
    let path_of = |source: &Source| match source {
        Source::Path(path) => path.clone(),
        Source::Workspace => found(0),
        Source::Etc => found(1),
        Source::Packages => found(2),
    };
    for mount in &plan.mounts {
        match mount {
            Mount::Bind { source, path } => push(&["--ro-bind", &path_of(source), path]),
            Mount::BindWritable { source, path } => push(&["--bind", &path_of(source), path]),
            Mount::Device { path } => push(&["--dev-bind", path, path]),
            Mount::Link { target, path } => push(&["--symlink", target, path]),
            Mount::Memory { path, mode, size_bytes, .. } => {
                push(&["--perms", &format!("{mode:04o}"), "--size", &size_bytes.to_string(), "--tmpfs", path]);
            }
            Mount::Proc => push(&["--proc", "/proc"]),
            Mount::HiddenFile { path } => push(&["--ro-bind", "/dev/null", path]),
            Mount::HiddenFolder { path } => push(&["--size", "4096", "--tmpfs", path, "--remount-ro", path]),
            Mount::ReadOnly { path } => push(&["--remount-ro", path]),
        }
    }
    push(&["--chdir", WORKSPACE, "--remount-ro", "/"]);
    argv
}

/// The descriptor that the init answers on is part of the command line's contract with it.
const _: () = assert!(CONTROL_FD < EXECUTABLE_FD && EXECUTABLE_FD < DATA_FD);

#[cfg(test)]
mod tests {
    use super::*;

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
        insta::assert_snapshot!(lines(&arguments(&crate::plan::tests::plan(&["/opt/python"]), &found())));
    }

    #[test]
    fn packages_and_the_hosts_network_are_an_option_each() {
        let without = lines(&arguments(&crate::plan::tests::plan(&[]), &found()));
        let with = lines(&arguments(&crate::plan::tests::plan_with_packages(), &found()));
        let added: Vec<&str> = with.lines().filter(|line| !without.lines().any(|each| each == *line)).collect();
        assert_eq!(added, ["--share-net", "--ro-bind /srv /packages"]);
    }

    fn found() -> [String; 3] {
        ["/mnt", "/media", "/srv"].map(str::to_owned)
    }

    #[test]
    fn the_command_line_tells_nothing() {
        assert_eq!(
            command(Path::new("/usr/bin/bwrap")),
            ["/usr/bin/bwrap", "--args", "5", "--", "/proc/self/fd/4", "init"]
        );
    }
}
