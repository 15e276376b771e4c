//! Making a layer: pip in a sandbox, what it left compiled in another, and taken over by us. Whoever asks for a layer that is being
//! made waits for that one, and gets what came of it, also if that is a failure.
//!
//! The sandbox holds a workspace of its own and nothing of any session. Only pip's has a network, and it ends when pip does.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use runtime::python::install::{INSTALLED, Index, Installation};
use runtime::{Interpreter, Language};
use sandbox::error::{SandboxError, Stage};
use sandbox::outcome::{End, Outcome};
use sandbox::policy::{Limits, Network, Policy};
use sandbox::running::{Layout, Program};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::layer::{self, Layer, Order, Record};
use super::shelf::short;
use super::takeover::{self, Refused};
use super::{Failure, Kept};
use crate::pipeline::{Executor, Failed};
use crate::timestamp;
use crate::workspace::quota::{self, Guard};
use crate::workspace::usage::Usage;
use crate::workspace::{Workspace, random};

const MIB: u64 = 1024 * 1024;
/// Memory of an installation.
const MEMORY_BYTES: u64 = 1024 * MIB;
/// Its processes and threads.
const PROCESSES: u32 = 256;
/// Kept of what it prints.
const OUTPUT_BYTES: u64 = 4 * MIB;
/// Room for the certificates that it trusts.
const CERTIFICATES_BYTES: u64 = 8 * MIB;
/// How long compiling may take. What is not compiled then works as well, only later.
const COMPILES_WITHIN: Duration = Duration::from_secs(300);
/// Of what pip says, the last that callers get to see.
const LINES: usize = 20;
const LONGEST_LINE: usize = 500;

/// What pip says when it can't write as much as it wants.
const TOO_MUCH: [&str; 2] = ["[Errno 27]", "[Errno 28]"];

/// A layer, or why there is none.
pub(super) type Made = Result<Arc<Layer>, Failure>;

impl Executor {
    /// The layer for this order: one that is there, or is being made, or is made now.
    pub(super) async fn layer(self: &Arc<Self>, kept: &Kept, order: Order) -> Made {
        let interpreter = self.interpreter(Language::Python).map_err(|error| Failure::NoPython(error.to_string()))?;
        let key = order.key(&interpreter);
        let mut made = {
            let mut making = kept.making.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(layer) = kept.shelf.find(&key) {
                return Ok(layer);
            }
            match making.get(&key) {
                Some(made) => made.clone(),
                None => {
                    let (tell, made) = watch::channel(None);
                    making.insert(key.clone(), made.clone());
                    // A task of its own: others may wait for it when its first caller does not any more.
                    tokio::spawn(Arc::clone(self).make(key, order, tell));
                    made
                }
            }
        };
        let made = made.wait_for(Option::is_some).await.map(|made| made.clone());
        made.ok().flatten().unwrap_or_else(|| Err(Failure::Internal("the installation broke off".into())))
    }

    async fn make(self: Arc<Self>, key: String, order: Order, tell: watch::Sender<Option<Made>>) {
        let Some(kept) = &self.packages.0 else { return };
        let making = Making { kept, key: &key };
        let Ok(_permit) = kept.builds.acquire().await else { return };
        let began = Instant::now();
        let (name, count) = (short(&key), order.specifiers.len());
        tracing::info!("Installing packages: {name} ({count} asked for, index: {})", order.index);
        let made = Build { executor: &self, kept, order: &order, key: &key, began }.run().await;
        let seconds = began.elapsed().as_secs_f64();
        match &made {
            Ok(layer) => {
                let (count, size) = (layer.record.installed.len(), layer.record.bytes / MIB);
                tracing::info!("Packages installed: {name} ({count} in all, {size} MB, {seconds:.1}s)");
            }
            Err(Failure::Install(said)) => {
                let last = said.lines().last().unwrap_or_default();
                tracing::warn!("Packages could not be installed: {name} ({seconds:.1}s): {last}");
            }
            Err(error) => tracing::error!("Packages could not be installed: {name}: {error}"),
        }
        // First: who comes now finds it on the shelf, or tries again.
        drop(making);
        tell.send_replace(Some(made));
    }
}

/// That a layer is being made; until this is dropped.
struct Making<'a> {
    kept: &'a Kept,
    key: &'a str,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.kept.making.lock().unwrap_or_else(PoisonError::into_inner).remove(self.key);
    }
}

/// One installation.
struct Build<'a> {
    executor: &'a Executor,
    kept: &'a Kept,
    order: &'a Order,
    key: &'a str,
    began: Instant,
}

