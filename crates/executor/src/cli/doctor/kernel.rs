//! What the kernel and the container around this process let it do.
//!
//! Settings and masks are blamed only when no sandbox stood up ([`Attempt`]): what is in the way of one adapter need not
//! be in the way of another, and the proof is the program that ran.

use std::path::{Path, PathBuf};

use super::Check;

/// What the troubleshooting document says, for whoever wants it simple rather than narrow.
pub(super) const PRIVILEGED: &str = "or, with all rights of the host: docker run --privileged sandbox-executor:v1.0\n\
    Kubernetes: securityContext: { privileged: true }";
/// Settings of this process's user namespace; 0 forbids what a sandbox needs.
const COUNTS: &[&str] = &[
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "user.max_pid_namespaces",
    "user.max_net_namespaces",
    "user.max_ipc_namespaces",
    "user.max_uts_namespaces",
];
/// Folders of `/proc` that are empty for good. What is mounted there hides nothing, and the kernel does not mind it
/// (fs/namespace.c, `mnt_already_visible`).
const EMPTY_FOR_GOOD: &[&str] = &["/proc/fs/nfsd", "/proc/openprom", "/proc/sys/fs/binfmt_misc", "/proc/xen"];
/// What root needs to start a sandbox as another user: name and number (include/uapi/linux/capability.h).
const CAPABILITIES: &[(&str, u32)] = &[("SETGID", 6), ("SETUID", 7), ("SYS_ADMIN", 21)];

/// Whether a sandbox stood up here.
#[derive(Debug, Clone)]
pub(super) enum Attempt {
    /// A program ran in one.
    Worked,
    /// None did, and this was said.
    Failed(String),
    /// Nobody tried.
    NotMade,
    /// Nobody wants one.
    NotNeeded,
}

impl Attempt {
    /// Why a check is not worth making.
    fn spares(&self) -> Option<&'static str> {
        match self {
            Self::NotNeeded => Some("not needed with ISOLATION=none"),
            _ if !cfg!(target_os = "linux") => Some("a matter of Linux"),
            _ => None,
        }
    }
}

/// What the kernel says about namespaces; a setting that it does not have is `None`.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    has_user_namespaces: bool,
    /// In the order of [`COUNTS`].
    counts: Vec<Option<u64>>,
    unprivileged_clone: Option<u64>,
    apparmor_restricts: Option<u64>,
    /// The AppArmor profile of this process.
    apparmor_profile: Option<String>,
    /// 0: system calls are not filtered, 2: they are.
    seccomp: Option<u64>,
    /// Calls that make sandboxes and that a filter refuses, as far as that can be told.
    refused_calls: Vec<&'static str>,
    /// The effective capabilities of this process, when it is root's.
    capabilities_of_root: Option<u64>,
    /// What keeps a new `/proc` from being mounted.
    covers: Vec<String>,
    /// Whether this looks like a container.
    pub container: bool,
}

