//! What a sandbox costs, from nothing to nothing: set up and taken apart around a program that does nothing. Beside it the same
//! program under bubblewrap and by itself, turn by turn.

use crate::floors::spawn;
use crate::summary::Summary;
use crate::{Result, table};
use sandbox::limits::Cgroups;
use sandbox::native::Native;
use sandbox::policy::{Identity, Limits, Policy};
use sandbox::prepare::Ground;
use sandbox::running::Program;
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::sync::Arc;
use std::time::{Duration, Instant};

const WARM_UP_ROUNDS: usize = 20;
const ROUNDS: usize = 300;
/// The ordinary user that sandboxes made by root run as here.
const NOBODY: u32 = 65_534;
const PROGRAM: &str = "/usr/bin/true";
const BUBBLEWRAP: &[&str] = &[
    "bwrap",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--unshare-all",
    PROGRAM,
];

/// The times of each.
#[derive(Serialize)]
pub struct Times {
    /// The program by itself.
    pub alone: Summary,
    /// The program under bubblewrap, which ends with it.
    pub bubblewrap: Summary,
    /// A native sandbox set up and taken apart, without the program.
    pub native: Summary,
    /// The same with the program in it.
    pub native_with_program: Summary,
}

impl Times {
    /// What the native sandbox costs, as a multiple of what bubblewrap costs beside the program itself; at the median.
    pub fn ratio(&self) -> f64 {
        self.native.p50_ms / (self.bubblewrap.p50_ms - self.alone.p50_ms)
    }

    /// Prints them as one table.
    pub fn print(&self) {
        println!("\nSANDBOX alone, {ROUNDS} rounds, turn by turn, milliseconds.");
        let row = |name: &str, summary: &Summary| [vec![name.to_owned()], summary.cells().to_vec()].concat();
        let rows = [
            row("floor: true", &self.alone),
            row("floor: bwrap --unshare-all … true", &self.bubblewrap),
            row("native sandbox, set up and taken apart", &self.native),
            row("the same with true in it", &self.native_with_program),
        ];
        table::print(&["row", "calls", "p50", "p90", "p99"], &rows);
    }
}

/// Takes them, turn by turn.
pub fn measure() -> Result<Times> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(take_turns())
}

async fn take_turns() -> Result<Times> {
    let cgroups = Cgroups::detect(&format!("{:08x}", std::process::id()));
    let ground = Ground::new(cgroups).await?;
    let home = tempfile::tempdir()?;
    let native = Native::new(home.path(), "etc-")?;
    let workspace = home.path().join("workspace");
    std::fs::DirBuilder::new().mode(0o700).create(&workspace)?;
    let identity = rustix::process::geteuid().is_root().then_some(Identity { uid: NOBODY, gid: NOBODY });
    if identity.is_some() {
        chown(&workspace, Some(NOBODY), Some(NOBODY))?;
    }
    let workspace: Arc<OwnedFd> = Arc::new(std::fs::File::open(&workspace)?.into());

    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        let policy = policy(format!("bench-{round}"), identity, Arc::clone(&workspace));
        let (around, whole) = once(&native, &ground, &policy).await?;
        for (times, time) in times.iter_mut().zip([spawn(&[PROGRAM])?, spawn(BUBBLEWRAP)?, around, whole]) {
            if round >= WARM_UP_ROUNDS {
                times.push(time);
            }
        }
    }
    let [alone, bubblewrap, native, native_with_program] = times.map(Summary::of);
    Ok(Times { alone, bubblewrap, native, native_with_program })
}

fn policy(name: String, identity: Option<Identity>, workspace: Arc<OwnedFd>) -> Policy {
    let limits = Limits {
        timeout: Duration::from_secs(10),
        memory_bytes: 512 << 20,
        cpu_cores: 1.0,
        processes: 128,
        file_size_bytes: 100 << 20,
        output_bytes: 1 << 20,
    };
    Policy {
        name,
        identity,
        workspace,
        read_only: Vec::new(),
        packages: None,
        network: sandbox::policy::Network::None,
        files_bytes: 1 << 20,
        takes_forks: false,
        in_session: false,
        walls: None,
        limits,
    }
}

/// How long it took around the program, and in all.
async fn once(native: &Native, ground: &Ground, policy: &Policy) -> Result<(Duration, Duration)> {
    let start = Instant::now();
    let prepared = native.prepare(ground, policy).await?;
    let stands = start.elapsed();
    let program = Program {
        argv: vec![PROGRAM.into()],
        env: Vec::new(),
        working_directory: String::new(),
        stdin: std::fs::File::open("/dev/null")?.into(),
        descriptors: Vec::new(),
        files: Vec::new(),
        result_bytes: 1024,
        bears_rlimit: true,
    };
    let (outcome, remains) = prepared.run(program, None, std::future::pending()).await?;
    let ended = start.elapsed();
    remains.cleared().await?;
    let whole = start.elapsed();
    match outcome.end {
        sandbox::outcome::End::Exited(0) => Ok((stands + whole - ended, whole)),
        end => Err(format!("{PROGRAM} ended with {end:?}").into()),
    }
}
