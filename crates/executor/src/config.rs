//! The configuration, and the only reader of the environment.
//!
//! One table, `settings!` below, is all there is to know about a setting: its variable, field, type, default, rule
//! and documentation. The fields of [`Config`], the flags, the keys of the file, the `config` command,
//! `config.default.toml` and `docs/configuration.md` come from it. A flag takes precedence over the environment, that over `--config FILE`, that before
//! the default; a variable that is set but empty counts as absent. Sizes in `MB` are 1,048,576 bytes.

#[cfg(test)]
mod documents;
mod layers;
mod paths;
pub mod pip;
mod rule;
mod setting;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::telemetry::log::{Format, Level, LogSettings};
use layers::{FILE_ARGUMENT, Layers};
use paths::{Surroundings, resolve_paths};
use pip::Pip;
use rule::Rule;
use setting::{Count, Value};

pub use layers::Source;
pub use pip::IndexUrl;
pub use setting::{Secret, Setting, Shape};

/// Makes [`Config`] and [`SETTINGS`] out of the table. A row reads
/// `VARIABLE => field: type = default, rule, placeholder;` with its documentation above.
macro_rules! settings {
    ($($section:literal { $(
        $(#[doc = $doc:literal])+
        $name:ident => $field:ident: $ty:ty = $default:literal, $rule:expr, $placeholder:literal;
    )+ })+) => {
        /// The effective configuration.
        #[derive(Debug, Clone)]
        pub struct Config {
            $($( $(#[doc = $doc])+ pub $field: $ty, )+)+
            /// How pip is configured on this machine.
            pub pip: Pip,
            /// In the order of [`SETTINGS`].
            sources: Vec<Source>,
        }

        /// Every setting, in the order in which they are documented.
        pub static SETTINGS: &[Setting] = &[$($( Setting {
            section: $section,
            name: stringify!($name),
            doc: concat!($($doc, "\n"),+),
            placeholder: $placeholder,
            default: $default,
            secret: <$ty as Value>::SECRET,
            shape: <$ty as Value>::SHAPE,
            allowed: || Rule::<$ty>::allowed($rule),
            show: |config| config.$field.show(),
        }, )+)+];

        impl Config {
            fn from_layers(layers: &Layers<'_>) -> Result<Self, ConfigError> {
                let mut sources = Vec::with_capacity(SETTINGS.len());
                Ok(Self { $($( $field: layers.take(&mut sources, stringify!($name), &$rule)?, )+)+ pip: Pip::default(), sources })
            }
        }
    };
}

settings! {
    "Listening" {
        /// Address the HTTP service listens on. Set EXECUTOR_API_TOKEN too when it isn't a loopback address.
        EXECUTOR_HOST => host: IpAddr = "127.0.0.1", rule::address(), "ADDRESS";
        /// Port it listens on; 0 takes any free one.
        EXECUTOR_PORT => port: u16 = "8080", rule::whole(0..=65_535), "PORT";
        /// When set, every route except /health needs "Authorization: Bearer" and this token. Flags can be seen in the
        /// list of processes: better set it in the environment or in a file.
        EXECUTOR_API_TOKEN => api_token: Option<Secret> = "", rule::optional(rule::token()), "TOKEN";
        /// Web origins that may call the service; a request with any other Origin header is refused with 403.
        ALLOWED_ORIGINS => allowed_origins: Vec<String> = "", rule::origins(), "ORIGINS";
        /// Names the service may be called by in the Host header; any other is refused with 403. Not set, it is
        /// localhost, 127.0.0.1 and ::1 while listening on a loopback address without a token, and any otherwise.
        ALLOWED_HOSTS => allowed_hosts: Option<Vec<String>> = "", rule::optional(rule::hosts()), "HOSTS";
    }
    "Folders" {
        /// Folder of the session workspaces; made if absent. Not set, it is /workspace if that is there and writable,
        /// otherwise "workspaces" under STATE_PATH.
        WORKSPACE_PATH => workspace_path: PathBuf = "", rule::path(), "DIR";
        /// Folder of what the service has to remember; one running service each. Not set, it is
        /// /var/lib/sandbox-executor if that is writable or can be made, otherwise "sandbox-executor" under
        /// XDG_STATE_HOME or under ~/.local/state.
        STATE_PATH => state_path: PathBuf = "", rule::path(), "DIR";
    }
    "Sessions" {
        /// Seconds until the workspace of an idle session is removed; 0 never.
        SESSION_IDLE_TTL => session_idle_ttl: Duration = "86400", rule::seconds(0..=315_360_000), "SECONDS";
    }
    "Isolation" {
        /// How code is isolated. "auto" takes the best that works here, native or bubblewrap on Linux, seatbelt on macOS,
        /// and the start fails when nothing does; "none" runs code without isolation.
        ISOLATION => isolation: Isolation = "auto", rule::one_of(Isolation::NAMES), "KIND";
        /// Leaves bubblewrap out of what "auto" chooses from.
        DISABLE_BWRAP => disable_bwrap: bool = "false", rule::switch(), "BOOL";
    }
    "Limits of one execution" {
        /// Memory of all its processes together, in MiB.
        MAX_MEMORY_MB => max_memory_mb: u64 = "512", rule::whole(16..=16_777_216), "MB";
        /// CPU time per wall-clock time: 1.5 is one core and a half.
        /// A container without cgroups of its own bounds no CPU: see limits.enforcement in /info.
        MAX_CPU_CORES => max_cpu_cores: f64 = "1", rule::decimal(0.01..=1024.0), "CORES";
        /// Processes and threads.
        MAX_PROCESSES => max_processes: u32 = "128", rule::whole(1..=4_194_304), "COUNT";
        /// What its workspace may hold, that of its session with all that is in it, in MiB; and a file for each 4 KiB of that.
        /// Uploads count.
        MAX_DISK_MB => max_disk_mb: u64 = "1024", rule::whole(1..=16_777_216), "MB";
        /// Size of one file that it writes, or that is brought into its workspace, in MiB.
        MAX_FILE_SIZE_MB => max_file_size_mb: u64 = "100", rule::whole(1..=16_777_216), "MB";
        /// Bytes kept of each of stdout and stderr; the rest is counted and dropped.
        MAX_OUTPUT_BYTES => max_output_bytes: u64 = "10485760", rule::whole(1..=1_073_741_824), "BYTES";
        /// Seconds until an execution that asks for no timeout of its own is ended; at most MAX_TIMEOUT. While only
        /// one of the two is set, the default of the other is adjusted to it.
        MAX_EXECUTION_TIME => max_execution_time: Duration = "300", rule::seconds(1..=604_800), "SECONDS";
        /// Largest timeout a request may ask for, in seconds.
        MAX_TIMEOUT => max_timeout: Duration = "3600", rule::seconds(1..=604_800), "SECONDS";
    }
    "Requests" {
        /// Size of a request's body in bytes; beyond it 413.
        MAX_BODY_BYTES => max_body_bytes: u64 = "67108864", rule::whole(1024..=4_294_967_296), "BYTES";
        /// Size of the code of one execution in bytes.
        MAX_CODE_BYTES => max_code_bytes: u64 = "1048576", rule::whole(1..=1_073_741_824), "BYTES";
        /// Executions running at once.
        MAX_CONCURRENT_EXECUTIONS => max_concurrent_executions: usize = "100", rule::whole(1..=100_000), "COUNT";
        /// Executions waiting for their turn; beyond it 503. With 0 nothing waits.
        MAX_QUEUED_EXECUTIONS => max_queued_executions: usize = "1000", rule::whole(0..=1_000_000), "COUNT";
        /// What POST /execute does: "sync" answers with the result; "async" answers at once that the execution is submitted, and
        /// the result goes to the control plane and to GET /executions/{id}.
        EXECUTE_MODE => execute_mode: ExecuteMode = "sync", rule::one_of(ExecuteMode::NAMES), "MODE";
        /// Seconds for which the result of an execution can be fetched, counted while the service runs. When all of them take too much
        /// room, the oldest are removed earlier.
        RESULT_RETENTION => result_retention: Duration = "86400", rule::seconds(1..=31_536_000), "SECONDS";
        /// Seconds that running executions get after SIGTERM.
        SHUTDOWN_GRACE => shutdown_grace: Duration = "0", rule::seconds(0..=86_400), "SECONDS";
    }
    "Control plane" {
        /// Base address of the control plane, to which results, heartbeats, the start and the end are reported. Not set, nothing is.
        CONTROL_PLANE_URL => control_plane_url: Option<String> = "", rule::optional(rule::base_url()), "URL";
        /// Bearer token for the control plane.
        INTERNAL_API_TOKEN => internal_api_token: Option<Secret> = "", rule::optional(rule::token()), "TOKEN";
        /// Seconds between two heartbeats of a running execution.
        HEARTBEAT_INTERVAL => heartbeat_interval: Duration = "5", rule::seconds(1..=3600), "SECONDS";
        /// Who this executor is to the control plane. Not set, it is the host's name.
        CONTAINER_ID => container_id: Option<String> = "", rule::optional(rule::identity()), "ID";
        /// The pod it runs in, as the control plane is told. Not set, it is the host's name.
        POD_NAME => pod_name: Option<String> = "", rule::optional(rule::identity()), "NAME";
    }
    "Interpreters" {
        /// The Python interpreter. Not set, it is looked for in the standard system folders.
        PYTHON_PATH => python_path: Option<PathBuf> = "", rule::optional(rule::absolute_path()), "FILE";
        /// The Node.js interpreter. Not set, it is looked for in the standard system folders.
        NODE_PATH_BIN => node_path_bin: Option<PathBuf> = "", rule::optional(rule::absolute_path()), "FILE";
        /// The shell. Not set, it is looked for in the standard system folders.
        SHELL_PATH => shell_path: Option<PathBuf> = "", rule::optional(rule::absolute_path()), "FILE";
    }
    "Packages" {
        /// Package indexes that a request may name, in the form that pip takes, and file:// folders that hold packages; a request
        /// that names none gets the first. Not set, it is the index that pip is configured with on this machine.
        ALLOWED_INDEX_URLS => allowed_index_urls: Vec<IndexUrl> = "", rule::indexes(), "URLS";
        /// Whether packages may be built from source, which runs their code while they are installed, with a network. Otherwise only
        /// wheels are installed.
        ALLOW_SOURCE_BUILDS => allow_source_builds: bool = "false", rule::switch(), "BOOL";
        /// Seconds until the installation of a session's packages is given up.
        MAX_INSTALL_TIME => max_install_time: Duration = "600", rule::seconds(1..=86_400), "SECONDS";
        /// What the packages of all sessions together may hold, in MiB. Those that no session has any more are kept for others until
        /// there is no room.
        MAX_PACKAGES_MB => max_packages_mb: u64 = "8192", rule::whole(1..=16_777_216), "MB";
    }
    "Warming" {
        /// Idle Python interpreters that the warm pool keeps at most, each in a sandbox of its own; 0 keeps none, "auto" is
        /// two for each processor.
        WARM_PYTHON => warm_python: Count = "auto", rule::count_or_auto(1_000), "COUNT";
        /// Idle Node.js processes that the warm pool keeps at most; 0 keeps none, "auto" is one for each processor.
        WARM_NODE => warm_node: Count = "auto", rule::count_or_auto(1_000), "COUNT";
        /// Python modules that are imported before a request comes, where they are installed. That is outside of any execution: name only
        /// what you trust.
        WARM_PYTHON_IMPORTS => warm_python_imports: Vec<String> = "asyncio,base64,collections,contextlib,copy,csv,dataclasses,datetime,decimal,enum,functools,hashlib,inspect,io,itertools,json,linecache,math,pathlib,random,re,shutil,statistics,string,subprocess,tempfile,textwrap,threading,time,traceback,typing,urllib.parse,uuid", rule::modules(), "MODULES";
    }
    "Log" {
        /// Lowest level that is logged. DEBUG also shows what the libraries say below WARNING.
        LOG_LEVEL => log_level: Level = "INFO", rule::one_of(Level::NAMES), "LEVEL";
        /// Form of a log line: text, or a JSON object.
        LOG_FORMAT => log_format: Format = "text", rule::one_of(Format::NAMES), "FORMAT";
        /// File that the log is written to beside stderr; reopened on SIGHUP.
        LOG_FILE => log_file: Option<PathBuf> = "", rule::optional(rule::path()), "FILE";
    }
}

/// What is to keep code apart from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// The best that works here.
    Auto,
    /// Namespaces of our own making, or the start fails.
    Native,
    /// Bubblewrap, or the start fails.
    Bubblewrap,
    /// macOS's Seatbelt, or the start fails.
    Seatbelt,
    /// Nothing, because somebody asked for it.
    None,
}

impl Isolation {
    /// How each is written.
    pub const NAMES: &[(&str, Self)] = &[
        ("auto", Self::Auto),
        ("native", Self::Native),
        ("bubblewrap", Self::Bubblewrap),
        ("seatbelt", Self::Seatbelt),
        ("none", Self::None),
    ];
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name))
    }
}

