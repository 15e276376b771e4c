//! That a request that the document shows works, and that what it allows and what the service takes are the same.

use crate::document::Document;
use crate::index::Index;
use conformance::{Service, assert_completed};
use serde_json::{Value, json};

/// Examples of requests to an operation, by name.
fn examples(document: &Document, id: &str) -> Vec<(String, Value)> {
    let content = &document.operation(id)["requestBody"]["content"]["application/json"];
    let examples = content["examples"].as_object().expect("examples").iter();
    examples.map(|(name, example)| (name.clone(), example["value"].clone())).collect()
}

#[test]
fn every_example_of_a_request_works() {
    let index = Index::new();
    index.add_module("six", "1.16.0");
    let service = index.service(&[]);
    let document = Document::of(&service);
    let executions = examples(&document, "execute");
    assert!(executions.len() >= 4, "one for each kind of request");
    let mut fields = std::collections::BTreeSet::new();
    for (name, request) in &executions {
        let response = service.post(request.to_string());
        document.judge("execute", &response);
        let answer = response.json();
        assert_completed(&answer);
        match name.as_str() {
            "handler" => assert_eq!(answer["return_value"], json!({"message": "Hello, Alice!"})),
            "javascript" => assert_eq!(answer["return_value"], 3),
            "files" => assert_eq!(answer["outputs"]["out.csv"], "YSwxCmIsMgo="),
            "limits" => assert_eq!(answer["stdout"], "499500\n"),
            _ => panic!("{name}: what is to come of it?"),
        }
        fields.extend(request.as_object().expect("an object").keys().cloned());
    }
    let schema = &document.json["components"]["schemas"]["ExecuteRequest"]["properties"];
    let declared: Vec<String> = schema.as_object().expect("fields").keys().cloned().collect();
    assert_eq!(fields.into_iter().collect::<Vec<_>>(), declared, "the examples show every field");
    for (_, request) in examples(&document, "sync_packages") {
        let response = service.request("POST", "/internal/session-config/sync", &[], request.to_string().as_bytes());
        document.judge("sync_packages", &response);
        let installed = response.json()["installed_dependencies"].as_array().expect("a list").len();
        assert_eq!(installed, request["dependencies"].as_array().expect("a list").len());
    }
}

#[test]
fn the_schema_of_a_request_allows_what_the_service_takes_and_nothing_else() {
    let service = Service::with(&[]);
    let document = Document::of(&service);
    let validator = document.requests("execute");
    let with = |field: &str, value: Value| {
        let mut request = json!({"language": "shell", "code": ":"});
        request[field] = value;
        request
    };
    let taken = [
        with("language", json!("bash")),
        with("timeout", json!(1)),
        with("timeout", Value::Null),
        with("event", json!({"__timeout": 3, "deep": [{"a": null}]})),
        with("env_vars", json!({"A": "1"})),
        with("session_id", json!("a.b_c-9")),
        with("working_directory", json!("a/b")),
        with("mode", json!("auto")),
        with("limits", json!({"cpu_cores": 0.01, "output_bytes": 0})),
        with("limits", json!({})),
        with("outputs", json!([])),
        with("stdin", json!("")),
    ];
    for request in taken {
        let response = service.post(request.to_string());
        assert_eq!(response.status, 200, "{request}: {}", response.text());
        assert!(validator.is_valid(&request), "{request} is not allowed, and works");
    }
    let refused = [
        json!({}),
        json!([]),
        json!({"code": ":"}),
        json!({"language": "shell"}),
        with("code", json!("")),
        with("code", json!("a\u{0}b")),
        with("code", json!(1)),
        with("language", json!("ruby")),
        with("language", json!("Python")),
        with("execution_id", json!("-x")),
        with("session_id", json!("a/b")),
        with("session_id", json!("a".repeat(129))),
        with("timeout", json!(0)),
        with("timeout", json!("3")),
        with("timeout", json!(1.5)),
        with("event", json!([1])),
        with("env_vars", json!({"A": 1})),
        with("files", json!({"a": 1})),
        with("outputs", json!("*")),
        with("stdin", json!(7)),
        with("mode", json!("both")),
        with("working_directory", json!("a".repeat(1025))),
        with("limits", json!({"memory_mb": 0})),
        with("limits", json!({"cpu_cores": 0})),
        with("limits", json!({"threads": 1})),
        with("context_id", json!("c")),
        with("unknown", json!(1)),
    ];
    for request in refused {
        let response = service.post(request.to_string());
        document.judge("execute", &response);
        response.assert_error(400, "Executor.ValidationError");
        assert!(!validator.is_valid(&request), "{request} is allowed, and does not work");
    }
}

/// That answers are judged at all.
#[test]
fn an_answer_with_another_field_or_without_one_is_none_of_the_documents() {
    let service = Service::with(&[]);
    let document = Document::of(&service);
    let content = &document.operation("execute")["responses"]["200"]["content"]["application/json"];
    let validator = document.validator(&content["schema"]);
    let answer = service.execute(json!({"language": "shell", "code": "echo x > made"}));
    assert!(validator.is_valid(&answer), "{answer}");
    for field in answer.as_object().expect("an object").keys() {
        let mut less = answer.clone();
        less.as_object_mut().expect("an object").remove(field);
        assert!(!validator.is_valid(&less), "{field} may be left out");
    }
    for wrong in ["/another", "/metrics/another", "/artifacts/0/another"] {
        let mut more = answer.clone();
        let (place, name) = wrong.rsplit_once('/').expect("a path");
        more.pointer_mut(place).expect("a place")[name] = json!(1);
        assert!(!validator.is_valid(&more), "{wrong} may be there");
    }
}
