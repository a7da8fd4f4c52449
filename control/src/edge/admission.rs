//! Who may pass to a sandbox (control-plane contract 17.2).

use http::{HeaderMap, Uri, header};
use pinfold_proto::id::Secret;
use pinfold_proto::well_known::{RECORDINGS_PORT, TERMINAL_PORT, TOOLBOX_PORT};

use crate::api::{Caller, bearer};
use crate::core::Core;
use crate::store::sandboxes::Record;
use crate::time::now;
use crate::token::hash;

/// The query parameter that carries a preview token.
pub(super) const QUERY_KEY: &str = "DAYTONA_SANDBOX_AUTH_KEY";
/// The header that carries a preview token.
pub(super) const TOKEN_HEADER: &str = "x-daytona-preview-token";
/// How long a browser stays admitted, in seconds.
pub(super) const COOKIE_SECONDS: i64 = 3600;

/// How a request was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Anyone may.
    Public,
    /// By an API key in `Authorization`.
    Key,
    /// By the sandbox's token in a header.
    Header,
    /// By the sandbox's token in the query.
    Query,
    /// By a cookie of ours.
    Cookie,
}

/// Ports that are never public.
pub(super) fn reserved(port: u16) -> bool {
    [TOOLBOX_PORT, TERMINAL_PORT, RECORDINGS_PORT].contains(&port)
}

/// Whether a request may pass to `port`, and why.
pub(super) fn admit(
    core: &Core,
    record: &Record,
    port: u16,
    headers: &HeaderMap,
    uri: &Uri,
) -> Option<Admitted> {
    if record.public && !reserved(port) {
        return Some(Admitted::Public);
    }
    if let Some(Caller::User(_)) = bearer(headers).and_then(|key| Caller::of(core, key)) {
        return Some(Admitted::Key);
    }
    let token = Secret::new(record.auth_token.clone());
    if headers
        .get(TOKEN_HEADER)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| token.matches(value))
    {
        return Some(Admitted::Header);
    }
    let query = pinfold_http::Query::parse(uri.query().unwrap_or_default());
    if query.get(QUERY_KEY).is_some_and(|value| token.matches(value)) {
        return Some(Admitted::Query);
    }
    cookie(headers, &cookie_name(&record.id))
        .filter(|value| cookie_valid(record, port, value))
        .map(|_| Admitted::Cookie)
}

/// Whether an `Authorization` header has a user's key or a runner's token, which is not the sandbox's to see. Whatever else it has is the application's own.
/// How the request was admitted does not matter, nor whether the scheme is ours.
pub(super) fn has_our_key(core: &Core, headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
    values.filter_map(|value| value.split_whitespace().last()).any(|key| Caller::of(core, key).is_some())
}

/// Path and query without the token, which is not the sandbox's to see.
pub(super) fn without_key(uri: &Uri) -> String {
    let path = uri.path();
    let Some(query) = uri.query() else { return path.to_owned() };
    let ours = |pair: &&str| pair.split('=').next() != Some(QUERY_KEY);
    let rest: Vec<&str> = query.split('&').filter(ours).collect();
    if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) }
}

/// The name of the cookie for a sandbox.
pub(super) fn cookie_name(id: &str) -> String {
    format!("daytona-sandbox-auth-{id}")
}

/// A cookie that admits to one port until it expires or the sandbox starts anew.
pub(super) fn cookie_value(record: &Record, port: u16) -> String {
    let expires = now() / 1000 + COOKIE_SECONDS;
    format!("{expires}.{}", seal(record, port, expires))
}

/// A keyed hash. Hashed twice, so that nothing can be appended to what was sealed.
fn seal(record: &Record, port: u16, expires: i64) -> String {
    let key = &record.auth_token;
    hash(&format!("{key}{}", hash(&format!("{key}|{}|{port}|{expires}", record.id))))
}

fn cookie_valid(record: &Record, port: u16, value: &str) -> bool {
    let Some((expires, sealed)) = value.split_once('.') else { return false };
    let Ok(expires) = expires.parse::<i64>() else { return false };
    expires > now() / 1000 && Secret::new(seal(record, port, expires)).matches(sealed)
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use pinfold_proto::control::sandbox::{DesiredState, SandboxState};

    use super::*;
    use crate::sandbox::plan::tests::record;

    #[test]
    fn the_token_does_not_reach_the_sandbox() {
        let strip = |uri: &str| without_key(&uri.parse().unwrap());
        assert_eq!(strip("/a%20b?x=1&DAYTONA_SANDBOX_AUTH_KEY=t&y=%2F"), "/a%20b?x=1&y=%2F");
        assert_eq!(strip("/?DAYTONA_SANDBOX_AUTH_KEY=t"), "/");
        assert_eq!(strip("/a"), "/a");
    }

    #[test]
    fn a_cookie_is_for_one_port_of_one_start() {
        let mut r = record(SandboxState::Started, DesiredState::Started);
        let value = cookie_value(&r, 3000);
        assert!(cookie_valid(&r, 3000, &value));
        assert!(!cookie_valid(&r, 3001, &value));
        for forged in ["", "9999999999.", "9999999999.00", "x.y"] {
            assert!(!cookie_valid(&r, 3000, forged), "{forged}");
        }
        r.auth_token = "another".to_owned();
        assert!(!cookie_valid(&r, 3000, &value));
    }
}
