//! What the service counts, for `GET /metrics`.
//!
//! Like the log it is one for the whole process: whatever happens is counted where it happens, with a line. Counters and histograms
//! of executions are made at the start, so that counting takes a few atomic operations and a short lock, and allocates nothing;
//! what is only looked at (how many run, what the disk holds) is looked at when somebody asks. A label has a few values that are known
//! ahead, never an id or a path of a client's. `docs/metrics.md` lists all of it, and a test holds the list against the code.

mod process;
#[cfg(test)]
mod tests;

use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use runtime::Language;
use sandbox::error::Stage;

use crate::answer::Metrics as Cost;
use crate::store::Status;
use process::Process;

/// What is in front of every name that is not a process's.
const PREFIX: &str = "sandbox_executor";
/// Ends that an execution can have.
const ENDS: [Status; 5] = [Status::Completed, Status::Failed, Status::Timeout, Status::Cancelled, Status::Crashed];
/// Bounds of the histograms, seconds: a warm shell takes a millisecond, the longest timeout is an hour.
const SECONDS: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// Classes of statuses of HTTP.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Stages in which a sandbox can fail, as [`name_of`] tells them.
const STAGES: [Stage; 6] =
    [Stage::Launch, Stage::Namespaces, Stage::Limits, Stage::Program, Stage::WorkingDirectory, Stage::Supervise];
/// Errors that alerts wait for: they are there from the start, with 0.
const CODES: [&str; 2] = ["QueueFull", "IsolationUnavailable"];
/// What can come of sending a result.
const RESULTS: [&str; 3] = ["delivered", "failed", "put_aside"];
/// The route of what has none.
const UNMATCHED: &str = "unmatched";
/// The format that came after Prometheus' own.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

type Labels<const N: usize> = [(&'static str, &'static str); N];
/// A counter for each class of statuses, made when it first counts.
type Classes = [OnceLock<Counter>; CLASSES.len()];
/// One for each language.
type Each<T> = [T; Language::ALL.len()];

/// The label set of a request, whose route is the router's and not the client's.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRoute {
    route: String,
    status: &'static str,
}

impl OfRoute {
    /// As the document writes it: a parameter that goes on over several parts is the router's own notation.
    fn new(route: &str, class: usize) -> Self {
        Self { route: route.replace("{*", "{"), status: CLASSES[class] }
    }
}

/// All of it.
struct Metrics {
    registry: Registry,
    executions: Each<[Counter; ENDS.len()]>,
    duration: Each<Histogram>,
    startup: Each<Histogram>,
    queue: Histogram,
    output: [Counter; 2],
    hits: Each<Counter>,
    misses: Each<Counter>,
    faults: Family<Labels<1>, Counter>,
    refused: Family<Labels<1>, Counter>,
    attempts: Family<Labels<1>, Counter>,
    requests: Family<OfRoute, Counter>,
    routes: RwLock<Vec<(String, Classes)>>,
    build: Family<Labels<2>, Gauge>,
    enforced: Family<Labels<1>, Gauge>,
    seen: Seen,
    process: Process,
}

/// What is looked at when somebody asks.
struct Seen {
    active: Gauge,
    queued: Gauge,
    slots: Gauge,
    idle: Each<Gauge>,
    reports_pending: Gauge,
    reports_put_aside: Gauge,
    results: Gauge,
    store_bytes: Gauge,
    sessions: Gauge,
    workspace_free: Gauge,
    layers: Gauge,
    layer_bytes: Gauge,
}

