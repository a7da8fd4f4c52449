//! An object store of the operator's in place of the built-in one and of local directories: a bucket of build contexts, and a bucket a volume.
//!
//! Buckets of volumes are named as runners mount them. Their objects go one by one, some at a time: of the two ways to delete, this is the one that every
//! store has. Clients get credentials that end after an hour and reach the contexts alone, if the store has a role for that; see [`ObjectStore::access`].

mod sign;
mod sts;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use http::{Method, StatusCode};
use pinfold_proto::control::snapshot::StorageAccess;
use pinfold_proto::error::chain;
use pinfold_proto::id::Secret;
use reqwest::{Client, Response};
use tokio::sync::OnceCell;

use crate::storage::signature::{canonical_query, encode};
use sign::Unsigned;

/// How many objects are deleted at a time.
const AT_ONCE: usize = 16;
/// Longest answer that is read, in bytes: a list of a thousand keys of the longest kind.
const LARGEST: usize = 8 << 20;

/// Where it is, and what opens it.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// `PINFOLD_S3_ENDPOINT`: its URL; buckets are addressed by path.
    pub endpoint: String,
    /// `PINFOLD_S3_REGION`: `us-east-1` if unset.
    pub region: String,
    /// `PINFOLD_S3_ACCESS_KEY`.
    pub access_key: String,
    /// `PINFOLD_S3_SECRET_KEY`.
    pub secret_key: Secret,
    /// `PINFOLD_S3_BUCKET`: where build contexts are, `daytona` if unset.
    pub bucket: String,
    /// `PINFOLD_S3_ROLE`: the role whose temporary credentials clients get. Unset: they get the key itself.
    pub role: Option<String>,
    /// `PINFOLD_S3_STS_ENDPOINT`: where the role is assumed; the store itself if unset.
    pub sts_endpoint: String,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum S3Error {
    /// It could not be asked.
    #[error("the object store {endpoint} could not be reached: {reason}")]
    Unreachable { endpoint: String, reason: String },
    /// It said no.
    #[error("the object store refused to {what}: {status} {code}")]
    Refused { what: String, status: StatusCode, code: String },
    /// What it said makes no sense.
    #[error("the object store's answer to {what} is not understood")]
    Answer { what: &'static str },
}

type Result<T> = std::result::Result<T, S3Error>;

/// The store.
#[derive(Debug)]
pub(crate) struct ObjectStore {
    config: S3Config,
    client: Client,
    /// The bucket of contexts is there.
    contexts: OnceCell<()>,
}

/// One call.
struct Call<'a> {
    method: Method,
    path: &'a str,
    query: &'a str,
    body: &'a [u8],
    service: &'static str,
}

/// The bucket of a volume.
fn bucket_of(volume: &str) -> String {
    format!("daytona-volume-{volume}")
}

/// The texts of every element of this name.
fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(open.as_str()).skip(1).filter_map(|rest| Some(rest.split_once(close.as_str())?.0)).collect()
}

impl ObjectStore {
    pub(crate) fn new(config: S3Config, client: Client) -> Self {
        Self { config, client, contexts: OnceCell::new() }
    }

