//! Object storage for build contexts: as much of S3 as the SDKs use to upload them (control-plane contract 14).
//!
//! Objects are files below one directory, which the local runner reads directly: `<organization>/<hash>/context.tar`. What opens the store is an access
//! key with its secret and a session token that is handed out for an hour, or a runner's token as access key and secret. Every request's signature is
//! verified, so that a request that is read on its way opens nothing, and so are those of the pieces of bodies that are signed piece by piece.

mod chunked;
mod http;
mod multipart;
pub(crate) mod signature;
pub(crate) mod tls;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use pinfold_proto::control::snapshot::StorageAccess;
use pinfold_proto::id::Secret;

pub(crate) use http::{by_path, entrance, router};
pub(crate) use signature::is_signed;

use crate::time::steady;
use crate::token;

/// How long what is handed out is good, in milliseconds.
const GRANT_MS: i64 = 3_600_000;
const REGION: &str = "us-east-1";

/// Access that was handed out.
#[derive(Debug)]
struct Grant {
    secret: Secret,
    session: Secret,
    /// When it ends, on the steady clock.
    until: i64,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Storage {
    dir: PathBuf,
    /// What was handed out, by access key.
    grants: Mutex<HashMap<String, Grant>>,
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
        grants.retain(|_, grant| grant.until > steady());
        let secret = token::alphanumeric(40);
        let grant = Grant {
            secret: Secret::new(secret.clone()),
            session: Secret::new(session_token.clone()),
            until: steady() + GRANT_MS,
        };
        grants.insert(access_key.clone(), grant);
        StorageAccess {
            access_key,
            secret,
            session_token,
            storage_url: url,
            organization_id: org.to_owned(),
            bucket: http::BUCKET.to_owned(),
            region: REGION.to_owned(),
        }
    }

    /// The secret of an access key that comes with its session token.
    fn secret(&self, access_key: &str, session_token: &str) -> Option<Secret> {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = grants.get(access_key)?;
        (grant.until > steady() && grant.session.matches(session_token)).then(|| grant.secret.clone())
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

    /// Removes objects that were neither written nor asked for since `before`, but for those whose hash is in `used`. Returns how many.
    pub(crate) async fn expire(&self, before: i64, used: HashSet<String>) -> std::io::Result<usize> {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || expire(&dir, before, &used))
            .await
            .map_err(std::io::Error::other)?
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

fn expire(dir: &Path, before: i64, used: &HashSet<String>) -> std::io::Result<usize> {
    let before = UNIX_EPOCH + Duration::from_millis(u64::try_from(before).unwrap_or(0));
    let old = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).is_ok_and(|at| at < before);
    let mut removed = 0;
    for org in entries(dir)? {
        for hash in entries(&dir.join(&org))?.into_iter().filter(|hash| !used.contains(hash)) {
            let object = dir.join(&org).join(&hash);
            for name in entries(&object)?.into_iter().filter(|name| old(&object.join(name))) {
                std::fs::remove_file(object.join(name))?;
                removed += 1;
            }
            // Fails while there is something in it, which is right.
            let _ = std::fs::remove_dir(&object);
        }
    }
    // Uploads that were never finished.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let left = entry.file_name().to_string_lossy().starts_with(".partial-");
        if left && old(&entry.path()) {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
    Ok(removed)
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
    fn what_nobody_used_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for hash in ["old", "used", "new"] {
            std::fs::create_dir_all(dir.path().join("org").join(hash)).unwrap();
            std::fs::write(dir.path().join("org").join(hash).join("context.tar"), b"x").unwrap();
        }
        std::fs::write(dir.path().join(".partial-x"), b"x").unwrap();
        let year_1971 = std::fs::FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(31_536_000));
        for old in ["org/old/context.tar", "org/used/context.tar", ".partial-x"] {
            std::fs::File::options()
                .append(true)
                .open(dir.path().join(old))
                .unwrap()
                .set_times(year_1971)
                .unwrap();
        }
        let used = HashSet::from(["used".to_owned()]);
        assert_eq!(expire(dir.path(), 1_000_000_000_000, &used).unwrap(), 1);
        assert_eq!(entries(&dir.path().join("org")).unwrap(), ["new", "used"]);
        assert!(!dir.path().join(".partial-x").exists());
    }

    #[test]
    fn access_needs_both_halves() {
        let storage = Storage::new(PathBuf::new());
        let access = storage.grant("http://a".to_owned(), "org");
        let secret = storage.secret(&access.access_key, &access.session_token).unwrap();
        assert_eq!(secret.expose(), access.secret);
        assert!(storage.secret(&access.access_key, "x").is_none());
        assert!(storage.secret("x", &access.session_token).is_none());
    }
}
