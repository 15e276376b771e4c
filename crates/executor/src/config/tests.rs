use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use clap::Command;
use proptest::prelude::*;

use super::documents::DEFAULT_FILE;
use super::paths::Folder;
use super::*;

impl Config {
    /// The configuration of an environment with nothing but these variables; the folders, unless they are among
    /// them, are made-up ones.
    pub(crate) fn of(environment: &[(&str, &str)]) -> Self {
        let mut all = vec![
            ("STATE_PATH", "/nowhere/state"),
            ("WORKSPACE_PATH", "/nowhere/workspaces"),
            ("PIP_CONFIG_FILE", "/dev/null"),
        ];
        all.extend(environment);
        load(&[], &all).unwrap()
    }
}

fn matches(flags: &[&str]) -> ArgMatches {
    let command = Command::new("sandbox-executor").args(arguments()).subcommand(Command::new("serve"));
    command.try_get_matches_from(std::iter::once(&"sandbox-executor").chain(flags)).unwrap()
}

fn load(flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables: HashMap<&str, &str> = environment.iter().copied().collect();
    Config::load(&matches(flags), |name| variables.get(name).map(OsString::from))
}

fn load_file(text: &str, flags: &[&str], environment: &[(&str, &str)]) -> (Result<Config, ConfigError>, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let flags = [flags, &["--config", path.to_str().unwrap()]].concat();
    (load(&flags, environment), path)
}

/// The line about a value in the environment.
fn refusal(name: &str, value: &str) -> String {
    let line =
        load(&[], &[("HOME", "/root"), (name, value)]).map(|_| format!("{name} = {value} was taken")).unwrap_err();
    line.to_string()
}

#[test]
fn a_flag_goes_before_the_environment_that_before_the_file_that_before_the_default() {
    let file = "executor_port = 1\nmax_memory_mb = 101\nmax_processes = 11\n";
    let environment = [("EXECUTOR_PORT", "2"), ("MAX_MEMORY_MB", "102"), ("STATE_PATH", "/s")];
    let (config, path) = load_file(file, &["--port", "3"], &environment);
    let config = config.unwrap();
    assert_eq!(
        (config.port, config.max_memory_mb, config.max_processes, config.max_body_bytes),
        (3, 102, 11, 67_108_864)
    );
    assert_eq!(config.source("EXECUTOR_PORT").to_string(), "flag --port");
    assert_eq!(config.source("MAX_MEMORY_MB").to_string(), "environment");
    assert_eq!(config.source("MAX_PROCESSES").to_string(), format!("file {}", path.display()));
    assert_eq!(config.source("MAX_BODY_BYTES").to_string(), "default");
}

#[test]
fn flags_stand_before_or_after_the_command() {
    for flags in [["--port", "7", "serve"], ["serve", "--port", "7"]] {
        assert_eq!(load(&flags, &[("STATE_PATH", "/s")]).unwrap().port, 7, "{flags:?}");
    }
}

#[test]
fn a_switch_needs_no_value() {
    for (flags, expected) in
        [(&["--disable-bwrap", "serve"][..], true), (&["--disable-bwrap=no", "serve"], false), (&["serve"], false)]
    {
        assert_eq!(load(flags, &[("STATE_PATH", "/s")]).unwrap().disable_bwrap, expected, "{flags:?}");
    }
}

#[test]
fn the_flags_are_a_valid_set() {
    Command::new("sandbox-executor").args(arguments()).debug_assert();
    let flags: Vec<_> = SETTINGS.iter().map(Setting::flag).collect();
    for flag in ["host", "port", "api-token", "max-memory-mb", "node-path-bin", "internal-api-token", "log-file"] {
        assert!(flags.contains(&flag.to_owned()), "{flag}");
    }
}

