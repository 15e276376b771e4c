//! The document of a service, by which its answers are judged: each has a status that its operation declares, the declared type of
//! content, and a body that the declared schema allows. Schemas are read more strictly than clients should: no answer has a field that
//! is not declared.

use conformance::{Response, Service, shortened};
use jsonschema::Validator;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The document, and what of it was seen.
pub struct Document {
    /// As the service gives it.
    pub json: Value,
    strict: Value,
    seen: RefCell<BTreeSet<(String, u16)>>,
}

impl Document {
    /// That of a service.
    #[track_caller]
    pub fn of(service: &Service) -> Self {
        let response = service.get("/openapi.json");
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        let json = response.json();
        let mut strict = json["components"].clone();
        for schema in strict["schemas"].as_object_mut().expect("schemas").values_mut() {
            if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
                schema["additionalProperties"] = json!(false);
            }
        }
        Self { json, strict, seen: RefCell::default() }
    }

    /// Every operation: its name, method and path.
    pub fn operations(&self) -> Vec<(String, String, String)> {
        let paths = self.json["paths"].as_object().expect("paths");
        let of_path = |(path, item): (&String, &Value)| {
            let methods = item.as_object().expect("methods").iter();
            let named = |(method, operation): (&String, &Value)| {
                let id = operation["operationId"].as_str().expect("a name").to_owned();
                (id, method.to_uppercase(), path.clone())
            };
            methods.map(named).collect::<Vec<_>>()
        };
        paths.iter().flat_map(of_path).collect()
    }

    /// The operation of this name.
    #[track_caller]
    pub fn operation(&self, id: &str) -> &Value {
        let (_, method, path) = self.operations().into_iter().find(|one| one.0 == id).expect("an operation");
        &self.json["paths"][path][method.to_lowercase()]
    }

    /// A validator of what this schema allows.
    #[track_caller]
    pub fn validator(&self, schema: &Value) -> Validator {
        let mut whole = schema.as_object().cloned().unwrap_or_else(Map::new);
        whole.insert("components".into(), self.strict.clone());
        jsonschema::draft202012::new(&Value::Object(whole)).expect("a schema")
    }

    /// The validator of requests to this operation.
    #[track_caller]
    pub fn requests(&self, id: &str) -> Validator {
        self.validator(&self.operation(id)["requestBody"]["content"]["application/json"]["schema"])
    }

    /// Judges an answer of this operation, and notes that there was one.
    #[track_caller]
    pub fn judge(&self, id: &str, response: &Response) {
        let text = String::from_utf8_lossy(&response.body);
        let text: String = text.chars().take(2000).collect();
        let mut declared = &self.operation(id)["responses"][response.status.to_string()];
        assert!(declared.is_object(), "{id}: {} is not declared: {text}", response.status);
        if let Some(path) = declared["$ref"].as_str() {
            declared = self.json.pointer(path.trim_start_matches('#')).expect("a response");
        }
        self.seen.borrow_mut().insert((id.to_owned(), response.status));
        for name in declared["headers"].as_object().into_iter().flat_map(Map::keys) {
            assert!(response.header(&name.to_lowercase()).is_some(), "{id}: {} has no {name}", response.status);
        }
        let Some((kind, content)) = declared["content"].as_object().and_then(|content| content.iter().next()) else {
            assert!(response.body.is_empty(), "{id}: {} has no body: {text}", response.status);
            return;
        };
        let came = response.header("content-type").unwrap_or_default();
        if kind != "application/octet-stream" {
            assert_eq!(came.split(';').next(), Some(kind.as_str()), "{id}: {}", response.status);
        }
        if kind != "application/json" {
            return;
        }
        let body = response.json();
        let validator = self.validator(&content["schema"]);
        let wrong: Vec<String> =
            validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{id}: {}: {wrong:#?}\n{}", response.status, shortened(&body));
        if response.status >= 400 && body["error_code"].is_string() {
            let examples = content["examples"].as_object().expect("examples of errors");
            let is_shown = examples.values().any(|example| example["value"]["error_code"] == body["error_code"]);
            assert!(is_shown, "{id}: {} {} has no example", response.status, body["error_code"]);
        }
    }

    /// What is declared and was not seen, as `operation status`.
    pub fn unseen(&self) -> BTreeSet<String> {
        let seen = self.seen.borrow();
        let mut unseen = BTreeSet::new();
        for (id, ..) in self.operations() {
            for status in self.operation(&id)["responses"].as_object().expect("responses").keys() {
                if !seen.contains(&(id.clone(), status.parse().expect("a status"))) {
                    unseen.insert(format!("{id} {status}"));
                }
            }
        }
        unseen
    }
}
