//! Table `runners`: nodes that take jobs, and their last healthcheck.

use pinfold_proto::runner::health::Healthcheck;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::mirror::Row;
use super::{Conn, Result, from_json, json};

/// A runner. Its token is kept, because the edge has to present it to the runner.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) token: String,
    pub(crate) token_hash: String,
    pub(crate) tags: Vec<String>,
    pub(crate) unschedulable: bool,
    pub(crate) draining: bool,
    pub(crate) health: Option<Healthcheck>,
    pub(crate) last_checked: Option<i64>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

impl Runner {
    /// The kind of its GPUs.
    pub(crate) fn gpu_type(&self) -> Option<String> {
        let metrics = self.health.as_ref()?.metrics.as_ref()?;
        metrics.gpu_type.clone().filter(|kind| !kind.is_empty())
    }
}

impl Row for Runner {
    const ALL: &'static str = "SELECT * FROM runners";
    const DELETE: &'static [&'static str] = &[
        "DELETE FROM runners WHERE id = ?",
        "DELETE FROM jobs WHERE runner_id = ?",
        "DELETE FROM runner_images WHERE runner_id = ?",
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        Ok(Runner {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            region: row.try_get("region")?,
            token: row.try_get("token")?,
            token_hash: row.try_get("token_hash")?,
            tags: from_json(row.try_get("tags")?)?,
            unschedulable: row.try_get::<i64, _>("unschedulable")? != 0,
            draining: row.try_get::<i64, _>("draining")? != 0,
            health: row.try_get::<Option<&str>, _>("health")?.map(from_json).transpose()?,
            last_checked: row.try_get("last_checked")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }

    async fn put(&self, conn: &mut Conn) -> Result<()> {
        sqlx::query(
            "INSERT INTO runners (id, name, region, token_hash, token, tags, unschedulable, draining, health, last_checked,
             created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET token_hash = excluded.token_hash, token = excluded.token, tags = excluded.tags,
             unschedulable = excluded.unschedulable, draining = excluded.draining, health = excluded.health,
             last_checked = excluded.last_checked, updated_at = excluded.updated_at",
        )
        .bind(&self.id)
        .bind(&self.name)
        .bind(&self.region)
        .bind(&self.token_hash)
        .bind(&self.token)
        .bind(json(&self.tags))
        .bind(i64::from(self.unschedulable))
        .bind(i64::from(self.draining))
        .bind(self.health.as_ref().map(json))
        .bind(self.last_checked)
        .bind(self.created_at)
        .bind(self.updated_at)
        .execute(conn)
        .await?;
        Ok(())
    }
}
