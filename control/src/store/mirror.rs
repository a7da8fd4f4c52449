//! A small table that is held in memory whole: readers never wait for the disk, and nobody sees a change before it is committed.
//!
//! Changes come one after the other, each of the row as the one before has left it: none undoes another or brings back what was removed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::sqlite::SqliteRow;

use super::{Conn, Result, Store};

/// A row of such a table.
pub(crate) trait Row: Clone + Send + Sync + Sized {
    /// The statement that reads all rows.
    const ALL: &'static str;
    /// The statements that remove a row and what goes with it; each takes the id.
    const DELETE: &'static [&'static str];

    /// What it is found by.
    fn id(&self) -> &str;
    /// When it came about.
    fn created_at(&self) -> i64;
    /// Reads a row.
    fn read(row: &SqliteRow) -> Result<Self>;
    /// Inserts or replaces this row.
    fn put(&self, conn: &mut Conn) -> impl Future<Output = Result<()>> + Send;
}

/// The table.
#[derive(Debug)]
pub(crate) struct Mirror<R> {
    store: Store,
    rows: Mutex<HashMap<String, R>>,
    /// Held from the look at a row until its change is seen.
    changing: tokio::sync::Mutex<()>,
}

impl<R: Row> Mirror<R> {
    /// Reads the table.
    pub(crate) async fn load(store: &Store) -> Result<Self> {
        let found = sqlx::query(R::ALL).fetch_all(store.read()).await?;
        let mut rows = HashMap::with_capacity(found.len());
        for row in &found {
            let row = R::read(row)?;
            rows.insert(row.id().to_owned(), row);
        }
        Ok(Self { store: store.clone(), rows: Mutex::new(rows), changing: Default::default() })
    }

    /// The rows by id.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<String, R>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All rows, oldest first.
    pub(crate) fn list(&self) -> Vec<R> {
        let mut all: Vec<R> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| (a.created_at(), a.id()).cmp(&(b.created_at(), b.id())));
        all
    }

    /// The row with this id.
    pub(crate) fn get(&self, id: &str) -> Option<R> {
        self.lock().get(id).cloned()
    }

    /// Stores a new row.
    pub(crate) async fn insert(&self, row: R) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.put(row).await
    }

    /// Stores a new row unless there is one that stands in its way.
    pub(crate) async fn insert_unless(&self, row: R, taken: impl Fn(&R) -> bool) -> Result<bool> {
        let _changing = self.changing.lock().await;
        let free = !self.lock().values().any(taken);
        if free {
            self.put(row).await?;
        }
        Ok(free)
    }

    /// Changes a row, and returns it; none if it has been removed.
    pub(crate) async fn change(&self, id: &str, change: impl FnOnce(&mut R)) -> Result<Option<R>> {
        let _changing = self.changing.lock().await;
        let Some(mut row) = self.get(id) else { return Ok(None) };
        change(&mut row);
        self.put(row.clone()).await?;
        Ok(Some(row))
    }

    async fn put(&self, row: R) -> Result<()> {
        let mut tx = self.store.begin().await?;
        row.put(&mut tx).await?;
        tx.commit().await?;
        self.lock().insert(row.id().to_owned(), row);
        Ok(())
    }

    /// Removes a row.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        let mut tx = self.store.begin().await?;
        for &statement in R::DELETE {
            sqlx::query(statement).bind(id).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        self.lock().remove(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::volumes::{Volume, VolumeState};

    async fn one() -> (tempfile::TempDir, Store, Mirror<Volume>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("control.db")).await.unwrap();
        let mirror = Mirror::load(&store).await.unwrap();
        let row = Volume {
            id: "v".to_owned(),
            name: "v".to_owned(),
            state: VolumeState::Ready,
            error_reason: None,
            created_at: 1,
            updated_at: 1,
            last_used_at: None,
        };
        mirror.insert(row).await.unwrap();
        (dir, store, mirror)
    }

    #[tokio::test]
    async fn a_change_beside_a_removal_brings_nothing_back() {
        let (_dir, store, mirror) = one().await;
        let (removed, changed) =
            tokio::join!(mirror.remove("v"), mirror.change("v", |volume| volume.last_used_at = Some(2)));
        removed.unwrap();
        assert!(changed.unwrap().is_none() && mirror.get("v").is_none());
        assert!(Mirror::<Volume>::load(&store).await.unwrap().get("v").is_none());
    }

    #[tokio::test]
    async fn no_change_undoes_another() {
        let (_dir, store, mirror) = one().await;
        let (used, full) = tokio::join!(
            mirror.change("v", |volume| volume.last_used_at = Some(2)),
            mirror.change("v", |volume| volume.state = VolumeState::Error),
        );
        assert!(used.unwrap().is_some() && full.unwrap().is_some());
        for mirror in [mirror, Mirror::load(&store).await.unwrap()] {
            let volume = mirror.get("v").unwrap();
            assert_eq!((volume.last_used_at, volume.state), (Some(2), VolumeState::Error));
        }
    }

    #[tokio::test]
    async fn one_of_two_inserts_of_a_name_wins() {
        let (_dir, _, mirror) = one().await;
        let row = |id: &str| Volume { id: id.to_owned(), name: "n".to_owned(), ..mirror.get("v").unwrap() };
        let named = |volume: &Volume| volume.name == "n";
        let (a, b) =
            tokio::join!(mirror.insert_unless(row("a"), named), mirror.insert_unless(row("b"), named));
        assert!(a.unwrap() && !b.unwrap());
    }
}
