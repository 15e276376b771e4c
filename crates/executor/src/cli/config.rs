//! `config`: the effective configuration and where each value came from.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use crate::config::Config;

/// Values longer than this don't push the sources of all others to the right.
const WIDEST_VALUE: usize = 40;

/// Prints one line a setting, secrets redacted.
///
/// # Errors
/// Standard output can't be written to. A reader that has gone away is none.
pub fn run(config: &Config) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(lines(config).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn lines(config: &Config) -> String {
    let rows: Vec<_> = config
        .entries()
        .map(|entry| (entry.name, entry.value.unwrap_or_else(|| "(none)".to_owned()), entry.source))
        .collect();
    let width = |text: &str| text.chars().count();
    let names = rows.iter().map(|(name, ..)| width(name)).max().unwrap_or(0);
    let values =
        rows.iter().map(|(_, value, _)| width(value)).filter(|width| *width <= WIDEST_VALUE).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value, source)| {
        let _ = writeln!(text, "{name:names$} = {value:values$}   # {source}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_values_with_their_sources() {
        let config = Config::of(&[
            ("EXECUTOR_API_TOKEN", "hunter2"),
            ("STATE_PATH", "/srv/state"),
            ("WORKSPACE_PATH", "/srv/a-long-path/that-does-not-push/all-others/to-the-right"),
        ]);
        insta::assert_snapshot!(lines(&config), @"
        EXECUTOR_HOST             = 127.0.0.1                 # default
        EXECUTOR_PORT             = 8080                      # default
        EXECUTOR_API_TOKEN        = [redacted]                # environment
        ALLOWED_ORIGINS           = (none)                    # default
        ALLOWED_HOSTS             = any                       # default
        WORKSPACE_PATH            = /srv/a-long-path/that-does-not-push/all-others/to-the-right   # environment
        STATE_PATH                = /srv/state                # environment
        SESSION_IDLE_TTL          = 86400                     # default
        ISOLATION                 = auto                      # default
        DISABLE_BWRAP             = false                     # default
        MAX_MEMORY_MB             = 512                       # default
        MAX_CPU_CORES             = 1                         # default
        MAX_PROCESSES             = 128                       # default
        MAX_DISK_MB               = 1024                      # default
        MAX_FILE_SIZE_MB          = 100                       # default
        MAX_OUTPUT_BYTES          = 10485760                  # default
        MAX_EXECUTION_TIME        = 300                       # default
        MAX_TIMEOUT               = 3600                      # default
        MAX_BODY_BYTES            = 67108864                  # default
        MAX_CODE_BYTES            = 1048576                   # default
        MAX_CONCURRENT_EXECUTIONS = 100                       # default
        MAX_QUEUED_EXECUTIONS     = 1000                      # default
        EXECUTE_MODE              = sync                      # default
        RESULT_RETENTION          = 86400                     # default
        SHUTDOWN_GRACE            = 0                         # default
        CONTROL_PLANE_URL         = (none)                    # default
        INTERNAL_API_TOKEN        = (none)                    # default
        HEARTBEAT_INTERVAL        = 5                         # default
        CONTAINER_ID              = (none)                    # default
        POD_NAME                  = (none)                    # default
        PYTHON_PATH               = (none)                    # default
        NODE_PATH_BIN             = (none)                    # default
        SHELL_PATH                = (none)                    # default
        ALLOWED_INDEX_URLS        = https://pypi.org/simple   # default
        ALLOW_SOURCE_BUILDS       = false                     # default
        MAX_INSTALL_TIME          = 600                       # default
        MAX_PACKAGES_MB           = 8192                      # default
        WARM_PYTHON               = auto                      # default
        WARM_NODE                 = auto                      # default
        WARM_PYTHON_IMPORTS       = asyncio,base64,collections,contextlib,copy,csv,dataclasses,datetime,decimal,enum,functools,hashlib,inspect,io,itertools,json,linecache,math,pathlib,random,re,shutil,statistics,string,subprocess,tempfile,textwrap,threading,time,traceback,typing,urllib.parse,uuid   # default
        LOG_LEVEL                 = INFO                      # default
        LOG_FORMAT                = text                      # default
        LOG_FILE                  = (none)                    # default
        ");
    }
}
