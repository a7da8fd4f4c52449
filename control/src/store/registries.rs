//! Table `registries`: where images are pulled from with a name and a password.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::mirror::Row;
use super::{Conn, Result};

/// A registry.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) project: String,
    pub(crate) kind: String,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

impl Row for Registry {
    const ALL: &'static str = "SELECT * FROM registries";
    const DELETE: &'static [&'static str] = &["DELETE FROM registries WHERE id = ?"];

    fn id(&self) -> &str {
        &self.id
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        Ok(Registry {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            url: row.try_get("url")?,
            username: row.try_get("username")?,
            password: row.try_get("password")?,
            project: row.try_get("project")?,
            kind: row.try_get("kind")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }

    async fn put(&self, conn: &mut Conn) -> Result<()> {
        sqlx::query(
            "INSERT INTO registries (id, name, url, username, password, project, kind, created_at, updated_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, url = excluded.url, username = excluded.username,
             password = excluded.password, project = excluded.project, updated_at = excluded.updated_at",
        )
        .bind(&self.id)
        .bind(&self.name)
        .bind(&self.url)
        .bind(&self.username)
        .bind(&self.password)
        .bind(&self.project)
        .bind(&self.kind)
        .bind(self.created_at)
        .bind(self.updated_at)
        .execute(conn)
        .await?;
        Ok(())
    }
}