#[test]
fn empty_counts_as_absent_except_for_a_flag() {
    let (config, _) = load_file(
        "executor_host = ''\nallowed_hosts = []\nlog_level = ''",
        &[],
        &[("EXECUTOR_PORT", ""), ("EXECUTOR_API_TOKEN", ""), ("STATE_PATH", "/s")],
    );
    let config = config.unwrap();
    assert_eq!((config.port, config.host.to_string(), config.log_level), (8080, "127.0.0.1".to_owned(), Level::Info));
    assert!(config.api_token.is_none() && config.allowed_hosts.is_none());
    assert_eq!(*config.source("EXECUTOR_PORT"), Source::Default);
    insta::assert_snapshot!(load(&["--api-token", ""], &[]).unwrap_err().to_string(), @"EXECUTOR_API_TOKEN = [redacted] (flag --api-token) is not allowed; allowed: visible ASCII characters without spaces");
    insta::assert_snapshot!(refusal("EXECUTOR_API_TOKEN", "  "), @"EXECUTOR_API_TOKEN = [redacted] (environment) is not allowed; allowed: visible ASCII characters without spaces");
    insta::assert_snapshot!(refusal("EXECUTOR_PORT", "  "), @r#"EXECUTOR_PORT = "  " (environment) is not allowed; allowed: a whole number from 0 to 65535"#);
}

#[test]
fn blanks_around_a_value_are_dropped() {
    let config = Config::of(&[("EXECUTOR_API_TOKEN", "abc\n"), ("EXECUTOR_PORT", " 81 ")]);
    assert_eq!((config.api_token.unwrap().expose(), config.port), ("abc", 81));
}

#[test]
fn a_bad_value_is_one_line() {
    let bad = [
        ("EXECUTOR_HOST", "example.com"),
        ("EXECUTOR_PORT", "65536"),
        ("EXECUTOR_PORT", "-1"),
        ("EXECUTOR_API_TOKEN", "two words"),
        ("ALLOWED_ORIGINS", "https://a.example/path"),
        ("ALLOWED_ORIGINS", "a.example"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "https://me:pass@a.example"),
        ("ALLOWED_HOSTS", "localhost:8080"),
        ("ALLOWED_HOSTS", "http://localhost"),
        ("ALLOWED_HOSTS", ","),
        ("WORKSPACE_PATH", "/a\nb"),
        ("STATE_PATH", "\u{1b}[2J"),
        ("ISOLATION", "docker"),
        ("DISABLE_BWRAP", "maybe"),
        ("MAX_MEMORY_MB", "15"),
        ("MAX_MEMORY_MB", "512m"),
        ("MAX_CPU_CORES", "0"),
        ("MAX_CPU_CORES", "NaN"),
        ("MAX_CPU_CORES", "inf"),
        ("MAX_PROCESSES", "0"),
        ("MAX_FILE_SIZE_MB", "0"),
        ("MAX_BODY_BYTES", "1"),
        ("MAX_OUTPUT_BYTES", "1e6"),
        ("MAX_CODE_BYTES", "0"),
        ("MAX_EXECUTION_TIME", "0"),
        ("MAX_TIMEOUT", "1.5"),
        ("MAX_CONCURRENT_EXECUTIONS", "0"),
        ("MAX_QUEUED_EXECUTIONS", "many"),
        ("CONTROL_PLANE_URL", "control-plane:8000"),
        ("CONTROL_PLANE_URL", "ftp://control-plane"),
        ("CONTROL_PLANE_URL", "http://user:hunter2@control-plane"),
        ("CONTROL_PLANE_URL", "http://control-plane/?token=hunter2"),
        ("CONTROL_PLANE_URL", "http://control-plane/#top"),
        ("INTERNAL_API_TOKEN", "hünter2"),
        ("EXECUTE_MODE", "later"),
        ("HEARTBEAT_INTERVAL", "0"),
        ("CONTAINER_ID", "a\nb"),
        ("POD_NAME", "a b"),
        ("SHUTDOWN_GRACE", "5s"),
        ("PYTHON_PATH", "python3"),
        ("NODE_PATH_BIN", "./node"),
        ("SHELL_PATH", "sh"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("LOG_FILE", "/var/log/a\0b"),
    ];
    let lines: Vec<_> = bad.iter().map(|(name, value)| refusal(name, value)).collect();
    assert!(lines.iter().all(|line| !line.contains(char::is_control) && !line.contains("hunter2")));
    insta::assert_snapshot!(lines.join("\n"), @r"
    EXECUTOR_HOST = example.com (environment) is not allowed; allowed: an IPv4 or IPv6 address, or localhost
    EXECUTOR_PORT = 65536 (environment) is not allowed; allowed: a whole number from 0 to 65535
    EXECUTOR_PORT = -1 (environment) is not allowed; allowed: a whole number from 0 to 65535
    EXECUTOR_API_TOKEN = [redacted] (environment) is not allowed; allowed: visible ASCII characters without spaces
    ALLOWED_ORIGINS = https://a.example/path (environment) is not allowed; allowed: scheme://host or scheme://host:port with nothing behind it, several separated by commas
    ALLOWED_ORIGINS = a.example (environment) is not allowed; allowed: scheme://host or scheme://host:port with nothing behind it, several separated by commas
    ALLOWED_ORIGINS = * (environment) is not allowed; allowed: scheme://host or scheme://host:port with nothing behind it, several separated by commas
    ALLOWED_ORIGINS = https://[redacted]@a.example (environment) is not allowed; allowed: scheme://host or scheme://host:port with nothing behind it, several separated by commas
    ALLOWED_HOSTS = localhost:8080 (environment) is not allowed; allowed: host names or addresses without ports, IPv6 in [brackets], several separated by commas
    ALLOWED_HOSTS = http://localhost (environment) is not allowed; allowed: host names or addresses without ports, IPv6 in [brackets], several separated by commas
    ALLOWED_HOSTS = , (environment) is not allowed; allowed: host names or addresses without ports, IPv6 in [brackets], several separated by commas
    WORKSPACE_PATH = /a\nb (environment) is not allowed; allowed: a path
    STATE_PATH = \u{1b}[2J (environment) is not allowed; allowed: a path
    ISOLATION = docker (environment) is not allowed; allowed: auto, native, bubblewrap, seatbelt, none
    DISABLE_BWRAP = maybe (environment) is not allowed; allowed: true, false, 1, 0, yes, no
    MAX_MEMORY_MB = 15 (environment) is not allowed; allowed: a whole number from 16 to 16777216
    MAX_MEMORY_MB = 512m (environment) is not allowed; allowed: a whole number from 16 to 16777216
    MAX_CPU_CORES = 0 (environment) is not allowed; allowed: a number from 0.01 to 1024
    MAX_CPU_CORES = NaN (environment) is not allowed; allowed: a number from 0.01 to 1024
    MAX_CPU_CORES = inf (environment) is not allowed; allowed: a number from 0.01 to 1024
    MAX_PROCESSES = 0 (environment) is not allowed; allowed: a whole number from 1 to 4194304
    MAX_FILE_SIZE_MB = 0 (environment) is not allowed; allowed: a whole number from 1 to 16777216
    MAX_BODY_BYTES = 1 (environment) is not allowed; allowed: a whole number from 1024 to 4294967296
    MAX_OUTPUT_BYTES = 1e6 (environment) is not allowed; allowed: a whole number from 1 to 1073741824
    MAX_CODE_BYTES = 0 (environment) is not allowed; allowed: a whole number from 1 to 1073741824
    MAX_EXECUTION_TIME = 0 (environment) is not allowed; allowed: a whole number from 1 to 604800 (seconds)
    MAX_TIMEOUT = 1.5 (environment) is not allowed; allowed: a whole number from 1 to 604800 (seconds)
    MAX_CONCURRENT_EXECUTIONS = 0 (environment) is not allowed; allowed: a whole number from 1 to 100000
    MAX_QUEUED_EXECUTIONS = many (environment) is not allowed; allowed: a whole number from 0 to 1000000
    CONTROL_PLANE_URL = control-plane:8000 (environment) is not allowed; allowed: an http:// or https:// address without user, password, query and fragment
    CONTROL_PLANE_URL = ftp://control-plane (environment) is not allowed; allowed: an http:// or https:// address without user, password, query and fragment
    CONTROL_PLANE_URL = http://[redacted]@control-plane (environment) is not allowed; allowed: an http:// or https:// address without user, password, query and fragment
    CONTROL_PLANE_URL = http://control-plane/?[redacted] (environment) is not allowed; allowed: an http:// or https:// address without user, password, query and fragment
    CONTROL_PLANE_URL = http://control-plane/#top (environment) is not allowed; allowed: an http:// or https:// address without user, password, query and fragment
    INTERNAL_API_TOKEN = [redacted] (environment) is not allowed; allowed: visible ASCII characters without spaces
    EXECUTE_MODE = later (environment) is not allowed; allowed: sync, async
    HEARTBEAT_INTERVAL = 0 (environment) is not allowed; allowed: a whole number from 1 to 3600 (seconds)
    CONTAINER_ID = a\nb (environment) is not allowed; allowed: up to 253 visible ASCII characters without spaces
    POD_NAME = a b (environment) is not allowed; allowed: up to 253 visible ASCII characters without spaces
    SHUTDOWN_GRACE = 5s (environment) is not allowed; allowed: a whole number from 0 to 86400 (seconds)
    PYTHON_PATH = python3 (environment) is not allowed; allowed: an absolute path
    NODE_PATH_BIN = ./node (environment) is not allowed; allowed: an absolute path
    SHELL_PATH = sh (environment) is not allowed; allowed: an absolute path
    LOG_LEVEL = loud (environment) is not allowed; allowed: DEBUG, INFO, WARNING, ERROR
    LOG_FORMAT = xml (environment) is not allowed; allowed: text, json
    LOG_FILE = /var/log/a\u{0}b (environment) is not allowed; allowed: a path
    ");
}

#[test]
fn a_value_that_is_not_unicode_is_refused() {
    let bytes = || OsString::from_vec(vec![b'/', 0xff]);
    let error = Config::load(&matches(&[]), |name| (name == "WORKSPACE_PATH").then(bytes)).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"WORKSPACE_PATH = /� (environment) is not allowed; allowed: a path");
}

#[test]
fn files_are_checked() {
    let bad = [
        "max_memroy_mb = 1",
        "port = 1",
        "[limits]\nmax_memory_mb = 64",
        "max_memory_mb = \"\nx",
        "executor_api_token = 5",
        "executor_port = [1]",
        "executor_port = true",
        "allowed_hosts = [1]",
        "allowed_hosts = [\"a:1\"]",
        "disable_bwrap = 2",
        "log_file = true",
        "max_timeout = 1979-05-27",
        "executor_port = 1\nexecutor_port = 2",
    ];
    let lines = bad.map(|text| {
        let (config, path) = load_file(text, &[], &[("STATE_PATH", "/s")]);
        config.expect_err(text).to_string().replace(path.to_str().unwrap(), "FILE")
    });
    assert!(lines.iter().all(|line| !line.contains('\n')));
    insta::assert_snapshot!(lines.join("\n"), @r#"
    FILE: unknown key "max_memroy_mb"; the nearest known one is "max_memory_mb"
    FILE: unknown key "port"; the nearest known one is "executor_port"
    FILE: unknown key "limits"; the nearest known one is "log_file"
    FILE, line 2: not valid TOML: key with no value, expected `=`
    EXECUTOR_API_TOKEN = [redacted] (file FILE) is not allowed; allowed: a string: visible ASCII characters without spaces
    EXECUTOR_PORT = [1] (file FILE) is not allowed; allowed: a whole number from 0 to 65535
    EXECUTOR_PORT = true (file FILE) is not allowed; allowed: a whole number from 0 to 65535
    ALLOWED_HOSTS = [1] (file FILE) is not allowed; allowed: a string or an array of strings
    ALLOWED_HOSTS = a:1 (file FILE) is not allowed; allowed: host names or addresses without ports, IPv6 in [brackets], several separated by commas
    DISABLE_BWRAP = 2 (file FILE) is not allowed; allowed: true, false, 1, 0, yes, no
    LOG_FILE = true (file FILE) is not allowed; allowed: a string: a path
    MAX_TIMEOUT = 1979-05-27 (file FILE) is not allowed; allowed: a whole number from 1 to 604800 (seconds)
    FILE, line 2: not valid TOML: duplicate key
    "#);
    insta::assert_snapshot!(load(&["--config", "/nowhere/c.toml"], &[]).unwrap_err().to_string(), @"/nowhere/c.toml: the configuration file cannot be read: No such file or directory (os error 2)");
}

#[test]
fn lists_are_normalised() {
    let (config, _) = load_file(
        "allowed_origins = ['HTTPS://App.Example:443', 'http://LOCALHOST:3000']\nallowed_hosts = 'Box.Local., ::1, 10.0.0.1'",
        &[],
        &[("STATE_PATH", "/s")],
    );
    let config = config.unwrap();
    assert_eq!(config.allowed_origins, ["https://app.example", "http://localhost:3000"]);
    assert_eq!(config.allowed_hosts.unwrap(), ["box.local", "[::1]", "10.0.0.1"]);
    let origins = Config::of(&[("ALLOWED_ORIGINS", "https://a.example, vscode-webview://AbC,")]).allowed_origins;
    assert_eq!(origins, ["https://a.example", "vscode-webview://abc"]);
}

#[test]
fn addresses_are_normalised() {
    let url = |text| Config::of(&[("CONTROL_PLANE_URL", text)]).control_plane_url.unwrap();
    assert_eq!(url("http://Host.docker.internal:8000/"), "http://host.docker.internal:8000");
    assert_eq!(url("https://a.example/base//"), "https://a.example/base");
    let host = |text| Config::of(&[("EXECUTOR_HOST", text)]).host.to_string();
    assert_eq!([host("localhost"), host("[::]"), host("0.0.0.0")], ["127.0.0.1", "::", "0.0.0.0"]);
    assert_eq!(Config::of(&[("WORKSPACE_PATH", "ws")]).workspace_path, std::env::current_dir().unwrap().join("ws"));
}

#[test]
fn of_the_two_timeouts_a_default_gives_way() {
    let seconds = |environment: &[(&str, &str)]| {
        let config = Config::of(environment);
        (config.max_execution_time.as_secs(), config.max_timeout.as_secs())
    };
    assert_eq!(seconds(&[("MAX_TIMEOUT", "60")]), (60, 60));
    assert_eq!(seconds(&[("MAX_EXECUTION_TIME", "5000")]), (5000, 5000));
    assert_eq!(seconds(&[("MAX_EXECUTION_TIME", "10"), ("MAX_TIMEOUT", "20")]), (10, 20));
    let both = load(&["--max-timeout", "20"], &[("MAX_EXECUTION_TIME", "30")]);
    insta::assert_snapshot!(both.unwrap_err().to_string(), @"MAX_EXECUTION_TIME = 30 (environment) is not allowed; allowed: at most MAX_TIMEOUT, which is 20 (flag --max-timeout)");
}

#[test]
fn hosts_are_guarded_on_loopback_without_a_token() {
    let rule = |environment: &[(&str, &str)]| Config::of(environment).host_rule();
    let loopback = rule(&[]);
    for host in ["localhost", "LocalHost:8080", "localhost.:80", "127.0.0.1", "127.0.0.1:9", "[::1]", "[::1]:8080"] {
        assert!(loopback.allows(host), "{host}");
    }
    for host in ["", "evil.example", "localhost.evil.example", "127.0.0.1:80@evil", "localhost:x", "[::1", "::2", ":80"]
    {
        assert!(!loopback.allows(host), "{host}");
    }
    assert!(rule(&[("EXECUTOR_HOST", "127.0.0.2")]).allows("127.0.0.2:8080"));
    assert_eq!(rule(&[("EXECUTOR_HOST", "0.0.0.0")]), HostRule::Any);
    assert_eq!(rule(&[("EXECUTOR_API_TOKEN", "t")]), HostRule::Any);
    let set = rule(&[("EXECUTOR_API_TOKEN", "t"), ("ALLOWED_HOSTS", "a.example")]);
    assert!(set.allows("A.example:443") && !set.allows("localhost"));
}

#[test]
fn default_folders_are_the_first_usable_ones() {
    let choose = |there: &[(&str, Folder)], xdg: Option<&str>, home: Option<&str>| {
        let folder = |path: &Path| {
            there.iter().find(|(name, _)| Path::new(name) == path).map_or(Folder::Absent, |(_, folder)| *folder)
        };
        let surroundings =
            Surroundings { folder: &folder, xdg_state_home: xdg.map(Into::into), home: home.map(Into::into) };
        resolve_paths(PathBuf::new(), PathBuf::new(), &surroundings)
            .map(|(workspace, state)| format!("{} {}", workspace.display(), state.display()))
    };
    let system = ("/var/lib/sandbox-executor", Folder::Writable);
    let denied = ("/var/lib/sandbox-executor", Folder::Unusable);
    let parent = ("/var/lib", Folder::Writable);
    let home = Some("/home/u");
    let as_expected = [
        (choose(&[system, ("/workspace", Folder::Writable)], None, home), "/workspace /var/lib/sandbox-executor"),
        (choose(&[parent], None, None), "/var/lib/sandbox-executor/workspaces /var/lib/sandbox-executor"),
        (
            choose(&[denied, parent, ("/workspace", Folder::Unusable)], None, home),
            "/home/u/.local/state/sandbox-executor/workspaces /home/u/.local/state/sandbox-executor",
        ),
        (choose(&[], Some("/x"), home), "/x/sandbox-executor/workspaces /x/sandbox-executor"),
    ];
    for (chosen, expected) in as_expected {
        assert_eq!(chosen.unwrap(), expected);
    }
    insta::assert_snapshot!(choose(&[], None, None).unwrap_err().to_string(), @"STATE_PATH is not set, /var/lib/sandbox-executor is not writable, and neither XDG_STATE_HOME nor HOME is set; allowed: the path of a writable folder");
}

#[test]
fn what_was_set_is_kept() {
    let config = Config::of(&[("WORKSPACE_PATH", "/a"), ("STATE_PATH", "/b")]);
    assert_eq!((config.workspace_path, config.state_path), ("/a".into(), "/b".into()));
}

#[test]
fn secrets_do_not_show() {
    let config = Config::of(&[("EXECUTOR_API_TOKEN", "hunter2"), ("INTERNAL_API_TOKEN", "hunter3")]);
    let shown = config.entries().fold(format!("{config:?}"), |text, entry| text + &entry.value.unwrap_or_default());
    assert!(shown.contains("[redacted]") && !shown.contains("hunter"));
    assert_eq!(config.log_settings().secrets, ["hunter2", "hunter3"]);
}

#[test]
fn the_default_file_holds_exactly_the_defaults() {
    let bare: String = DEFAULT_FILE
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())).unwrap_or(line)
        })
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(bare.parse::<toml::Table>().unwrap().len(), SETTINGS.len());
    let values = |config: &Config| config.entries().map(|entry| (entry.name, entry.value)).collect::<Vec<_>>();
    let home = [("HOME", "/home/u")];
    let defaults = values(&load(&[], &home).unwrap());
    for text in [DEFAULT_FILE, &bare] {
        assert_eq!(values(&load_file(text, &[], &home).0.unwrap()), defaults);
    }
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = Config::of(&[]);
    let values: Vec<_> =
        config.entries().map(|entry| format!("{}={}", entry.name, entry.value.unwrap_or_default())).collect();
    insta::assert_snapshot!(values.join("\n"), @"
    EXECUTOR_HOST=127.0.0.1
    EXECUTOR_PORT=8080
    EXECUTOR_API_TOKEN=
    ALLOWED_ORIGINS=
    ALLOWED_HOSTS=localhost,127.0.0.1,[::1]
    WORKSPACE_PATH=/nowhere/workspaces
    STATE_PATH=/nowhere/state
    SESSION_IDLE_TTL=86400
    ISOLATION=auto
    DISABLE_BWRAP=false
    MAX_MEMORY_MB=512
    MAX_CPU_CORES=1
    MAX_PROCESSES=128
    MAX_DISK_MB=1024
    MAX_FILE_SIZE_MB=100
    MAX_OUTPUT_BYTES=10485760
    MAX_EXECUTION_TIME=300
    MAX_TIMEOUT=3600
    MAX_BODY_BYTES=67108864
    MAX_CODE_BYTES=1048576
    MAX_CONCURRENT_EXECUTIONS=100
    MAX_QUEUED_EXECUTIONS=1000
    EXECUTE_MODE=sync
    RESULT_RETENTION=86400
    SHUTDOWN_GRACE=0
    CONTROL_PLANE_URL=
    INTERNAL_API_TOKEN=
    HEARTBEAT_INTERVAL=5
    CONTAINER_ID=
    POD_NAME=
    PYTHON_PATH=
    NODE_PATH_BIN=
    SHELL_PATH=
    ALLOWED_INDEX_URLS=https://pypi.org/simple
    ALLOW_SOURCE_BUILDS=false
    MAX_INSTALL_TIME=600
    MAX_PACKAGES_MB=8192
    WARM_PYTHON=auto
    WARM_NODE=auto
    WARM_PYTHON_IMPORTS=asyncio,base64,collections,contextlib,copy,csv,dataclasses,datetime,decimal,enum,functools,hashlib,inspect,io,itertools,json,linecache,math,pathlib,random,re,shutil,statistics,string,subprocess,tempfile,textwrap,threading,time,traceback,typing,urllib.parse,uuid
    LOG_LEVEL=INFO
    LOG_FORMAT=text
    LOG_FILE=
    ");
}

proptest! {
    #[test]
    fn any_value_gives_a_value_or_one_line(row in 0..SETTINGS.len(), value in any::<String>()) {
        if let Err(error) = load(&[], &[("HOME", "/root"), (SETTINGS[row].name, &value)]) {
            prop_assert!(!error.to_string().contains(char::is_control));
        }
    }

    #[test]
    fn any_host_header_gets_an_answer(header in any::<String>()) {
        HostRule::Listed(vec!["localhost".to_owned()]).allows(&header);
    }
}
