//! A small table that is held in memory whole: readers never wait for the disk, and nobody sees a change before it is committed.

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
        Ok(Self { store: store.clone(), rows: Mutex::new(rows) })
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

    /// Stores a row.
    pub(crate) async fn put(&self, row: R) -> Result<()> {
        let mut tx = self.store.begin().await?;
        row.put(&mut tx).await?;
        tx.commit().await?;
        self.lock().insert(row.id().to_owned(), row);
        Ok(())
    }

    /// Removes a row.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        let mut tx = self.store.begin().await?;
        for &statement in R::DELETE {
            sqlx::query(statement).bind(id).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        self.lock().remove(id);
        Ok(())
    }
}
