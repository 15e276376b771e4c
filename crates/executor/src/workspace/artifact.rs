//! What is told of one file that an execution made: what it is by its content first and its name second, and its checksum.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::Stat;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::beneath;
use super::path::{Spelled, name_of};
use crate::timestamp;

/// So much of a file is looked at to tell what it is.
const HEAD_BYTES: usize = 8192;
const UNKNOWN: &str = "application/octet-stream";

/// A file that an execution made or changed.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // The names are the wire format's.
pub struct Artifact {
    #[serde(flatten)]
    pub path: Spelled,
    pub size: u64,
    pub mime_type: String,
    pub r#type: &'static str,
    pub created_at: String,
    /// None where the file is beyond what is read of all artifacts together.
    pub checksum: Option<String>,
}

/// How much may be read of all artifacts of an execution, and until when.
#[derive(Debug)]
pub struct Budget {
    /// Bytes that are left.
    pub bytes: u64,
    /// No more after this.
    pub until: Instant,
}

impl Artifact {
    /// Reads the file at this path; `None` where there is none any more.
    pub fn read(folder: &Arc<OwnedFd>, path: &[u8], budget: &mut Budget) -> Option<Self> {
        let (mut file, state) = beneath::open_file(folder, path).ok()?;
        let mut size = u64::try_from(state.st_size).unwrap_or_default();
        let mut head = Vec::with_capacity(HEAD_BYTES);
        file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head).ok()?;
        let checksum = checksum(&head, &file, size, budget);
        if let Some((read, _)) = checksum {
            // It may have grown or shrunk since: what is told belongs together.
            size = read;
        }
        Some(Self {
            path: Spelled::of(path),
            size,
            mime_type: mime_type(&head, name_of(path)),
            r#type: "output",
            created_at: timestamp::microseconds(timestamp::of_file(changed_at(&state))),
            checksum: checksum.map(|(_, sum)| sum),
        })
    }
}

/// The bytes read and their sum; `None` where that is more than may be read.
fn checksum(head: &[u8], mut rest: &File, size: u64, budget: &mut Budget) -> Option<(u64, String)> {
    if size > budget.bytes {
        return None;
    }
    let mut sum = Sha256::new();
    sum.update(head);
    let mut read = head.len() as u64;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // One that grows as fast as it is read has no end.
        if read > budget.bytes || Instant::now() > budget.until {
            return None;
        }
        match rest.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                sum.update(&buffer[..count]);
                read += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    budget.bytes -= read.min(budget.bytes);
    let digits: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Some((read, format!("sha256:{digits}")))
}

/// What a file is, by how it begins and what it is called. Where its content says no more than that it is text, or a container of
/// something, its name knows better.
pub fn mime_type(head: &[u8], name: &[u8]) -> String {
    const VAGUE: [&str; 4] = ["text/html", "text/xml", "text/x-shellscript", "application/zip"];
    let by_content = infer::get(head).map(|kind| kind.mime_type());
    if let Some(kind) = by_content.filter(|kind| !VAGUE.contains(kind)) {
        return kind.to_owned();
    }
    let by_name = std::str::from_utf8(name).ok().and_then(|name| mime_guess::from_path(name).first_raw());
    let is_text = || match std::str::from_utf8(head) {
        Ok(text) => !text.contains('\0'),
        // Cut in the middle of a character.
        Err(error) => error.error_len().is_none() && head.len() == HEAD_BYTES && !head.contains(&0),
    };
    match by_name.or(by_content) {
        Some(kind) => kind.to_owned(),
        None if is_text() => "text/plain".to_owned(),
        None => UNKNOWN.to_owned(),
    }
}

/// What a file is, read from its beginning.
///
/// # Errors
/// As the system said.
pub fn mime_type_of(file: &File, name: &[u8]) -> io::Result<String> {
    let mut head = [0; HEAD_BYTES];
    let count = std::os::unix::fs::FileExt::read_at(file, &mut head, 0)?;
    Ok(mime_type(&head[..count], name))
}

/// When the kernel last saw a file change: nobody can set it.
#[allow(clippy::unnecessary_cast)] // Its types differ between systems.
pub fn changed_at(state: &Stat) -> (i64, i64) {
    (state.st_ctime as i64, state.st_ctime_nsec as i64)
}

/// When a file was last written to, or so its owner says.
#[allow(clippy::unnecessary_cast)] // Its types differ between systems.
pub fn modified_at(state: &Stat) -> (i64, i64) {
    (state.st_mtime as i64, state.st_mtime_nsec as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_goes_before_the_name_where_it_knows_better() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        for (head, name, kind) in [
            (&png[..], "plot.txt", "image/png"),
            (b"a,b\n1,2\n", "data.csv", "text/csv"),
            (b"<?xml version='1.0'?><svg/>", "plot.svg", "image/svg+xml"),
            (b"<?xml version='1.0'?><a/>", "noname", "text/xml"),
            (b"#!/usr/bin/env python3\n", "tool.py", "text/plain"),
            (b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a.zip", "application/zip"),
            (b"hello", "README", "text/plain"),
            (b"", "empty", "text/plain"),
            (b"\0\x01\x02", "what", UNKNOWN),
            (b"{}", "result.json", "application/json"),
        ] {
            assert_eq!(mime_type(head, name.as_bytes()), kind, "{name}");
        }
    }
}
