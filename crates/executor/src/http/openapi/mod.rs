//! The OpenAPI document: what it says beside what stands at each route.
//!
//! Paths, methods and the forms of bodies stand at the handlers; a test compares them with what the router matches. It is put together
//! when somebody asks for it and takes nothing of a service that nobody asks. Errors come from [`Problem`]: here stands which of them a route may answer, and the examples are what
//! it would say. `openapi.json` at the root is this document, held up to date by a test, and what clients are made from.

pub mod answers;
pub mod requests;
pub mod service;

use std::collections::BTreeMap;

use axum::http::StatusCode;
use service::Error;
use utoipa::OpenApi;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::ObjectBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi as Document, Ref, Type};

use super::problem::Problem;
use super::{about, docs, execute, executions, files, session_config, sessions};
use crate::admission::fields::Violation;

const DESCRIPTION: &str = "\
Runs code that a model or a stranger wrote (Python, JavaScript, shell), each execution in a sandbox of its own and within limits.

Every answer carries `x-request-id`: the client's own, if it sent one of the form of an id. An answer to code that failed is 200; errors \
are of the service or of the request, all of one shape (`Error`). Where `EXECUTOR_API_TOKEN` is set, everything but `/health` needs it, \
this document and its page as well. Sizes in `_mb` are MiB (1,048,576 bytes).";

const TAGS: [(&str, &str); 4] = [
    ("executions", "Run code, and look after what runs"),
    ("sessions", "Workspaces that executions share, and their files"),
    ("packages", "What programs of a session can import"),
    ("service", "About the service, and its health"),
];

/// The operations, and what no handler names.
#[derive(OpenApi)]
#[openapi(
    paths(
        about::index,
        about::health,
        about::info,
        about::metrics,
        docs::page,
        docs::document,
        execute::execute,
        executions::list,
        executions::one,
        executions::cancel,
        sessions::list,
        sessions::remove,
        files::list,
        files::download,
        files::upload,
        files::remove,
        session_config::sync,
    ),
    components(schemas(Error))
)]
struct Operations;

/// The document.
pub fn document() -> Document {
    let mut document = Operations::openapi();
    let license = LicenseBuilder::new().name("MIT").identifier(Some("MIT")).build();
    let info = InfoBuilder::new().title("sandbox-executor").version(env!("CARGO_PKG_VERSION"));
    document.info = info.description(Some(DESCRIPTION)).license(Some(license)).build();
    document.tags =
        Some(TAGS.map(|(name, what)| TagBuilder::new().name(name).description(Some(what)).build()).to_vec());
    // Without a token set nobody needs one.
    let token = SecurityRequirement::new::<_, [&str; 0], &str>("token", []);
    document.security = Some(vec![token, SecurityRequirement::default()]);
    let anywhere =
        errors(&[Problem::Unauthorized, Problem::ForbiddenOrigin, Problem::ForbiddenHost, Problem::Internal]);
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        let id = operation.operation_id.clone().unwrap_or_default();
        let responses = &mut operation.responses.responses;
        for status in anywhere.keys().filter(|status| id != "health" || **status != StatusCode::UNAUTHORIZED) {
            responses.insert(status.as_str().to_owned(), Ref::from_response_name(name_of(*status)).into());
        }
        for (status, response) in errors(&problems(&id)) {
            responses.insert(status.as_str().to_owned(), response.into());
        }
    }
    let components = document.components.get_or_insert_default();
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("EXECUTOR_API_TOKEN")).build();
    components.add_security_scheme("token", SecurityScheme::Http(token));
    for (status, response) in anywhere {
        components.responses.insert(name_of(status), response.into());
    }
    document
}

