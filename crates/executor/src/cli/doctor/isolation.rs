//! Whether programs can be isolated here: what the kernel allows, what is installed, and a program that is really run.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use runtime::{Interpreter, Language};
use sandbox::bubblewrap::Bubblewrap;
use sandbox::limits::Cgroups;
use sandbox::seatbelt::Seatbelt;

use super::Check;
use super::limits::Found;
use crate::cli::serve;
use crate::config::{Config, Isolation};
use crate::pipeline::Executor;
use crate::state::State;

/// How a container is allowed to make namespaces: the least first, then what the troubleshooting document says.
const CONTAINER_FIX: &str = "let the container make namespaces:\n\
    docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
    --security-opt systempaths=unconfined …\n\
    or: docker run --privileged sandbox-executor:v1.0\n\
    Kubernetes: securityContext: { privileged: true }";
/// Where bubblewrap may lie; the adapter looks there too.
const BWRAP: &[&str] = &["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"];
/// The first version in which a setuid bubblewrap is not open to CVE-2026-41163.
const FIXED: (u32, u32, u32) = (0, 11, 2);

/// What the kernel says about namespaces; a setting that it does not have is `None`.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    has_user_namespaces: bool,
    max_user_namespaces: Option<u64>,
    unprivileged_clone: Option<u64>,
    apparmor_restricts: Option<u64>,
    /// 0: system calls are not filtered, 2: they are.
    seccomp: Option<u64>,
    /// Whether this looks like a container.
    pub container: bool,
}

impl Kernel {
    pub(super) fn read() -> Self {
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:")?.trim().parse().ok());
        let marks = ["/.dockerenv", "/run/.containerenv", "/run/secrets/kubernetes.io"];
        Self {
            has_user_namespaces: Path::new("/proc/self/ns/user").exists(),
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            seccomp,
            container: marks.iter().any(|mark| Path::new(mark).exists()),
        }
    }

    /// What keeps ordinary users from making user namespaces, and what lets them.
    fn in_the_way(&self) -> Option<(&'static str, &'static str)> {
        if !self.has_user_namespaces {
            Some(("this kernel has no user namespaces", "use a kernel that is built with CONFIG_USER_NS=y"))
        } else if self.max_user_namespaces == Some(0) {
            Some(("the kernel is set to allow no user namespaces", "sudo sysctl -w user.max_user_namespaces=28633"))
        } else if self.unprivileged_clone == Some(0) {
            Some((
                "the kernel is set to refuse user namespaces to ordinary users, which sandboxes run as",
                "sudo sysctl -w kernel.unprivileged_userns_clone=1",
            ))
        } else if self.apparmor_restricts.is_some_and(|value| value != 0) {
            Some((
                "AppArmor keeps ordinary users, which sandboxes run as, from using user namespaces",
                "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0\n\
                 or give bwrap an AppArmor profile that has the rule `userns,`",
            ))
        } else {
            None
        }
    }

    fn evidence(&self) -> String {
        let settings = [
            ("user.max_user_namespaces", self.max_user_namespaces),
            ("kernel.unprivileged_userns_clone", self.unprivileged_clone),
            ("kernel.apparmor_restrict_unprivileged_userns", self.apparmor_restricts),
        ];
        let set = settings.iter().filter_map(|(name, value)| Some(format!("{name} = {}", (*value)?)));
        let set: Vec<String> = set.collect();
        if set.is_empty() { "no setting of the kernel limits them".into() } else { set.join(", ") }
    }
}

/// `works`: whether a sandbox stood up; `None` if that was not tried.
pub(super) fn user_namespaces(kernel: &Kernel, wanted: Isolation, works: Option<bool>) -> Check {
    const NAME: &str = "user namespaces";
    match kernel.in_the_way() {
        _ if let Some(why) = needs_no_linux(wanted) => Check::skipped(NAME, why),
        Some((cause, fix)) if works != Some(true) => Check::problem(NAME, cause, fix).seen(kernel.evidence()),
        _ => Check::ok(NAME, kernel.evidence()),
    }
}

