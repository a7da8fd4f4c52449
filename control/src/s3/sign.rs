//! Signing of our own requests (AWS Signature Version 4). The verification of other people's is in `storage::signature`, and shares the arithmetic.

use http::Method;
use pinfold_proto::id::Secret;
use sha2::{Digest, Sha256};

use crate::storage::signature::{canonical_query, encode, signature};
use crate::token::hex;

/// A request to be signed.
#[derive(Debug)]
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a Method,
    /// The host header's value.
    pub(super) host: &'a str,
    /// As it is meant, not encoded.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
    pub(super) region: &'a str,
    /// `s3` or `sts`.
    pub(super) service: &'a str,
    /// `YYYYMMDD'T'HHMMSS'Z'`.
    pub(super) at: &'a str,
}

impl Unsigned<'_> {
    /// SHA-256 of the body in hex: the value of `x-amz-content-sha256`.
    pub(super) fn body_hash(&self) -> String {
        hex(&Sha256::digest(self.body))
    }

    /// The value of the `Authorization` header. Signed are the host, the date and the body.
    pub(super) fn authorization(&self, access_key: &str, secret: &Secret) -> String {
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let (body, at) = (self.body_hash(), self.at);
        let canonical = format!(
            "{}\n{}\n{}\nhost:{}\nx-amz-content-sha256:{body}\nx-amz-date:{at}\n\n{signed}\n{body}",
            self.method,
            encode(self.path.as_bytes(), b"/"),
            canonical_query(self.query),
            self.host,
        );
        let date = at.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let signature = signature(secret, &scope, &text);
        format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::signature::Presented;

    #[test]
    fn what_we_sign_is_what_we_would_admit() {
        let unsigned = Unsigned {
            method: &Method::GET,
            host: "store.test:9000",
            path: "/bucket/a b+c",
            query: "list-type=2&prefix=x%2Fy",
            body: b"",
            region: "eu-1",
            service: "s3",
            at: "20130524T000000Z",
        };
        let secret = Secret::new("secret");
        let request = http::Request::get("/bucket/a%20b%2Bc?list-type=2&prefix=x%2Fy")
            .header("host", unsigned.host)
            .header("x-amz-date", unsigned.at)
            .header("x-amz-content-sha256", unsigned.body_hash())
            .header("authorization", unsigned.authorization("key", &secret));
        let request = request.body(()).unwrap().into_parts().0;
        let presented = Presented::read(&request.headers).unwrap();
        assert!(presented.verify(&secret, &request, 1_369_353_600_000).is_ok());
    }
}