impl Kernel {
    pub(super) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).ok();
        let setting = |name: &str| text(&format!("/proc/sys/{}", name.replace('.', "/")))?.trim().parse().ok();
        let status = text("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        let profile = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"].into_iter().find_map(text);
        let profile = profile.map(|profile| profile.trim_matches(['\0', '\n', ' ']).to_owned());
        let marks = ["/.dockerenv", "/run/.containerenv", "/run/secrets/kubernetes.io"];
        let root = rustix::process::geteuid().is_root();
        Self {
            has_user_namespaces: Path::new("/proc/self/ns/user").exists(),
            counts: COUNTS.iter().map(|name| setting(name)).collect(),
            unprivileged_clone: setting("kernel.unprivileged_userns_clone"),
            apparmor_restricts: setting("kernel.apparmor_restrict_unprivileged_userns"),
            // Other security modules answer there too, and theirs has colons.
            apparmor_profile: profile.filter(|profile| !profile.is_empty() && !profile.contains(':')),
            seccomp: field("Seccomp:").and_then(|number| number.parse().ok()),
            refused_calls: sandbox::refused_calls(),
            capabilities_of_root: field("CapEff:").and_then(|set| u64::from_str_radix(&set, 16).ok()).filter(|_| root),
            covers: covers(&text("/proc/self/mountinfo").unwrap_or_default()),
            container: marks.iter().any(|mark| Path::new(mark).exists()),
        }
    }

    /// The check whose fix is the fix of a sandbox that did not stand up. The order is that in which a sandbox meets
    /// what is in its way.
    pub(super) fn blame(&self, attempt: &Attempt) -> Option<&'static str> {
        let checks = [user_namespaces, apparmor, capabilities, seccomp, proc];
        let found: Vec<Check> =
            checks.iter().map(|check| check(self, attempt)).filter(|check| check.cause.is_some()).collect();
        // What is sure goes before what is likely.
        found.iter().find(|check| check.status == super::Status::Problem).or(found.first()).map(|check| check.name)
    }

    fn forbidden_count(&self) -> Option<&'static str> {
        COUNTS.iter().zip(&self.counts).find(|(_, count)| **count == Some(0)).map(|(name, _)| *name)
    }

    fn user_namespace_settings(&self) -> String {
        let counts = COUNTS.iter().zip(&self.counts).map(|(name, count)| (*name, *count));
        // The first tells that all is well; of the others only what is not.
        let counts = counts.enumerate().filter(|(place, (_, count))| *place == 0 || *count == Some(0));
        let clone = ("kernel.unprivileged_userns_clone", self.unprivileged_clone);
        let set = counts.map(|(_, setting)| setting).chain([clone]);
        let set: Vec<String> = set.filter_map(|(name, value)| Some(format!("{name} = {}", value?))).collect();
        if set.is_empty() { "no setting of the kernel limits them".into() } else { set.join(", ") }
    }
}

pub(super) fn user_namespaces(kernel: &Kernel, attempt: &Attempt) -> Check {
    const NAME: &str = "user namespaces";
    if let Some(why) = attempt.spares() {
        return Check::skipped(NAME, why);
    }
    let evidence = kernel.user_namespace_settings();
    let problem = |cause: String, fix: String| Check::problem(NAME, cause, fix).seen(evidence.clone());
    match attempt {
        Attempt::Worked => Check::ok(NAME, evidence),
        _ if !kernel.has_user_namespaces => {
            problem("this kernel has no user namespaces".into(), "use a kernel with CONFIG_USER_NS=y".into())
        }
        _ if let Some(count) = kernel.forbidden_count() => {
            let what = count.trim_start_matches("user.max_").trim_end_matches("_namespaces");
            let cause = format!("the kernel is set to allow no namespaces of the kind `{what}`");
            problem(cause, format!("sudo sysctl -w {count}=28633"))
        }
        _ if kernel.unprivileged_clone == Some(0) => problem(
            "the kernel is set to refuse user namespaces to ordinary users, which sandboxes run as".into(),
            "sudo sysctl -w kernel.unprivileged_userns_clone=1".into(),
        ),
        _ => Check::ok(NAME, evidence),
    }
}

pub(super) fn apparmor(kernel: &Kernel, attempt: &Attempt) -> Check {
    const NAME: &str = "AppArmor";
    const SETTING: &str = "kernel.apparmor_restrict_unprivileged_userns";
    if let Some(why) = attempt.spares() {
        return Check::skipped(NAME, why);
    }
    let setting = kernel.apparmor_restricts.map(|value| format!("{SETTING} = {value}"));
    let profile = kernel.apparmor_profile.as_ref().map(|profile| format!("the profile of this process: {profile}"));
    let confined = profile.as_ref().filter(|profile| profile.ends_with("(enforce)")).cloned();
    let evidence: Vec<String> = setting.into_iter().chain(profile).collect();
    let evidence = evidence.join(", ");
    match attempt {
        _ if evidence.is_empty() => Check::skipped(NAME, "this kernel has none, or it is off"),
        Attempt::Worked => Check::ok(NAME, evidence),
        _ if kernel.apparmor_restricts.is_some_and(|value| value != 0) => {
            let cause = "AppArmor keeps ordinary users, which sandboxes run as, from using user namespaces (Ubuntu 23.10 \
                         and later)";
            Check::problem(NAME, cause, profile_fix(std::env::current_exe().ok())).seen(evidence)
        }
        Attempt::Failed(_) if confined.is_some() => {
            let cause = "an AppArmor profile, as of a container, is on this process, and no sandbox could be made: \
                         docker-default lets nothing be mounted";
            let fix = format!(
                "load the profile that lets just this through on the host (sudo apparmor_parser -r \
                 deploy/profiles/apparmor), then: docker run --security-opt apparmor=sandbox-executor-container …\n\
                 Kubernetes: securityContext: {{ appArmorProfile: {{ type: Localhost, localhostProfile: \
                 sandbox-executor-container }} }}\n\
                 or none: docker run --security-opt apparmor=unconfined …\n\
                 Kubernetes: securityContext: {{ appArmorProfile: {{ type: Unconfined }} }}\n{PRIVILEGED}"
            );
            Check::warning(NAME, cause, fix).seen(evidence)
        }
        _ => Check::ok(NAME, evidence),
    }
}

