//! The isolation adapters: which there are, which one is used, and why another is not.
//!
//! With `ISOLATION=auto` an adapter that can't be used is no more than a warning while another one works; with
//! `ISOLATION=<its name>` it is a problem.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use sandbox::bubblewrap::Bubblewrap;

use super::trial::{Failure, Trial};
use super::{Check, Status};
use crate::config::{Config, Isolation};

/// Where bubblewrap may lie; the adapter looks there too.
const BWRAP: &[&str] = &["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"];
/// The first version in which a setuid bubblewrap is not open to CVE-2026-41163.
const FIXED: (u32, u32, u32) = (0, 11, 2);
/// Seatbelt's program, which is a part of macOS.
const SANDBOX_EXEC: &str = "/usr/bin/sandbox-exec";
/// What the troubleshooting document says about macOS.
const MACOS_FIX: &str = "unset ISOLATION: macOS's own Seatbelt (sandbox-exec) is then taken without asking\n\
    `which sandbox-exec` should print /usr/bin/sandbox-exec";

/// A check for each adapter.
pub(super) fn adapters(config: &Config, trial: &Trial) -> [Check; 3] {
    let seatbelt = seatbelt(config, std::env::consts::OS, Path::new(SANDBOX_EXEC), refusal(trial, "seatbelt"));
    [native(config, trial), bubblewrap(config, trial), seatbelt]
}

/// Whom sandboxes are to the host: one for each session keeps sessions apart by file permissions and quotas, too. `ids`:
/// what came of the attempt to take this user's subordinate ids.
pub(super) fn host_uids(config: &Config, ids: Option<&str>) -> Check {
    const NAME: &str = "host uids";
    let told = ids.map(|ids| ids.trim_start_matches("Host uids: "));
    match told {
        _ if config.isolation == Isolation::None => Check::skipped(NAME, "not needed with ISOLATION=none"),
        _ if !cfg!(target_os = "linux") => Check::skipped(NAME, "a matter of Linux"),
        _ if rustix::process::geteuid().is_root() => Check::ok(NAME, told.unwrap_or("one for each session")),
        _ => Check::warning(
            NAME,
            told.unwrap_or("every sandbox has this user's own"),
            "apt-get install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 \"$(id -un)\"\n\
             or start the service as root",
        ),
    }
}

/// Our own needs nothing but the kernel: what is to be known of it is what became of it.
fn native(config: &Config, trial: &Trial) -> Check {
    const NAME: &str = "native";
    match (config.isolation, refusal(trial, NAME)) {
        (Isolation::None | Isolation::Bubblewrap, _) => {
            Check::skipped(NAME, format!("not needed with ISOLATION={}", config.isolation))
        }
        _ if !cfg!(target_os = "linux") => Check::skipped(NAME, "Linux only"),
        (_, Some(reason)) => {
            let Failure { cause, fix } = Failure::told(reason);
            let fix = match trial.blame() {
                Some(check) => format!("the fix of `{check}`"),
                None if !fix.is_empty() => fix,
                None => "`ISOLATION=native sandbox-executor doctor` says what is in its way".to_owned(),
            };
            let check = Check::problem(NAME, format!("it can't be used: {cause}"), fix);
            softened(check, trial.adapter().filter(|_| trial.works()))
        }
        _ if trial.works() && trial.adapter() == Some(NAME) => {
            Check::ok(NAME, "namespaces of our own by clone3(2), without a program from elsewhere")
        }
        _ => Check::skipped(NAME, "it did not come to try it"),
    }
}

/// Why this adapter can't be used, if it was tried.
fn refusal<'a>(trial: &'a Trial, adapter: &str) -> Option<&'a str> {
    trial.refused().iter().find(|(name, _)| *name == adapter).map(|(_, reason)| reason.as_str())
}

/// `instead`: the adapter that is used in place of the one with the problem.
fn softened(check: Check, instead: Option<&str>) -> Check {
    match instead {
        Some(instead) if check.status == Status::Problem => {
            let cause = check.cause.map(|cause| format!("{cause}; {instead} is used instead"));
            Check { status: Status::Warning, cause, ..check }
        }
        _ => check,
    }
}

fn bubblewrap(config: &Config, trial: &Trial) -> Check {
    const NAME: &str = "bubblewrap";
    let auto = config.isolation == Isolation::Auto;
    match config.isolation {
        Isolation::Auto if cfg!(target_os = "macos") => {
            Check::skipped(NAME, "macOS has none, and Seatbelt in its place")
        }
        Isolation::Auto if config.disable_bwrap => Check::skipped(NAME, "DISABLE_BWRAP is set"),
        Isolation::Auto | Isolation::Bubblewrap => {
            let instead = trial.adapter().filter(|adapter| auto && trial.works() && *adapter != NAME);
            softened(installed_bubblewrap(), instead)
        }
        other => Check::skipped(NAME, format!("not needed with ISOLATION={other}")),
    }
}

/// The installed bwrap, when nobody knows whether it is wanted.
pub(super) fn bubblewrap_if_wanted() -> Check {
    let check = installed_bubblewrap();
    Check { status: if check.cause.is_some() { Status::Warning } else { check.status }, ..check }
}

