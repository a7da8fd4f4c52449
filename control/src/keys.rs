//! API keys: who may use the API.
//!
//! The database has hashes only. The key that is made at the first start is also kept in a file that only we can read, so that it can be shown again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::keys::{self as table, Key};
use crate::store::{Result, Store};
use crate::time::now;
use crate::token;

/// Every permission there is (control-plane contract 2).
pub(crate) const PERMISSIONS: [&str; 15] = [
    "write:registries",
    "delete:registries",
    "write:snapshots",
    "delete:snapshots",
    "write:sandboxes",
    "delete:sandboxes",
    "read:volumes",
    "write:volumes",
    "delete:volumes",
    "write:regions",
    "delete:regions",
    "read:runners",
    "write:runners",
    "delete:runners",
    "read:audit_logs",
];

/// All keys, by hash.
#[derive(Debug)]
pub(crate) struct Keys {
    store: Store,
    all: Mutex<HashMap<String, Key>>,
    /// Hashes of keys whose last use is newer in memory than in the store.
    used: Mutex<HashSet<String>>,
}

impl Keys {
    /// Loads all keys.
    pub(crate) async fn load(store: &Store) -> Result<Self> {
        let mut tx = store.begin().await?;
        let all = table::all(&mut tx).await?;
        tx.commit().await?;
        let all = all.into_iter().map(|key| (key.hash.clone(), key)).collect();
        Ok(Self { store: store.clone(), all: Mutex::new(all), used: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Key>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that `credential` is, unless it has expired; it counts as used.
    pub(crate) fn authenticate(&self, credential: &str) -> Option<Key> {
        // Looking up a hash tells nothing about the key, however long it takes.
        let mut all = self.lock();
        let key = all.get_mut(&token::hash(credential))?;
        if key.expired() {
            return None;
        }
        key.last_used_at = Some(now());
        let key = key.clone();
        drop(all);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.contains(&key.hash) {
            used.insert(key.hash.clone());
        }
        Some(key)
    }

    /// Whether a key that was [authenticated](Self::authenticate) before is still good; to look is not to use it.
    pub(crate) fn is_good(&self, key: &Key) -> bool {
        self.lock().contains_key(&key.hash) && !key.expired()
    }

    /// Whether there is a key with this credential; to look is not to use it.
    pub(crate) fn has(&self, credential: &str) -> bool {
        self.lock().contains_key(&token::hash(credential))
    }

    /// Stores when keys were last used.
    pub(crate) async fn flush(&self) -> Result<()> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        let found = |hash: &String| Some((hash.clone(), self.lock().get(hash)?.last_used_at?));
        let used: Vec<(String, i64)> = used.iter().filter_map(found).collect();
        if used.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        for (hash, at) in used {
            table::touch(&mut tx, &hash, at).await?;
        }
        tx.commit().await
    }

    /// All keys, oldest first.
    pub(crate) fn list(&self) -> Vec<Key> {
        let mut all: Vec<Key> = self.lock().values().cloned().collect();
        all.sort_by_key(|key| key.created_at);
        all
    }

    /// Stores `secret` as a key of this name, replacing the one that had it.
    pub(crate) async fn put(
        &self,
        name: &str,
        secret: &str,
        permissions: Vec<String>,
        expires_at: Option<i64>,
    ) -> Result<Key> {
        let key = Key {
            name: name.to_owned(),
            hash: token::hash(secret),
            masked: token::masked(secret),
            permissions,
            created_at: now(),
            expires_at,
            last_used_at: None,
        };
        let mut tx = self.store.begin().await?;
        table::put(&mut tx, &key).await?;
        tx.commit().await?;
        let mut all = self.lock();
        all.retain(|_, other| other.name != key.name);
        all.insert(key.hash.clone(), key.clone());
        Ok(key)
    }

    /// Removes a key.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let mut tx = self.store.begin().await?;
        table::delete(&mut tx, name).await?;
        tx.commit().await?;
        self.lock().retain(|_, key| key.name != name);
        Ok(())
    }
}

/// Reads a secret from a file, or makes one and keeps it there, readable by us alone.
pub(crate) fn secret_file(path: &Path, make: impl FnOnce() -> String) -> io::Result<String> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let secret = make();
    // Written beside and moved into place: a crash leaves no half of a key.
    let partial = path.with_extension("partial");
    let _ = std::fs::remove_file(&partial);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    io::Write::write_all(&mut file, format!("{secret}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_file_is_ours_alone_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        let first = secret_file(&path, token::api_key).unwrap();
        assert_eq!(secret_file(&path, || unreachable!()).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
