//! Problems 1, 4 and 5 and slow executions: the adapters and the interpreters.

use crate::{after_mounts, doctor, findings, is_root, under_seccomp};
use conformance::{Home, output_within};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn bubblewrap_that_is_not_there() {
    if !is_root("bubblewrap that is not there") {
        return;
    }
    let home = Home::new();
    let hide = "mount --bind /dev/null /usr/bin/bwrap";
    let found = findings(&mut after_mounts(hide, &doctor(&home)));
    found.assert_named("bubblewrap", "problem", "Bubblewrap (bwrap) is not installed", &["apt-get install bubblewrap"]);
    found.assert_blamed("bubblewrap");

    // Where our own works, nobody has to have it.
    let found = findings(&mut after_mounts(hide, doctor(&home).env("ISOLATION", "auto")));
    found.assert_named("bubblewrap", "warning", "native is used instead", &["apt-get install bubblewrap"]);
    found.assert_ok("native");
    assert_eq!(found.0["isolation"]["adapter"], "native");
    assert_eq!(found.0["healthy"], true);
    findings(&mut doctor(&home)).assert_ok("bubblewrap");
}

#[test]
fn bubblewrap_that_is_setuid_or_old() {
    if !is_root("bubblewrap that is setuid or old") {
        return;
    }
    let home = Home::new();
    let copy = home.path("bwrap");
    let over = format!("mount --bind {} /usr/bin/bwrap", copy.display());
    conformance::copy_program("/usr/bin/bwrap".as_ref(), &copy);
    let mode = |mode| std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode)).expect("a mode");
    mode(0o4755);
    let found = findings(&mut after_mounts(&over, &doctor(&home)));
    found.assert_named("bubblewrap", "problem", "bwrap is setuid", &["sudo chmod u-s /usr/bin/bwrap"]);
    found.assert_blamed("bubblewrap");

    mode(0o755);
    let well = findings(&mut after_mounts(&over, &doctor(&home)));
    well.assert_ok("bubblewrap");
    well.assert_ok("sandbox");

    home.write("bwrap", "#!/bin/sh\necho bubblewrap 0.4.0\n");
    let found = findings(&mut after_mounts(&over, &doctor(&home)));
    found.assert_named("bubblewrap", "problem", "0.8.0 or newer is needed", &["apt-get install"]);
}

#[test]
fn our_own_adapter_that_can_not_be_used() {
    if !is_root("our own adapter that can not be used") {
        return;
    }
    let home = Home::new();
    let auto = |filter| findings(&mut under_seccomp(&[filter], doctor(&home).env("ISOLATION", "auto")));
    let found = auto("refuse-clone3");
    found.assert_named("native", "warning", "bubblewrap is used instead", &["Linux 5.12"]);
    assert!(found.text("native", "cause").contains("Function not implemented"));
    assert_eq!(found.0["isolation"]["adapter"], "bubblewrap");
    assert_eq!(found.0["healthy"], true);
    let found = auto("refuse-namespaces");
    found.assert_named("native", "problem", "it can't be used", &["the fix of `seccomp`"]);
    found.assert_named("sandbox", "problem", "native: ", &["the fix of `seccomp`"]);
    found.assert_named("sandbox", "problem", "bubblewrap: ", &[]);
    auto("refuse-accounting").assert_ok("native");
}

