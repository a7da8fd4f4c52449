//! Table `warm_pools`.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

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
    const ALL: &'static str = "SELECT * FROM warm_pools";
    const DELETE: &'static [&'static str] = &["DELETE FROM warm_pools WHERE id = ?"];

    fn id(&self) -> &str {
        &self.id
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        Ok(WarmPool {
            id: row.try_get("id")?,
            snapshot: row.try_get("snapshot")?,
            region: row.try_get("region")?,
            pool: small(row.try_get("pool")?),
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
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
}
