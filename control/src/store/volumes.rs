//! Table `volumes`.

use sqlx::Row as _;

use super::mirror::Row;
use super::{Conn, Result};

/// A volume: a directory at its runner, named by its id.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) last_used_at: Option<i64>,
}

impl Row for Volume {
    fn id(&self) -> &str {
        &self.id
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }

    async fn all(conn: &mut Conn) -> Result<Vec<Self>> {
        let rows = sqlx::query("SELECT * FROM volumes").fetch_all(conn).await?;
        let volume = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Volume {
                id: row.try_get("id")?,
                name: row.try_get("name")?,
                created_at: row.try_get("created_at")?,
                updated_at: row.try_get("updated_at")?,
                last_used_at: row.try_get("last_used_at")?,
            })
        };
        rows.iter().map(volume).collect()
    }

    async fn put(&self, conn: &mut Conn) -> Result<()> {
        sqlx::query(
            "INSERT INTO volumes (id, name, created_at, updated_at, last_used_at) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, last_used_at = excluded.last_used_at",
        )
        .bind(&self.id)
        .bind(&self.name)
        .bind(self.created_at)
        .bind(self.updated_at)
        .bind(self.last_used_at)
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn delete(conn: &mut Conn, id: &str) -> Result<()> {
        sqlx::query("DELETE FROM volumes WHERE id = ?").bind(id).execute(conn).await.map(|_| ())
    }
}