/// When `POST /execute` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecuteMode {
    /// When the execution has ended.
    Sync,
    /// When it is accepted.
    Async,
}

impl ExecuteMode {
    /// How each is written.
    pub const NAMES: &[(&str, Self)] = &[("sync", Self::Sync), ("async", Self::Async)];
}

impl fmt::Display for ExecuteMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, mode)| mode == self).map_or("", |(name, _)| name))
    }
}

/// Which `Host` headers are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// All of them.
    Any,
    /// These names and addresses, with any port.
    Listed(Vec<String>),
}

impl HostRule {
    /// Whether a request with this `Host` header may pass.
    pub fn allows(&self, header: &str) -> bool {
        let Self::Listed(hosts) = self else { return true };
        let end = header.rfind(']').map_or(0, |bracket| bracket + 1);
        let host = match header[end..].find(':') {
            Some(colon) if header[end + colon + 1..].bytes().all(|byte| byte.is_ascii_digit()) => {
                &header[..end + colon]
            }
            Some(_) => return false,
            None => header,
        };
        rule::host_name(host).is_some_and(|host| hosts.contains(&host))
    }
}

/// Why a configuration can't be used, on one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting can't have.
    #[error("{name} = {value} ({set_by}) is not allowed; allowed: {allowed}")]
    BadValue {
        /// The variable.
        name: &'static str,
        /// Who set it.
        set_by: Source,
        /// What it was set to, without secrets.
        value: String,
        /// What it can be set to.
        allowed: String,
    },
    /// Somebody misspelt a key.
    #[error("{}: unknown key {key:?}; the nearest known one is {nearest:?}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// What it says.
        key: String,
        /// What it may want to say.
        nearest: String,
    },
    /// The file isn't TOML.
    #[error("{}, line {line}: not valid TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The file can't be read.
    #[error("{}: the configuration file cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no place for the state.
    #[error(
        "STATE_PATH is not set, /var/lib/sandbox-executor is not writable, and neither XDG_STATE_HOME nor HOME is set; \
         allowed: the path of a writable folder"
    )]
    NoStatePath,
}

