//! Subordinate ids: an ordinary user to whom the administrator gave host uids (subuid(5)) can have one for each session, as
//! root can.
//!
//! The process enters a user namespace in which it is root and has these ids (user_namespaces(7)); from then on all is as it is
//! for root in a container. Only newuidmap(1) may map them. It is tried on a child first: there is no way back out of a user
//! namespace whose ids could not be mapped.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::sys;

/// Where the programs of the package uidmap are.
const PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];
/// Fewer would not do for the sessions of a service.
const FEWEST: u32 = 4096;

/// Ids that belong to a user beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

/// Everything that mapping takes.
#[derive(Debug)]
struct Mapping {
    newuidmap: PathBuf,
    newgidmap: PathBuf,
    own: (u32, u32),
    uids: Range,
    gids: Range,
}

/// Enters the user namespace, if this user has subordinate ids; says why it did not, if it did not. To be called by an ordinary
/// user's process while it has one thread.
///
/// # Errors
/// When the ids could not be mapped although that had just been seen to work: the process is of no use then.
pub fn enter() -> io::Result<Result<(), String>> {
    let mapping = match Mapping::find() {
        Ok(mapping) => mapping,
        Err(why) => return Ok(Err(why)),
    };
    if let Err(error) = try_on_a_child(&mapping) {
        return Ok(Err(format!("mapping them failed: {error}")));
    }
    // The helper stays outside: inside there is nobody yet who could map.
    let (started, start) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let pid = std::process::id();
    let sys::Forked::Parent(helper) = sys::fork()? else {
        drop(start);
        let word = rustix::io::read(&started, &mut [0; 1]);
        let done = matches!(word, Ok(1)) && mapping.apply(pid).is_ok();
        sys::exit_now(if done { 0 } else { 1 })
    };
    // With mounts of its own, of which parts can be bound elsewhere; what the host mounts later is still seen.
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
    rustix::io::write(&start, b"m")?;
    match sys::reap(true) {
        sys::Reaped::Child(pid, 0) if pid == helper => Ok(Ok(())),
        _ => Err(io::Error::other("the subordinate ids could not be mapped (newuidmap, /etc/subuid, /etc/subgid)")),
    }
}

/// Whether this process is root only of a user namespace: the host's root is somebody else.
pub fn is_root_of_a_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let first: Vec<&str> = map.lines().next().unwrap_or_default().split_whitespace().collect();
    rustix::process::geteuid().is_root() && first.get(..2) != Some(&["0", "0"])
}

impl Mapping {
    fn find() -> Result<Self, String> {
        let program = |name: &str| {
            let found = PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file());
            found.ok_or_else(|| format!("{name} is not installed (apt-get install uidmap)"))
        };
        let (newuidmap, newgidmap) = (program("newuidmap")?, program("newgidmap")?);
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let user = std::fs::read_to_string("/etc/passwd").ok().and_then(|text| name_of(&text, uid));
        let range = |path: &str| {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            range(&text, uid, user.as_deref())
                .ok_or_else(|| format!("{path} gives this user no {FEWEST} ids (usermod --add-subuids, --add-subgids)"))
        };
        Ok(Self { newuidmap, newgidmap, own: (uid, gid), uids: range("/etc/subuid")?, gids: range("/etc/subgid")? })
    }

    /// Maps the ids of a process: root to this user, from 1 on its subordinate ones.
    fn apply(&self, pid: u32) -> io::Result<()> {
        for (program, own, range) in
            [(&self.newuidmap, self.own.0, self.uids), (&self.newgidmap, self.own.1, self.gids)]
        {
            let numbers = [pid, 0, own, 1, 1, range.first, range.count].map(|number| number.to_string());
            let output = Command::new(program).args(numbers).env_clear().stdin(Stdio::null()).output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(io::Error::other(if said.is_empty() { output.status.to_string() } else { said }));
            }
        }
        Ok(())
    }
}

fn try_on_a_child(mapping: &Mapping) -> io::Result<()> {
    let (ready, say_ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (stay, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let sys::Forked::Parent(child) = sys::fork()? else {
        drop((ready, end));
        let word = if sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).is_ok() { b"y" } else { b"n" };
        rustix::io::write(&say_ready, word).ok();
        rustix::io::read(&stay, &mut [0; 1]).ok();
        sys::exit_now(0)
    };
    drop((say_ready, stay));
    let mut word = [0; 1];
    let entered = matches!(rustix::io::read(&ready, &mut word), Ok(1)) && word == *b"y";
    let mapped = if entered {
        mapping.apply(child.cast_unsigned())
    } else {
        Err(io::Error::other("this user may not make user namespaces"))
    };
    drop(end);
    if let Some(pid) = Pid::from_raw(child) {
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
    sys::reap(true);
    mapped
}

/// A user's name in passwd(5).
fn name_of(passwd: &str, uid: u32) -> Option<String> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(2).and_then(|number| number.parse().ok()) == Some(uid))
        .find_map(|fields| fields.first().map(|name| (*name).to_owned()))
}

/// The largest range of a user in subuid(5) or subgid(5), where it is named by name or number.
fn range(text: &str, uid: u32, name: Option<&str>) -> Option<Range> {
    let number = uid.to_string();
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next().filter(|owner| *owner == number || Some(*owner) == name);
        owner.and(Some(Range { first: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? }))
    });
    ranges.filter(|range| range.count >= FEWEST && range.first > 0).max_by_key(|range| range.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_or_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(name_of(passwd, 7), None);
        let subuid = "bob:100000:65536\nalice:165536:65536\n1001:300000:65536\nalice:500000:10\n";
        let found = |uid, name| range(subuid, uid, name).map(|range| range.first);
        assert_eq!(found(1000, Some("alice")), Some(165_536));
        assert_eq!(found(1001, None), Some(300_000));
        assert_eq!(found(1000, None), None);
    }

    #[test]
    fn too_few_ids_or_nonsense_are_none() {
        for text in ["", "alice", "alice:1:", "alice:x:65536", "alice:100000:100", "alice:0:65536"] {
            assert_eq!(range(text, 1000, Some("alice")), None, "{text}");
        }
    }
}
