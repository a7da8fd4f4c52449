//! The description of the runner's API names the routes that are there, and no others.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{Bench, Control, TOKEN};
use pinfold_proto::id::SandboxId;
use pinfold_runner::api::ROUTES;
use reqwest::Method;
use serde_json::Value;

const METHODS: [&str; 7] = ["get", "post", "put", "patch", "delete", "head", "options"];

async fn served(environment: &str) -> (Bench, String) {
    let bench = Bench::with(|config| config.environment = environment.to_owned()).await;
    let (address, _stop, _task) = bench.serve(Arc::new(Control::default())).await;
    (bench, format!("http://{address}"))
}

/// The contract's section 4.2.
#[tokio::test]
async fn the_description_names_every_route_and_no_other() {
    let (_bench, base) = served("").await;
    let client = pinfold_runner::jobs::http_client().unwrap();
    let url = format!("{base}/api/doc.json");
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    let description: Value = client.get(&url).bearer_auth(TOKEN).send().await.unwrap().json().await.unwrap();
    let paths = description["paths"].as_object().unwrap();
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(|method| (path.clone(), method.clone()))
        })
        .collect();
    let mut routed =
        BTreeSet::from([("/", "get"), ("/api/doc.json", "get")].map(|(p, m)| (p.to_owned(), m.to_owned())));
    for (method, path) in ROUTES {
        let methods: &[&str] = if *method == "any" { &METHODS } else { &[*method] };
        routed.extend(methods.iter().map(|m| (path.replace("{*path}", "{path}"), (*m).to_owned())));
    }
    assert_eq!(described, routed);
    // They are really there: without a token each wants one, and with it what is not described is not allowed.
    for path in paths.keys().filter(|path| *path != "/") {
        let url =
            format!("{base}{}", path.replace("{id}", SandboxId::random().as_str()).replace("{path}", "x"));
        for name in METHODS {
            let method = Method::from_bytes(name.to_uppercase().as_bytes()).unwrap();
            let anonymous = client.request(method.clone(), &url).send().await.unwrap().status();
            assert_eq!(anonymous, 401, "{name} {path}");
            let status = client.request(method, &url).bearer_auth(TOKEN).send().await.unwrap().status();
            let has = |name: &str| described.contains(&(path.clone(), name.to_owned()));
            let allowed = has(name) || (name == "head" && has("get"));
            assert_eq!(status != 405, allowed, "{name} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn references_lead_somewhere_and_a_developer_needs_no_token() {
    let (_bench, base) = served("development").await;
    let client = pinfold_runner::jobs::http_client().unwrap();
    let answer = client.get(format!("{base}/api/doc.json")).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    let text = answer.text().await.unwrap();
    let description: Value = serde_json::from_str(&text).unwrap();
    let references = text.split("\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
    let references: BTreeSet<&str> = references.collect();
    assert!(references.len() > 10);
    for reference in references {
        assert!(description.pointer(reference).is_some(), "{reference}");
    }
}
