//! Object storage for build contexts: as much of S3 as the SDKs use to upload them (control-plane contract 14).
//!
//! Objects are files below one directory, which the local runner reads directly: `<organization>/<hash>/context.tar`. What opens the store is an access
//! key with a session token that is handed out for an hour, or a runner's token as access key. Signatures are not verified: whoever can read a request can
//! read the token, and the token cannot be guessed.

mod chunked;
mod http;
mod multipart;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pinfold_proto::control::snapshot::StorageAccess;
use pinfold_proto::id::Secret;

pub(crate) use http::{BUCKET, router};

use crate::time::now;
use crate::token;

/// How long what is handed out is good, in milliseconds.
const GRANT_MS: i64 = 3_600_000;
const REGION: &str = "us-east-1";

/// The store.
#[derive(Debug)]
pub(crate) struct Storage {
    dir: PathBuf,
    /// Access key → session token and when it ends.
    grants: Mutex<HashMap<String, (Secret, i64)>>,
    uploads: multipart::Uploads,
}

impl Storage {
    /// A store in `dir`, which is made when it is first written to.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, grants: Mutex::default(), uploads: multipart::Uploads::default() }
    }

    /// Hands out access for an hour.
    pub(crate) fn grant(&self, url: String, org: &str) -> StorageAccess {
        let access_key = token::alphanumeric(20).to_uppercase();
        let session_token = token::alphanumeric(64);
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.retain(|_, (_, until)| *until > now());
        grants.insert(access_key.clone(), (Secret::new(session_token.clone()), now() + GRANT_MS));
        StorageAccess {
            access_key,
            secret: token::alphanumeric(40),
            session_token,
            storage_url: url,
            organization_id: org.to_owned(),
            bucket: BUCKET.to_owned(),
            region: REGION.to_owned(),
        }
    }

    fn admits(&self, access_key: &str, session_token: &str) -> bool {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(access_key).is_some_and(|(token, until)| *until > now() && token.matches(session_token))
    }

    /// The file of an object, if its key is one that can be.
    fn file(&self, key: &str) -> Option<PathBuf> {
        let part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.len() <= 128
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let parts: Vec<&str> = key.split('/').collect();
        (parts.len() == 3 && parts.iter().all(|p| part(p))).then(|| self.dir.join(key))
    }

    /// A file beside the objects that is moved into place when it is whole.
    fn partial(&self) -> PathBuf {
        self.dir.join(format!(".partial-{}", token::alphanumeric(16)))
    }

    /// Keys that begin with `prefix`, and their sizes.
    async fn list(&self, prefix: &str, limit: usize) -> std::io::Result<Vec<(String, u64)>> {
        let (dir, prefix) = (self.dir.clone(), prefix.to_owned());
        tokio::task::spawn_blocking(move || list(&dir, &prefix, limit))
            .await
            .map_err(std::io::Error::other)?
    }
}

fn entries(dir: &Path) -> std::io::Result<Vec<String>> {
    let read = match std::fs::read_dir(dir) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names: Vec<String> =
        read.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

/// Objects are exactly three levels deep.
fn list(dir: &Path, prefix: &str, limit: usize) -> std::io::Result<Vec<(String, u64)>> {
    let may = |path: &str| prefix.starts_with(path) || path.starts_with(prefix);
    let mut found = Vec::new();
    for org in entries(dir)?.into_iter().filter(|org| may(&format!("{org}/"))) {
        for hash in entries(&dir.join(&org))?.into_iter().filter(|hash| may(&format!("{org}/{hash}/"))) {
            for name in entries(&dir.join(&org).join(&hash))? {
                let key = format!("{org}/{hash}/{name}");
                if key.starts_with(prefix) {
                    let size = std::fs::metadata(dir.join(&key))?.len();
                    found.push((key, size));
                }
                if found.len() >= limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_inside() {
        let storage = Storage::new(PathBuf::from("/store"));
        assert_eq!(storage.file("org/hash/context.tar").unwrap(), Path::new("/store/org/hash/context.tar"));
        for bad in ["../a/b", "a/../b", "a/b", "/a/b/c", "a//c", "a/b/.c", "a/b/c/d", "a/b/c\0"] {
            assert_eq!(storage.file(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lists_by_prefix() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("org/abc")).unwrap();
        std::fs::write(dir.path().join("org/abc/context.tar"), b"xy").unwrap();
        assert_eq!(list(dir.path(), "org/abc/", 10).unwrap(), [("org/abc/context.tar".to_owned(), 2)]);
        assert_eq!(list(dir.path(), "org", 10).unwrap().len(), 1);
        assert!(list(dir.path(), "other/", 10).unwrap().is_empty());
    }

    #[test]
    fn access_needs_both_halves() {
        let storage = Storage::new(PathBuf::new());
        let access = storage.grant("http://a".to_owned(), "org");
        assert!(storage.admits(&access.access_key, &access.session_token));
        assert!(!storage.admits(&access.access_key, "x") && !storage.admits("x", &access.session_token));
    }
}
