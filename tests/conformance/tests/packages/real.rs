//! Packages that people use, from the index that pip is configured with here.

use crate::{PYTHON, body, post};
use conformance::{Service, assert_completed, output_within, skipped};
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};

/// What pip and those it calls read of an environment.
const OF_PIP: [&str; 14] = [
    "PIP_INDEX_URL",
    "PIP_CERT",
    "PIP_PROXY",
    "PIP_TRUSTED_HOST",
    "PIP_CONFIG_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
];

/// The tester's settings for pip, if pip reaches an index with them.
#[allow(clippy::disallowed_methods)] // The tester's, which is where the index is.
fn pip_settings(test: &str) -> Option<Vec<(&'static str, String)>> {
    let settings: Vec<_> = OF_PIP.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).collect();
    let home = conformance::Home::new();
    let mut pip = Command::new(PYTHON);
    pip.args(["-I", "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--retries", "0", "--timeout", "10", "-d"]);
    pip.arg(home.path("wheels"))
        .arg("six==1.16.0")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home.path("."));
    pip.envs(settings.iter().map(|(name, value)| (name, value)));
    if output_within(60, &mut pip).status.success() {
        return Some(settings);
    }
    skipped(test, "no package index can be reached from here");
    None
}

const PLOT: &str = r#"
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt, numpy as np, pandas as pd
table = pd.DataFrame({"x": np.arange(100), "y": np.sin(np.arange(100) / 10)})
table.plot(x="x", y="y")
plt.savefig("plot.png")
table.describe().to_csv("table.csv")
def handler(event):
    return {"mean": float(table["x"].mean()), "from": [m.__file__ for m in (np, pd, matplotlib)]}
"#;

#[test]
fn pandas_numpy_and_matplotlib_make_a_plot() {
    let Some(settings) = pip_settings("pandas_numpy_and_matplotlib_make_a_plot") else { return };
    let mut settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(("MAX_MEMORY_MB", "1024"));
    let service = Service::with(&settings);
    let wanted = ["numpy>=1.26", "pandas>=2", "matplotlib>=3.8"];
    let request = body("s", &wanted, "replace").to_string();
    // It may take minutes.
    let mut stream = service.connect();
    stream.set_read_timeout(Some(conformance::patience(600))).expect("a timeout");
    let bytes = service.request_bytes("POST", "/internal/session-config/sync", &[], request.as_bytes());
    std::io::Write::write_all(&mut stream, &bytes).expect("a request");
    let response = conformance::read_response(stream).expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    let installed = response.json()["installed_dependencies"].as_array().map_or(0, Vec::len);
    assert!(installed > 5, "{}", response.text());

    let answer = service.execute(json!({"session_id": "s", "language": "python", "code": PLOT, "timeout": 90}));
    assert_completed(&answer);
    assert_eq!(answer["return_value"]["mean"], 49.5);
    let from = answer["return_value"]["from"].to_string();
    assert!(from.contains("/numpy/__init__.py") && !from.contains("dist-packages"), "{from}");
    let artifacts: Vec<&str> =
        answer["artifacts"].as_array().into_iter().flatten().filter_map(|one| one["path"].as_str()).collect();
    assert_eq!(artifacts, ["plot.png", "table.csv"], "{answer}");
    let plot = service.get("/sessions/s/files/plot.png");
    assert_eq!((plot.status, plot.header("content-type")), (200, Some("image/png")));
    assert!(plot.body.starts_with(b"\x89PNG\r\n") && plot.body.len() > 5000, "{} bytes", plot.body.len());

    // Another session has the same in no time, in whatever order it asks.
    let start = Instant::now();
    assert_eq!(post(&service, &body("t", &["matplotlib>=3.8", "pandas>=2", "numpy>=1.26"], "replace")).status, 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let other = service.execute(json!({"session_id": "t", "language": "python", "code": PLOT, "timeout": 90}));
    assert_completed(&other);
    assert_eq!(other["return_value"], answer["return_value"]);
}