impl ConfigError {
    fn bad_value(setting: &Setting, source: &Source, value: &str) -> Self {
        let value = setting.presentable(value);
        let value = if value.trim().is_empty() { format!("{value:?}") } else { value };
        Self::BadValue { name: setting.name, set_by: source.clone(), value, allowed: (setting.allowed)() }
    }
}

/// One line of the effective configuration.
pub struct Entry<'a> {
    /// The variable.
    pub name: &'static str,
    /// The value, a secret as `[redacted]`; `None` if there is none.
    pub value: Option<String>,
    /// Who set it.
    pub source: &'a Source,
}

impl Config {
    /// Reads flags, environment and the `--config` file. Stops at the first bad value.
    ///
    /// # Errors
    /// What is wrong, to be shown to the user as it is.
    pub fn load(matches: &ArgMatches, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut config = Self::from_layers(&Layers::read(matches, &environment)?)?;
        config.settle_timeouts()?;
        let surroundings = Surroundings::of_host(&environment);
        let (workspace, state) = resolve_paths(config.workspace_path, config.state_path, &surroundings)?;
        let pip = Pip::read(&environment, config.python_path.as_deref());
        Ok(Self { workspace_path: workspace, state_path: state, pip, ..config })
    }

    /// The default timeout is at most the largest one: of the two, a default gives way to what was set.
    fn settle_timeouts(&mut self) -> Result<(), ConfigError> {
        if self.max_execution_time <= self.max_timeout {
            return Ok(());
        }
        let source = self.source("MAX_EXECUTION_TIME").clone();
        if source == Source::Default {
            self.max_execution_time = self.max_timeout;
        } else if *self.source("MAX_TIMEOUT") == Source::Default {
            self.max_timeout = self.max_execution_time;
        } else {
            let value = self.max_execution_time.as_secs().to_string();
            let (largest, by) = (self.max_timeout.as_secs(), self.source("MAX_TIMEOUT"));
            let allowed = format!("at most MAX_TIMEOUT, which is {largest} ({by})");
            return Err(ConfigError::BadValue { name: "MAX_EXECUTION_TIME", set_by: source, value, allowed });
        }
        Ok(())
    }

