//! Table `api_keys`: hashes of users' keys.

use sqlx::Row;

use super::{Conn, Result, from_json, json};
use crate::time::now;

/// A key without its secret.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) hash: String,
    pub(crate) masked: String,
    pub(crate) permissions: Vec<String>,
    pub(crate) created_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) last_used_at: Option<i64>,
}

impl Key {
    /// Whether its time is over.
    pub(crate) fn expired(&self) -> bool {
        self.expires_at.is_some_and(|end| end <= now())
    }
}

/// Stores a key, replacing the one of the same name.
pub(crate) async fn put(conn: &mut Conn, key: &Key) -> Result<()> {
    sqlx::query("DELETE FROM api_keys WHERE name = ? OR hash = ?")
        .bind(&key.name)
        .bind(&key.hash)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "INSERT INTO api_keys (name, hash, masked, permissions, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&key.name)
    .bind(&key.hash)
    .bind(&key.masked)
    .bind(json(&key.permissions))
    .bind(key.created_at)
    .bind(key.expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes when a key was last used.
pub(crate) async fn touch(conn: &mut Conn, hash: &str, at: i64) -> Result<()> {
    let query = sqlx::query("UPDATE api_keys SET last_used_at = ? WHERE hash = ?");
    query.bind(at).bind(hash).execute(conn).await.map(|_| ())
}

/// Removes a key.
pub(crate) async fn delete(conn: &mut Conn, name: &str) -> Result<()> {
    sqlx::query("DELETE FROM api_keys WHERE name = ?").bind(name).execute(conn).await.map(|_| ())
}

/// All keys.
pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<Key>> {
    let rows = sqlx::query("SELECT * FROM api_keys ORDER BY created_at").fetch_all(conn).await?;
    let key = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Key {
            name: row.try_get("name")?,
            hash: row.try_get("hash")?,
            masked: row.try_get("masked")?,
            permissions: from_json(row.try_get("permissions")?)?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    };
    rows.iter().map(key).collect()
}
