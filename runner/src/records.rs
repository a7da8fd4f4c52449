//! What the runner must remember of a sandbox that the engine cannot tell: its policy, volumes, and an operation that was under way.
//!
//! One file a sandbox, `<data>/sandboxes/<id>.json`, replaced as a whole. Policies are kept here because only some requests carry them,
//! while every start has to enforce them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::{NetworkSettings, VolumeMount};
use serde::{Deserialize, Serialize};

use crate::error::{Class, OpError, OpResult, RunError};
use crate::files;

/// What is remembered of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The desired network policy.
    pub network: NetworkSettings,
    /// The address on the sandbox network.
    pub address: Option<Ipv4Addr>,
    /// The volumes, in order.
    pub volumes: Vec<VolumeMount>,
    /// Cores promised.
    pub cpu: u32,
    /// Memory promised, GiB.
    pub memory_gib: u32,
    /// Disk promised, GiB.
    pub disk_gib: u32,
    /// A start of it was given up that the engine may yet finish, and nobody has wanted it to run since.
    pub start_given_up: bool,
    /// The name that the old container was given while a new one takes its place.
    pub replacing: Option<String>,
    /// Whether the new one has all of the old one's data, so that the old one is only to be removed.
    pub copied: bool,
}

/// All records, in memory and on disk.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    map: RwLock<HashMap<SandboxId, Record>>,
}

impl Records {
    /// Reads all records of `dir`. A file that cannot be read is reported and left alone.
    pub fn open(dir: &Path) -> Result<Self, RunError> {
        let failed = |source| RunError::DataDir { path: dir.display().to_string(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut map = HashMap::new();
        for entry in std::fs::read_dir(dir).map_err(failed)?.flatten() {
            let path = entry.path();
            if files::is_unfinished(&path) {
                std::fs::remove_file(&path).map_err(failed)?;
                continue;
            }
            let Some(id) =
                path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<SandboxId>().ok())
            else {
                continue;
            };
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match std::fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|b| serde_json::from_slice(&b).map_err(|e| e.to_string()))
            {
                Ok(record) => drop(map.insert(id, record)),
                Err(error) => {
                    tracing::error!(path = %path.display(), error, "a sandbox record cannot be read; the sandbox gets no network until its policy is set again")
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), map: RwLock::new(map) })
    }

    /// The record of a sandbox.
    pub fn get(&self, id: &SandboxId) -> Option<Record> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Whether a file exists that could not be read: then nothing is known, which is not the same as no restriction.
    pub fn is_unreadable(&self, id: &SandboxId) -> bool {
        self.get(id).is_none() && self.path(id).exists()
    }

    /// The recorded addresses.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).values().filter_map(|r| r.address).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every sandbox with a record.
    pub fn ids(&self) -> Vec<SandboxId> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Replaces a record; on disk when this returns.
    pub async fn put(&self, id: &SandboxId, record: Record) -> OpResult<()> {
        if self.get(id).as_ref() == Some(&record) {
            return Ok(());
        }
        let failed = |e: String| OpError::new(Class::Internal, format!("could not record sandbox {id}: {e}"));
        let bytes = serde_json::to_vec(&record).map_err(|e| failed(e.to_string()))?;
        let before = self.set(id, Some(record));
        let written = files::replace(&self.path(id), bytes).await;
        // What is not on disk must not look as if it were, or the next attempt would write nothing.
        written.map_err(|e| {
            self.set(id, before);
            failed(e.to_string())
        })
    }

    fn set(&self, id: &SandboxId, record: Option<Record>) -> Option<Record> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            Some(record) => map.insert(id.clone(), record),
            None => map.remove(id),
        }
    }

    /// Changes a record in place.
    pub async fn change(&self, id: &SandboxId, change: impl FnOnce(&mut Record)) -> OpResult<()> {
        let mut record = self.get(id).unwrap_or_default();
        change(&mut record);
        self.put(id, record).await
    }

    /// Forgets a sandbox that is gone.
    pub async fn remove(&self, id: &SandboxId) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Err(error) = files::remove(&self.path(id)).await {
            tracing::warn!(sandbox = %id, %error, "could not remove a sandbox's record");
        }
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_outlive_the_process_and_damage_is_not_freedom() {
        let dir = tempfile::tempdir().unwrap();
        let (id, broken) = (SandboxId::random(), SandboxId::random());
        let records = Records::open(dir.path()).unwrap();
        let network = NetworkSettings { network_block_all: Some(true), ..NetworkSettings::default() };
        records.change(&id, |r| r.network = network.clone()).await.unwrap();
        std::fs::write(dir.path().join(format!("{broken}.json")), "{").unwrap();
        std::fs::write(dir.path().join("cut-short.tmp"), "{").unwrap();
        let again = Records::open(dir.path()).unwrap();
        assert!(!dir.path().join("cut-short.tmp").exists());
        assert_eq!(again.get(&id).unwrap().network, network);
        assert!(again.is_unreadable(&broken) && !again.is_unreadable(&SandboxId::random()));
        // A change that could not be written did not happen.
        let blocked = dir.path().join(format!("{id}.tmp"));
        std::fs::create_dir(&blocked).unwrap();
        assert!(again.change(&id, |r| r.cpu = 9).await.is_err() && again.get(&id).unwrap().cpu == 0);
        std::fs::remove_dir(&blocked).unwrap();
        assert!(again.change(&id, |r| r.cpu = 9).await.is_ok());
        again.remove(&id).await;
        assert!(Records::open(dir.path()).unwrap().get(&id).is_none());
    }
}
