//! Each test restricts a thread of its own, since a domain belongs to a thread, and shows first
//! that the same thing was possible without. On a kernel without Landlock they say so and stop.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use super::*;

/// Runs `after` in a thread restricted to `rules`, if the kernel has Landlock.
fn restricted(rules: Rules, after: impl FnOnce(Achieved) + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let achieved = restrict(&rules).expect("the rules are right");
            if achieved.abi == 0 {
                eprintln!("not tested: this kernel has no Landlock");
            } else {
                after(achieved);
            }
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn paths(paths: &[&Path]) -> Vec<PathBuf> {
    paths.iter().map(|path| path.to_path_buf()).collect()
}

fn system() -> Vec<PathBuf> {
    ["/usr", "/bin", "/lib", "/lib64", "/etc"].map(PathBuf::from).to_vec()
}

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

const DENIED: Option<ErrorKind> = Some(ErrorKind::PermissionDenied);

#[test]
fn writes_stay_inside() {
    let (inside, outside, shown) = (folder(), folder(), folder());
    for folder in [&inside, &outside, &shown] {
        fs::write(folder.path().join("before"), "before").expect("possible before");
    }
    let rules = Rules { write: paths(&[inside.path()]), read_only: paths(&[shown.path()]), ..Rules::default() };
    restricted(rules, |achieved| {
        let inside = inside.path();
        fs::write(inside.join("after"), "after").expect("inside");
        fs::write(inside.join("before"), "truncated").expect("inside");
        fs::create_dir(inside.join("folder")).expect("inside");
        fs::rename(inside.join("after"), inside.join("renamed")).expect("inside");
        if achieved.abi >= 2 {
            fs::rename(inside.join("renamed"), inside.join("folder/moved")).expect("REFER");
        }
        fs::remove_dir_all(inside.join("folder")).expect("inside");
        std::os::unix::fs::symlink("before", inside.join("link")).expect("inside");
        let _listener = UnixListener::bind(inside.join("socket")).expect("inside");
        UnixStream::connect(inside.join("socket")).expect("inside");

        let outside = outside.path();
        assert_eq!(kind(fs::write(outside.join("after"), "after")), DENIED);
        assert_eq!(kind(fs::write(outside.join("before"), "after")), DENIED);
        assert_eq!(kind(fs::read(outside.join("before"))), DENIED);
        assert_eq!(kind(fs::read_dir(outside)), DENIED);
        assert_eq!(kind(fs::remove_file(outside.join("before"))), DENIED);

        let shown = shown.path();
        assert_eq!(fs::read(shown.join("before")).expect("readable"), b"before");
        assert_eq!(fs::read_dir(shown).expect("listable").count(), 1);
        assert_eq!(kind(fs::write(shown.join("before"), "after")), DENIED);
        assert_eq!(kind(fs::write(shown.join("after"), "after")), DENIED);
        assert_eq!(kind(fs::remove_file(shown.join("before"))), DENIED);
    });
    assert_eq!(fs::read(outside.path().join("before")).expect("unrestricted"), b"before");
    fs::write(outside.path().join("before"), "still").expect("the domain is the thread's own");
}

#[test]
fn devices_are_made_nowhere() {
    let make = |path: PathBuf, kind, device| mknodat(CWD, path, kind, Mode::RWXU, device);
    let inside = folder();
    let at = |name: &str| inside.path().join(name);
    // The device 0:0 is a whiteout, which anyone may make; others take a capability.
    make(at("whiteout"), FileType::CharacterDevice, 0).expect("possible before");
    let rules = Rules { write: paths(&[inside.path()]), ..Rules::default() };
    restricted(rules, |_| {
        for kind in [FileType::CharacterDevice, FileType::BlockDevice] {
            for device in [0, rustix::fs::makedev(1, 3)] {
                assert_eq!(make(at("device"), kind, device), Err(Errno::ACCESS), "{kind:?}");
            }
        }
        make(at("fifo"), FileType::Fifo, 0).expect("programs use FIFOs");
        make(at("socket"), FileType::Socket, 0).expect("programs use sockets");
        make(at("file"), FileType::RegularFile, 0).expect("a file is a file");
    });
}

#[test]
fn execution_is_a_right_of_its_own() {
    let (exec, noexec, outside) = (folder(), folder(), folder());
    for folder in [&exec, &noexec, &outside] {
        // Copied by another process: a descriptor of ours could leak into a fork and keep it busy.
        let copy = Command::new("cp").arg("/bin/true").arg(folder.path()).status();
        assert!(copy.expect("cp runs").success());
    }
    let run = |folder: &Path| Command::new(folder.join("true")).stdin(Stdio::inherit()).status().map(|s| s.success());
    assert!(run(noexec.path()).expect("possible before"));
    assert!(run(outside.path()).expect("possible before"));
    let rules = Rules {
        read_exec: system(),
        write: paths(&[exec.path()]),
        write_noexec: paths(&[noexec.path()]),
        ..Rules::default()
    };
    restricted(rules, |_| {
        assert!(run(Path::new("/bin")).expect("the system's programs run"));
        assert!(run(exec.path()).expect("the workspace's programs run"));
        assert_eq!(kind(run(noexec.path())), DENIED);
        assert_eq!(kind(run(outside.path())), DENIED);
        fs::write(noexec.path().join("data"), "data").expect("writable all the same");
    });
}

#[test]
fn devices_are_those_named() {
    let write = |path| OpenOptions::new().write(true).truncate(true).open(path);
    write("/dev/zero").expect("possible before");
    restricted(Rules { devices: vec!["/dev/null".into()], ..Rules::default() }, |_| {
        let null = write("/dev/null").expect("named");
        // FIONREAD is no ioctl of this device: that it says so means it was asked.
        assert_eq!(rustix::io::ioctl_fionread(&null), Err(Errno::NOTTY));
        assert_eq!(kind(write("/dev/zero")), DENIED);
        assert_eq!(kind(fs::read("/dev/zero")), DENIED);
    });
}

#[test]
fn missing_paths_grant_nothing() {
    let inside = folder();
    let missing = inside.path().join("missing");
    let rules = Rules {
        read_exec: paths(&[&missing]),
        read_only: paths(&[&missing]),
        write: paths(&[&missing]),
        write_noexec: paths(&[&missing]),
        devices: paths(&[&missing]),
    };
    restricted(rules, |_| {
        assert_eq!(kind(fs::create_dir(&missing)), DENIED);
        assert_eq!(kind(fs::read_dir(inside.path())), DENIED);
    });
    fs::create_dir(&missing).expect("possible without");
}

#[test]
fn what_is_not_below_a_rule_can_not_be_read() {
    let open = || fs::File::open("/etc/passwd");
    open().expect("possible before");
    restricted(Rules { read_exec: vec!["/usr".into()], ..Rules::default() }, |_| {
        assert_eq!(kind(open()), DENIED);
        fs::read_dir("/usr").expect("granted");
    });
}

#[test]
fn signals_and_abstract_sockets_stay_inside() {
    let name = format!("landlock-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("an abstract socket");
    UnixStream::connect_addr(&address).expect("possible before");

    let mut outside = Command::new("sleep").arg("60").spawn().expect("sleep runs");
    let pid = rustix::process::Pid::from_child(&outside);
    rustix::process::test_kill_process(pid).expect("possible before");
    restricted(Rules { read_exec: system(), ..Rules::default() }, |achieved| {
        if achieved.abi < 6 {
            eprintln!("not tested: ABI {} has no scopes", achieved.abi);
            return;
        }
        assert_eq!(kind(UnixStream::connect_addr(&address)), DENIED);
        assert_eq!(rustix::process::test_kill_process(pid), Err(Errno::PERM));

        let mut inside = Command::new("/bin/sleep").arg("60").stdin(Stdio::inherit()).spawn();
        let inside = inside.as_mut().expect("sleep runs");
        inside.kill().expect("a process of the same domain");
        inside.wait().expect("a child");
    });
    outside.kill().expect("unrestricted");
    outside.wait().expect("a child");
}

#[test]
fn the_report_fits_the_kernel() {
    restricted(Rules::default(), |achieved| {
        assert!((1..=NEWEST as u32).contains(&achieved.abi));
        assert_eq!(achieved.complete, achieved.abi == NEWEST as u32);
        let status = fs::read("/proc/self/status");
        assert_eq!(kind(status), DENIED, "no rule grants it");
    });
}

#[test]
fn too_many_layers_are_an_error_with_its_number() {
    restricted(Rules::default(), |_| {
        let error = (0..20).find_map(|_| restrict(&Rules::default()).err());
        assert_eq!(error.expect("16 layers at most").errno(), Some(libc::E2BIG));
    });
}
