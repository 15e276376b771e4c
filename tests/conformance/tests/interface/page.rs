//! The page to read the document: all of it comes from the service, and it allows nothing else.

use conformance::Service;
use serde_json::json;

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let service = Service::with(&[]);
    let page = service.get("/docs");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    for part in ["http", "*", "unsafe"] {
        assert!(!policy.contains(part), "{policy}");
    }
    let text = page.text();
    // No script or style within the page: the policy would not have it.
    assert!(!text.contains("<style") && !text.contains("style=") && !text.contains("<script>"), "{text}");
    let named: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()))
        .filter(|address| *address != "data:,")
        .collect();
    assert_eq!(named.len(), 3, "{named:?}");
    for address in named {
        assert!(!address.contains(':') && !address.starts_with('/'), "{address} is not below the page");
        let file = service.get(&format!("/{address}"));
        assert_eq!(file.status, 200, "{address}");
        assert_eq!(file.header("content-security-policy"), Some(policy));
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        let kind = if address.ends_with(".css") { "text/css" } else { "text/javascript" };
        assert!(file.header("content-type").is_some_and(|came| came.starts_with(kind)), "{address}");
        if address.ends_with("start.js") {
            let start = file.text();
            assert!(start.contains("openapi.json") && start.contains("validatorUrl: \"none\""), "{start}");
            assert!(!start.contains("://"), "{start}");
        } else {
            assert_eq!(file.header("content-encoding"), Some("gzip"));
            assert!(file.body.starts_with(b"\x1f\x8b") && file.body.len() > 10_000, "{address}");
        }
    }
    for none in ["/docs/index.html", "/docs/swagger-ui-bundle.js.map", "/docs/..%2fopenapi.json", "/docs/"] {
        service.get(none).assert_error(404, "Executor.NotFound");
    }
}

#[test]
fn the_page_and_the_document_and_the_metrics_need_the_token() {
    let service = Service::with(&[("EXECUTOR_API_TOKEN", "canary-token")]);
    for path in ["/docs", "/docs/start.js", "/openapi.json", "/metrics"] {
        assert_eq!(service.get(path).status, 200, "{path}");
        let without = service.request("GET", path, &[("Authorization", "Bearer another")], b"");
        without.assert_error(401, "Executor.Unauthorized");
    }
    assert_eq!(service.request("GET", "/health", &[("Authorization", "")], b"").status, 200);
}

/// Where it lies in the program it stays: however often a client takes all of it, the service does not grow by it.
#[test]
fn the_page_is_not_copied_into_memory() {
    let service = Service::with(&[("WARM_PYTHON", "0"), ("WARM_NODE", "0")]);
    service.execute(json!({"language": "shell", "code": ":"}));
    let anonymous = || service.memory_kb("RssAnon");
    let before = anonymous();
    for _ in 0..20 {
        for path in ["/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/openapi.json", "/metrics"] {
            assert_eq!(service.get(path).status, 200);
        }
    }
    let grown = anonymous().saturating_sub(before);
    assert!(grown < 3 * 1024, "{grown} kB more than {before} kB");
}