pub(super) fn seccomp(kernel: &Kernel, wanted: Isolation, works: Option<bool>) -> Check {
    const NAME: &str = "seccomp";
    match (kernel.seccomp, works) {
        _ if let Some(why) = needs_no_linux(wanted) => Check::skipped(NAME, why),
        (None, _) => Check::skipped(NAME, "/proc/self/status does not tell"),
        (Some(0), _) => Check::ok(NAME, "no filter is on this process"),
        (Some(_), Some(true)) => Check::ok(NAME, "a filter is on this process, and it lets sandboxes be made"),
        (Some(mode), _) => {
            let cause = "a system call filter, as of a container, is on this process, and no sandbox could be made";
            Check::warning(NAME, cause, CONTAINER_FIX).seen(format!("Seccomp: {mode} in /proc/self/status"))
        }
    }
}

/// Why nothing that only Linux has is needed, where that is so.
fn needs_no_linux(wanted: Isolation) -> Option<&'static str> {
    match wanted {
        Isolation::None => Some("not needed with ISOLATION=none"),
        Isolation::Seatbelt => Some("not needed with ISOLATION=seatbelt"),
        _ if cfg!(target_os = "macos") => Some("macOS has none, and Seatbelt instead"),
        _ => None,
    }
}

/// sandbox-exec, where it is what isolates.
pub(super) fn seatbelt(config: &Config) -> Option<Check> {
    const NAME: &str = "seatbelt";
    let is_used =
        config.isolation == Isolation::Seatbelt || (cfg!(target_os = "macos") && config.isolation == Isolation::Auto);
    is_used.then(|| match Seatbelt::installed() {
        Ok(()) => Check::ok(NAME, "/usr/bin/sandbox-exec, for a developer's own machine"),
        Err(error) => Check::problem(
            NAME,
            error.detail,
            "Seatbelt is macOS's own, and `which sandbox-exec` should say /usr/bin/sandbox-exec; on Linux unset ISOLATION",
        ),
    })
}

pub(super) fn bubblewrap(config: &Config) -> Check {
    match config.isolation {
        wanted if let Some(why) = needs_no_linux(wanted) => Check::skipped("bubblewrap", why),
        Isolation::Auto if config.disable_bwrap => Check::skipped("bubblewrap", "DISABLE_BWRAP is set"),
        Isolation::Native => Check::skipped("bubblewrap", "not needed with ISOLATION=native"),
        _ => installed_bubblewrap(),
    }
}

