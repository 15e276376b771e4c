//! A step that failed in a child of ours: it crosses the channel as `{stage, index, errno}`, and becomes a sentence with a
//! fix where people read it.

use std::io;

use serde::{Deserialize, Serialize};

use crate::error::{SandboxError, Stage};
use crate::plan::SandboxPlan;

/// Name of the step that fails when the caller named a folder that can't be entered.
pub(crate) const WORKING_DIRECTORY_STEP: &str = "working-directory";
/// Name of the step that makes a process in new namespaces.
pub(crate) const NAMESPACES_STEP: &str = "namespaces";
/// Name of the step by which what was forked enters a sandbox that stands.
pub(crate) const ENTER_STEP: &str = "enter";
/// Name of the step that mounts; its items are those of the plan.
pub(crate) const MOUNT_STEP: &str = "mount";

/// How a container is allowed to make namespaces: the least first, then what the troubleshooting document says. One line, for logs.
pub const CONTAINER_FIX: &str = "let the container make namespaces: docker run --security-opt \
    seccomp=deploy/profiles/seccomp.json --security-opt apparmor=unconfined --security-opt systempaths=unconfined …, or \
    docker run --privileged sandbox-executor:v1.0; Kubernetes: securityContext: { privileged: true }";

/// Which step, on which of its items, with which errno.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step.
    pub stage: String,
    /// The item it failed on, counted from 0, where the step goes over several.
    pub index: Option<usize>,
    /// See errno(3).
    pub errno: i32,
}

impl Failure {
    pub(crate) fn new(stage: &str, error: impl Into<io::Error>) -> Self {
        Self { stage: stage.into(), index: None, errno: error.into().raw_os_error().unwrap_or(libc::EIO) }
    }

    pub(crate) fn at(stage: &str, index: usize, error: impl Into<io::Error>) -> Self {
        Self { index: Some(index), ..Self::new(stage, error) }
    }

    /// The failure for a caller; `plan` is what was being carried out, if it was one.
    pub(crate) fn into_error(self, stage: Stage, plan: Option<&SandboxPlan>) -> SandboxError {
        let cause = io::Error::from_raw_os_error(self.errno);
        if self.stage == WORKING_DIRECTORY_STEP {
            return match self.errno {
                libc::EXDEV => SandboxError::new(Stage::WorkingDirectory, "it leads out of the workspace over a link"),
                libc::EACCES
                | libc::EEXIST
                | libc::ELOOP
                | libc::ENAMETOOLONG
                | libc::ENOENT
                | libc::ENOTDIR
                | libc::EROFS => SandboxError::io(Stage::WorkingDirectory, "it can't be entered", cause),
                _ => SandboxError::io(stage, &self.stage, cause),
            };
        }
        let what = self.what(plan);
        match self.fix() {
            Some(fix) => SandboxError::new(stage, format!("{what}: {cause}; {fix}")),
            None => SandboxError::io(stage, what, cause),
        }
    }

    /// What was being done.
    fn what(&self, plan: Option<&SandboxPlan>) -> String {
        let mount = self.index.and_then(|index| plan?.mount_in_words(index)).filter(|_| self.stage == MOUNT_STEP);
        match (self.stage.as_str(), mount, self.index) {
            (_, Some(mount), _) => mount,
            // The document's word for it.
            (NAMESPACES_STEP | "user-namespace", ..) if self.is_refusal() => {
                "No permissions to create new namespace".into()
            }
            (NAMESPACES_STEP, ..) => "creating new namespaces".into(),
            (ENTER_STEP, ..) => "entering the namespaces of a sandbox that stands (setns)".into(),
            ("id-map", ..) => "mapping the user of the sandbox".into(),
            ("cgroup" | "cgroup-namespace", ..) => "entering the service's cgroup".into(),
            ("pivot-root" | "old-root" | "root" | "private-mounts", ..) => "changing to the sandbox's root".into(),
            (step, _, Some(index)) => format!("{step} (item {index})"),
            (step, ..) => step.to_owned(),
        }
    }

    fn is_refusal(&self) -> bool {
        matches!(self.errno, libc::EPERM | libc::EACCES)
    }

    /// What to do about it.
    fn fix(&self) -> Option<&'static str> {
        let step = self.stage.as_str();
        match self.errno {
            // Each mount that is not attached yet is a mount namespace to the kernel's count.
            libc::ENOSPC if [NAMESPACES_STEP, "user-namespace", "cgroup-namespace", MOUNT_STEP].contains(&step) => {
                Some(
                    "the kernel allows no more of them: sudo sysctl -w user.max_user_namespaces=28633 (and the other user.max_*_namespaces)",
                )
            }
            libc::ENOSYS => Some(
                "this kernel, or the container's seccomp filter, lacks clone3, setns or the newer mount calls: Linux 5.12 is needed, \
                 and in a container a filter that lets them through (docker run --security-opt \
                 seccomp=deploy/profiles/seccomp.json …)",
            ),
            libc::EINVAL if step == NAMESPACES_STEP => Some(
                "this kernel lacks a namespace (CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS, CONFIG_IPC_NS, CONFIG_UTS_NS)",
            ),
            libc::EAGAIN | libc::ENOMEM if step == NAMESPACES_STEP => {
                Some("too many processes or too little memory: raise ulimit -u, or lower MAX_CONCURRENT_EXECUTIONS")
            }
            libc::EINVAL | libc::EMFILE if step == "descriptors" => {
                Some("too few open files are allowed: ulimit -n 1024, or LimitNOFILE= of the unit")
            }
            _ if self.is_refusal() && ["program", "execute"].contains(&step) => None,
            _ if self.is_refusal() => Some(CONTAINER_FIX),
            _ => None,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn sentence(stage: &str, index: Option<usize>, errno: i32) -> String {
        let failure = Failure { stage: stage.into(), index, errno };
        failure.into_error(Stage::Namespaces, Some(&crate::plan::tests::plan(&[]))).to_string()
    }

    #[test]
    fn a_refused_namespace_reads_as_the_document_has_it() {
        let text = sentence(NAMESPACES_STEP, None, libc::EPERM);
        assert!(text.contains("No permissions to create new namespace: Operation not permitted"), "{text}");
        assert!(text.contains("docker run --privileged"), "{text}");
        assert!(sentence(NAMESPACES_STEP, None, libc::ENOSPC).contains("user.max_user_namespaces="));
        assert!(sentence(MOUNT_STEP, Some(0), libc::ENOSPC).contains("the other user.max_*_namespaces"));
        assert!(sentence(NAMESPACES_STEP, None, libc::ENOSYS).contains("Linux 5.12"));
        assert!(sentence("descriptors", None, libc::EINVAL).contains("ulimit -n"));
        let text = sentence(ENTER_STEP, None, libc::EPERM);
        assert!(text.contains("(setns): Operation not permitted") && text.contains("seccomp.json"), "{text}");
    }

    #[test]
    fn a_mount_is_named() {
        let plan = crate::plan::tests::plan(&[]);
        let proc = plan.mounts.iter().position(|mount| *mount == crate::plan::Mount::Proc);
        assert!(sentence(MOUNT_STEP, proc, libc::ENOENT).contains("mounting /proc: No such file"), "{proc:?}");
        assert!(sentence(MOUNT_STEP, Some(0), libc::ENOENT).contains("binding /usr to /usr read-only"));
        assert!(sentence(MOUNT_STEP, Some(999), libc::ENOENT).contains("item 999"));
    }
}
