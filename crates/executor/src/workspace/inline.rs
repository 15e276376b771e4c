//! Files that come with a request and go with its answer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::FileType;
use sandbox::policy::Identity;
use serde::Serialize;

use super::path::RelativePath;
use super::staged::{Condition, Unplaced};
use super::usage::Usage;
use super::walk::{Folder, Met, Patience, Visitor, walk};
use super::{Workspaces, beneath};
use crate::admission::fields::Violation;
use crate::admission::files::{Files, Outputs};

/// What comes back with an answer, at most: files, bytes, and how deep and how long they are looked for.
const MOST: usize = 1000;
const MOST_BYTES: u64 = 32 << 20;
const DEEPEST: usize = 64;
const TIME: Duration = Duration::from_secs(1);

/// Where files are to be written, and whose they will be.
#[derive(Debug, Clone)]
pub struct Site {
    /// The workspace.
    pub folder: Arc<OwnedFd>,
    /// Its user, where that is not the service's own.
    pub identity: Option<Identity>,
}

/// What came of writing them.
#[derive(Debug)]
pub struct Written {
    /// What is in the way of which of them, each under the name of its field.
    pub violations: Vec<Violation>,
    /// None took the place of another.
    pub all_new: bool,
    /// They, and folders that were made for them.
    pub added: Usage,
}

/// Writes them into the workspace.
///
/// # Errors
/// As the system said.
pub fn write(workspaces: &Workspaces, site: &Site, files: &Files) -> std::io::Result<Written> {
    let (mut violations, mut all_new, mut added) = (Vec::new(), true, Usage::default());
    for (path, content) in files {
        let mut staged = workspaces.stage(site.identity)?;
        staged.file.write_all(content)?;
        let problem = match staged.place(&site.folder, path, &Condition::None) {
            Ok(placed) => {
                all_new &= placed.is_new;
                added = added.and(placed.added);
                continue;
            }
            Err(Unplaced::System(error)) => return Err(error),
            Err(in_the_way) => in_the_way.to_string(),
        };
        violations.push(violation(path, problem));
    }
    Ok(Written { violations, all_new, added })
}

fn violation(path: &RelativePath, problem: String) -> Violation {
    Violation::new(format!("files.{}", String::from_utf8_lossy(path.as_bytes())), problem)
}

/// Files that were asked for.
#[derive(Debug, Default, Serialize)]
pub struct Collected {
    /// Base64 by path.
    #[serde(rename = "outputs")]
    pub files: BTreeMap<String, String>,
    /// Whether some were left out: too many, too large together, or of a name that JSON can't hold.
    #[serde(rename = "outputs_truncated", skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Reads the files of the workspace that are wanted.
pub fn collect(folder: &Arc<OwnedFd>, outputs: &Outputs) -> Collected {
    let mut finder = Finder { outputs, found: Vec::new(), truncated: false, patience: Patience::new(TIME) };
    let is_all = walk(folder, &mut finder);
    let mut collected = Collected { files: BTreeMap::new(), truncated: finder.truncated || !is_all };
    let mut left = MOST_BYTES;
    finder.found.sort_unstable();
    for path in finder.found {
        // One that is gone again is not there.
        let Ok((file, state)) = beneath::open_file(folder, &path) else { continue };
        let Ok(name) = String::from_utf8(path) else {
            collected.truncated = true;
            continue;
        };
        let mut content = Vec::new();
        let size = u64::try_from(state.st_size).unwrap_or_default();
        if size > left || file.take(left + 1).read_to_end(&mut content).is_err() || content.len() as u64 > left {
            collected.truncated = true;
            continue;
        }
        left -= content.len() as u64;
        collected.files.insert(name, STANDARD.encode(&content));
    }
    collected
}

struct Finder<'a> {
    outputs: &'a Outputs,
    found: Vec<Vec<u8>>,
    truncated: bool,
    patience: Patience,
}

impl Visitor for Finder<'_> {
    fn folder(&mut self, _: &Met<'_>, depth: usize) -> ControlFlow<(), Folder> {
        self.truncated |= depth >= DEEPEST;
        ControlFlow::Continue(if depth < DEEPEST { Folder::Enter } else { Folder::Skip })
    }

    fn other(&mut self, met: &Met<'_>) -> ControlFlow<()> {
        self.patience.goes_on()?;
        if FileType::from_raw_mode(met.state.st_mode) == FileType::RegularFile && self.outputs.wants(met.path) {
            if self.found.len() >= MOST {
                return ControlFlow::Break(());
            }
            self.found.push(met.path.to_owned());
        }
        ControlFlow::Continue(())
    }
}
