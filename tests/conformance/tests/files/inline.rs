//! Files that come with a request and go with its answer.

use crate::{artifacts, list, shell, unique};
use conformance::{Service, assert_completed};
use serde_json::json;

#[test]
fn a_module_that_comes_along_goes_before_the_librarys_warm_as_cold() {
    let service = Service::start();
    // Some are imported ahead, one is a package, one is none of them.
    for file in ["random.py", "json.py", "datetime/__init__.py", "wave.py"] {
        let module = file.split(['.', '/']).next().unwrap_or_default();
        for environment in [json!({}), json!({"PYTHONSTARTUP": ""})] {
            let code = format!("import {module}; print({module}.__file__, {module}.own)");
            let files = json!({file: "b3duID0gMQo="});
            let request = json!({"language": "python", "code": code, "files": files, "env_vars": environment});
            assert_eq!(service.execute(request)["stdout"], format!("/workspace/{file} 1\n"), "{file} {environment}");
        }
    }
    let request = json!({"language": "python", "code": "import random; print(random.__file__)"});
    assert!(service.execute(request)["stdout"].as_str().is_some_and(|path| path.contains("/lib")));
}

#[test]
fn files_come_with_a_request_and_go_with_its_answer() {
    let service = Service::start();
    let code = "import os\ntext = open('in/data.csv').read()\nos.mkdir('plots')\nopen('plots/a.png', 'wb').write(b'\\x89PNG')\nopen('plots/b.txt', 'w').write(text * 2)\nopen('other', 'w')";
    for session in [None, Some(unique("inline"))] {
        let answer = service.execute(json!({
            "language": "python", "code": code, "session_id": session,
            "files": {"in/data.csv": "YSxiCg==", "./in/empty": ""}, "outputs": ["plots/*.png", "**/b.txt", "in/data.csv", "none/*"],
        }));
        assert_completed(&answer);
        assert_eq!(
            answer["outputs"],
            json!({"in/data.csv": "YSxiCg==", "plots/a.png": "iVBORw==", "plots/b.txt": "YSxiCmEsYgo="})
        );
        assert!(answer.get("outputs_truncated").is_none());
        // What the caller brought is none of the program's work.
        assert_eq!(artifacts(&answer), ["other", "plots/a.png", "plots/b.txt"]);
        if let Some(session) = &session {
            assert_eq!(list(&service, session), ["in/data.csv", "in/empty", "other", "plots/a.png", "plots/b.txt"]);
            let answer = service.execute(json!({"language": "shell", "session_id": session,
                "code": "cat in/data.csv; echo more >> in/data.csv", "files": {"in/data.csv": "bmV3Cg=="}}));
            assert_eq!((&answer["stdout"], artifacts(&answer)), (&json!("new\n"), vec!["in/data.csv"]));
            assert!(answer.get("outputs").is_none());
        }
    }
    let changed = service.execute(json!({"language": "shell", "code": "tr a-z A-Z < f > g; mv g f; id -u", "files": {"f": "aGk="}, "outputs": ["f"]}));
    assert_eq!((&changed["outputs"], artifacts(&changed)), (&json!({"f": "SEk="}), vec!["f"]));
}

#[test]
fn what_is_wrong_with_them_comes_in_one_answer() {
    let service = Service::start();
    let response = service.post(
        json!({"language": "shell", "code": "", "files": {"/abs": "", "a/../b": "", "": "", "c": "not base64", "d": 1, "e": "", "e/f": ""},
            "outputs": ["/abs", "[", "../x", "fine"]})
        .to_string(),
    );
    let body = response.assert_error(400, "Executor.ValidationError");
    let mut fields: Vec<&str> =
        body["error_detail"].as_array().expect("violations").iter().filter_map(|one| one["field"].as_str()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "code",
            "files.",
            "files./abs",
            "files.a/../b",
            "files.c",
            "files.d",
            "files.e/f",
            "outputs.0",
            "outputs.1",
            "outputs.2"
        ]
    );
    for (name, value) in [("files", json!([])), ("outputs", json!({})), ("outputs", json!([1]))] {
        let body = service
            .post(json!({"language": "shell", "code": ":", name: value}).to_string())
            .assert_error(400, "Executor.ValidationError");
        assert_eq!(body["error_detail"][0]["field"], name);
    }
}

#[test]
fn what_a_program_put_in_their_way_is_told_and_not_followed() {
    let service = Service::start();
    let session = unique("in-the-way");
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("file"), "outside").expect("a file");
    let out = outside.path().display();
    shell(
        &service,
        &session,
        &format!("ln -s {out} out; ln -s {out}/file link; mkfifo fifo; mkdir folder; echo x > file"),
    );
    let files = json!({"out/x": "", "link": "", "fifo": "", "folder": "", "file/x": "", "good": "Z29vZA=="});
    let body = service
        .post(json!({"language": "shell", "code": "touch ran", "session_id": session, "files": files}).to_string());
    let body = body.assert_error(400, "Executor.ValidationError");
    let fields: Vec<&str> =
        body["error_detail"].as_array().expect("violations").iter().filter_map(|one| one["field"].as_str()).collect();
    assert_eq!(fields, ["files.fifo", "files.file/x", "files.folder", "files.link", "files.out/x"]);
    assert!(!list(&service, &session).contains(&"ran".to_owned()), "it ran all the same");
    assert_eq!(std::fs::read_to_string(outside.path().join("file")).expect("a file"), "outside");
    assert_eq!(std::fs::read_dir(outside.path()).expect("a folder").count(), 1);
    let wanted = service.execute(json!({"language": "shell", "code": ":", "session_id": session, "outputs": ["**/*"]}));
    let names: Vec<&String> = wanted["outputs"].as_object().expect("outputs").keys().collect();
    assert_eq!(names, ["file", "good"]);
}

#[test]
fn outputs_are_bounded() {
    let service = Service::start();
    let code = "for n in 1 2 3 4 5; do head -c 9000000 /dev/zero > $n; done";
    let answer = service.execute(json!({"language": "shell", "code": code, "outputs": ["*"]}));
    assert_completed(&answer);
    let outputs = answer["outputs"].as_object().expect("outputs");
    assert_eq!((outputs.len(), &answer["outputs_truncated"]), (3, &json!(true)));
    assert_eq!(outputs["1"].as_str().map(str::len), Some(12_000_000));
}