/// What a status is called, without spaces.
fn name_of(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or_default().replace(' ', "")
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

/// What an operation may answer instead, beside what any may.
fn problems(operation_id: &str) -> Vec<Problem> {
    use Problem as P;
    let invalid = |field: &str, message: &str| P::Validation(vec![Violation::new(field, message)]);
    let body = || vec![P::RequestTimeout, P::PayloadTooLarge(67_108_864), P::UnsupportedMediaType];
    match operation_id {
        "execute" => [
            body(),
            vec![
                invalid("language", "required: one of python, javascript, shell (or python3, node, nodejs, bash, sh)"),
                P::ANOTHER_REQUEST,
                P::QueueFull,
                P::ShuttingDown,
                P::IsolationUnavailable("the sandbox could not be set up".into()),
                P::InsufficientStorage,
                P::NoRoomForState,
                P::QuotaExceeded(1024),
            ],
        ]
        .concat(),
        "execution" => vec![P::NotFound, P::ShuttingDown, P::NoRoomForState],
        "cancel" => vec![P::NotFound, P::HAS_ENDED, P::ShuttingDown, P::NoRoomForState],
        "executions" => vec![invalid("limit", "must be a whole number from 1 to 1000"), P::NoRoomForState],
        "sessions" => vec![invalid("limit", "must be a whole number from 1 to 1000")],
        "remove_session" => vec![
            invalid("session_id", crate::admission::request::ID_FORM),
            P::FileNotFound,
            P::FilesConflict("what goes on in the session does not end"),
        ],
        "files" => vec![invalid("limit", "must be a whole number from 1 to 10000"), P::FileNotFound],
        "download" => vec![
            invalid("path", "must not have a part '..'"),
            P::FileNotFound,
            P::PreconditionFailed,
            P::RangeNotSatisfiable(1024),
        ],
        "upload" => vec![
            invalid("path", "must not have a part '..'"),
            P::FileNotFound,
            P::RequestTimeout,
            P::FileTooLarge(100),
            P::FilesConflict("a folder is in its place"),
            P::PreconditionFailed,
            P::UnsupportedMediaType,
            P::InsufficientStorage,
            P::QuotaExceeded(1024),
        ],
        "remove_file" => vec![
            invalid("path", "must not have a part '..'"),
            P::FileNotFound,
            P::FilesConflict("it is a folder"),
            P::PreconditionFailed,
        ],
        "sync_packages" => [
            body(),
            vec![
                invalid("dependencies.0", "must name a version"),
                P::FilesConflict("the session was removed meanwhile"),
                P::DependencyInstall("ERROR: No matching distribution found for numpy==0.0.1".into()),
                P::QueueFull,
                P::ShuttingDown,
                P::IsolationUnavailable("the sandbox could not be set up".into()),
                P::NoRoomForPackages,
            ],
        ]
        .concat(),
        _ => Vec::new(),
    }
}

/// A response for each status, with an example of each problem that has it.
fn errors(problems: &[Problem]) -> BTreeMap<StatusCode, Response> {
    let mut by_status = BTreeMap::<StatusCode, Vec<&Problem>>::new();
    for problem in problems {
        by_status.entry(problem.status()).or_default().push(problem);
    }
    by_status.into_iter().map(|(status, problems)| (status, error(status, &problems))).collect()
}

fn error(status: StatusCode, problems: &[&Problem]) -> Response {
    let mut content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Error")));
    for (number, problem) in problems.iter().enumerate() {
        let body = serde_json::to_value(problem.body("req-6f1d2c3b4a596877".into())).ok();
        let example = ExampleBuilder::new().summary(problem.description()).value(body);
        let before = problems[..number].iter().filter(|other| other.code() == problem.code()).count();
        let name = if before == 0 { problem.code().to_owned() } else { format!("{}{}", problem.code(), before + 1) };
        content = content.examples_from_iter([(name, example.build())]);
    }
    let descriptions: Vec<&str> = problems.iter().map(|problem| problem.description()).collect();
    let response = ResponseBuilder::new().description(descriptions.join(". Or: "));
    let response = response.content("application/json", content.build());
    if status != StatusCode::SERVICE_UNAVAILABLE {
        return response.build();
    }
    let seconds = ObjectBuilder::new().schema_type(Type::Integer);
    let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds after which to try again"));
    response.header("Retry-After", header.build()).build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::routes;
    use super::document;

    const COMMITTED: &str = include_str!("../../../../../openapi.json");

    fn written() -> String {
        document().to_pretty_json().unwrap() + "\n"
    }

    #[test]
    fn the_committed_document_is_this_one() {
        assert!(
            COMMITTED == written(),
            "`cargo test -p executor -- --ignored write_the_openapi_document` brings it up to date"
        );
    }

    #[test]
    #[ignore = "changes openapi.json"]
    fn write_the_openapi_document() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.json"), written()).unwrap();
    }

    /// Whether a part of the document says what it is, itself or by its type.
    fn is_described(schema: &Value, schemas: &Value) -> bool {
        let by_type = schema["$ref"].as_str().or(schema["items"]["$ref"].as_str());
        let of_type = by_type.map(|path| &schemas[path.rsplit('/').next().unwrap()]);
        schema["description"].as_str().is_some_and(|text| !text.is_empty())
            || of_type.is_some_and(|of_type| is_described(of_type, schemas))
            || schema["oneOf"].as_array().is_some_and(|all| all.iter().any(|one| is_described(one, schemas)))
    }

    #[test]
    fn every_field_has_a_description_and_every_operation_a_name() {
        let document = serde_json::to_value(document()).unwrap();
        let schemas = &document["components"]["schemas"];
        for (name, schema) in schemas.as_object().unwrap() {
            assert!(is_described(schema, schemas), "{name} says nothing of itself");
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(is_described(property, schemas), "{name}.{field} says nothing of itself");
            }
        }
        let mut names = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                for field in ["operationId", "summary", "tags"] {
                    assert!(!operation[field].is_null(), "{method} {path} has no {field}");
                }
                names.push(operation["operationId"].as_str().unwrap().to_owned());
            }
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "each has a name of its own");
    }

    /// The paths that the router matches, as it tells for debugging: there is no other way to ask it.
    #[test]
    fn the_router_has_the_paths_of_the_document_and_no_others() {
        let told = format!("{:?}", routes::routes());
        let routed: BTreeSet<&str> = told.split('"').filter(|part| part.starts_with('/')).collect();
        // A path that goes on over several parts is written in another way there.
        let documented: Vec<String> =
            document().paths.paths.into_keys().map(|path| path.replace("{path}", "{*path}")).collect();
        let documented: BTreeSet<&str> = documented.iter().map(String::as_str).collect();
        assert!(documented.len() > 10 && routed.is_superset(&documented), "{told}");
        let more: Vec<&str> = routed.difference(&documented).copied().collect();
        assert_eq!(more, ["/docs/{file}", "/sessions/{id}/files/", "/{*__private__axum_fallback}"]);
    }
}
