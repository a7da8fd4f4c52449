//! Brings the tables up to date: numbered files, each applied once, in order, in a transaction of its own.

use sqlx::SqlitePool;

/// Every migration ever released; the number of a migration is its place in this list, from 1.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/0001_initial.sql"),
    include_str!("../../migrations/0002_backups_registries.sql"),
    include_str!("../../migrations/0003_object_store.sql"),
];

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    /// The file was written by a later version.
    #[error("it has version {found}, and this program knows only versions up to {known}")]
    Newer {
        /// The file's version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file cannot be read or written, or is not a database.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

/// The newest version that this program knows.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

pub(super) async fn run(writer: &SqlitePool) -> Result<(), MigrateError> {
    sqlx::query("CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY)").execute(writer).await?;
    let found: i64 =
        sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM migrations").fetch_one(writer).await?;
    let known = known();
    if found > known {
        return Err(MigrateError::Newer { found, known });
    }
    for (version, sql) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        let mut tx = writer.begin().await?;
        sqlx::raw_sql(sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO migrations (version) VALUES (?)").bind(version).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}
