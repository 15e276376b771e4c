//! Reading and writing the small text files of a cgroup, by descriptor of the folder above.
//! A cgroup file takes its whole value in one write(2) and answers it with an errno, so there is no buffering.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};

/// Opens a folder for use as the base of relative paths.
pub(super) fn open_directory(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The same below another folder.
pub(super) fn open_directory_at(directory: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(directory, path, flags, Mode::empty())?)
}

/// Opens an existing file for writing.
pub(super) fn open_to_write(directory: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    Ok(openat(directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens an existing file for reading.
pub(super) fn open_to_read(directory: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    Ok(openat(directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Writes `value` to an existing file.
pub(super) fn write_at(directory: BorrowedFd<'_>, path: &str, value: &str) -> io::Result<()> {
    let file = open_to_write(directory, path)?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// The whole text of a file.
pub(super) fn read_at(directory: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    read_again(&open_to_read(directory, path)?)
}

/// The whole text of an open file, from its beginning, wherever earlier reads of it ended.
pub(super) fn read_again(file: &OwnedFd) -> io::Result<String> {
    let mut text = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        match rustix::io::pread(file, &mut buffer, text.len() as u64) {
            // A short read is not the end: cgroup.procs comes in pieces.
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The number after `key` and a space at the beginning of a line, as in `memory.events` and `cpu.stat`.
pub(super) fn keyed_number(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(found, _)| *found == key)
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// `error` with what was being done, keeping its kind.
pub(super) fn during(action: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{action}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::keyed_number;

    #[test]
    fn a_key_is_a_whole_word() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed_number(text, "oom_kill"), Some(3));
        assert_eq!(keyed_number(text, "oom"), None);
        assert_eq!(keyed_number("", "oom_kill"), None);
        assert_eq!(keyed_number("oom_kill x", "oom_kill"), None);
    }
}
