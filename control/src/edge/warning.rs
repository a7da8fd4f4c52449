//! The page that browsers see before the first preview of a sandbox: what is behind the link was made by a program, not by us (control-plane contract 17.2).

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pinfold_http::Query;

use super::forward::set_cookie;

/// The path on each preview host that takes the visitor's consent.
const ACCEPT_PATH: &str = "/accept-daytona-preview-warning";
const COOKIE: &str = "daytona-preview-page-accepted";
const SKIP_HEADER: &str = "x-daytona-skip-preview-warning";
/// How long consent lasts: a day, in seconds.
const SECONDS: i64 = 86_400;

/// The page, or what follows its button; `None` when the visitor has seen it, or is no browser.
pub(super) fn interpose(request: &Request) -> Option<Response> {
    if request.uri().path() == ACCEPT_PATH {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        return Some(accepted(query.get("redirect").unwrap_or("/")));
    }
    let headers = request.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let browser = text(header::USER_AGENT).contains("Mozilla") && text(header::ACCEPT).contains("text/html");
    let skipped = headers.get(SKIP_HEADER).is_some_and(|value| value == "true");
    if request.method() != Method::GET || !browser || skipped || has_cookie(headers) {
        return None;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    Some(page(target))
}

fn has_cookie(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).any(|pair| pair.trim() == format!("{COOKIE}=true"))
}

/// Where the button leads back to: a path of this host and nothing else.
fn accepted(target: &str) -> Response {
    let here = target.starts_with('/') && !target.starts_with("//") && !target.contains('\\');
    let target = HeaderValue::from_str(if here { target } else { "/" });
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(header::LOCATION, target.unwrap_or(HeaderValue::from_static("/")));
    set_cookie(&mut response, COOKIE, "true", SECONDS);
    response
}

fn page(target: &str) -> Response {
    let target = percent_encoding::utf8_percent_encode(target, percent_encoding::NON_ALPHANUMERIC);
    let body = format!(
        "<!doctype html><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>Preview</title>\
         <style>body{{font:1rem/1.5 sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem}}</style>\
         <h1>This is a preview</h1><p>What you are about to see is served by a program in a sandbox. Do not enter passwords or personal data \
         unless you know who runs it.</p><p><a href=\"{ACCEPT_PATH}?redirect={target}\">Continue to the preview</a></p>"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn ask(path: &str, headers: &[(&str, &str)]) -> Option<Response> {
        let mut request = http::Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        interpose(&request.body(Body::empty()).unwrap())
    }

    const BROWSER: [(&str, &str); 2] = [("user-agent", "Mozilla/5.0"), ("accept", "text/html,*/*")];

    #[test]
    fn browsers_are_asked_once() {
        assert_eq!(ask("/a?b=c", &BROWSER).unwrap().status(), StatusCode::OK);
        let with = |more| [BROWSER[0], BROWSER[1], more];
        assert!(ask("/", &with(("cookie", "x=1; daytona-preview-page-accepted=true"))).is_none());
        assert!(ask("/", &with((SKIP_HEADER, "true"))).is_none());
        assert!(ask("/", &[("user-agent", "curl/8"), ("accept", "*/*")]).is_none());
    }

    #[test]
    fn consent_leads_back_and_nowhere_else() {
        let to = |query: &str| {
            let answer = ask(&format!("{ACCEPT_PATH}?redirect={query}"), &[]).unwrap();
            answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(to("%2Fa%3Fb%3Dc"), "/a?b=c");
        for elsewhere in ["%2F%2Fevil.test", "https%3A%2F%2Fevil.test", "%2F%5Cevil.test", ""] {
            assert_eq!(to(elsewhere), "/", "{elsewhere}");
        }
    }
}
