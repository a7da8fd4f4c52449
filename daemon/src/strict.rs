//! Answers for clients that fail on members they do not know (toolbox contract 2.3): Go SDKs before 0.188.0 decode strictly.
//!
//! They get what v0.187 sent. Nobody else is touched, and neither are bodies too large to be held: those are streams of output.

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use pinfold_proto::toolbox::sdk::decodes_strictly;
use serde_json::Value;

/// The largest answer that is changed.
const MAX: usize = 16 << 20;

/// Routes by their beginning, and the members that came later or are ours.
const LATER: &[(&str, &[&str])] = &[
    ("/process/execute", &["pid", "durationMs", "signal", "truncated", "oomKilled", "stdout", "stderr"]),
    ("/process/code-run", &["pid", "durationMs", "signal", "truncated", "oomKilled"]),
    ("/process/session", &["ended", "timedOut", "oomKilled", "nextOffset"]),
    ("/files", &["path", "modifiedAt", "ownerName", "groupName"]),
    ("/git/status", &["detached", "upstream"]),
    ("/git/branches", &["current"]),
];
/// The same of errors, on every route.
const LATER_IN_ERRORS: &[&str] = &["source", "output", "cmdId"];
/// Routes whose errors have always had `error`.
const ERROR_ROUTES: [&str; 3] = ["/process/pty", "/computeruse", "/files/bulk-"];

/// Middleware, outside of what writes the errors.
pub(crate) async fn suit(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let strict = is_strict(request.headers());
    let response = next.run(request).await;
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let size = response.body().size_hint().upper();
    if !strict || !is_json || path.starts_with("/proxy/") || size.is_none_or(|size| size > MAX as u64) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, MAX).await else {
        head.status = StatusCode::INTERNAL_SERVER_ERROR;
        return Response::from_parts(head, Body::empty());
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else {
        return Response::from_parts(head, Body::from(bytes));
    };
    if head.status.as_u16() >= 400 {
        drop_members(&mut value, LATER_IN_ERRORS);
        if !ERROR_ROUTES.iter().any(|route| path.starts_with(route)) {
            drop_members(&mut value, &["error"]);
        }
    } else if let Some((_, later)) = LATER.iter().find(|(route, _)| is_below(&path, route)) {
        drop_members(&mut value, later);
    }
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Body::from(value.to_string()))
}

fn is_strict(headers: &HeaderMap) -> bool {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    decodes_strictly(header("x-daytona-source"), header("x-daytona-sdk-version"))
}

/// `/files` is a route, and `/files/info` answers alike; what else is below it has members of its own.
fn is_below(path: &str, route: &str) -> bool {
    match route {
        "/files" => matches!(path, "/files" | "/files/" | "/files/info"),
        route => path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    }
}

/// In the object and in those inside of it.
fn drop_members(value: &mut Value, names: &[&str]) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !names.contains(&name.as_str()));
            members.values_mut().for_each(|value| drop_members(value, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| drop_members(value, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use axum::{Json, Router};
    use http_body_util::BodyExt;
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;

    async fn ask(path: &str, version: &str) -> Value {
        let file = json!({ "name": "a", "path": "/a", "size": 1, "ownerName": "u" });
        let session = json!({ "sessionId": "s", "commands": [{ "id": "c", "timedOut": true }], "ended": 3 });
        let error = json!({ "statusCode": 404, "message": "m", "source": "DAYTONA_DAEMON", "error": "m" });
        let failing = |error: Value| get(async move || (StatusCode::NOT_FOUND, Json(error)));
        let routes = Router::new()
            .route("/files", get(async move || Json(json!([file]))))
            .route(
                "/files/bulk-upload",
                get(async || Json(json!({ "files": [{ "path": "/a", "bytes": 5 }] }))),
            )
            .route("/process/session/s", get(async move || Json(session)))
            .route("/git/status", failing(error.clone()))
            .route("/process/pty/x", failing(error))
            .layer(axum::middleware::from_fn(suit));
        let request =
            Request::get(path).header("x-daytona-source", "sdk-go").header("x-daytona-sdk-version", version);
        let response = routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn old_go_clients_get_what_they_know() {
        let old = "v0.187.3";
        assert_eq!(ask("/files", old).await, json!([{ "name": "a", "size": 1 }]));
        assert_eq!(ask("/files/bulk-upload", old).await, json!({ "files": [{ "path": "/a", "bytes": 5 }] }));
        assert_eq!(
            ask("/process/session/s", old).await,
            json!({ "sessionId": "s", "commands": [{ "id": "c" }] })
        );
        assert_eq!(ask("/git/status", old).await, json!({ "statusCode": 404, "message": "m" }));
        assert_eq!(
            ask("/process/pty/x", old).await,
            json!({ "statusCode": 404, "message": "m", "error": "m" })
        );
    }

    #[tokio::test]
    async fn newer_ones_get_everything() {
        for version in ["0.188.0", "0.226.1", "0.0.0"] {
            assert_eq!(ask("/files", version).await[0]["ownerName"], "u", "{version}");
        }
    }
}