    /// Who set a setting, by its variable.
    pub fn source(&self, name: &str) -> &Source {
        let row = SETTINGS.iter().position(|setting| setting.name == name);
        row.and_then(|row| self.sources.get(row)).unwrap_or(&Source::Default)
    }

    /// Whether only this machine can reach the service.
    pub fn listens_on_loopback(&self) -> bool {
        self.host.to_canonical().is_loopback()
    }

    /// Which `Host` headers are answered: what was set; otherwise, on loopback without a token, the names of loopback
    /// and the address listened on, because there the browser of anybody who can make it resolve a name of theirs to
    /// 127.0.0.1 would be let in (DNS rebinding); otherwise any.
    pub fn host_rule(&self) -> HostRule {
        if let Some(hosts) = &self.allowed_hosts {
            return HostRule::Listed(hosts.clone());
        }
        if !self.listens_on_loopback() || self.api_token.is_some() {
            return HostRule::Any;
        }
        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
        let own = match self.host {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        if !hosts.contains(&own) {
            hosts.push(own);
        }
        HostRule::Listed(hosts)
    }

    /// The indexes that packages may come from, the default first: those that were set, otherwise pip's own.
    pub fn indexes(&self) -> Vec<IndexUrl> {
        if self.allowed_index_urls.is_empty() { vec![self.pip.index()] } else { self.allowed_index_urls.clone() }
    }

    /// How to log.
    pub fn log_settings(&self) -> LogSettings {
        let tokens = [&self.api_token, &self.internal_api_token];
        let tokens = tokens.into_iter().flatten().map(|secret| secret.expose().to_owned());
        let indexes = self.indexes();
        LogSettings {
            level: self.log_level,
            format: self.log_format,
            file: self.log_file.clone(),
            secrets: tokens.chain(indexes.iter().flat_map(IndexUrl::secrets)).chain(self.pip.secrets()).collect(),
        }
    }

    /// Every setting with its effective value, in the order of [`SETTINGS`].
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        SETTINGS.iter().zip(&self.sources).map(|(setting, source)| {
            let value = match (setting.name, self.host_rule()) {
                ("ALLOWED_INDEX_URLS", _) => self.indexes().show(),
                ("ALLOWED_HOSTS", HostRule::Any) => "any".to_owned(),
                ("ALLOWED_HOSTS", HostRule::Listed(hosts)) => hosts.show(),
                _ => (setting.show)(self),
            };
            Entry { name: setting.name, value: Some(value).filter(|value| !value.is_empty()), source }
        })
    }
}