/// How things stand now; `None` where it could not be found out.
#[derive(Debug, Default)]
pub struct Standing {
    /// Executions that run, that wait, and that may run at once.
    pub executions: [usize; 3],
    /// Interpreters and sandboxes that wait for an execution.
    pub idle: Each<usize>,
    /// Reports that wait, and that were put aside.
    pub reports: Option<[u64; 2]>,
    /// Results that are kept, and bytes of the file.
    pub store: Option<[u64; 2]>,
    /// Sessions that have a workspace.
    pub sessions: Option<usize>,
    /// Bytes free on the disk of the workspaces.
    pub workspace_free_bytes: Option<u64>,
    /// Sets of packages, and what they take of the disk.
    pub packages: [u64; 2],
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::default();
        let process = Process::register(&mut registry);
        let own = registry.sub_registry_with_prefix(PREFIX);
        let executions = counters(own, "executions", "Executions that ended, by language and how");
        let duration = histograms(own, "execution_duration", "How long programs ran, from their start to their end");
        let startup = histograms(own, "execution_startup", "Time from an execution's slot to its program's start");
        let queue = histogram();
        own.register_with_unit(
            "execution_queue",
            "How long executions waited for a slot",
            Unit::Seconds,
            queue.clone(),
        );
        let output = Family::<Labels<1>, Counter>::default();
        own.register_with_unit("output", "What programs wrote, also what was cut", Unit::Bytes, output.clone());
        let hits = counters(own, "warm_hits", "Executions that found something made ahead");
        let misses =
            counters(own, "warm_misses", "Executions that something made ahead would have suited, and there was none");
        let faults = counters(own, "sandbox_faults", "Sandboxes that failed by no fault of the program, by stage");
        let refused = counters(own, "requests_refused", "Requests that were answered with an error, by its code");
        let attempts = counters(own, "report_attempts", "Results sent to the control plane, by what came of it");
        let requests = Family::<OfRoute, Counter>::default();
        own.register("http_requests", "Requests, by route and class of the answer's status", requests.clone());
        drop(requests.get_or_create(&OfRoute::new(UNMATCHED, 3)));
        let build = gauges(own, "build_info", "Always 1: the version, and how programs are isolated");
        let enforced = gauges(own, "limit_enforced", "Whether cgroups enforce this limit here: 1, else 0");
        let of = |language: Language| [("language", language.name())];
        let with_stream = |stream| output.get_or_create_owned(&[("stream", stream)]);
        let ended = |language: Language| {
            ENDS.map(|end| executions.get_or_create_owned(&[("language", language.name()), ("status", end.name())]))
        };
        let seen = Seen::register(own);
        // What has not happened yet is told too: who looks for a rise can't see the first one otherwise.
        for stage in STAGES {
            drop(faults.get_or_create(&[("stage", name_of(stage))]));
        }
        for code in CODES {
            drop(refused.get_or_create(&[("error_code", code)]));
        }
        for result in RESULTS {
            drop(attempts.get_or_create(&[("result", result)]));
        }
        Self {
            registry,
            executions: Language::ALL.map(ended),
            duration,
            startup,
            queue,
            output: ["stdout", "stderr"].map(with_stream),
            hits: Language::ALL.map(|language| hits.get_or_create_owned(&of(language))),
            misses: Language::ALL.map(|language| misses.get_or_create_owned(&of(language))),
            faults,
            refused,
            attempts,
            requests,
            routes: RwLock::default(),
            build,
            enforced,
            seen,
            process,
        }
    }
}

impl Seen {
    fn register(own: &mut Registry) -> Self {
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            own.register(name, help, gauge.clone());
            gauge
        };
        let active = gauge("executions_active", "Executions that run now");
        let queued = gauge("executions_queued", "Executions that wait for a slot now");
        let slots = gauge("execution_slots", "Executions that may run at once (MAX_CONCURRENT_EXECUTIONS)");
        let reports_pending = gauge("reports_pending", "Results that wait to be sent to the control plane");
        let reports_put_aside =
            gauge("reports_put_aside", "Results that the control plane refused: see `outbox retry`");
        let results = gauge("results_kept", "Results that can be fetched");
        let sessions = gauge("sessions", "Sessions that have a workspace");
        let layers = gauge("package_sets", "Sets of packages that are installed for sessions");
        let mut bytes = |name, help| {
            let gauge = Gauge::default();
            own.register_with_unit(name, help, Unit::Bytes, gauge.clone());
            gauge
        };
        let store_bytes = bytes("store", "Size of the store of executions and results, with its log");
        let workspace_free = bytes("workspace_free", "Free on the disk of WORKSPACE_PATH");
        let layer_bytes = bytes("packages", "What installed packages take of the disk");
        let idle =
            gauges(own, "warm_idle", "Interpreters (shell: sandboxes) that wait for an execution without a session");
        let idle = Language::ALL.map(|language| idle.get_or_create_owned(&[("language", language.name())]));
        Self {
            active,
            queued,
            slots,
            idle,
            reports_pending,
            reports_put_aside,
            results,
            store_bytes,
            sessions,
            workspace_free,
            layers,
            layer_bytes,
        }
    }

    fn set(&self, standing: &Standing) {
        let [active, queued, slots] = standing.executions.map(|count| count as u64);
        set(&self.active, active);
        set(&self.queued, queued);
        set(&self.slots, slots);
        self.idle.iter().zip(standing.idle).for_each(|(gauge, idle)| set(gauge, idle as u64));
        if let Some([pending, put_aside]) = standing.reports {
            set(&self.reports_pending, pending);
            set(&self.reports_put_aside, put_aside);
        }
        if let Some([results, bytes]) = standing.store {
            set(&self.results, results);
            set(&self.store_bytes, bytes);
        }
        standing.sessions.into_iter().for_each(|sessions| set(&self.sessions, sessions as u64));
        standing.workspace_free_bytes.into_iter().for_each(|free| set(&self.workspace_free, free));
        let [layers, bytes] = standing.packages;
        set(&self.layers, layers);
        set(&self.layer_bytes, bytes);
    }
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn counters<const N: usize>(own: &mut Registry, name: &str, help: &str) -> Family<Labels<N>, Counter> {
    let family = Family::default();
    own.register(name, help, family.clone());
    family
}

