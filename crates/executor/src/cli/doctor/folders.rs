//! The folders and files that the service needs: whether they can be used. Whether there is room is [`super::disk`]'s.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Access, OFlags, access};
use rustix::io::Errno;

use super::Check;
use crate::config::Config;

pub(super) fn workspace(config: &Config) -> Check {
    const NAME: &str = "workspace";
    let path = config.workspace_path.display();
    let source = config.source("WORKSPACE_PATH");
    let evidence = format!("WORKSPACE_PATH = {path} ({source}){}", whose(&config.workspace_path));
    match usable(&config.workspace_path) {
        Ok(how) => Check::ok(NAME, format!("{evidence}, {how}")),
        Err(cause) => {
            let fix = format!(
                "make it a folder that this user can write to: mkdir -p {path} && chmod 755 {path}\n\
                 (where it is another user's: sudo chown \"$(id -un)\" {path}; where it is mounted read-only: mount it \
                 writable)\n\
                 or use another one: export WORKSPACE_PATH=/tmp/sandbox_workspace && mkdir -p /tmp/sandbox_workspace"
            );
            Check::problem(NAME, format!("WORKSPACE_PATH is not usable: {cause}"), fix).seen(evidence)
        }
    }
}

/// What `ls -ld` and `id -u` would say.
fn whose(path: &Path) -> String {
    let user = rustix::process::geteuid().as_raw();
    path.metadata().map_or_else(
        |_| String::new(),
        |there| format!(", mode {:04o} of uid {}, and this is uid {user}", there.mode() & 0o7777, there.uid()),
    )
}

/// `serving`: whether a service answers on the configured port.
pub(super) fn state(config: &Config, serving: bool) -> Check {
    const NAME: &str = "state";
    let path = config.state_path.display();
    let evidence = format!("STATE_PATH = {path} ({})", config.source("STATE_PATH"));
    match usable(&config.state_path) {
        Err(cause) => {
            let fix = format!(
                "make it a folder that this user can write to: mkdir -p {path} && chmod 700 {path}\n\
                 or use another one: export STATE_PATH=\"$HOME/.local/state/sandbox-executor\""
            );
            Check::problem(NAME, format!("STATE_PATH is not usable: {cause}"), fix).seen(evidence)
        }
        Ok(_) if crate::state::is_locked(&config.state_path) => {
            if serving {
                return Check::ok(NAME, format!("{evidence}, in use by the running service"));
            }
            let cause = "another running service uses it, and a second one does not start beside it";
            let fix = "stop the other one, or give this one a STATE_PATH and an EXECUTOR_PORT of its own";
            Check::warning(NAME, cause, fix).seen(evidence)
        }
        Ok(how) => Check::ok(NAME, format!("{evidence}, {how}")),
    }
}

/// How the folder can be used: as it is, or made first. Leaves nothing behind.
fn usable(path: &Path) -> Result<&'static str, String> {
    match path.metadata() {
        Ok(there) if !there.is_dir() => Err(format!("{} is not a folder", path.display())),
        Ok(_) => {
            match tempfile::Builder::new().prefix(".doctor-").tempdir_in(path).and_then(tempfile::TempDir::close) {
                Ok(()) => Ok("writable"),
                Err(error) => Err(format!("writing to {} failed: {}", path.display(), plain(&error))),
            }
        }
        Err(_) if path.symlink_metadata().is_ok_and(|there| there.is_symlink()) => {
            Err(format!("{} is a link to nowhere", path.display()))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let above = existing(path);
            if !above.is_dir() {
                return Err(format!("{} is not a folder", above.display()));
            }
            match access(above, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => Ok("will be made"),
                Err(error) => Err(format!("it can't be made in {}: {error}", above.display())),
            }
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The system's own words, without the made-up name of the file that it happened to.
pub(super) fn plain(error: &std::io::Error) -> String {
    // tempfile wraps the system's error without giving it back: the kinds that matter here have one number each.
    let number = error.raw_os_error().or(match error.kind() {
        ErrorKind::PermissionDenied => Some(Errno::ACCESS.raw_os_error()),
        ErrorKind::ReadOnlyFilesystem => Some(Errno::ROFS.raw_os_error()),
        ErrorKind::StorageFull => Some(Errno::NOSPC.raw_os_error()),
        _ => None,
    });
    number.map_or_else(|| error.kind().to_string(), |number| std::io::Error::from_raw_os_error(number).to_string())
}

/// The path itself, or the nearest folder above it that is there.
pub(in crate::cli) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/"))
}

pub(super) fn log_file(config: &Config) -> Check {
    const NAME: &str = "log file";
    let more = "export LOG_LEVEL=DEBUG has it say more";
    let Some(path) = &config.log_file else {
        let logs = "docker logs -f, kubectl logs -f, journalctl -u";
        return Check::skipped(NAME, format!("LOG_FILE is not set: the log goes to stderr only ({logs}); {more}"));
    };
    let evidence = format!("LOG_FILE = {}", path.display());
    let above = path.parent().unwrap_or(Path::new("/"));
    let opened = if path.symlink_metadata().is_ok() {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        File::options().append(true).custom_flags(flags).open(path).map(drop).map_err(|error| error.to_string())
    } else if !above.is_dir() {
        Err(format!("{} is not a folder", above.display()))
    } else {
        access(above, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| format!("{}: {error}", above.display()))
    };
    match opened {
        Ok(()) => Check::ok(NAME, format!("{evidence}; {more}")),
        Err(cause) => {
            let fix = format!("mkdir -p {}, and let this user write there", above.display());
            Check::problem(NAME, format!("LOG_FILE can't be written: {cause}"), fix).seen(evidence)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_folder_is_usable_when_it_is_writable_or_can_be_made() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(usable(home.path()), Ok("writable"));
        assert_eq!(usable(&home.path().join("a/b/c")), Ok("will be made"));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(usable(&file).unwrap_err().contains("not a folder"));
        assert!(usable(&file.join("a/b")).unwrap_err().contains("file is not a folder"));
        std::os::unix::fs::symlink("/nowhere", home.path().join("link")).unwrap();
        assert!(usable(&home.path().join("link")).unwrap_err().contains("link to nowhere"));
    }

    #[test]
    fn the_fix_of_an_unusable_workspace_is_the_documents() {
        let check = workspace(&Config::of(&[("WORKSPACE_PATH", "/dev/null/workspace")]));
        assert_eq!(check.status, Status::Problem);
        let fix = check.fix.unwrap();
        assert!(fix.contains("chmod 755 /dev/null/workspace"), "{fix}");
        assert!(fix.contains("export WORKSPACE_PATH=/tmp/sandbox_workspace"), "{fix}");
    }

    #[test]
    fn a_locked_state_folder_is_in_use() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        let config = Config::of(&[("STATE_PATH", path.to_str().unwrap())]);
        assert_eq!(state(&config, false).status, Status::Ok);
        assert!(!path.exists());
        let held = crate::state::State::open(&path).unwrap();
        assert_eq!(state(&config, false).status, Status::Warning);
        assert_eq!(state(&config, true).status, Status::Ok);
        drop(held);
        assert_eq!(state(&config, false).status, Status::Ok);
    }
}
