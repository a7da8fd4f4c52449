//! The real servers. Install them, then:
//!
//! ```sh
//! python3 -m venv /tmp/lsp && /tmp/lsp/bin/pip install python-lsp-server
//! npm install --prefix /tmp/lsp typescript-language-server typescript@5
//! PATH=/tmp/lsp/bin:/tmp/lsp/node_modules/.bin:$PATH cargo test -p pinfold-lsp --test real -- --ignored
//! ```

mod common;

use common::{bare, names, server, with};
use serde_json::{Value, json};

#[tokio::test]
#[ignore = "needs pylsp on PATH"]
async fn python() {
    let world = bare();
    world.write("app/main.py", "import os\n\nclass Greeter:\n    \"\"\"Greets.\"\"\"\n    def greet(self):\n        return 'hi'\n\nos.pat\n");
    world.post("/lsp/start", server("python"), 200).await;
    world.post("/lsp/start", server("python"), 200).await;
    world.post("/lsp/did-open", with("python", json!({"uri": "file://app/main.py"})), 200).await;
    let symbols =
        world.get("/lsp/document-symbols?languageId=python&pathToProject=app&uri=file://app/main.py").await;
    assert!(names(&symbols).contains(&"Greeter"), "{symbols}");
    assert_eq!(symbols[0]["location"]["uri"], format!("file://{}", world.path("app/main.py").display()));
    let found = world.get("/lsp/workspacesymbols?languageId=python&pathToProject=app&query=greet").await;
    assert_eq!(names(&found), ["Greeter", "greet"]);
    let position = json!({"line": 7, "character": 6});
    let body = with("python", json!({"uri": "file://app/main.py", "position": position}));
    let (status, list) = world.call("POST", "/lsp/completions", body).await;
    assert_eq!(status, 200, "{list}");
    let items = list["items"].as_array().unwrap();
    assert!(items.iter().any(|item| item["label"] == "path"), "{list}");
    assert!(
        items.iter().all(|item| item["documentation"].is_object() || item.get("documentation").is_none())
    );
    let start = with("python", json!({"uri": "file://app/main.py", "position": {"line": 0, "character": 0}}));
    assert_eq!(world.call("POST", "/lsp/completions", start).await.0, 200);
    world.post("/lsp/did-close", with("python", json!({"uri": "file://app/main.py"})), 200).await;
    world.post("/lsp/stop", server("python"), 200).await;
    let gone = "/lsp/workspacesymbols?languageId=python&pathToProject=app&query=greet";
    world.fails("GET", gone, Value::Null, 400, "LSP_SERVER_NOT_INITIALIZED").await;
}

#[tokio::test]
#[ignore = "needs typescript-language-server on PATH"]
async fn typescript_and_javascript() {
    for (language, file) in [("typescript", "main.ts"), ("javascript", "main.js")] {
        let world = bare();
        world.write(
            &format!("app/{file}"),
            "class Greeter { greet() { return 'hi'; } }\nconst g = new Greeter();\ng.gr\n",
        );
        world.write("app/tsconfig.json", "{\"compilerOptions\": {\"allowJs\": true}}");
        world.post("/lsp/start", server(language), 200).await;
        let uri = format!("file://{}", world.path(&format!("app/{file}")).display());
        // Before anything is open the server itself finds nothing.
        let search = format!("/lsp/workspacesymbols?languageId={language}&pathToProject=app&query=Greet");
        assert!(names(&world.get(&search).await).contains(&"Greeter"));
        world.post("/lsp/did-open", with(language, json!({"uri": uri})), 200).await;
        let symbols = world
            .get(&format!("/lsp/document-symbols?languageId={language}&pathToProject=app&uri={uri}"))
            .await;
        assert!(names(&symbols).contains(&"Greeter") && names(&symbols).contains(&"greet"), "{symbols}");
        assert!(names(&world.get(&search).await).contains(&"Greeter"));
        let body = with(
            language,
            json!({"uri": uri, "position": {"line": 2, "character": 4}, "context": {"triggerKind": 1}}),
        );
        let (status, list) = world.call("POST", "/lsp/completions", body).await;
        assert_eq!(status, 200, "{list}");
        assert!(list["items"].as_array().unwrap().iter().any(|item| item["label"] == "greet"), "{list}");
        world.post("/lsp/stop", server(language), 200).await;
    }
}
