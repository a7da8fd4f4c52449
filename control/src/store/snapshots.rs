//! Table `snapshots`: named and sized templates.

use pinfold_proto::control::snapshot::SnapshotState;
use sqlx::Row;

use super::{Conn, Result, from_json, json, small};
use crate::time::now;

/// A snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image_name: Option<String>,
    /// The image reference that runners use.
    pub(crate) reference: String,
    pub(crate) build_ref: Option<String>,
    pub(crate) general: bool,
    pub(crate) state: SnapshotState,
    pub(crate) error_reason: Option<String>,
    /// What the creator asked for.
    pub(crate) entrypoint: Option<Vec<String>>,
    /// What the image has.
    pub(crate) image_entrypoint: Option<Vec<String>>,
    pub(crate) size_gib: Option<f64>,
    pub(crate) cpu: u32,
    pub(crate) gpu: u32,
    pub(crate) gpu_type: Option<String>,
    pub(crate) memory: u32,
    pub(crate) disk: u32,
    /// The only runner that has the image, if no registry has it.
    pub(crate) runner_id: Option<String>,
    pub(crate) source_sandbox_id: Option<String>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) last_used_at: Option<i64>,
}

impl Snapshot {
    /// Nobody can make sandboxes of it until it is activated.
    pub(crate) fn rest(&mut self) {
        if self.state == SnapshotState::Active {
            self.state = SnapshotState::Inactive;
            self.updated_at = now();
        }
    }
}

/// Inserts or replaces a snapshot.
pub(crate) async fn put(conn: &mut Conn, s: &Snapshot) -> Result<()> {
    sqlx::query(
        "INSERT INTO snapshots (id, name, image_name, reference, build_ref, general, state, error_reason, entrypoint,
         image_entrypoint, size_gib, cpu, gpu, memory, disk, runner_id, source_sandbox_id, created_at, updated_at, last_used_at, gpu_type)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET image_name = excluded.image_name, reference = excluded.reference,
         build_ref = excluded.build_ref, state = excluded.state, error_reason = excluded.error_reason,
         entrypoint = excluded.entrypoint, image_entrypoint = excluded.image_entrypoint, size_gib = excluded.size_gib,
         cpu = excluded.cpu, gpu = excluded.gpu, memory = excluded.memory, disk = excluded.disk,
         runner_id = excluded.runner_id, updated_at = excluded.updated_at, last_used_at = excluded.last_used_at",
    )
    .bind(&s.id)
    .bind(&s.name)
    .bind(&s.image_name)
    .bind(&s.reference)
    .bind(&s.build_ref)
    .bind(i64::from(s.general))
    .bind(s.state.as_str())
    .bind(&s.error_reason)
    .bind(s.entrypoint.as_ref().map(json))
    .bind(s.image_entrypoint.as_ref().map(json))
    .bind(s.size_gib)
    .bind(i64::from(s.cpu))
    .bind(i64::from(s.gpu))
    .bind(i64::from(s.memory))
    .bind(i64::from(s.disk))
    .bind(&s.runner_id)
    .bind(&s.source_sandbox_id)
    .bind(s.created_at)
    .bind(s.updated_at)
    .bind(s.last_used_at)
    .bind(&s.gpu_type)
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes a snapshot.
pub(crate) async fn delete(conn: &mut Conn, id: &str) -> Result<()> {
    sqlx::query("DELETE FROM snapshots WHERE id = ?").bind(id).execute(conn).await.map(|_| ())
}

/// All snapshots.
pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<Snapshot>> {
    let rows = sqlx::query("SELECT * FROM snapshots").fetch_all(conn).await?;
    let snapshot = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Snapshot {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            image_name: row.try_get("image_name")?,
            reference: row.try_get("reference")?,
            build_ref: row.try_get("build_ref")?,
            general: row.try_get::<i64, _>("general")? != 0,
            state: SnapshotState::from_word(row.try_get("state")?).unwrap_or(SnapshotState::Error),
            error_reason: row.try_get("error_reason")?,
            entrypoint: row.try_get::<Option<&str>, _>("entrypoint")?.map(from_json).transpose()?,
            image_entrypoint: row
                .try_get::<Option<&str>, _>("image_entrypoint")?
                .map(from_json)
                .transpose()?,
            size_gib: row.try_get("size_gib")?,
            cpu: small(row.try_get("cpu")?),
            gpu: small(row.try_get("gpu")?),
            gpu_type: row.try_get("gpu_type")?,
            memory: small(row.try_get("memory")?),
            disk: small(row.try_get("disk")?),
            runner_id: row.try_get("runner_id")?,
            source_sandbox_id: row.try_get("source_sandbox_id")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    };
    rows.iter().map(snapshot).collect()
}
