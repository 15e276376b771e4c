//! What a sandbox is made of, as a value: a pure function of the policy and of what the host has, so that it can be read and
//! is held by a snapshot. Each adapter carries the same list of mounts out in its own way: bubblewrap as arguments
//! ([`crate::bubblewrap`]), our own by system calls ([`crate::native`]).

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::init::Access;
use crate::policy::{Network, Policy};
use crate::running::Layout;

/// User and group id of the program as it sees itself.
pub const INNER_ID: u32 = 1000;
/// The workspace inside.
pub const WORKSPACE: &str = "/workspace";
/// The folder for files of ours inside.
pub const FILES: &str = "/run";
/// Installed packages inside.
pub const PACKAGES: &str = "/packages";
/// What the host is called inside.
pub const HOSTNAME: &str = "sandbox";

/// Memory file systems that count as the program's memory.
const MEMORY_FOLDERS: [&str; 2] = ["/tmp", "/dev/shm"];
/// Bytes per inode of a memory file system: the kernel keeps about a kilobyte for each, which no size limits.
const BYTES_PER_INODE: u64 = 4096;

/// Enough for the folders and links of ours.
const FEWEST_INODES: u64 = 256;

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

/// Names that programs expect in `/dev`.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Where something that is bound comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A path of the host.
    Path(String),
    /// The opened workspace.
    Workspace,
    /// The opened folder that stands for `/etc`.
    Etc,
    /// The opened folder of installed packages.
    Packages,
}

/// One step of building the tree that a program sees. In order: later ones go over earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A file or folder of the host, read-only.
    Bind {
        /// What.
        source: Source,
        /// Where.
        path: String,
    },
    /// A folder of the host that may be written to.
    BindWritable {
        /// What.
        source: Source,
        /// Where.
        path: String,
    },
    /// A device of the host, under the same path.
    Device {
        /// Which, and where.
        path: String,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: String,
        /// Where it lies.
        path: String,
    },
    /// An empty file system in memory.
    Memory {
        /// Where.
        path: String,
        /// Permissions of its top folder.
        mode: u32,
        /// Most it holds.
        size_bytes: u64,
        /// Whether files in it can be executed.
        executable: bool,
    },
    /// The processes of the sandbox.
    Proc,
    /// Nothing where there is a file.
    HiddenFile {
        /// Where.
        path: String,
    },
    /// Nothing where there is a folder.
    HiddenFolder {
        /// Where.
        path: String,
    },
    /// From here on nothing can be changed in the file system mounted here.
    ReadOnly {
        /// Where.
        path: String,
    },
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { source: Source::Path(source), path } => write!(f, "binding {source} to {path} read-only"),
            Self::Bind { path, .. } => write!(f, "binding {path} read-only"),
            Self::BindWritable { path, .. } => write!(f, "binding {path}"),
            Self::Device { path } => write!(f, "binding the device {path}"),
            Self::Link { path, .. } => write!(f, "making the link {path}"),
            Self::Memory { path, .. } => write!(f, "mounting a tmpfs on {path}"),
            Self::Proc => f.write_str("mounting /proc"),
            Self::HiddenFile { path } | Self::HiddenFolder { path } => write!(f, "hiding {path}"),
            Self::ReadOnly { path } => write!(f, "making {path} read-only"),
        }
    }
}

/// What of the host's files a sandbox is made from; looked up once (see [`HostFiles::look`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFiles {
    /// Entries of `/` beside `/usr` that programs need: a link with its target, or a folder.
    pub roots: Vec<(String, Option<String>)>,
    /// What of `/proc` is hidden; whether it is a folder.
    pub proc_masks: Vec<(String, bool)>,
}

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

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The tree, from an empty top that becomes read-only at the end.
    pub mounts: Vec<Mount>,
    /// What Landlock lets the program reach in it.
    pub access: Access,
    /// Folders in it whose content counts as memory.
    pub memory_folders: Vec<String>,
    /// Whether the program is in the host's own network.
    pub host_network: bool,
}

/// Where things are in every sandbox with a tree of its own.
pub fn layout(policy: &Policy) -> Layout {
    let packages = policy.packages.is_some().then(|| PACKAGES.to_owned());
    Layout { workspace: WORKSPACE.into(), files: FILES.into(), temp: "/tmp".into(), packages }
}