/// The installed bwrap, whatever the configuration says of it.
pub(super) fn installed_bubblewrap() -> Check {
    const NAME: &str = "bubblewrap";
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

/// Everything that executions need, made for once, and a program that was run with it.
pub(super) struct Trial {
    /// What was made, or why it was not.
    executor: Result<Executor, String>,
    /// How long the program took, or why it did not run.
    outcome: Result<Duration, String>,
    instance: String,
    /// Its workspace root: the service's may be unusable, which is another check's finding.
    _home: Option<tempfile::TempDir>,
}

impl Trial {
    /// Runs a small program the way executions are run.
    pub(super) async fn run(config: &Config, interpreters: &[Found]) -> Self {
        let instance = State::new_instance();
        let (home, executor) = match tempfile::tempdir().context("a temporary folder can't be made") {
            Ok(home) => {
                let path = home.path().join("workspaces");
                (Some(home), serve::build(&trial_config(config, path, interpreters), &instance).await)
            }
            Err(error) => (None, Err(error)),
        };
        let executor = executor.map_err(|error| format!("{error:#}"));
        let start = Instant::now();
        let outcome = match &executor {
            Ok(executor) => executor.probe(config).await.map(|()| start.elapsed()),
            Err(reason) => Err(reason.clone()),
        };
        Self { executor, outcome, instance, _home: home }
    }

    /// Whether a program ran.
    pub(super) fn works(&self) -> Option<bool> {
        Some(self.outcome.is_ok())
    }

    /// Whether a program of this interpreter runs, too; `None` when none does.
    pub(super) async fn of_language(
        &mut self,
        config: &Config,
        interpreter: &Interpreter,
    ) -> Option<Result<(), String>> {
        let executor = self.executor.as_mut().ok().filter(|_| self.outcome.is_ok())?;
        // The probe takes one of the interpreters that there are.
        executor.interpreters = HashMap::from([(interpreter.language, Ok(std::sync::Arc::new(interpreter.clone())))]);
        Some(executor.probe(config).await)
    }

    /// What limits can be set.
    pub(super) fn cgroups(&self) -> Cgroups {
        match &self.executor {
            Ok(executor) => executor.ground.cgroups.as_ref().clone(),
            Err(_) => Cgroups::detect(&self.instance),
        }
    }

    /// Removes what was made for it.
    pub(super) fn close(self) {
        self.cgroups().close();
    }
}

/// The configuration without what other checks find: an interpreter that is not there must not hide the isolation.
fn trial_config(config: &Config, workspace_path: PathBuf, interpreters: &[Found]) -> Config {
    let mut config = config.clone();
    config.workspace_path = workspace_path;
    for found in interpreters.iter().filter(|found| found.interpreter.is_err()) {
        match found.language {
            Language::Python => config.python_path = None,
            Language::Javascript => config.node_path_bin = None,
            Language::Shell => config.shell_path = None,
        }
    }
    config
}

pub(super) fn sandbox(config: &Config, kernel: &Kernel, trial: &Trial) -> Check {
    const NAME: &str = "sandbox";
    match &trial.outcome {
        Ok(_) if config.isolation == Isolation::None => Check::warning(
            NAME,
            "ISOLATION=none: code runs with the rights of this service, nothing is isolated",
            "unset ISOLATION",
        ),
        Ok(took) => Check::ok(NAME, format!("a program ran in one, {} ms", took.as_millis())),
        Err(reason) => {
            let fix = if config.disable_bwrap && config.isolation == Isolation::Auto {
                "unset DISABLE_BWRAP"
            } else if config.isolation == Isolation::Seatbelt || cfg!(target_os = "macos") {
                "the fix of `seatbelt` above; then try `sandbox-exec -p '(version 1)(allow default)' /bin/echo Hello`"
            } else if Bubblewrap::installed().is_err() && config.isolation != Isolation::None {
                "the fix of `bubblewrap` above"
            } else if kernel.in_the_way().is_some() {
                "the fix of `user namespaces` above"
            } else if kernel.container || kernel.seccomp.is_some_and(|mode| mode != 0) {
                CONTAINER_FIX
            } else {
                "try `bwrap --ro-bind / / --unshare-all --unshare-user /bin/echo Hello`: what it says is the cause; \
                 `sandbox-executor doctor --report FILE` writes what a bug report needs"
            };
            Check::problem(NAME, reason.clone(), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn kernel() -> Kernel {
        Kernel { has_user_namespaces: true, max_user_namespaces: Some(100), seccomp: Some(0), ..Kernel::default() }
    }

    #[test]
    fn a_setting_is_blamed_with_its_fix_when_no_sandbox_stood_up() {
        for (kernel, fix) in [
            (Kernel { max_user_namespaces: Some(0), ..kernel() }, "user.max_user_namespaces="),
            (Kernel { unprivileged_clone: Some(0), ..kernel() }, "unprivileged_userns_clone=1"),
            (Kernel { apparmor_restricts: Some(1), ..kernel() }, "apparmor_restrict_unprivileged_userns=0"),
            (Kernel { has_user_namespaces: false, ..kernel() }, "CONFIG_USER_NS"),
        ] {
            for works in [Some(false), None] {
                let check = user_namespaces(&kernel, Isolation::Auto, works);
                assert_eq!(check.status, Status::Problem, "{check:?}");
                assert!(check.fix.unwrap().contains(fix));
            }
            assert_eq!(user_namespaces(&kernel, Isolation::Auto, Some(true)).status, Status::Ok);
            assert_eq!(user_namespaces(&kernel, Isolation::None, None).status, Status::Skipped);
        }
        assert_eq!(user_namespaces(&kernel(), Isolation::Auto, Some(false)).status, Status::Ok);
    }

    #[test]
    fn a_filter_is_suspected_when_no_sandbox_stood_up() {
        let filtered = Kernel { seccomp: Some(2), ..kernel() };
        assert_eq!(seccomp(&filtered, Isolation::Auto, Some(true)).status, Status::Ok);
        let check = seccomp(&filtered, Isolation::Auto, Some(false));
        assert_eq!(check.status, Status::Warning);
        assert!(check.fix.unwrap().contains("docker run --privileged"));
        assert_eq!(seccomp(&kernel(), Isolation::Auto, Some(false)).status, Status::Ok);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("bubblewrap 0.8.0") < Some(FIXED));
        assert!(parse_version("bubblewrap 0.11.2") >= Some(FIXED));
        assert_eq!(parse_version("bubblewrap 1.0"), Some((1, 0, 0)));
        assert_eq!(parse_version("something else"), None);
    }
}
