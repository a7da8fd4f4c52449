//! Table `warm_pools`.

use sqlx::Row as _;

use super::mirror::Row;
use super::{Conn, Result, small};

/// A number of started sandboxes that wait for someone to claim them.
#[derive(Debug, Clone)]
pub(crate) struct WarmPool {
    pub(crate) id: String,
    pub(crate) snapshot: String,
    pub(crate) region: String,
    pub(crate) pool: u32,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

impl Row for WarmPool {
    fn id(&self) -> &str {
        &self.id
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }

    async fn all(conn: &mut Conn) -> Result<Vec<Self>> {
        let rows = sqlx::query("SELECT * FROM warm_pools").fetch_all(conn).await?;
        let pool = |row: &sqlx::sqlite::SqliteRow| {
            Ok(WarmPool {
                id: row.try_get("id")?,
                snapshot: row.try_get("snapshot")?,
                region: row.try_get("region")?,
                pool: small(row.try_get("pool")?),
                created_at: row.try_get("created_at")?,
                updated_at: row.try_get("updated_at")?,
            })
        };
        rows.iter().map(pool).collect()
    }

    async fn put(&self, conn: &mut Conn) -> Result<()> {
        sqlx::query(
            "INSERT INTO warm_pools (id, snapshot, region, pool, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET pool = excluded.pool, updated_at = excluded.updated_at",
        )
        .bind(&self.id)
        .bind(&self.snapshot)
        .bind(&self.region)
        .bind(i64::from(self.pool))
        .bind(self.created_at)
        .bind(self.updated_at)
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn delete(conn: &mut Conn, id: &str) -> Result<()> {
        sqlx::query("DELETE FROM warm_pools WHERE id = ?").bind(id).execute(conn).await.map(|_| ())
    }
}