/// The narrow way first: the right for the two programs that make namespaces, not for all of the host's.
fn profile_fix(own: Option<PathBuf>) -> String {
    let own = own.unwrap_or_else(|| "/usr/local/bin/sandbox-executor".into());
    let profile =
        |name: &str, path: &Path| format!("profile {name} {} flags=(unconfined) {{ userns, }}", path.display());
    format!(
        "for these programs only, in /etc/apparmor.d/sandbox-executor:\n\
         abi <abi/4.0>,\n{}\n{}\n\
         then: sudo apparmor_parser -r /etc/apparmor.d/sandbox-executor\n\
         or for every program of the host: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        profile("sandbox-executor", &own),
        profile("sandbox-executor-bwrap", Path::new("/usr/bin/bwrap")),
    )
}

/// Root's rights are not all there in a container, and an ordinary user's are enough where root's are too few.
pub(super) fn capabilities(kernel: &Kernel, attempt: &Attempt) -> Check {
    const NAME: &str = "capabilities";
    if let Some(why) = attempt.spares() {
        return Check::skipped(NAME, why);
    }
    let Some(set) = kernel.capabilities_of_root else {
        return Check::ok(NAME, "an ordinary user needs none");
    };
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(_, number)| set & (1 << number) == 0).map(|(name, _)| *name).collect();
    let evidence = format!("CapEff: {set:016x} in /proc/self/status");
    if missing.is_empty() || !matches!(attempt, Attempt::Failed(_)) {
        return Check::ok(NAME, evidence);
    }
    let add: Vec<String> = missing.iter().map(|name| format!("--cap-add {name}")).collect();
    let cause = format!("this is root without CAP_{}, and no sandbox could be made", missing.join(", CAP_"));
    let fix = format!(
        "start it as an ordinary user, who needs none: docker run --user 1000:1000 …\n\
         or docker run {} …\nKubernetes: securityContext: {{ capabilities: {{ add: [{}] }} }}\n{PRIVILEGED}",
        add.join(" "),
        missing.join(", ")
    );
    Check::problem(NAME, cause, fix).seen(evidence)
}

pub(super) fn seccomp(kernel: &Kernel, attempt: &Attempt) -> Check {
    const NAME: &str = "seccomp";
    if let Some(why) = attempt.spares() {
        return Check::skipped(NAME, why);
    }
    let Some(mode) = kernel.seccomp else { return Check::skipped(NAME, "/proc/self/status does not tell") };
    let evidence = format!("Seccomp: {mode} in /proc/self/status");
    match attempt {
        _ if mode == 0 => Check::ok(NAME, "no filter is on this process"),
        Attempt::Worked => Check::ok(NAME, format!("{evidence}: a filter, and it lets sandboxes be made")),
        Attempt::Failed(reason) => {
            let fix = format!(
                "give the container the filter that lets just this through: \
                 docker run --security-opt seccomp=deploy/profiles/seccomp.json …\n\
                 Kubernetes: securityContext: {{ seccompProfile: {{ type: Localhost, localhostProfile: sandbox-executor.json }} }}, \
                 the same file in /var/lib/kubelet/seccomp of the node\n\
                 or none: docker run --security-opt seccomp=unconfined …\n\
                 Kubernetes: securityContext: {{ seccompProfile: {{ type: Unconfined }} }}\n{PRIVILEGED}"
            );
            if !kernel.refused_calls.is_empty() {
                let cause = format!(
                    "the system call filter of this container refuses what makes sandboxes: {}",
                    kernel.refused_calls.join(", ")
                );
                return Check::problem(NAME, cause, fix).seen(format!("{evidence}; {reason}"));
            }
            // What could be tried was let through; a filter may still have refused what could not.
            let cause = "a system call filter, as of a container, is on this process, and no sandbox could be made";
            Check::warning(NAME, cause, fix).seen(format!("{evidence}; {reason}"))
        }
        Attempt::NotMade | Attempt::NotNeeded => Check::ok(NAME, format!("{evidence}: a filter")),
    }
}

