//! One signed GET from an S3-compatible store (AWS Signature Version 4, path style). Build contexts need nothing more.

use std::fmt::Write;
use std::io;

use futures_util::TryStreamExt;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::config::ObjectStore;

/// SHA-256 of an empty body.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `YYYYMMDD'T'HHMMSS'Z'`.
fn timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn authorization(store: &ObjectStore, host: &str, path: &str, at: &str) -> String {
    let date = &at[..8];
    let scope = format!("{date}/{}/s3/aws4_request", store.region);
    let canonical = format!(
        "GET\n{path}\n\nhost:{host}\nx-amz-content-sha256:{EMPTY}\nx-amz-date:{at}\n\nhost;x-amz-content-sha256;x-amz-date\n{EMPTY}"
    );
    let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let key = hmac(format!("AWS4{}", store.secret_key.expose()).as_bytes(), date);
    let key = [store.region.as_str(), "s3", "aws4_request"].iter().fold(key, |key, part| hmac(&key, part));
    let signature = hex(&hmac(&key, &text));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}",
        store.access_key
    )
}

/// Opens an object of the store's bucket. The endpoint's scheme is honoured.
pub(crate) async fn get(store: &ObjectStore, key: &str) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    let bucket = store.bucket.as_deref().unwrap_or_default();
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let path = format!("/{bucket}/{key}").bytes().fold(String::new(), |mut path, b| {
        if unreserved(b) {
            path.push(char::from(b));
        } else {
            let _ = write!(path, "%{b:02X}");
        }
        path
    });
    let url = format!("{}{path}", store.endpoint);
    let host = store
        .endpoint
        .split("://")
        .nth(1)
        .unwrap_or_default()
        .split('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let at = timestamp(jiff::Timestamp::now());
    let client = crate::jobs::http_client().map_err(io::Error::other)?;
    let request = client.get(url).header("x-amz-content-sha256", EMPTY).header("x-amz-date", &at);
    let response = request
        .header("authorization", authorization(store, &host, &path, &at))
        .send()
        .await
        .map_err(io::Error::other)?;
    if !response.status().is_success() {
        let kind =
            if response.status().as_u16() == 404 { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
        return Err(io::Error::new(
            kind,
            format!("the object store answered {} for {key}", response.status()),
        ));
    }
    Ok(Box::new(StreamReader::new(Box::pin(response.bytes_stream().map_err(io::Error::other)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        let at = |seconds| timestamp(jiff::Timestamp::from_second(seconds).unwrap());
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_735_787_045), "20250102T030405Z");
    }

    /// Contract 14.1, row 18: an endpoint of TLS is spoken to in TLS, from the first byte.
    #[tokio::test]
    async fn the_endpoints_scheme_is_honoured() {
        use tokio::io::AsyncReadExt;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // The first byte of a TLS handshake record, and of a request.
        for (scheme, first) in [("https", 0x16), ("http", b'G')] {
            let store = ObjectStore {
                endpoint: format!("{scheme}://127.0.0.1:{port}"),
                region: "us-east-1".to_owned(),
                access_key: "a".to_owned(),
                secret_key: pinfold_proto::id::Secret::new("s"),
                bucket: Some("contexts".to_owned()),
            };
            let asking = tokio::spawn(async move { get(&store, "object").await.is_ok() });
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), first, "{scheme}");
            drop(stream);
            assert!(!asking.await.unwrap());
        }
    }

    #[test]
    fn hmac_of_rfc_4231() {
        let mac = hmac(b"Jefe", "what do ya want for nothing?");
        assert_eq!(hex(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