/// Which folder that every sandbox has of its own lies over this path of the host, so that nothing of it can be shown.
pub fn covered_by(path: &Path) -> Option<&'static str> {
    ["/dev", "/etc", PACKAGES, "/proc", FILES, "/tmp", WORKSPACE].into_iter().find(|own| path.starts_with(own))
}

/// Most files that a memory file system of this size holds.
pub fn inodes(size_bytes: u64) -> u64 {
    (size_bytes / BYTES_PER_INODE).max(FEWEST_INODES)
}

impl SandboxPlan {
    /// What the mount of this number is, for people.
    pub fn mount_in_words(&self, index: usize) -> Option<String> {
        self.mounts.get(index).map(ToString::to_string)
    }

    /// Of a policy, with the files of this host.
    pub fn new(policy: &Policy, host: &HostFiles) -> Self {
        let mut mounts = system(&policy.read_only, host);
        let has_packages = policy.packages.is_some();
        mounts.extend(has_packages.then(|| Mount::Bind { source: Source::Packages, path: PACKAGES.into() }));
        mounts.extend(proc(host));
        mounts.extend(devices(policy.limits.memory_bytes));
        mounts.extend([
            memory("/tmp", 0o1777, policy.limits.memory_bytes, true),
            memory(FILES, 0o755, policy.files_bytes, false),
            Mount::BindWritable { source: Source::Workspace, path: WORKSPACE.into() },
        ]);
        let memory_folders = MEMORY_FOLDERS.map(str::to_owned).to_vec();
        let mut access = access(&policy.read_only, host);
        access.executable.extend(has_packages.then(|| PACKAGES.to_owned()));
        Self { mounts, access, memory_folders, host_network: policy.network == Network::Host }
    }
}

/// The system and what comes with it alone: nothing that belongs to an execution, no processes.
pub fn system_alone(read_only: &[PathBuf], host: &HostFiles) -> Vec<Mount> {
    const MEMORY_BYTES: u64 = 1024 * 1024;
    let mut mounts = system(read_only, host);
    mounts.extend(devices(MEMORY_BYTES));
    mounts.push(memory("/tmp", 0o1777, MEMORY_BYTES, false));
    mounts
}

fn bind(source: impl Into<String>, path: impl Into<String>) -> Mount {
    Mount::Bind { source: Source::Path(source.into()), path: path.into() }
}

fn memory(path: &str, mode: u32, size_bytes: u64, executable: bool) -> Mount {
    Mount::Memory { path: path.into(), mode, size_bytes, executable }
}

/// Programs, libraries, interpreters.
fn system(read_only: &[PathBuf], host: &HostFiles) -> Vec<Mount> {
    let mut mounts = vec![bind("/usr", "/usr")];
    for (path, link) in &host.roots {
        mounts.push(match link {
            Some(target) => Mount::Link { target: target.clone(), path: path.clone() },
            None => bind(path, path),
        });
    }
    mounts.push(Mount::Bind { source: Source::Etc, path: "/etc".into() });
    mounts.extend(read_only.iter().map(|path| path.to_string_lossy()).map(|path| bind(path.clone(), path)));
    mounts
}

fn proc(host: &HostFiles) -> Vec<Mount> {
    let mask = |(path, is_folder): &(String, bool)| match is_folder {
        true => Mount::HiddenFolder { path: path.clone() },
        false => Mount::HiddenFile { path: path.clone() },
    };
    // Read-only last, so that what is mounted over it can be: nobody changes a kernel's setting from in here.
    let read_only = Mount::ReadOnly { path: "/proc".into() };
    [Mount::Proc].into_iter().chain(host.proc_masks.iter().map(mask)).chain([read_only]).collect()
}

fn devices(memory_bytes: u64) -> Vec<Mount> {
    let mut mounts = vec![memory("/dev", 0o755, 65536, false)];
    mounts.extend(DEVICES.iter().map(|path| Mount::Device { path: (*path).into() }));
    let link = |(target, path): &(&str, &str)| Mount::Link { target: (*target).into(), path: (*path).into() };
    mounts.extend(DEVICE_LINKS.iter().map(link));
    mounts.extend([memory("/dev/shm", 0o1777, memory_bytes, false), Mount::ReadOnly { path: "/dev".into() }]);
    mounts
}

