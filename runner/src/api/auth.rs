//! Who may call (runner contract 4.1): the holder of the runner's token. The token goes no further than here.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use pinfold_http::ApiError;
use pinfold_proto::id::Secret;
use pinfold_proto::well_known::RUNNER_AUTH_HEADER;

const OWN_HEADER: HeaderName = HeaderName::from_static(RUNNER_AUTH_HEADER);

/// Exactly two parts, the first `Bearer`.
fn bearer(value: &http::HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    (scheme == "Bearer" && !token.contains(' ')).then_some(token)
}

/// Whether any value of a header carries the token: proxies add theirs next to one that a caller sent.
fn any_matches(headers: &HeaderMap, name: &HeaderName, token: &Secret) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(bearer)
        .fold(false, |found, candidate| token.matches(candidate) | found)
}

fn check(headers: &HeaderMap, token: &Secret) -> Result<(), ApiError> {
    let own = headers.get_all(&OWN_HEADER).iter().any(|v| !v.is_empty());
    let name = if own { OWN_HEADER } else { AUTHORIZATION };
    if any_matches(headers, &name, token) {
        return Ok(());
    }
    let reason = if headers.contains_key(&name) {
        "the token is not this runner's"
    } else {
        "the request carries no token"
    };
    Err(ApiError::new(http::StatusCode::UNAUTHORIZED, format_args!("unauthorized: {reason}")))
}

/// Removes every header value that carries the token; a caller's own `Authorization` stays.
fn strip(headers: &mut HeaderMap, token: &Secret) {
    headers.remove(&OWN_HEADER);
    let kept: Vec<_> = headers
        .get_all(AUTHORIZATION)
        .iter()
        .filter(|v| !bearer(v).is_some_and(|t| token.matches(t)))
        .cloned()
        .collect();
    headers.remove(AUTHORIZATION);
    for value in kept {
        headers.append(AUTHORIZATION, value);
    }
}

/// Middleware: 401 without the token; with it, the request goes on without it.
pub(super) async fn require(
    State(token): State<Secret>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(request.headers(), &token)?;
    strip(request.headers_mut(), &token);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn rules_of_the_contract() {
        let token = Secret::new("t0k");
        let ok = |pairs: &[(&'static str, &'static str)]| check(&headers(pairs), &token).is_ok();
        assert!(ok(&[("authorization", "Bearer t0k")]));
        assert!(ok(&[(RUNNER_AUTH_HEADER, "Bearer t0k"), ("authorization", "Bearer app")]));
        assert!(ok(&[(RUNNER_AUTH_HEADER, "Bearer x"), (RUNNER_AUTH_HEADER, "Bearer t0k")]));
        assert!(ok(&[(RUNNER_AUTH_HEADER, ""), ("authorization", "Bearer t0k")]));
        for bad in ["", "Bearer", "bearer t0k", "Bearer t0k x", "Basic t0k", "Bearer t0k2"] {
            assert!(check(&headers(&[("authorization", bad)]), &token).is_err(), "{bad}");
        }
        assert!(!ok(&[(RUNNER_AUTH_HEADER, "Bearer x"), ("authorization", "Bearer t0k")]));
        assert!(!ok(&[]));
    }

    #[test]
    fn the_token_goes_no_further() {
        let token = Secret::new("t0k");
        let mut map = headers(&[
            ("authorization", "Bearer t0k"),
            ("authorization", "Bearer app"),
            (RUNNER_AUTH_HEADER, "Bearer t0k"),
        ]);
        strip(&mut map, &token);
        assert_eq!(map.get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer app"]);
        assert!(!map.contains_key(RUNNER_AUTH_HEADER));
    }
}