impl Build<'_> {
    async fn run(&self) -> Made {
        let executor = self.executor;
        let interpreter = executor.interpreter(Language::Python);
        let interpreter = interpreter.map_err(|error| Failure::NoPython(error.to_string()))?;
        let workspace = executor.workspaces.private();
        let workspace = workspace.map_err(|error| Failure::Internal(format!("a workspace for pip: {error}")))?;
        executor.workspaces.hold_to(&workspace, self.line()).map_err(failed)?;
        self.install(&interpreter, &workspace).await?;
        tracing::info!("Packages are there and are compiled: {}", short(self.key));
        self.compile(&interpreter, &workspace).await?;
        self.take_over(&interpreter, workspace).await
    }

    async fn install(&self, interpreter: &Interpreter, workspace: &Workspace) -> Result<(), Failure> {
        let settings = &self.kept.settings;
        let certificates = settings.pip.certificates.clone();
        let certificates = tokio::task::spawn_blocking(move || certificates.map(read_certificates)).await;
        let certificates = certificates.unwrap_or_default().transpose()?.flatten();
        let folder = self.order.index.folder();
        let index = if folder.is_some() { Index::Folder } else { Index::Url(self.order.index.expose().to_owned()) };
        let texts: Vec<String> = self.order.specifiers.iter().map(ToString::to_string).collect();
        let program = |layout: &Layout| {
            let installation = Installation {
                specifiers: &texts,
                index: &index,
                source_builds: self.order.source_builds,
                certificates: certificates.as_deref(),
                variables: &settings.pip.variables,
            };
            interpreter.install(&installation, layout)
        };
        // What is in a folder needs no network.
        let network = if folder.is_some() { Network::None } else { Network::Host };
        let time = settings.install_time.saturating_sub(self.began.elapsed());
        let outcome = self.run_in_sandbox(workspace, network, folder, time, program).await?;
        let said = self.redacted(&outcome);
        for line in said.lines() {
            tracing::debug!("pip: {line}");
        }
        match outcome.end {
            End::Exited(0) => Ok(()),
            End::Cancelled if self.executor.stop.is_cancelled() => Err(Failure::Stopping),
            ref end => Err(Failure::Install(last_words(end, &said, settings.install_time, settings.packages_mb))),
        }
    }

    async fn compile(&self, interpreter: &Interpreter, workspace: &Workspace) -> Result<(), Failure> {
        let jobs = self.kept.settings.jobs;
        let program = |layout: &Layout| interpreter.compile(layout, jobs);
        let outcome = self.run_in_sandbox(workspace, Network::None, None, COMPILES_WITHIN, program).await?;
        match outcome.end {
            // 1 where there is a file that is no program of this version; packages have such.
            End::Exited(0 | 1) => Ok(()),
            End::Cancelled if self.executor.stop.is_cancelled() => Err(Failure::Stopping),
            End::Cancelled => Err(Failure::Install(too_large(self.kept.settings.packages_mb))),
            end => {
                tracing::warn!("Packages could not all be compiled, they are slower to import: {end:?}");
                Ok(())
            }
        }
    }

    async fn take_over(&self, interpreter: &Interpreter, workspace: Workspace) -> Made {
        let identity = layer::identity(interpreter);
        let (shelf, key, line) = (Arc::clone(&self.kept.shelf), self.key.to_owned(), self.line());
        let taken = tokio::task::spawn_blocking(move || {
            let unfinished = shelf.begin().map_err(failed)?;
            let packages = unfinished.packages();
            let Usage { bytes, .. } =
                takeover::take_over(&workspace.folder, INSTALLED, &packages, line).map_err(refused)?;
            if let Some(name) = layer::come_by_address(&packages).map_err(failed)? {
                return Err(Failure::Install(format!(
                    "A package needs another one by its address, not from the index: {name}"
                )));
            }
            let installed = layer::installed_in(&packages).map_err(failed)?;
            let installed_at = timestamp::microseconds(OffsetDateTime::now_utc());
            let record = Record { interpreter: identity, installed, installed_at, bytes };
            layer::finish(unfinished.path(), &record).map_err(failed)?;
            shelf.put(unfinished, &key).map_err(failed)
        });
        taken.await.unwrap_or_else(|error| Err(Failure::Internal(error.to_string())))
    }

    fn line(&self) -> Usage {
        quota::line(self.kept.settings.packages_mb)
    }

    /// Runs a program in a sandbox with this workspace, within all bounds; `folder` is what it sees as packages.
    async fn run_in_sandbox(
        &self,
        workspace: &Workspace,
        network: Network,
        folder: Option<PathBuf>,
        time: Duration,
        program: impl Fn(&Layout) -> std::io::Result<Program>,
    ) -> Result<Outcome, Failure> {
        let executor = self.executor;
        let packages = folder.map(|path| {
            let opened = std::fs::File::open(&path);
            let unreadable = |error| Failure::Install(format!("{} can't be read: {error}", path.display()));
            Ok(Arc::new(opened.map_err(unreadable)?.into()))
        });
        let limits = Limits {
            timeout: time,
            memory_bytes: MEMORY_BYTES,
            cpu_cores: self.kept.settings.jobs as f64,
            processes: PROCESSES,
            file_size_bytes: self.line().bytes,
            output_bytes: OUTPUT_BYTES,
        };
        let policy = executor.policy(workspace, CERTIFICATES_BYTES + MIB, limits, None, None).map_err(unusable)?;
        let policy = Policy {
            name: format!("packages-{:016x}", random()),
            packages: packages.transpose()?,
            network,
            takes_forks: false,
            ..policy
        };
        let prepared = executor.isolation.prepare(&executor.ground, &policy).await.map_err(isolation)?;
        let program = program(prepared.layout()).map_err(failed)?;
        let guard = Guard::new(workspace.meter(), self.line(), Some(Usage::default()), Duration::ZERO);
        let too_much = CancellationToken::new();
        let ended = async {
            tokio::select! {
                () = executor.stop.cancelled() => {}
                () = guard.exceeded() => too_much.cancel(),
            }
        };
        let (outcome, _remains) = prepared.run(program, None, ended).await.map_err(isolation)?;
        Ok(outcome)
    }

    /// What it printed, complaints last, without passwords.
    fn redacted(&self, outcome: &Outcome) -> String {
        let mut said = String::from_utf8_lossy(&outcome.stdout.kept).into_owned();
        said.push('\n');
        said += &String::from_utf8_lossy(&outcome.stderr.kept);
        for secret in self.order.index.secrets().into_iter().chain(self.kept.settings.pip.secrets()) {
            said = said.replace(&secret, "[redacted]");
        }
        said
    }
}

