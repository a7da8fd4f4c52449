//! Puts the groups of routes together and answers everything that is none of them as the contract says (2.2).
//!
//! Unknown routes and wrong methods, of which HEAD is one, answer 404 in plain text. A route asked for with a trailing slash too many, or too few, redirects: 301 for GET,
//! 307 for the rest, so that a body is sent again.

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, StatusCode, Uri};
use pinfold_http::{ApiError, ErrorStyle, render_errors};
use tower::ServiceExt;

use crate::guard::{self, Guard};
use crate::strict;

/// What tokio says when it cannot start a thread for blocking work and has none.
const NO_THREAD: &str = "OS can't spawn worker thread";
/// The largest JSON body. Uploads have limits of their own, or none.
const MAX_BODY: usize = 64 << 20;

/// Adds to the routes what all of them share: who may ask, body limit, error bodies, redirects, 404.
pub fn finish(routes: Router, guard: Guard) -> Router {
    let known = routes.clone();
    routes
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(axum::Extension(Known(known)))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(refuse_head))
        .layer(from_fn(name_charset))
        .layer(from_fn(survive))
        .layer(from_fn_with_state(guard, guard::check))
        .layer(from_fn_with_state(ErrorStyle::Daemon, render_errors))
        .layer(from_fn(strict::suit))
}

/// A handler that fails is an answer too: 500, or 503 where the sandbox had no room for a thread, which is no fault of the handler's.
async fn survive(request: Request, next: Next) -> Response {
    let panic = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => return response,
        Err(panic) => panic,
    };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    if text.contains(NO_THREAD) {
        ApiError::exhausted(format_args!("the sandbox has no room for another thread: {text}"))
            .into_response()
    } else {
        ApiError::internal(format_args!("the daemon failed while it handled the request: {text}"))
            .into_response()
    }
}

/// JSON answers name their encoding, as the contract has it; errors do not, and what comes through the preview proxy is not ours.
async fn name_charset(request: Request, next: Next) -> Response {
    let ours = is_ours(&request);
    let mut response = next.run(request).await;
    if ours && response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json") {
        let kind = HeaderValue::from_static("application/json; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

/// axum answers HEAD wherever there is a GET; the contract has no such method. What is behind the preview proxy may have it.
async fn refuse_head(request: Request, next: Next) -> Response {
    if request.method() == Method::HEAD && is_ours(&request) { not_found() } else { next.run(request).await }
}

/// Whether we answer, rather than whoever the preview proxy asks.
fn is_ours(request: &Request) -> bool {
    !request.uri().path().starts_with("/proxy/")
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(CONTENT_TYPE, "text/plain")], "404 page not found").into_response()
}

/// The routes alone, for asking whether a path is one of them.
#[derive(Clone)]
struct Known(Router);

async fn unknown(axum::Extension(known): axum::Extension<Known>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    if let Some(location) = redirect(&known.0, &method, &uri).await {
        let get = method == Method::GET;
        let status = if get { StatusCode::MOVED_PERMANENTLY } else { StatusCode::TEMPORARY_REDIRECT };
        return (status, [(LOCATION, location)]).into_response();
    }
    not_found()
}

/// Where the request would have been understood, if that is one slash away.
async fn redirect(known: &Router, method: &Method, uri: &Uri) -> Option<String> {
    let path = uri.path();
    let other = match path.strip_suffix('/') {
        Some("") => return None,
        Some(stripped) => stripped.to_owned(),
        None => format!("{path}/"),
    };
    // A method that no route has: a path that exists answers 405 and names its methods, and nothing is run.
    let probe = Request::builder().method("PINFOLD-PROBE").uri(&other).body(Body::empty()).ok()?;
    let answer = match known.clone().oneshot(probe).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    let methods = answer.headers().get(ALLOW)?.to_str().ok()?.to_owned();
    let allowed = answer.status() == StatusCode::METHOD_NOT_ALLOWED
        && methods.split(',').any(|allow| allow.trim() == method.as_str());
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    // Never `//host`: that would leave this server.
    (allowed && !other.starts_with("//")).then(|| other + &query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use http_body_util::BodyExt;

    fn app() -> Router {
        finish(
            Router::new()
                .route("/things", get(async || "list").post(async || "made"))
                .route("/things/{id}", post(async || "changed"))
                .route(
                    "/fails",
                    get(async || {
                        if true {
                            panic!("an index")
                        }
                    }),
                )
                .route(
                    "/full",
                    get(async || {
                        if true {
                            panic!("{NO_THREAD}: EAGAIN")
                        }
                    }),
                )
                .route("/proxy/{port}/{*rest}", get(async || "theirs"))
                .route("/files", get(async || "a"))
                .route("/files/", get(async || "b")),
            Guard::default(),
        )
    }

    async fn ask(method: &str, uri: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
        let response = app().oneshot(request).await.unwrap();
        let header =
            |name| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let (status, location, kind) = (response.status().as_u16(), header(LOCATION), header(CONTENT_TYPE));
        let body =
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (status, if status < 400 { location } else { kind }, body)
    }

    #[tokio::test]
    async fn unknown_routes_and_methods_answer_404_in_plain_text() {
        for (method, uri) in [
            ("GET", "/nope"),
            ("DELETE", "/things"),
            ("OPTIONS", "/things"),
            ("GET", "/"),
            ("HEAD", "/nope"),
            ("HEAD", "/things"),
            ("HEAD", "/things/"),
        ] {
            let body = if method == "HEAD" { "" } else { "404 page not found" };
            assert_eq!(ask(method, uri).await, (404, "text/plain".into(), body.into()), "{method} {uri}");
        }
    }

    #[tokio::test]
    async fn head_is_for_what_is_behind_the_preview_proxy() {
        assert_eq!(ask("HEAD", "/proxy/3000/index.html").await.0, 200);
    }

    #[tokio::test]
    async fn a_handler_that_fails_still_answers() {
        let (status, _, body) = ask("GET", "/fails").await;
        assert!(status == 500 && body.contains("an index"), "{status} {body}");
        let (status, _, body) = ask("GET", "/full").await;
        assert!(status == 503 && body.contains("RESOURCES_EXHAUSTED"), "{status} {body}");
    }

    #[tokio::test]
    async fn a_slash_too_many_redirects() {
        assert_eq!(ask("GET", "/things/?a=%20b").await.1, "/things?a=%20b");
        assert_eq!(ask("GET", "/things/").await.0, 301);
        assert_eq!(ask("POST", "/things/").await.0, 307);
        assert_eq!(ask("POST", "/things/7/").await.1, "/things/7");
        assert_eq!(ask("GET", "//evil.example/things/").await.0, 404);
        assert_eq!((ask("GET", "/files").await.2, ask("GET", "/files/").await.2), ("a".into(), "b".into()));
    }
}