/// The installed bwrap, whatever the configuration says of it.
pub(super) fn installed_bubblewrap() -> Check {
    const NAME: &str = "bubblewrap";
    if cfg!(target_os = "macos") {
        return Check::problem(NAME, "Bubblewrap (bwrap) is not for macOS", MACOS_FIX).seen(std::env::consts::OS);
    }
    let place = BWRAP.iter().map(Path::new).find(|path| path.is_file());
    let install = "install bubblewrap 0.8.0 or newer: apt-get install bubblewrap (Debian, Ubuntu), \
                   dnf install bubblewrap (Fedora), apk add bubblewrap (Alpine)";
    match (Bubblewrap::installed(), place) {
        (Ok((path, version)), _) => Check::ok(NAME, format!("bwrap {version} ({}), not setuid", path.display())),
        (Err(_), Some(path)) if is_setuid(path) => setuid_bubblewrap(path),
        (Err(error), Some(path)) => {
            let fix =
                "install it anew from the system's packages, 0.8.0 or newer: apt-get install --reinstall bubblewrap";
            Check::problem(NAME, error.detail, fix).seen(path.display().to_string())
        }
        (Err(error), None) => Check::problem(NAME, error.detail, install).seen(format!("none of {}", BWRAP.join(", "))),
    }
}

fn is_setuid(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o4000 != 0)
}

fn setuid_bubblewrap(path: &Path) -> Check {
    let shown = path.display();
    let output = Command::new(path).arg("--version").env_clear().output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let vulnerable = match parse_version(&said) {
        Some(version) if version >= FIXED => "",
        _ => ", and before 0.11.2 it is open to CVE-2026-41163 in this mode",
    };
    let cause = format!("bwrap is setuid, which makes every bug in it one of root's{vulnerable}");
    let fix = format!("sudo chmod u-s {shown}\n(user namespaces then have to be allowed for ordinary users)");
    Check::problem("bubblewrap", cause, fix).seen(format!("{said} at {shown}, setuid"))
}

fn parse_version(said: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = said.strip_prefix("bubblewrap ")?.split('.').map(|number| number.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

/// `program`: where the system has it; `refusal`: why it can't be used, where it was tried.
fn seatbelt(config: &Config, os: &str, program: &Path, refusal: Option<&str>) -> Check {
    const NAME: &str = "seatbelt";
    match config.isolation {
        Isolation::None => Check::skipped(NAME, "not needed with ISOLATION=none"),
        _ if os != "macos" => Check::skipped(NAME, "macOS only: Linux has namespaces"),
        Isolation::Bubblewrap => Check::skipped(NAME, "not needed with ISOLATION=bubblewrap"),
        _ if program.is_file() => match refusal {
            Some(reason) => Check::problem(NAME, format!("it can't be used: {reason}"), MACOS_FIX),
            None => Check::ok(NAME, program.display().to_string()),
        },
        _ => Check::problem(NAME, "sandbox-exec, which is a part of macOS, is not there", MACOS_FIX)
            .seen(format!("no {}", program.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("bubblewrap 0.8.0") < Some(FIXED));
        assert!(parse_version("bubblewrap 0.11.2") >= Some(FIXED));
        assert_eq!(parse_version("bubblewrap 1.0"), Some((1, 0, 0)));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn an_adapter_that_another_stands_in_for_is_no_problem() {
        let problem = || Check::problem("bubblewrap", "it is not installed", "install it");
        assert_eq!(softened(problem(), None).status, Status::Problem);
        let check = softened(problem(), Some("native"));
        assert_eq!(check.status, Status::Warning);
        assert_eq!(check.cause.unwrap(), "it is not installed; native is used instead");
        assert_eq!(softened(Check::ok("bubblewrap", ""), Some("native")).cause, None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_own_adapter_says_what_became_of_it() {
        let refused = || vec![("native", "clone3: Operation not permitted".to_owned())];
        let check = |isolation, trial: &Trial| native(&Config::of(&[("ISOLATION", isolation)]), trial);
        let instead = check("auto", &Trial::assumed(Some("bubblewrap"), Ok(()), refused()));
        assert_eq!(instead.status, Status::Warning);
        assert!(instead.cause.unwrap().contains("clone3: Operation not permitted; bubblewrap is used instead"));
        let failed = Trial::assumed(None, Err("nothing works"), refused());
        assert_eq!(check("auto", &failed).status, Status::Problem);
        assert_eq!(check("native", &failed).status, Status::Problem);
        assert_eq!(check("bubblewrap", &failed).status, Status::Skipped);
        assert_eq!(check("auto", &Trial::assumed(Some("native"), Ok(()), Vec::new())).status, Status::Ok);
        assert_eq!(check("auto", &Trial::assumed(None, Err("no launcher"), Vec::new())).status, Status::Skipped);
    }

    #[test]
    fn seatbelt_is_looked_for_on_macos() {
        let config = |isolation| Config::of(&[("ISOLATION", isolation)]);
        let check = |isolation, os, program| seatbelt(&config(isolation), os, Path::new(program), None);
        assert_eq!(check("auto", "linux", "/bin/sh").status, Status::Skipped);
        assert_eq!(check("auto", "macos", "/bin/sh").status, Status::Ok);
        assert_eq!(check("none", "macos", "/nowhere").status, Status::Skipped);
        let missing = check("auto", "macos", "/nowhere");
        assert_eq!(missing.status, Status::Problem);
        assert!(missing.fix.unwrap().contains("which sandbox-exec"));
        let refused = seatbelt(&config("auto"), "macos", Path::new("/bin/sh"), Some("sandbox_apply: not permitted"));
        assert_eq!(refused.status, Status::Problem);
    }
}
