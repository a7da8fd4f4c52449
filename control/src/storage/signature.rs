//! AWS Signature Version 4, as S3 clients send it in headers (AWS: "Authenticating Requests: Using the Authorization Header").
//!
//! The signature covers method, path, query, the named headers and what the client says of its body. A body's own hash, or those of its chunks, are
//! checked where it is received; [`Seal`] is what chunks are checked against.

use hmac::{Hmac, Mac};
use http::request::Parts;
use http::{HeaderMap, Uri, header};
use jiff::civil::DateTime;
use pinfold_proto::id::Secret;
use sha2::{Digest, Sha256};

use crate::token::hex;

/// How far the clocks of client and server may be apart, in milliseconds.
const SKEW_MS: i64 = 15 * 60_000;

/// The target as the client wrote it, for requests whose path we have changed.
#[derive(Debug, Clone)]
pub(crate) struct SignedUri(pub(crate) Uri);

/// Why a request was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It carries no signature, or one that cannot be read.
    Unsigned,
    /// It was signed with another key, or changed on its way.
    Mismatch,
    /// It was signed too long ago, or with a wrong clock.
    Skewed,
}

/// What the `Authorization` header says.
#[derive(Debug)]
pub(crate) struct Presented<'a> {
    pub(crate) access_key: &'a str,
    scope: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

/// Whether a request claims to be signed in this way.
pub(crate) fn is_signed(headers: &HeaderMap) -> bool {
    headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256"))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl<'a> Presented<'a> {
    pub(crate) fn read(headers: &'a HeaderMap) -> Result<Self, Refused> {
        let value =
            text(headers, "authorization").strip_prefix("AWS4-HMAC-SHA256").ok_or(Refused::Unsigned)?;
        let part =
            |name: &str| value.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        let (credential, signed, signature) = (part("Credential"), part("SignedHeaders"), part("Signature"));
        let (access_key, scope) = credential.and_then(|c| c.split_once('/')).ok_or(Refused::Unsigned)?;
        let (signed, signature) = signed.zip(signature).ok_or(Refused::Unsigned)?;
        Ok(Self { access_key, scope, signed: signed.split(';').collect(), signature })
    }

    /// Checks the request against the secret that belongs to the access key.
    pub(crate) fn verify(&self, secret: &Secret, request: &Parts, now_ms: i64) -> Result<Seal, Refused> {
        let headers = &request.headers;
        let at = text(headers, "x-amz-date");
        let [date, _region, _service, "aws4_request"] = self.scope.split('/').collect::<Vec<_>>()[..] else {
            return Err(Refused::Unsigned);
        };
        let signed_at = instant(at).ok_or(Refused::Unsigned)?;
        // What decides must be signed.
        let covered = ["host", "x-amz-date"].iter().all(|name| self.signed.contains(name));
        let token_covered =
            !headers.contains_key("x-amz-security-token") || self.signed.contains(&"x-amz-security-token");
        if !covered || !token_covered || !at.starts_with(date) {
            return Err(Refused::Unsigned);
        }
        if (now_ms - signed_at).abs() > SKEW_MS {
            return Err(Refused::Skewed);
        }
        let canonical = self.canonical(request);
        let to_sign = format!("AWS4-HMAC-SHA256\n{at}\n{}\n{}", self.scope, hex(&Sha256::digest(canonical)));
        let key = signing_key(secret, self.scope);
        let expected = Secret::new(hex(&mac(&key, &to_sign)));
        // In constant time.
        if !expected.matches(self.signature) {
            return Err(Refused::Mismatch);
        }
        Ok(Seal { key, prefix: format!("{at}\n{}", self.scope), previous: self.signature.to_owned() })
    }

    fn canonical(&self, request: &Parts) -> String {
        let uri = request.extensions.get::<SignedUri>().map_or(&request.uri, |signed| &signed.0);
        let mut lines = vec![
            request.method.to_string(),
            encode(&decode(uri.path()), b"/"),
            canonical_query(uri.query().unwrap_or_default()),
        ];
        for name in &self.signed {
            let values = request.headers.get_all(*name).iter().filter_map(|value| value.to_str().ok());
            let values: Vec<String> =
                values.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            lines.push(format!("{name}:{}", values.join(",")));
        }
        lines.push(String::new());
        lines.push(self.signed.join(";"));
        lines.push(match text(&request.headers, "x-amz-content-sha256") {
            "" => "UNSIGNED-PAYLOAD".to_owned(),
            hash => hash.to_owned(),
        });
        lines.join("\n")
    }
}

