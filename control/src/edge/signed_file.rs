//! Signed file links (control-plane contract 17.4): who has one may download or upload that one file, without a key.
//!
//! SDKs sign by themselves with the sandbox's signing key; nothing is stored here, and rotating the key ends every link.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use http::{Method, Uri};
use pinfold_http::Query;
use sha2::Sha256;

use crate::time::now;

/// Version and scheme of the signatures we know.
const PREFIX: &str = "v1_";

/// Whether `uri`, whose path below the sandbox is `path`, is a link that was signed with `key` and has not expired.
pub(super) fn admits(key: Option<&str>, method: &Method, path: &str, uri: &Uri) -> bool {
    let operation = path.split('?').next().unwrap_or_default();
    let signed_method = match (method, operation) {
        (&Method::GET, "/files/download") => "GET",
        (&Method::POST, "/files/upload-v2") => "POST",
        _ => return false,
    };
    let query = Query::parse(uri.query().unwrap_or_default());
    let (Some(key), Some(file), Some(expires), Some(signature)) =
        (key, query.get("path"), query.get("expires"), query.get("signature"))
    else {
        return false;
    };
    // 0 means never.
    let in_time = expires.parse::<i64>().is_ok_and(|at| at == 0 || at > now() / 1000);
    in_time && verify(key, &format!("v1:files:{signed_method}:{file}:{expires}"), signature)
}

fn verify(key: &str, text: &str, signature: &str) -> bool {
    let Some(encoded) = signature.strip_prefix(PREFIX) else { return false };
    let Ok(theirs) = URL_SAFE_NO_PAD.decode(encoded) else { return false };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return false };
    mac.update(text.as_bytes());
    // In constant time.
    mac.verify_slice(&theirs).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with the official Python SDK's `compute_file_url_signature("key", "GET", "/a b", 0)`.
    const LINK: &str = "/toolbox/x/files/download?path=%2Fa+b&expires=0&signature=v1_Fc9mxojmwoG44jAr3VMPWPe7FcX-_H0ypD50nGJ-1F8";

    fn allowed(key: &str, method: Method, path: &str, link: &str) -> bool {
        admits(Some(key), &method, path, &link.parse().unwrap())
    }

    #[test]
    fn a_link_is_for_one_file_and_one_operation() {
        assert!(allowed("key", Method::GET, "/files/download", LINK));
        assert!(!allowed("other", Method::GET, "/files/download", LINK));
        assert!(!allowed("key", Method::POST, "/files/upload-v2", LINK));
        assert!(!allowed("key", Method::GET, "/files/info", LINK));
        assert!(!allowed("key", Method::GET, "/files/download", &LINK.replace("a+b", "a+c")));
        assert!(!allowed(
            "key",
            Method::GET,
            "/files/download",
            &LINK.replace("expires=0", "expires=9999999999")
        ));
        assert!(!allowed("key", Method::GET, "/files/download", "/toolbox/x/files/download?path=%2Fa"));
        assert!(!admits(None, &Method::GET, "/files/download", &LINK.parse().unwrap()));
    }
}