/// A sandbox gets a `/proc` of its own, and the kernel allows that to nobody who does not already see one whole.
pub(super) fn proc(kernel: &Kernel, attempt: &Attempt) -> Check {
    const NAME: &str = "proc";
    if let Some(why) = attempt.spares() {
        return Check::skipped(NAME, why);
    }
    let shown = kernel.covers.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    let more = kernel.covers.len().saturating_sub(8);
    let shown = if more > 0 { format!("{shown} and {more} more") } else { shown };
    match attempt {
        _ if kernel.covers.is_empty() => Check::ok(NAME, "nothing of /proc is masked"),
        Attempt::Failed(_) => {
            let fix = format!(
                "docker run --security-opt systempaths=unconfined …\n\
                 Kubernetes: securityContext: {{ procMount: Unmasked }} with hostUsers: false in the pod\n{PRIVILEGED}"
            );
            let cause = "parts of /proc are masked, as container engines do, so that no new /proc can be mounted for a \
                         sandbox";
            Check::problem(NAME, cause, fix).seen(format!("/proc/self/mountinfo: {shown}"))
        }
        _ => Check::ok(NAME, format!("masked, and sandboxes stand up nevertheless: {shown}")),
    }
}

/// What the kernel takes for a reason to refuse a new `/proc`: something mounted over a part of the one that is there,
/// or that one being read-only.
fn covers(mountinfo: &str) -> Vec<String> {
    let mut covers = Vec::new();
    for line in mountinfo.lines() {
        // proc(5): id, parent, device, root, mount point, options, …
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, _, _, _, place, options, ..] = fields[..] else { continue };
        if place == "/proc" && options.split(',').any(|option| option == "ro") {
            covers.push("/proc (read-only)".to_owned());
        } else if place.starts_with("/proc/") && !EMPTY_FOR_GOOD.contains(&place) {
            covers.push(place.to_owned());
        }
    }
    covers
}

