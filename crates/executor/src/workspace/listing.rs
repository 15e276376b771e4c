//! The files of a workspace as one list, in pages. The order is that of the paths' parts, so that a page begins where the one
//! before it ended, whatever came or went meanwhile.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use serde::Serialize;

use super::artifact::modified_at;
use super::path::{MAX_PATH_BYTES, Spelled, is_above};
use super::walk::{Folder, Met, Patience, Visitor, walk};
use crate::timestamp;

/// A page ends after this at the latest; the next goes on from there.
const TIME: Duration = Duration::from_secs(2);

/// A file.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // The names are the wire format's.
pub struct Listed {
    #[serde(flatten)]
    pub path: Spelled,
    pub size: u64,
    pub modified_at: String,
}

/// Some files.
#[derive(Debug, Default)]
pub struct Page {
    /// In order.
    pub files: Vec<Listed>,
    /// The path behind which the next page begins, if this is not the last.
    pub end: Option<Vec<u8>>,
}

/// The first files behind a path, at most so many.
pub fn page(folder: &Arc<OwnedFd>, behind: Option<&[u8]>, limit: usize) -> Page {
    let mut lister = Lister { behind, limit, page: Page::default(), last: Vec::new(), patience: Patience::new(TIME) };
    if !walk(folder, &mut lister) {
        lister.page.end = Some(lister.last);
    }
    lister.page
}

struct Lister<'a> {
    behind: Option<&'a [u8]>,
    limit: usize,
    page: Page,
    /// The last path that was dealt with.
    last: Vec<u8>,
    patience: Patience,
}

impl Lister<'_> {
    /// Whether there is time for another: a page of nothing would have no end to go on from.
    fn goes_on(&mut self) -> ControlFlow<()> {
        let is_late = self.patience.goes_on().is_break() && !self.last.is_empty();
        if is_late { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Visitor for Lister<'_> {
    const SORTED: bool = true;

    fn wants(&self, path: &[u8]) -> bool {
        path.len() <= MAX_PATH_BYTES
            && self.behind.is_none_or(|behind| is_behind(path, behind) || is_above(path, behind))
    }

    fn folder(&mut self, _: &Met<'_>, _: usize) -> ControlFlow<(), Folder> {
        self.goes_on()?;
        ControlFlow::Continue(Folder::Enter)
    }

    fn other(&mut self, met: &Met<'_>) -> ControlFlow<()> {
        self.goes_on()?;
        if FileType::from_raw_mode(met.state.st_mode) != FileType::RegularFile || self.behind == Some(met.path) {
            return ControlFlow::Continue(());
        }
        if self.page.files.len() == self.limit {
            return ControlFlow::Break(());
        }
        self.page.files.push(Listed {
            path: Spelled::of(met.path),
            size: u64::try_from(met.state.st_size).unwrap_or_default(),
            modified_at: timestamp::microseconds(timestamp::of_file(modified_at(met.state))),
        });
        self.last = met.path.to_owned();
        ControlFlow::Continue(())
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

fn is_behind(path: &[u8], other: &[u8]) -> bool {
    parts(path).gt(parts(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::beneath::FOLDER;
    use rustix::fs::Mode;

    #[test]
    fn pages_make_up_the_whole_list() {
        let home = tempfile::tempdir().unwrap();
        let mut names: Vec<String> =
            ["a/1", "a/2", "a.txt", "a/b/c", "b", "a b", ".hidden/x"].map(str::to_owned).to_vec();
        names.extend((0..30).map(|number| format!("many/{number:02}")));
        for name in &names {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink("b", home.path().join("link")).unwrap();
        let folder = Arc::new(rustix::fs::open(home.path(), FOLDER, Mode::empty()).unwrap());
        names.sort_by(|one, other| parts(one.as_bytes()).cmp(parts(other.as_bytes())));
        for limit in [1, 2, 7, 100] {
            let (mut listed, mut end) = (Vec::new(), None);
            loop {
                let page = page(&folder, end.as_deref(), limit);
                assert!(page.files.len() <= limit);
                listed.extend(page.files.into_iter().map(|file| file.path.path));
                end = page.end;
                if end.is_none() {
                    break;
                }
            }
            assert_eq!(listed, names, "{limit}");
        }
        // A page goes on behind a file that is gone.
        std::fs::remove_file(home.path().join("many/10")).unwrap();
        let rest = page(&folder, Some(b"many/10"), 1);
        assert_eq!(rest.files[0].path.path, "many/11");
    }
}
