//! The durable half of the control plane: one SQLite file in WAL mode.
//!
//! All writing goes through one connection, so a transaction never meets another writer. Commits are not synced one by one: a killed process loses
//! nothing, a power cut at most the last moments, and the file is consistent in either case. Answers to readers come from memory; the store is read at
//! start and for job lists. Each table has its module; nothing else knows SQL.

pub(crate) mod backup;
pub(crate) mod builds;
pub(crate) mod images;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod leftovers;
pub(crate) mod meta;
mod migrate;
pub(crate) mod mirror;
pub(crate) mod registries;
pub(crate) mod runners;
pub(crate) mod sandboxes;
pub(crate) mod snapshots;
pub(crate) mod tokens;
pub(crate) mod volumes;
pub(crate) mod warm_pools;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};

pub(crate) use migrate::MigrateError;

/// The database's file in the data directory.
pub(crate) const DATABASE: &str = "control.db";
/// How long one waits for another's lock on the file.
const BUSY: Duration = Duration::from_secs(10);

/// Result of a query.
pub(crate) type Result<T> = std::result::Result<T, sqlx::Error>;
/// A transaction of the one writer.
pub(crate) type Tx = Transaction<'static, Sqlite>;

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens the file, creates it if needed, and brings its tables up to date.
    pub(crate) async fn open(path: &Path) -> std::result::Result<Self, MigrateError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY);
        let writer = pool(1).connect_with(options.clone()).await?;
        migrate::run(&writer).await?;
        let readers = pool(4).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers })
    }

    /// Begins a transaction of the writer; the caller waits while another one runs.
    pub(crate) async fn begin(&self) -> Result<Tx> {
        self.writer.begin().await
    }

    /// The pool for reading.
    pub(crate) fn read(&self) -> &SqlitePool {
        &self.readers
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await.map(|_| ())
    }

    /// Closes the file after the last transaction.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Connections to a file need no renewal, and without it sqlx starts no task that looks for old ones. That task would rarely never end: it counts idle
/// connections while they are given back, and at the wrong moment counts one less than none.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections).max_lifetime(None).idle_timeout(None)
}

/// What the table modules write through.
pub(crate) type Conn = SqliteConnection;

/// A column that holds JSON.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// Reads a column that holds JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Reads a column of small non-negative integers.
pub(crate) fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(0)
}
