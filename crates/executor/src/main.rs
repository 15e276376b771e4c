//! `sandbox-executor`: runs code that a model or a stranger wrote, isolated and limited, over HTTP or from a terminal.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use clap_complete::Shell;
use sandbox_executor::config::{self, Config};
use sandbox_executor::{cli, telemetry};

fn command() -> Command {
    let shell = clap::Arg::new("shell").required(true).value_parser(clap::value_parser!(Shell));
    Command::new("sandbox-executor")
        .about("Runs code in isolation, over HTTP or from the terminal")
        .version(env!("CARGO_PKG_VERSION"))
        .args(config::arguments())
        .subcommand(Command::new("serve").about("Run the HTTP service (default)"))
        // What a command is stands behind its arguments: the words of their type would go before it.
        .subcommand(
            cli::run::Arguments::augment_args(Command::new("run"))
                .about("Run one program in the sandbox from the terminal"),
        )
        .subcommand(
            cli::doctor::Arguments::augment_args(Command::new("doctor"))
                .about("Check whether code can run on this machine; print each cause and its fix"),
        )
        .subcommand(Command::new("health").about("Exit with 0 if the service of this configuration is healthy"))
        .subcommand(Command::new("config").about("Print the effective configuration and where each value came from"))
        .subcommand(Command::new("openapi").about("Print the OpenAPI 3.1 document of the HTTP interface"))
        .subcommand(
            cli::outbox::Arguments::augment_args(Command::new("outbox"))
                .about("List the reports that wait for the control plane or were put aside"),
        )
        .subcommand(Command::new("completions").about("Print the completion script of a shell").arg(shell))
        .subcommand(Command::new("man").about("The manual page, in roff").hide(true))
}

fn main() -> ExitCode {
    if let Some(code) = sandbox::dispatch(std::env::args_os()) {
        return ExitCode::from(u8::try_from(code).unwrap_or(125));
    }
    match sandbox::stand_in_front() {
        Ok(None) => {}
        Ok(Some(code)) => return ExitCode::from(code),
        Err(error) => eprintln!("sandbox-executor: what others leave behind here is not collected: {error}"),
    }
    sandbox::expect_signals();
    sandbox::keep_little_memory();
    sandbox::look_up_names_without_modules();
    raise_descriptor_limit();
    let matches = command().get_matches();
    match dispatch(&matches) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("sandbox-executor: {error:#}");
            ExitCode::from(match matches.subcommand_name() {
                // Every other status is the program's.
                Some("run") => cli::run::SANDBOX_FAILED,
                _ if error.is::<config::ConfigError>() => 2,
                _ => 1,
            })
        }
    }
}

/// An execution takes a dozen descriptors, and the usual soft limit is from the days of select(2) (getrlimit(2)).
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
}

fn dispatch(matches: &ArgMatches) -> anyhow::Result<u8> {
    if let Some(("completions", arguments)) = matches.subcommand() {
        if let Some(shell) = arguments.get_one::<Shell>("shell") {
            cli::completions::run(*shell, &mut command(), &mut std::io::stdout())?;
        }
        return Ok(0);
    }
    if let Some(("openapi", _)) = matches.subcommand() {
        cli::openapi::run(&mut std::io::stdout())?;
        return Ok(0);
    }
    if matches.subcommand_name() == Some("man") {
        cli::man::run(command(), &mut std::io::stdout())?;
        return Ok(0);
    }
    let inner = matches.subcommand().map_or(matches, |(_, inner)| inner);
    #[allow(clippy::disallowed_methods)] // The one place: everybody else gets the configuration.
    let config = Config::load(inner, |name| std::env::var_os(name));
    if let Some(("doctor", arguments)) = matches.subcommand() {
        // Without a log: a configuration or a log file that can't be used is a finding.
        let arguments = cli::doctor::Arguments::from_arg_matches(arguments)?;
        let ids = config.as_ref().map_or(Ok(None), cli::serve::take_subordinate_ids)?;
        let runtime = tokio_runtime()?;
        let code = runtime.block_on(cli::doctor::run(config, ids, &arguments));
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        return code;
    }
    let config = config?;
    if let Some(("config", _)) = matches.subcommand() {
        cli::config::run(&config)?;
        return Ok(0);
    }
    if let Some(("outbox", arguments)) = matches.subcommand() {
        let arguments = cli::outbox::Arguments::from_arg_matches(arguments)?;
        tokio_runtime()?.block_on(cli::outbox::run(&config, &arguments))?;
        return Ok(0);
    }
    if let Some(("health", _)) = matches.subcommand() {
        return Ok(tokio_runtime()?.block_on(cli::health::run(&config)));
    }
    // While there is one thread. A single execution from the terminal works on its user's own files.
    let ids = if matches.subcommand_name() == Some("run") { None } else { cli::serve::take_subordinate_ids(&config)? };
    let mut log_settings = config.log_settings();
    if matches.subcommand_name() == Some("run") && *config.source("LOG_LEVEL") == config::Source::Default {
        // The terminal is the program's.
        log_settings.level = telemetry::log::Level::Error;
    }
    let log = telemetry::log::init(&log_settings)?;
    let runtime = tokio_runtime()?;
    let code = match matches.subcommand() {
        Some(("run", arguments)) => {
            let arguments = cli::run::Arguments::from_arg_matches(arguments)?;
            runtime.block_on(cli::run::run(&config, &arguments))
        }
        _ => {
            let log = std::sync::Arc::new(log);
            let ended = runtime.block_on(cli::serve::run(config, ids, std::sync::Arc::clone(&log)));
            // Where the log goes, people look for why it did not start.
            let code = ended.unwrap_or_else(|error| {
                tracing::error!("{error:#}");
                1
            });
            log.flush();
            Ok(code)
        }
    };
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

fn tokio_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