#[test]
fn an_adapter_that_is_slow() {
    if !is_root("an adapter that is slow") {
        return;
    }
    let home = Home::new();
    conformance::copy_program("/usr/bin/bwrap".as_ref(), &home.path("real"));
    let script = "#!/bin/sh\n[ \"$1\" = --version ] || sleep 0.8\nexec /opt/bwrap \"$@\"\n";
    std::fs::set_permissions(home.write("slow", script), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let over = |name: &str| {
        format!(
            "mount -t tmpfs tmpfs /opt; cp {} /opt/bwrap; mount --bind {} /usr/bin/bwrap",
            home.path("real").display(),
            home.path(name).display()
        )
    };
    let found = findings(&mut after_mounts(&over("slow"), &doctor(&home)));
    found.assert_named("sandbox speed", "warning", "starting a sandbox is slow", &["bwrap --version", "--cpus 2"]);
    assert!(found.text("sandbox speed", "evidence").contains("bubblewrap 0."), "the adapter's version");
    findings(&mut after_mounts(&over("real"), &doctor(&home))).assert_ok("sandbox speed");
}

#[test]
fn without_isolation_it_says_that_nothing_is_isolated() {
    let home = Home::new();
    let found = findings(doctor(&home).env("ISOLATION", "none"));
    found.assert_named("sandbox", "warning", "nothing is isolated", &["unset ISOLATION"]);
    assert_eq!(found.0["isolation"]["adapter"], "none");
    assert_eq!(found.0["isolation"]["works"], false);
    assert_eq!(found.0["healthy"], true);

    let text = |isolation| {
        let mut command = home.command();
        let command = command.arg("doctor").env("EXECUTOR_PORT", "0").env("ISOLATION", isolation);
        String::from_utf8(output_within(60, command).stdout).expect("text")
    };
    assert!(text("none").trim_end().lines().last().is_some_and(|line| line.starts_with("NOTHING IS ISOLATED")));
    assert!(!text("bubblewrap").contains("NOTHING IS ISOLATED"));
}

#[test]
fn seatbelt_is_of_macos() {
    let home = Home::new();
    let found = findings(&mut doctor(&home));
    assert_eq!(found.check("seatbelt")["status"], "skipped");
    assert!(found.text("seatbelt", "evidence").contains("macOS"));
    let found = findings(doctor(&home).env("ISOLATION", "seatbelt"));
    assert_eq!(found.0["healthy"], false, "{:#}", found.0);
}

// --- interpreters ---

#[test]
fn interpreters_that_are_not_there() {
    let home = Home::new();
    let found = findings(doctor(&home).env("PYTHON_PATH", "/nonexistent/python3").env("NODE_PATH_BIN", "/bin/false"));
    found.assert_named("python", "problem", "/nonexistent/python3", &["correct PYTHON_PATH", "unset it"]);
    found.assert_named("javascript", "problem", "/bin/false does not run", &["correct NODE_PATH_BIN"]);
    found.assert_ok("shell");
    found.assert_ok("sandbox");
    assert_eq!(found.check("python modules")["status"], "skipped");

    let well = findings(doctor(&home).env("PYTHON_PATH", "/usr/bin/python3").env("NODE_PATH_BIN", "/usr/bin/node"));
    well.assert_ok("python");
    well.assert_ok("javascript");
    if is_root("an interpreter that nobody named and that is not there") {
        let hide = "for node in /usr/bin/node /usr/local/bin/node /usr/bin/nodejs; do \
                    [ ! -e $node ] || mount --bind /dev/null $(readlink -f $node); done";
        let found = findings(&mut after_mounts(hide, &doctor(&home)));
        found.assert_named("javascript", "warning", "no javascript interpreter", &["apt-get install nodejs"]);
        assert_eq!(found.0["healthy"], true, "the others are there");
    }
}

#[test]
fn a_python_that_does_not_find_its_modules() {
    if !is_root("a Python that does not find its modules") {
        return;
    }
    let home = Home::new();
    let python = |home: &Home| {
        let mut command = doctor(home);
        command.env("PYTHON_PATH", "/usr/bin/python3");
        command
    };
    let asked = Command::new("/usr/bin/python3")
        .args(["-I", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'), end='')"])
        .output();
    let library = String::from_utf8(asked.expect("Python").stdout).expect("a path");

    let found = findings(&mut after_mounts(&format!("mount -t tmpfs tmpfs {library}"), &python(&home)));
    found.assert_named("python", "problem", "ModuleNotFoundError", &["PYTHON_PATH", "PYTHONPATH", "its own modules"]);

    // As python3-minimal is: it runs, and a part of the library is not there.
    let copy = home.path("library");
    let some = format!("cp -a {library} {0}; rm -r {0}/sqlite3 {0}/ssl.py; mount --bind {0} {library}", copy.display());
    let found = findings(&mut after_mounts(&some, &python(&home)));
    found.assert_ok("python");
    found.assert_named("python modules", "warning", "can't be imported", &["apt-get install python3", "PYTHON_PATH"]);
    for module in ["ModuleNotFoundError: No module named 'sqlite3'", "No module named 'ssl'"] {
        assert!(found.text("python modules", "evidence").contains(module), "{:#}", found.check("python modules"));
    }

    let well = findings(&mut python(&home));
    well.assert_ok("python");
    well.assert_ok("python modules");
}
