//! The services that are measured, one after the other: the same binary with other settings.

use conformance::Service;
use serde::Serialize;

/// How a service is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Setup {
    /// Native isolation, as it comes.
    Native,
    /// The same with nothing prepared: every interpreter starts cold.
    NativeWithoutPools,
    /// bubblewrap, as it comes.
    Bubblewrap,
}

impl Setup {
    /// Those that come as they come.
    pub const WARM: [Setup; 2] = [Setup::Native, Setup::Bubblewrap];

    pub fn name(self) -> &'static str {
        match self {
            Setup::Native => "native",
            Setup::NativeWithoutPools => "native, pools off",
            Setup::Bubblewrap => "bubblewrap",
        }
    }

    /// Starts it, with these settings besides, while no other service of the tests runs.
    pub fn start(self, settings: &[(&str, &str)]) -> Service {
        let own: &[(&str, &str)] = match self {
            Setup::Native => &[("ISOLATION", "native")],
            Setup::NativeWithoutPools => &[("ISOLATION", "native"), ("WARM_PYTHON", "0"), ("WARM_NODE", "0")],
            Setup::Bubblewrap => &[("ISOLATION", "bubblewrap")],
        };
        Service::alone(&[own, settings].concat())
    }
}