/// The file that pip is configured to trust. One that is a folder is the system's own, which the sandbox has.
fn read_certificates(path: PathBuf) -> Result<Option<Vec<u8>>, Failure> {
    let unreadable =
        |why: String| Failure::Install(format!("pip's certificates, {}, can't be used: {why}", path.display()));
    let state = std::fs::metadata(&path).map_err(|error| unreadable(error.to_string()))?;
    if state.is_dir() {
        return Ok(None);
    }
    if !state.is_file() || state.len() > CERTIFICATES_BYTES {
        return Err(unreadable(format!("that is no file of at most {} MB", CERTIFICATES_BYTES / MIB)));
    }
    std::fs::read(&path).map(Some).map_err(|error| unreadable(error.to_string()))
}

/// pip's own last lines, and what ended it if that was not pip.
fn last_words(end: &End, said: &str, time: Duration, packages_mb: u64) -> String {
    let clean = |line: &str| -> String {
        line.chars().filter(|c| !c.is_control()).take(LONGEST_LINE).collect::<String>().trim_end().to_owned()
    };
    let lines: Vec<String> = said.lines().map(clean).filter(|line| !line.is_empty()).collect();
    let mut last = lines[lines.len().saturating_sub(LINES)..].to_vec();
    last.extend(match end {
        End::TimedOut => Some(format!("It was given up after {}s (MAX_INSTALL_TIME)", time.as_secs())),
        End::OutOfMemory => Some(format!("It ran out of its {} MB of memory", MEMORY_BYTES / MIB)),
        End::Cancelled => Some(too_large(packages_mb)),
        End::Signalled(number) => Some(format!("It was ended by signal {number}")),
        End::Exited(_) if TOO_MUCH.iter().any(|words| said.contains(words)) => Some(too_large(packages_mb)),
        End::Exited(_) => None,
    });
    if last.is_empty() { "pip failed without a word".into() } else { last.join("\n") }
}

fn too_large(packages_mb: u64) -> String {
    format!("The packages are larger than {packages_mb} MB (MAX_PACKAGES_MB), or the disk is full")
}

fn refused(refused: Refused) -> Failure {
    match refused {
        Refused::System(error) => failed(error),
        other => Failure::Install(format!("What was installed is not what packages are made of: {other}")),
    }
}

fn failed(error: std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Failure::NoRoom,
        _ => Failure::Internal(format!("files of packages: {error}")),
    }
}

fn isolation(error: SandboxError) -> Failure {
    match error.stage {
        Stage::Launch | Stage::Namespaces | Stage::Limits => Failure::Isolation(error.to_string()),
        _ => Failure::Internal(error.to_string()),
    }
}

fn unusable(error: Failed) -> Failure {
    Failure::Internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_told_with_what_ended_it() {
        let many: String = (0..100).map(|number| format!("line {number}\n\n")).collect();
        let told = |end: &End, said: &str| last_words(end, said, Duration::from_secs(7), 9);
        let lines = told(&End::Exited(1), &many);
        assert_eq!((lines.lines().count(), lines.lines().last()), (LINES, Some("line 99")));
        assert!(told(&End::TimedOut, &many).ends_with("It was given up after 7s (MAX_INSTALL_TIME)"));
        assert!(told(&End::Cancelled, "").contains("larger than 9 MB"));
        assert_eq!(told(&End::Exited(1), "\x1b[31mERROR\x1b[0m: \0no\r\n"), "[31mERROR[0m: no");
        assert_eq!(told(&End::Exited(1), " \n").as_str(), "pip failed without a word");
        assert!(told(&End::Exited(1), &"x".repeat(5000)).len() <= LONGEST_LINE);
    }

    #[test]
    fn certificates_are_a_file_or_the_systems() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("ca.pem");
        std::fs::write(&file, "certificates").unwrap();
        assert_eq!(read_certificates(file).unwrap().as_deref(), Some(&b"certificates"[..]));
        assert_eq!(read_certificates(home.path().into()).unwrap(), None);
        assert!(read_certificates(home.path().join("none")).unwrap_err().to_string().contains("none"));
        assert!(read_certificates("/dev/zero".into()).is_err());
    }
}
