//! Temporary credentials for clients (AWS Security Token Service, `AssumeRole`): for an hour, and for the contexts of one organization.

use http::Method;
use serde_json::json;

use super::{Call, ObjectStore, Result, S3Error, elements};
use crate::storage::signature::encode;

/// How long they are good, in seconds: the least that the service allows by default.
const SECONDS: u32 = 3600;

impl ObjectStore {
    /// Access key, secret and session token.
    pub(super) async fn assume(&self, role: &str, org: &str) -> Result<(String, String, String)> {
        let bucket = &self.config.bucket;
        let objects =
            ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"];
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [
                { "Effect": "Allow", "Action": objects, "Resource": [format!("arn:aws:s3:::{bucket}/{org}/*")] },
                {
                    "Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [format!("arn:aws:s3:::{bucket}")],
                    "Condition": { "StringLike": { "s3:prefix": [format!("{org}/*")] } },
                },
            ],
        });
        let form = [
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", "pinfold"),
            ("DurationSeconds", &SECONDS.to_string()),
            ("Policy", &policy.to_string()),
        ]
        .map(|(name, value)| format!("{name}={}", encode(value.as_bytes(), b"")))
        .join("&");
        let call = Call { method: Method::POST, path: "/", query: "", body: form.as_bytes(), service: "sts" };
        let answer = self.send(&self.config.sts_endpoint, &call).await?;
        if !answer.status().is_success() {
            return Err(self.refused(format!("let us assume the role {role}"), answer).await);
        }
        let text = self.text(answer).await?;
        let one = |name| elements(&text, name).first().map(|text| (*text).to_owned());
        let found = one("AccessKeyId").zip(one("SecretAccessKey")).zip(one("SessionToken"));
        let ((access_key, secret), session) = found.ok_or(S3Error::Answer { what: "AssumeRole" })?;
        Ok((access_key, secret, session))
    }
}