impl Setting {
    /// The setting of this variable.
    ///
    /// # Panics
    /// There is no such variable: the name comes from the table itself.
    fn named(name: &str) -> &'static Self {
        SETTINGS.iter().find(|setting| setting.name == name).expect("a name from the table of settings")
    }

    fn argument(&self) -> Arg {
        let doc = self.doc.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        let origin = match self.default {
            "" => self.name.to_owned(),
            // Of a list, with room to break the line.
            default => format!("{}; default: {}", self.name, default.replace(',', ", ")),
        };
        let arg = Arg::new(self.name)
            .long(self.flag())
            .value_name(self.placeholder)
            .value_parser(value_parser!(OsString))
            .help(format!("{doc} [{origin}]"))
            .help_heading(self.section)
            .action(ArgAction::Set)
            .allow_hyphen_values(self.secret)
            .hide_short_help(true)
            .global(true);
        match self.shape {
            Shape::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            _ => arg,
        }
    }
}

/// The flags: one for each setting, and `--config FILE`. All are global and can stand before or after a command.
pub fn arguments() -> Vec<Arg> {
    let file = Arg::new(FILE_ARGUMENT)
        .long(FILE_ARGUMENT)
        .value_name("FILE")
        .value_parser(value_parser!(OsString))
        .help("Read settings from this TOML file; flags and environment variables go before it")
        .help_heading("Configuration")
        .global(true);
    std::iter::once(file).chain(SETTINGS.iter().map(Setting::argument)).collect()
}
