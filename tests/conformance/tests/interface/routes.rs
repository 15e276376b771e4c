//! That the document has the routes and methods that there are, is valid itself, and is the same everywhere.

use crate::document::Document;
use conformance::{Service, output_within};
use serde_json::Value;
use std::path::Path;

#[test]
fn the_document_is_the_same_from_the_service_the_command_and_the_repository() {
    let service = Service::with(&[]);
    let served = service.get("/openapi.json").text().to_owned();
    let printed = output_within(10, conformance::Home::new().command().arg("openapi"));
    assert!(printed.status.success());
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.trim_end() == served.trim_end(), "`openapi` prints another one");
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    let committed = std::fs::read_to_string(committed).expect("openapi.json");
    assert!(
        committed.trim_end() == served.trim_end(),
        "openapi.json is not up to date, or the program that is tested is not"
    );
}

#[test]
fn the_document_is_openapi_and_every_schema_and_example_in_it_is_valid() {
    let service = Service::with(&[]);
    let document = Document::of(&service);
    assert_eq!(document.json["openapi"], "3.1.0");
    assert_eq!(document.json["info"]["version"], service.get("/health").json()["version"]);
    for (name, schema) in document.json["components"]["schemas"].as_object().expect("schemas") {
        assert!(jsonschema::meta::is_valid(schema), "{name}");
        document.validator(schema);
    }
    let mut examples = 0;
    walk(&document.json, &mut |value| {
        let Some(of_content) = value.get("examples").and_then(Value::as_object) else { return };
        let validator = document.validator(&value["schema"]);
        for (name, example) in of_content {
            let wrong: Vec<String> = validator.iter_errors(&example["value"]).map(|error| error.to_string()).collect();
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
            examples += 1;
        }
    });
    assert!(examples > 40, "{examples}");
    // Each reference leads somewhere.
    walk(&document.json, &mut |value| {
        if let Some(path) = value.get("$ref").and_then(Value::as_str) {
            assert!(document.json.pointer(path.trim_start_matches('#')).is_some(), "{path}");
        }
    });
}

fn walk(value: &Value, look: &mut impl FnMut(&Value)) {
    look(value);
    match value {
        Value::Object(members) => members.values().for_each(|member| walk(member, look)),
        Value::Array(items) => items.iter().for_each(|item| walk(item, look)),
        _ => {}
    }
}

#[test]
fn every_path_has_the_methods_of_the_document_and_no_others() {
    let service = Service::with(&[]);
    let document = Document::of(&service);
    let paths = document.json["paths"].as_object().expect("paths");
    for (path, item) in paths {
        let mut declared: Vec<String> =
            item.as_object().expect("methods").keys().map(|method| method.to_uppercase()).collect();
        if declared.contains(&"GET".to_owned()) {
            declared.push("HEAD".into());
        }
        declared.sort_unstable();
        let concrete = path.replace("{id}", "none").replace("{path}", "none");
        // One that no route has.
        let response = service.request("TRACE", &concrete, &[], b"");
        response.assert_error(405, "Executor.MethodNotAllowed");
        let mut allowed: Vec<&str> = response.header("allow").expect("Allow").split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed, declared, "{path}");
    }
    // Every link of the root is in the document, and what is not there yet is in neither.
    let links = service.get("/").json()["links"].clone();
    for name in ["docs", "openapi", "metrics"] {
        assert!(links[name].is_string(), "{links}");
    }
    for link in links.as_object().expect("links").values() {
        assert!(paths.contains_key(link.as_str().expect("a path")), "{link}");
    }
    for path in ["/executions/none/events", "/executions/batch", "/contexts", "/contexts/none", "/mcp"] {
        assert!(!paths.keys().any(|known| known.replace("{id}", "none") == path), "{path}");
        let response = service.get(path);
        assert_eq!(response.status, 404, "{path} is there and not in the document");
    }
}