    async fn send(&self, endpoint: &str, call: &Call<'_>) -> Result<Response> {
        let unreachable = |reason: String| S3Error::Unreachable { endpoint: endpoint.to_owned(), reason };
        let at = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let host = endpoint.split("://").nth(1).unwrap_or_default();
        let unsigned = Unsigned {
            method: &call.method,
            host,
            path: call.path,
            query: call.query,
            body: call.body,
            region: &self.config.region,
            service: call.service,
            at: &at,
        };
        let query = canonical_query(call.query);
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{endpoint}{}{mark}{query}", encode(call.path.as_bytes(), b"/"));
        let mut request = self.client.request(call.method.clone(), url).body(call.body.to_vec());
        if call.service == "sts" {
            request = request.header("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        }
        request
            .header("x-amz-date", &at)
            .header("x-amz-content-sha256", unsigned.body_hash())
            .header("authorization", unsigned.authorization(&self.config.access_key, &self.config.secret_key))
            .send()
            .await
            .map_err(|error| unreachable(chain(&error)))
    }

    async fn text(&self, response: Response) -> Result<String> {
        let mut all = Vec::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece.map_err(|error| S3Error::Unreachable {
                endpoint: self.config.endpoint.clone(),
                reason: chain(&error),
            })?);
            if all.len() > LARGEST {
                return Err(S3Error::Answer { what: "a question with a short answer" });
            }
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }

    async fn refused(&self, what: String, response: Response) -> S3Error {
        let status = response.status();
        let text = self.text(response).await.unwrap_or_default();
        let code = elements(&text, "Code").first().map_or_else(String::new, |code| (*code).to_owned());
        S3Error::Refused { what, status, code }
    }

    async fn call(&self, method: Method, path: &str, query: &str, body: &[u8]) -> Result<Response> {
        let call = Call { method, path, query, body, service: "s3" };
        self.send(&self.config.endpoint, &call).await
    }

    async fn make_bucket(&self, name: &str) -> Result<()> {
        let path = format!("/{name}");
        if self.call(Method::HEAD, &path, "", b"").await?.status().is_success() {
            return Ok(());
        }
        let region = &self.config.region;
        // The oldest region is the one that may not be named.
        let body = if region == "us-east-1" {
            String::new()
        } else {
            format!(
                "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )
        };
        let answer = self.call(Method::PUT, &path, "", body.as_bytes()).await?;
        if answer.status().is_success() {
            return Ok(());
        }
        match self.refused(format!("make the bucket {name}"), answer).await {
            S3Error::Refused { code, .. } if code == "BucketAlreadyOwnedByYou" => Ok(()),
            error => Err(error),
        }
    }

    /// Makes the bucket of a volume; one that is there is as good.
    pub(crate) async fn make_volume(&self, volume: &str) -> Result<()> {
        self.make_bucket(&bucket_of(volume)).await
    }

    /// Deletes what is in a volume's bucket, and the bucket; one that is not there is as good.
    pub(crate) async fn remove_volume(&self, volume: &str) -> Result<()> {
        let bucket = bucket_of(volume);
        let mut before: Vec<String> = Vec::new();
        loop {
            let path = format!("/{bucket}");
            let query = "encoding-type=url&list-type=2&max-keys=1000";
            let listed = self.call(Method::GET, &path, query, b"").await?;
            if listed.status() == StatusCode::NOT_FOUND {
                return Ok(());
            }
            if !listed.status().is_success() {
                return Err(self.refused(format!("list the bucket {bucket}"), listed).await);
            }
            let text = self.text(listed).await?;
            let decoded = |key: &&str| {
                percent_encoding::percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
            };
            let keys: Vec<String> = elements(&text, "Key").iter().map(decoded).collect();
            if keys.is_empty() {
                break;
            }
            if keys == before {
                return Err(S3Error::Answer { what: "the deletion of objects" });
            }
            let mut deleting = FuturesUnordered::new();
            for key in &keys {
                if deleting.len() == AT_ONCE {
                    deleting.try_next().await?;
                }
                deleting.push(self.remove_object(&bucket, key));
            }
            while deleting.try_next().await?.is_some() {}
            drop(deleting);
            before = keys;
        }
        let answer = self.call(Method::DELETE, &format!("/{bucket}"), "", b"").await?;
        if answer.status().is_success() || answer.status() == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(self.refused(format!("delete the bucket {bucket}"), answer).await)
    }

    async fn remove_object(&self, bucket: &str, key: &str) -> Result<()> {
        let answer = self.call(Method::DELETE, &format!("/{bucket}/{key}"), "", b"").await?;
        if answer.status().is_success() || answer.status() == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(self.refused(format!("delete an object of the bucket {bucket}"), answer).await)
    }

    /// What a client needs to upload build contexts: credentials of the role for an hour, or the key itself if there is no role.
    pub(crate) async fn access(&self, org: &str) -> Result<StorageAccess> {
        self.contexts.get_or_try_init(|| self.make_bucket(&self.config.bucket)).await?;
        let config = &self.config;
        let (access_key, secret, session_token) = match &config.role {
            Some(role) => self.assume(role, org).await?,
            None => (config.access_key.clone(), config.secret_key.expose().to_owned(), String::new()),
        };
        Ok(StorageAccess {
            access_key,
            secret,
            session_token,
            storage_url: config.endpoint.clone(),
            organization_id: org.to_owned(),
            bucket: config.bucket.clone(),
            region: config.region.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::elements;

    #[test]
    fn elements_are_found() {
        let xml = "<L><Contents><Key>a/b</Key></Contents><Contents><Key>c</Key></Contents><Key></L>";
        assert_eq!(elements(xml, "Key"), ["a/b", "c"]);
        assert!(elements("nonsense", "Key").is_empty());
    }
}
