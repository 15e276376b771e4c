//! What the control plane gets: every call, when it fails, and across ends of the service of every kind.

mod calls;
mod clock;
mod failures;
mod outbox;
mod survival;

use conformance::control_plane::{Call, Kind, Reply};
use conformance::{ControlPlane, Home, Service};

const TOKEN: &str = "canary-internal-token";

/// A service that reports to this control plane, with these settings besides.
#[track_caller]
fn reporting_at(home: Home, plane: &ControlPlane, settings: &[(&str, &str)]) -> Service {
    let url = plane.url();
    let own = [("CONTROL_PLANE_URL", url.as_str()), ("INTERNAL_API_TOKEN", TOKEN)];
    Service::at(home, &[&own, settings].concat())
}

#[track_caller]
fn reporting(plane: &ControlPlane, settings: &[(&str, &str)]) -> Service {
    reporting_at(Home::new(), plane, settings)
}

/// Runs a line of shell under this id.
#[track_caller]
fn run(service: &Service, id: &str, code: &str) -> serde_json::Value {
    service.execute(serde_json::json!({"language": "shell", "code": code, "execution_id": id}))
}

/// With results it does this, with everything else it is content.
fn results(mut reply: impl FnMut(&Call) -> Reply + Send + 'static) -> impl FnMut(&Call) -> Reply + Send + 'static {
    move |call| if call.kind == Kind::Result { reply(call) } else { Reply::Status(200) }
}

/// What `/info` says of the control plane.
#[track_caller]
fn info(service: &Service) -> serde_json::Value {
    service.get("/info").json()["control_plane"].clone()
}
