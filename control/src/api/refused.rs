//! What the public description has and this installation has not: answered with 501 and a sentence, never as a route that nobody knows.
//!
//! One organization with one user needs no members, roles, invitations, single sign-on, audits, billing or administration of others
//! (control-plane contract 5, the rows marked "—").

use http::{Method, StatusCode, Uri};
use pinfold_http::ApiError;

use super::not_supported;

/// The first parts of paths, and what is below them. `*` is any one part.
const WITHOUT: [(&[&str], &str); 13] = [
    (&["admin"], "administration beside the API itself"),
    (&["audit"], "an audit log"),
    (&["webhooks"], "sending webhooks"),
    (&["users"], "more than one user"),
    (&["organizations", "invitations"], "inviting users"),
    (&["organizations", "otel-config"], "a telemetry collector"),
    (&["organizations", "sandbox-identity"], "a telemetry collector"),
    (&["organizations", "*"], "settings and members of organizations"),
    (&["regions"], "more than one region, or one with services of its own"),
    (
        &["sandbox", "*", "telemetry", "metrics"],
        "keeping metrics over time (the toolbox's /system/metrics has the present ones)",
    ),
    (&["sandbox", "*", "telemetry"], "keeping logs and traces of sandboxes"),
    (&["sandbox", "*", "organization"], "more than one organization"),
    (&["sandbox", "*", "region-quota"], "quotas"),
];

fn known(path: &str) -> Option<ApiError> {
    let parts: Vec<&str> =
        path.trim_start_matches("/api").split('/').filter(|part| !part.is_empty()).collect();
    let below = |pattern: &[&str]| {
        parts.len() >= pattern.len()
            && pattern.iter().zip(&parts).all(|(want, part)| *want == "*" || want == part)
    };
    WITHOUT.iter().find(|(pattern, _)| below(pattern)).map(|(_, what)| not_supported(what))
}

/// The answer to a request that no route takes.
pub(super) async fn no_route(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    known(path).unwrap_or_else(|| ApiError::not_found(format_args!("Cannot {method} {path}")))
}

/// The answer to a method that a route does not take.
pub(super) async fn no_method(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    let refused =
        || ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format_args!("{method} is not supported at {path}"));
    known(path).unwrap_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn known_and_unknown_paths_are_told_apart() {
        let status = async |path: &str| no_route(Method::GET, path.parse().unwrap()).await.status().as_u16();
        for known in ["/api/admin/users", "/api/organizations/x/roles", "/api/sandbox/x/telemetry/traces/y"] {
            assert_eq!(status(known).await, 501, "{known}");
        }
        for unknown in ["/api/nowhere", "/api/sandbox/x/nowhere", "/api/organization", "/nowhere"] {
            assert_eq!(status(unknown).await, 404, "{unknown}");
        }
    }
}
