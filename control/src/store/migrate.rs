//! Brings the tables up to date: numbered files, each applied once, in order, in a transaction of its own.

use sqlx::SqlitePool;

/// Every migration ever released; the number of a migration is its place in this list, from 1.
const MIGRATIONS: [&str; 4] = [
    include_str!("../../migrations/0001_initial.sql"),
    include_str!("../../migrations/0002_backups_registries.sql"),
    include_str!("../../migrations/0003_object_store.sql"),
    include_str!("../../migrations/0004_key_use.sql"),
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

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;
    use crate::store::mirror::Mirror;
    use crate::store::volumes::Volume;
    use crate::store::{Store, keys, sandboxes, snapshots};

    /// A database as version 1 left it, with a row in each table that has changed since.
    const FIRST: &str = "
        INSERT INTO migrations (version) VALUES (1);
        INSERT INTO api_keys (name, hash, masked, permissions, created_at) VALUES ('k', 'h', 'm', '[]', 1);
        INSERT INTO sandboxes (id, name, region, image, os_user, env, labels, volumes, public, network_block_all, cpu, gpu,
            memory, disk, state, desired, recoverable, auto_stop, auto_archive, auto_delete, auth_token, created_at, updated_at,
            last_activity_at)
            VALUES ('s', 'box', 'us', 'i:1', 'daytona', '{}', '{}', '[]', 0, 0, 1, 0, 1, 3, 'started', 'started', 0, 15, 1, -1, 't', 1, 1, 1);
        INSERT INTO snapshots (id, name, reference, general, state, cpu, gpu, memory, disk, created_at, updated_at)
            VALUES ('n', 'snap', 'i:1', 0, 'active', 1, 0, 1, 3, 1, 1);
        INSERT INTO volumes (id, name, created_at, updated_at) VALUES ('v', 'data', 1, 1);";

    async fn database(path: &std::path::Path, statements: &[&'static str]) {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        let table = "CREATE TABLE migrations (version BIGINT PRIMARY KEY)";
        for &sql in [&[table], statements].concat().iter() {
            sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        }
        pool.close().await;
    }

    #[tokio::test]
    async fn a_database_of_the_first_version_is_brought_up_to_date_with_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        database(&path, &[MIGRATIONS[0], FIRST]).await;
        for _ in 0..2 {
            let store = Store::open(&path).await.unwrap();
            let mut tx = store.begin().await.unwrap();
            let found = sandboxes::all(&mut tx).await.unwrap();
            assert_eq!((found.len(), found[0].name.as_str(), found[0].late_env), (1, "box", false));
            assert_eq!(keys::all(&mut tx).await.unwrap()[0].last_used_at, None);
            assert_eq!(snapshots::all(&mut tx).await.unwrap()[0].gpu_type, None);
            drop(tx);
            let volumes = Mirror::<Volume>::load(&store).await.unwrap();
            assert_eq!(volumes.get("v").unwrap().state.as_str(), "ready");
            store.close().await;
        }
    }

    #[tokio::test]
    async fn a_database_of_a_later_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        database(&path, &["INSERT INTO migrations (version) VALUES (999)"]).await;
        let refused = Store::open(&path).await.unwrap_err();
        assert!(matches!(refused, MigrateError::Newer { found: 999, .. }), "{refused}");
    }
}