pub(super) fn landlock(attempt: &Attempt) -> Check {
    const NAME: &str = "Landlock";
    match (attempt.spares(), sandbox::landlock_abi()) {
        (Some(why), _) => Check::skipped(NAME, why),
        (None, 0) => Check::warning(
            NAME,
            "this kernel has no Landlock, or it is off: namespaces and seccomp stand alone",
            "boot a kernel from 5.13 up with lsm=landlock,… on its command line",
        ),
        (None, version) => Check::ok(NAME, format!("ABI {version}")),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::Status;
    use super::*;

    fn kernel() -> Kernel {
        Kernel { has_user_namespaces: true, counts: vec![Some(100); 6], seccomp: Some(0), ..Kernel::default() }
    }

    fn failed() -> Attempt {
        Attempt::Failed("bwrap: Creating new namespace failed: Operation not permitted".into())
    }

    #[test]
    fn a_setting_is_blamed_with_its_fix_when_no_sandbox_stood_up() {
        let mut no_pids = vec![Some(100); 6];
        no_pids[2] = Some(0);
        for (kernel, fix) in [
            (Kernel { counts: vec![Some(0); 6], ..kernel() }, "user.max_user_namespaces="),
            (Kernel { counts: no_pids, ..kernel() }, "user.max_pid_namespaces="),
            (Kernel { unprivileged_clone: Some(0), ..kernel() }, "unprivileged_userns_clone=1"),
            (Kernel { has_user_namespaces: false, ..kernel() }, "CONFIG_USER_NS"),
        ] {
            for attempt in [failed(), Attempt::NotMade] {
                let check = user_namespaces(&kernel, &attempt);
                assert_eq!(check.status, Status::Problem, "{check:?}");
                assert!(check.fix.unwrap().contains(fix));
            }
            assert_eq!(kernel.blame(&failed()), Some("user namespaces"));
            assert_eq!(user_namespaces(&kernel, &Attempt::Worked).status, Status::Ok);
            assert_eq!(user_namespaces(&kernel, &Attempt::NotNeeded).status, Status::Skipped);
        }
        assert_eq!(user_namespaces(&kernel(), &failed()).status, Status::Ok);
        assert_eq!(kernel().blame(&failed()), None);
    }

    #[test]
    fn apparmor_restricts_the_host_or_confines_the_container() {
        let ubuntu = Kernel { apparmor_restricts: Some(1), ..kernel() };
        let check = apparmor(&ubuntu, &failed());
        assert_eq!(check.status, Status::Problem);
        let fix = check.fix.unwrap();
        assert!(fix.contains("apparmor_restrict_unprivileged_userns=0") && fix.contains("userns,"), "{fix}");
        assert_eq!(apparmor(&ubuntu, &Attempt::Worked).status, Status::Ok);

        let docker = |mode| Kernel { apparmor_profile: Some(format!("docker-default ({mode})")), ..kernel() };
        let check = apparmor(&docker("enforce"), &failed());
        assert_eq!(check.status, Status::Warning);
        assert!(check.fix.unwrap().contains("--security-opt apparmor=unconfined"));
        assert_eq!(apparmor(&docker("complain"), &failed()).status, Status::Ok);
        assert_eq!(apparmor(&kernel(), &failed()).status, Status::Skipped);
    }

    #[test]
    fn a_filter_is_suspected_when_no_sandbox_stood_up() {
        let filtered = |refused_calls| Kernel { seccomp: Some(2), refused_calls, ..kernel() };
        let docker = filtered(vec!["unshare", "mount"]);
        assert_eq!(seccomp(&docker, &Attempt::Worked).status, Status::Ok);
        let check = seccomp(&docker, &failed());
        assert_eq!(check.status, Status::Problem);
        assert!(check.cause.unwrap().ends_with("unshare, mount"));
        let fix = check.fix.unwrap();
        assert!(
            fix.contains("docker run --privileged") && fix.contains("seccomp=deploy/profiles/seccomp.json"),
            "{fix}"
        );
        // Nothing is known against it.
        assert_eq!(seccomp(&filtered(Vec::new()), &failed()).status, Status::Warning);
        assert_eq!(seccomp(&kernel(), &failed()).status, Status::Ok);
        // What is known goes first.
        let masked = Kernel { covers: vec!["/proc/kcore".into()], ..filtered(Vec::new()) };
        assert_eq!(masked.blame(&failed()), Some("proc"));
        assert_eq!(Kernel { covers: masked.covers, ..docker }.blame(&failed()), Some("seccomp"));
    }

    #[test]
    fn root_without_its_rights_is_told_to_do_without_them() {
        let docker = Kernel { capabilities_of_root: Some(0xa804_25fb), ..kernel() };
        let check = capabilities(&docker, &failed());
        assert_eq!(check.status, Status::Problem);
        assert!(check.cause.unwrap().contains("without CAP_SYS_ADMIN,"));
        assert!(check.fix.unwrap().contains("--user 1000:1000"));
        assert_eq!(capabilities(&docker, &Attempt::Worked).status, Status::Ok);
        let whole = Kernel { capabilities_of_root: Some(u64::MAX), ..kernel() };
        assert_eq!(capabilities(&whole, &failed()).status, Status::Ok);
        assert_eq!(capabilities(&kernel(), &failed()).status, Status::Ok);
    }

    #[test]
    fn masks_are_told_from_what_hides_nothing() {
        let whole = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                     30 22 0:40 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n";
        assert!(covers(whole).is_empty());
        assert!(covers("22 27 0:21 / /processes ro - ext4 x rw\n").is_empty());
        let docker =
            format!("{whole}40 22 0:50 / /proc/acpi ro - tmpfs tmpfs ro\n41 22 0:6 /null /proc/kcore rw - x x rw\n");
        assert_eq!(covers(&docker), ["/proc/acpi", "/proc/kcore"]);
        assert_eq!(covers("22 27 0:21 / /proc ro,nosuid - proc proc rw\n"), ["/proc (read-only)"]);

        let masked = Kernel { covers: covers(&docker), ..kernel() };
        let check = proc(&masked, &failed());
        assert_eq!(check.status, Status::Problem);
        let fix = check.fix.unwrap();
        assert!(fix.contains("systempaths=unconfined") && fix.contains("procMount: Unmasked"), "{fix}");
        assert!(check.evidence.contains("/proc/kcore"));
        assert_eq!(proc(&masked, &Attempt::Worked).status, Status::Ok);
        assert_eq!(masked.blame(&failed()), Some("proc"));
    }
}