fn gauges<const N: usize>(own: &mut Registry, name: &str, help: &str) -> Family<Labels<N>, Gauge> {
    let family = Family::default();
    own.register(name, help, family.clone());
    family
}

fn histograms(own: &mut Registry, name: &str, help: &str) -> Each<Histogram> {
    let family = Family::<Labels<1>, Histogram>::new_with_constructor(histogram as fn() -> Histogram);
    own.register_with_unit(name, help, Unit::Seconds, family.clone());
    Language::ALL.map(|language| family.get_or_create_owned(&[("language", language.name())]))
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

/// The service starts: what does not change about it.
pub fn started(version: &'static str, isolation: &'static str, enforced: [(&'static str, bool); 3]) {
    METRICS.process.started();
    METRICS.build.get_or_create(&[("version", version), ("isolation", isolation)]).set(1);
    for (limit, is_enforced) in enforced {
        METRICS.enforced.get_or_create(&[("limit", limit)]).set(is_enforced.into());
    }
}

/// An execution ended, whether its program ran or not.
pub fn ended(language: &str, status: Status) {
    let end = ENDS.iter().position(|end| *end == status);
    if let (Some(language), Some(end)) = (Language::parse(language), end) {
        METRICS.executions[language as usize][end].inc();
    }
}

/// A program ran: what that took.
pub fn ran(language: Language, cost: &Cost) {
    let language = language as usize;
    METRICS.duration[language].observe(cost.duration_ms / 1e3);
    METRICS.startup[language].observe(cost.startup_ms / 1e3);
    METRICS.queue.observe(cost.queue_ms / 1e3);
}

/// A program wrote so many bytes to its standard output and its standard error.
pub fn wrote(stdout: u64, stderr: u64) {
    METRICS.output[0].inc_by(stdout);
    METRICS.output[1].inc_by(stderr);
}

/// An execution asked for something made ahead and found it, or did not.
pub fn warm(language: Language, found: bool) {
    let counters = if found { &METRICS.hits } else { &METRICS.misses };
    counters[language as usize].inc();
}

/// A sandbox failed.
pub fn sandbox_failed(stage: Stage) {
    METRICS.faults.get_or_create(&[("stage", name_of(stage))]).inc();
}

fn name_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Launch => "launch",
        Stage::Namespaces => "namespaces",
        Stage::Limits => "limits",
        Stage::Program => "program",
        Stage::WorkingDirectory => "working_directory",
        Stage::Supervise => "supervise",
    }
}

/// A request was answered with this `error_code`, less what is in front of all of them.
pub fn refused(error_code: &'static str) {
    METRICS.refused.get_or_create(&[("error_code", error_code)]).inc();
}

/// A result was sent to the control plane: `delivered`, to be tried again (`failed`), or `put_aside`.
pub fn reported(result: &'static str) {
    METRICS.attempts.get_or_create(&[("result", result)]).inc();
}

/// A request was answered that the router took for this route, if for any: a pattern of the router's own.
pub fn answered(route: Option<&str>, status: u16) {
    METRICS.answered(route.unwrap_or(UNMATCHED), status);
}

/// All of it as text, and what kind of text, for whoever says that he takes this.
pub fn text(standing: &Standing, accept: &str) -> (&'static str, String) {
    METRICS.seen.set(standing);
    METRICS.process.look();
    METRICS.text(accept)
}

impl Metrics {
    /// Finds the counter of a route, or makes it the first time. That takes no allocation and a lock that nobody holds for long.
    fn answered(&self, route: &str, status: u16) {
        let class = usize::from(status / 100).saturating_sub(1).min(CLASSES.len() - 1);
        let count = |routes: &[(String, Classes)]| {
            let found = routes.iter().find(|(known, _)| known == route);
            found.map(|(_, classes)| {
                classes[class].get_or_init(|| self.requests.get_or_create_owned(&OfRoute::new(route, class))).inc()
            })
        };
        if count(&self.routes.read().unwrap_or_else(PoisonError::into_inner)).is_none() {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            if !routes.iter().any(|(known, _)| known == route) {
                routes.push((route.to_owned(), Classes::default()));
            }
            count(&routes);
        }
    }

    fn text(&self, accept: &str) -> (&'static str, String) {
        let mut written = String::new();
        let is_open = accept.contains("application/openmetrics-text");
        let encoded = if is_open {
            text::encode(&mut written, &self.registry)
        } else {
            prometheus_text::encode(&mut written, &self.registry)
        };
        // It is a text in memory: nothing fails but what is written here.
        encoded.unwrap_or_else(|_| tracing::error!("The metrics could not be written down"));
        (if is_open { OPEN_METRICS } else { prometheus_text::CONTENT_TYPE }, written)
    }
}