/// What Landlock lets the program reach in this sandbox.
fn access(read_only: &[PathBuf], host: &HostFiles) -> Access {
    let folders = host.roots.iter().filter(|(_, link)| link.is_none()).map(|(path, _)| path.clone());
    let interpreters = read_only.iter().map(|path| path.to_string_lossy().into_owned());
    Access {
        executable: ["/usr".to_owned()].into_iter().chain(folders).chain(interpreters).collect(),
        writable: [WORKSPACE, "/tmp"].map(str::to_owned).to_vec(),
        writable_noexec: vec!["/dev/shm".to_owned()],
        // There is no other in this folder, and nothing can be made in it.
        devices: vec!["/dev".to_owned()],
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::policy::{Identity, Limits};
    use std::sync::Arc;
    use std::time::Duration;

    /// A plan for the tests of the adapters.
    pub(crate) fn plan(read_only: &[&str]) -> SandboxPlan {
        SandboxPlan::new(&policy(read_only), &host())
    }

    /// That of a sandbox with packages and the host's network.
    pub(crate) fn plan_with_packages() -> SandboxPlan {
        let packages = Some(Arc::new(std::fs::File::open("/").unwrap().into()));
        SandboxPlan::new(&Policy { packages, network: Network::Host, ..policy(&[]) }, &host())
    }

    fn host() -> HostFiles {
        HostFiles {
            roots: vec![("/bin".into(), Some("usr/bin".into())), ("/lib64".into(), None)],
            proc_masks: vec![("/proc/acpi".into(), true), ("/proc/keys".into(), false)],
        }
    }

    fn policy(read_only: &[&str]) -> Policy {
        Policy {
            name: "one".into(),
            identity: Some(Identity { uid: 7, gid: 7 }),
            workspace: Arc::new(std::fs::File::open("/").unwrap().into()),
            read_only: read_only.iter().map(PathBuf::from).collect(),
            packages: None,
            network: Network::None,
            files_bytes: 1_048_576,
            takes_forks: false,
            in_session: false,
            walls: None,
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

    #[test]
    fn packages_are_one_more_folder_to_read_and_execute_from() {
        let (without, with) = (plan(&[]), plan_with_packages());
        let added: Vec<&Mount> = with.mounts.iter().filter(|mount| !without.mounts.contains(mount)).collect();
        assert_eq!(added, [&Mount::Bind { source: Source::Packages, path: PACKAGES.into() }]);
        assert_eq!(with.access.executable.last().map(String::as_str), Some(PACKAGES));
        assert_eq!(with.access.writable, without.access.writable);
        assert_eq!((without.host_network, with.host_network), (false, true));
    }

    #[test]
    fn a_sandbox_is_made_of_this() {
        let plan = plan(&["/opt/python"]);
        let lines: Vec<String> = plan.mounts.iter().map(|mount| format!("{mount:?}")).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn landlock_lets_write_in_three_folders_only() {
        insta::assert_debug_snapshot!(plan(&["/opt/python"]).access);
    }

    #[test]
    fn a_step_that_fails_can_be_named() {
        let named: Vec<String> = plan(&[]).mounts.iter().map(ToString::to_string).collect();
        assert_eq!(named[0], "binding /usr to /usr read-only");
        assert!(named.contains(&"mounting /proc".to_owned()) && named.contains(&"hiding /proc/keys".to_owned()));
    }

    #[test]
    fn every_folder_of_a_sandboxs_own_covers_the_hosts() {
        let own = |mount: &Mount| match mount {
            Mount::Memory { path, .. } | Mount::BindWritable { path, .. } => Some(path.clone()),
            Mount::Bind { source: Source::Etc | Source::Packages, path } => Some(path.clone()),
            Mount::Proc => Some("/proc".to_owned()),
            _ => None,
        };
        let own: Vec<String> = plan_with_packages().mounts.iter().filter_map(own).collect();
        assert!(own.len() >= 7 && own.iter().all(|path| covered_by(&Path::new(path).join("x")).is_some()), "{own:?}");
        for shown in ["/usr/lib", "/opt/python", "/home/me/python", "/tmpfs"] {
            assert_eq!(covered_by(Path::new(shown)), None, "{shown}");
        }
    }

    #[test]
    fn inodes_of_a_memory_file_system_follow_its_size() {
        assert_eq!(inodes(512 << 20), 131_072);
        assert_eq!(inodes(0), FEWEST_INODES);
    }
}