/// What the signatures of a body's chunks are checked against: each is over its content and the signature before it (AWS: "Transferring Payload in
/// Multiple Chunks").
#[derive(Clone)]
pub(crate) struct Seal {
    key: Vec<u8>,
    /// Date and scope.
    prefix: String,
    previous: String,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Seal {
    /// Whether `signature` is that of the next chunk, whose content has this hash.
    pub(super) fn admits(&mut self, hash: &[u8], signature: &str) -> bool {
        let nothing = hex(&Sha256::digest([]));
        let text =
            format!("AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{nothing}\n{}", self.prefix, self.previous, hex(hash));
        self.previous = hex(&mac(&self.key, &text));
        Secret::new(self.previous.clone()).matches(signature)
    }
}

/// The key for a day, a region and a service.
fn signing_key(secret: &Secret, scope: &str) -> Vec<u8> {
    let key = format!("AWS4{}", secret.expose()).into_bytes();
    scope.split('/').fold(key, |key, part| mac(&key, part))
}

/// The signature of a text in hex.
pub(crate) fn signature(secret: &Secret, scope: &str, text: &str) -> String {
    hex(&mac(&signing_key(secret, scope), text))
}

fn mac(key: &[u8], message: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `YYYYMMDD'T'HHMMSS'Z'` in milliseconds since 1970.
fn instant(at: &str) -> Option<i64> {
    let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", at).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

fn decode(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

/// Everything but unreserved characters, and those in `keep`, as `%XX`.
pub(crate) fn encode(bytes: &[u8], keep: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for b in bytes {
        if b.is_ascii_alphanumeric() || b"-._~".contains(b) || keep.contains(b) {
            text.push(char::from(*b));
        } else {
            text.push_str(&format!("%{b:02X}"));
        }
    }
    text
}

/// A query as it is signed.
pub(crate) fn canonical_query(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<String> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            format!("{}={}", encode(&decode(name), b""), encode(&decode(value), b""))
        })
        .collect();
    pairs.sort();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example "GET Object" of AWS's documentation of the signature.
    fn example() -> Parts {
        let authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
            SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
            Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        let request = http::Request::get("/test.txt")
            .header("host", "examplebucket.s3.amazonaws.com")
            .header("range", "bytes=0-9")
            .header("x-amz-date", "20130524T000000Z")
            .header(
                "x-amz-content-sha256",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            )
            .header("authorization", authorization);
        request.body(()).unwrap().into_parts().0
    }

    const AT: i64 = 1_369_353_600_000;

    fn verify(request: &Parts, secret: &str, at: i64) -> Result<(), Refused> {
        Presented::read(&request.headers)?.verify(&Secret::new(secret), request, at).map(|_| ())
    }

    #[test]
    fn the_documented_example_is_admitted() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        assert_eq!(verify(&example(), secret, AT), Ok(()));
        assert_eq!(verify(&example(), "another", AT), Err(Refused::Mismatch));
        assert_eq!(verify(&example(), secret, AT + 16 * 60_000), Err(Refused::Skewed));
        let mut changed = example();
        changed.uri = "/other.txt".parse().unwrap();
        assert_eq!(verify(&changed, secret, AT), Err(Refused::Mismatch));
        changed.extensions.insert(SignedUri("/test.txt".parse().unwrap()));
        assert_eq!(verify(&changed, secret, AT), Ok(()));
        changed.headers.insert("x-amz-security-token", "t".parse().unwrap());
        assert_eq!(verify(&changed, secret, AT), Err(Refused::Unsigned), "a token that is not signed");
        changed.headers.remove("authorization");
        assert_eq!(verify(&changed, secret, AT), Err(Refused::Unsigned));
    }

    /// The example "Calculations with chunked upload" of AWS's documentation: 64 KiB, then 1 KiB, then nothing.
    #[test]
    fn the_documented_chunks_are_admitted() {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let scope = "20130524/us-east-1/s3/aws4_request";
        let seal = Seal {
            key: signing_key(&secret, scope),
            prefix: format!("20130524T000000Z\n{scope}"),
            previous: "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9".to_owned(),
        };
        let chunks = [
            (65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ];
        let mut whole = seal.clone();
        for (length, signature) in chunks {
            assert!(whole.admits(&Sha256::digest(vec![b'a'; length]), signature), "{length}");
        }
        let mut other = seal.clone();
        assert!(!other.admits(&Sha256::digest(vec![b'b'; 65_536]), chunks[0].1));
        let mut swapped = seal;
        assert!(!swapped.admits(&Sha256::digest(vec![b'a'; 1024]), chunks[1].1), "chunks have an order");
    }

    #[test]
    fn queries_are_sorted_and_encoded() {
        assert_eq!(canonical_query("uploads"), "uploads=");
        assert_eq!(canonical_query("prefix=a/b&list-type=2&x=%2f~"), "list-type=2&prefix=a%2Fb&x=%2F~");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "AWS4-HMAC-SHA256.{0,80}", date in ".{0,20}") {
            let mut request = http::Request::get("/a%zz?%").body(()).unwrap().into_parts().0;
            if let Ok(value) = http::HeaderValue::from_str(&text) {
                request.headers.insert("authorization", value);
            }
            if let Ok(value) = http::HeaderValue::from_str(&date) {
                request.headers.insert("x-amz-date", value);
            }
            proptest::prop_assert!(verify(&request, "s", AT).is_err());
        }
    }
}
