//! The profile itself, on the one system that can tell whether it holds. Every attempt is made twice: under the profile, and
//! without it, where it has to succeed (or the test shows nothing).

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use super::run::tests::{is_alive, limits, shell, starter, text, written_pid};
use super::*;
use crate::outcome::{End, Outcome};

struct Place {
    home: TempDir,
    workspace: PathBuf,
}

impl Place {
    /// A workspace whose name would be a rule, if names ever were read as one.
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let root = home.path().canonicalize().expect("its path");
        let workspace = root.join("w \")) (allow default) ;\n('");
        std::fs::create_dir(&workspace).expect("a workspace");
        std::fs::write(root.join("canary"), "a secret of the host's\n").expect("a canary");
        Self { home, workspace }
    }

    fn canary(&self) -> String {
        format!("'{}/canary'", self.home.path().canonicalize().expect("its path").display())
    }

    async fn run(&self, script: &str, under_profile: bool) -> Outcome {
        let policy = Policy {
            name: "test".into(),
            identity: None,
            workspace: Arc::new(std::fs::File::open(&self.workspace).expect("a workspace").into()),
            read_only: Vec::new(),
            packages: None,
            network: crate::policy::Network::None,
            files_bytes: 0,
            takes_forks: false,
            in_session: false,
            walls: None,
            limits: limits(),
        };
        let mut seatbelt = Seatbelt::new(self.home.path(), "run-").expect("Seatbelt");
        let starter = starter();
        seatbelt.executable.clone_from(&starter[0]);
        let mut prepared = seatbelt.prepare(&policy).expect("prepared");
        // The binary that is run again as the starter is this test.
        let inner = prepared.command.len() - 2;
        prepared.command.truncate(inner);
        prepared.command.extend(starter.clone());
        if !under_profile {
            prepared.command = starter;
        }
        prepared.run(shell(script), None, std::future::pending()).await.expect("an outcome").0
    }
}

#[tokio::test]
async fn what_is_denied_succeeds_without_the_profile() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let own = std::process::id();
    let (canary, workspace) = (place.canary(), "\"$PWD\"");
    let attempts = [
        ("reading outside", format!("cat {canary}")),
        ("listing outside", format!("ls \"$(dirname {canary})\"")),
        ("reading through a link", format!("ln -sf {canary} link && cat link")),
        ("writing outside", format!("echo x >>{canary}")),
        ("a hard link to outside", format!("ln -f {canary} hard")),
        ("connecting to loopback", format!("/bin/bash -c 'exec 9<>/dev/tcp/127.0.0.1/{port}'")),
        ("signalling the service", format!("kill -0 {own}")),
        (
            "replacing the workspace",
            format!("w={workspace}; mkdir t && cd / && mv \"$w\" \"$w/../moved\" && mv \"$w/../moved\" \"$w\""),
        ),
        ("opening the workspace to all", "chmod 0777 .".to_owned()),
        (
            "arguments of other processes",
            "sysctl kern.procargs2 >/dev/null; sysctl -n kern.proc.all >/dev/null 2>&1; ps -p 1".to_owned(),
        ),
    ];
    for (attempt, script) in attempts {
        let denied = place.run(&script, true).await;
        assert_ne!(denied.end, End::Exited(0), "{attempt}: {}", text(&denied.stdout.kept));
        let control = place.run(&script, false).await;
        assert_eq!(control.end, End::Exited(0), "{attempt}, control: {}", text(&control.stderr.kept));
    }
}

#[tokio::test]
async fn what_programs_need_is_allowed() {
    let place = Place::new();
    let needs = [
        "echo x >file && mkdir -p a/b && mv file a/b && cat a/b/file && rm -r a",
        "printf '#!/bin/sh\\nexit 0\\n' >run && chmod +x run && ./run",
        "test \"$(head -c 4 /dev/urandom | wc -c)\" -eq 4 && : >/dev/null",
        "/bin/bash -c 'cat <(echo substituted)'",
        "TZ=Asia/Tokyo date +%Z | grep JST",
        "uname -a && id && getconf _NPROCESSORS_ONLN",
        "sleep 5 & kill $! && wait $!; test $? -gt 128",
        "/usr/bin/perl -e 'print 6 * 7' | grep 42",
    ];
    for script in needs {
        let outcome = place.run(script, true).await;
        assert_eq!(outcome.end, End::Exited(0), "{script}: {}", text(&outcome.stderr.kept));
    }
}

#[tokio::test]
async fn a_daemon_is_found_by_its_sandbox() {
    let place = Place::new();
    // Out of the group, its parent gone at once: nothing else leads to it.
    let daemon = "/usr/bin/perl -MPOSIX -e 'exit if fork; POSIX::setsid(); exit if fork; open my $f, \">\", \"pid\"; print $f $$; \
                  close $f; sleep 1000'; while ! test -s pid; do sleep 0.05; done; kill -0 $(cat pid)";
    let outcome = place.run(daemon, true).await;
    assert_eq!(outcome.end, End::Exited(0), "{}", text(&outcome.stderr.kept));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!is_alive(written_pid(&place.workspace.join("pid"))));
}

#[test]
fn sandbox_exec_is_the_systems_own() {
    let metadata = std::fs::metadata(SANDBOX_EXEC).expect("sandbox-exec");
    assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o022), (0, 0));
    Seatbelt::installed().expect("installed");
}
