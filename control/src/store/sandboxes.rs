//! Table `sandboxes`, and the record that a sandbox's owner task holds.

use std::collections::BTreeMap;

use pinfold_proto::control::sandbox::{BackupState, DesiredState, SandboxState};
use pinfold_proto::runner::job::JobKind;
use pinfold_proto::runner::payload::VolumeMount;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Conn, Result, from_json, json, small};

/// The job that is under way for a sandbox. A result of any other job changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobRef {
    pub(crate) id: String,
    pub(crate) kind: JobKind,
}

/// New limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resize {
    pub(crate) cpu: Option<u32>,
    pub(crate) memory: Option<u32>,
    pub(crate) disk: Option<u32>,
}

/// What was asked for and is not done yet, apart from the desired state. It survives a restart, and so is done then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Task {
    /// The network policy in the record is not yet the runner's.
    pub(crate) network: bool,
    /// The runner could not apply it. It is sent again after a pause, after the next start of the sandbox, and at our own.
    pub(crate) network_held: bool,
    /// Change limits.
    pub(crate) resize: Option<Resize>,
    /// Make a snapshot of this name.
    pub(crate) snapshot: Option<String>,
    /// Recover; whether to leave it stopped.
    pub(crate) recover: Option<bool>,
    /// Kill rather than stop, as the caller said; runners are told only what was said.
    pub(crate) force: Option<bool>,
    /// Where to return after `resizing` or `snapshotting`.
    pub(crate) back: Option<SandboxState>,
    /// How often a destroy has failed.
    pub(crate) destroy_failures: u32,
    /// Leave a runner that is being drained.
    pub(crate) moving: bool,
    /// The runner that has it until the move has worked.
    pub(crate) source: Option<String>,
}

/// In [`Backup::kept`], in the place of a runner: the image is in our own registry.
pub(crate) const IN_REGISTRY: &str = "";

/// Where the backup of a sandbox stands. It has a job of its own: start, stop and delete do not wait for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Backup {
    pub(crate) state: BackupState,
    /// The job under way.
    pub(crate) job: Option<String>,
    /// What the latest job writes, or has written.
    pub(crate) reference: Option<String>,
    /// Why the latest one failed.
    pub(crate) error: Option<String>,
    /// The image that the container was restored from, which is in use for as long as the container is.
    pub(crate) base: Option<String>,
    /// Images that are still to be removed some time: the runner in whose store they are, or [`IN_REGISTRY`], and the reference.
    pub(crate) kept: Vec<(String, String)>,
}

impl Backup {
    /// Runs on, or stopped anew: what was backed up is not what there is any more.
    pub(crate) fn reset(&mut self) {
        self.state = BackupState::None;
        self.job = None;
        self.error = None;
    }

    /// Takes out the images that nothing needs any more.
    pub(crate) fn superseded(&mut self, current: Option<&str>, gone: bool) -> Vec<(String, String)> {
        let writing = self.job.is_some().then_some(self.reference.as_deref()).flatten();
        let needed = [current, writing, self.base.as_deref()];
        let (kept, rest) = std::mem::take(&mut self.kept)
            .into_iter()
            .partition(|(_, reference)| !gone && needed.contains(&Some(reference.as_str())));
        self.kept = kept;
        rest
    }
}

/// Everything that is known of a sandbox. Only its owner task changes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) runner_id: Option<String>,
    pub(crate) snapshot: Option<String>,
    /// The image reference that the runner creates it from.
    pub(crate) image: String,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) build_ref: Option<String>,
    pub(crate) os_user: String,
    pub(crate) env: BTreeMap<String, String>,
    /// Its container was made without `env`, so that the daemon is told of it at each start.
    pub(crate) late_env: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) volumes: Vec<VolumeMount>,
    pub(crate) public: bool,
    pub(crate) network_block_all: bool,
    pub(crate) network_allow_list: Option<String>,
    pub(crate) domain_allow_list: Option<String>,
    pub(crate) cpu: u32,
    pub(crate) gpu: u32,
    pub(crate) gpu_type: Option<String>,
    pub(crate) memory: u32,
    pub(crate) disk: u32,
    pub(crate) state: SandboxState,
    pub(crate) desired: DesiredState,
    pub(crate) error_reason: Option<String>,
    pub(crate) recoverable: bool,
    pub(crate) job: Option<JobRef>,
    pub(crate) task: Task,
    /// The image that an archived sandbox is restored from.
    pub(crate) backup_image: Option<String>,
    pub(crate) backup_at: Option<i64>,
    pub(crate) backup: Backup,
    /// Minutes; 0 = never.
    pub(crate) auto_stop: i64,
    /// Minutes.
    pub(crate) auto_archive: i64,
    /// Minutes; negative = never, 0 = on stop.
    pub(crate) auto_delete: i64,
    pub(crate) destroy_at: Option<i64>,
    pub(crate) auth_token: String,
    pub(crate) signing_key: Option<String>,
    pub(crate) linked_sandbox_id: Option<String>,
    pub(crate) warm_pool_id: Option<String>,
    pub(crate) daemon_version: Option<String>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) last_activity_at: i64,
}

impl Record {
    /// Whether stopping it destroys it.
    pub(crate) fn ephemeral(&self) -> bool {
        self.auto_delete == 0
    }

    /// Forgets the last failure.
    pub(crate) fn clear_error(&mut self) {
        self.error_reason = None;
        self.recoverable = false;
    }

    /// Whether it is in the archive although its state is an error: a restore has failed.
    pub(crate) fn in_archive(&self) -> bool {
        self.state == SandboxState::Error && self.runner_id.is_none() && self.backup_image.is_some()
    }
}

const COLUMNS: [&str; 43] = [
    "id",
    "name",
    "region",
    "runner_id",
    "snapshot",
    "image",
    "entrypoint",
    "build_ref",
    "os_user",
    "env",
    "late_env",
    "labels",
    "volumes",
    "public",
    "network_block_all",
    "network_allow_list",
    "domain_allow_list",
    "cpu",
    "gpu",
    "gpu_type",
    "memory",
    "disk",
    "state",
    "desired",
    "error_reason",
    "recoverable",
    "job",
    "task",
    "backup_image",
    "backup_at",
    "backup",
    "auto_stop",
    "auto_archive",
    "auto_delete",
    "destroy_at",
    "auth_token",
    "signing_key",
    "linked_sandbox_id",
    "warm_pool_id",
    "daemon_version",
    "created_at",
    "updated_at",
    "last_activity_at",
];

fn upsert() -> &'static str {
    static SQL: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    SQL.get_or_init(|| {
        let marks = vec!["?"; COLUMNS.len()].join(", ");
        let sets: Vec<String> = COLUMNS[1..].iter().map(|c| format!("{c} = excluded.{c}")).collect();
        let columns = COLUMNS.join(", ");
        format!(
            "INSERT INTO sandboxes ({columns}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {}",
            sets.join(", ")
        )
    })
}

/// Inserts or replaces a sandbox.
pub(crate) async fn put(conn: &mut Conn, r: &Record) -> Result<()> {
    sqlx::query(upsert())
        .bind(&r.id)
        .bind(&r.name)
        .bind(&r.region)
        .bind(&r.runner_id)
        .bind(&r.snapshot)
        .bind(&r.image)
        .bind(r.entrypoint.as_ref().map(json))
        .bind(&r.build_ref)
        .bind(&r.os_user)
        .bind(json(&r.env))
        .bind(i64::from(r.late_env))
        .bind(json(&r.labels))
        .bind(json(&r.volumes))
        .bind(i64::from(r.public))
        .bind(i64::from(r.network_block_all))
        .bind(&r.network_allow_list)
        .bind(&r.domain_allow_list)
        .bind(i64::from(r.cpu))
        .bind(i64::from(r.gpu))
        .bind(&r.gpu_type)
        .bind(i64::from(r.memory))
        .bind(i64::from(r.disk))
        .bind(r.state.as_str())
        .bind(r.desired.as_str())
        .bind(&r.error_reason)
        .bind(i64::from(r.recoverable))
        .bind(r.job.as_ref().map(json))
        .bind(json(&r.task))
        .bind(&r.backup_image)
        .bind(r.backup_at)
        .bind(json(&r.backup))
        .bind(r.auto_stop)
        .bind(r.auto_archive)
        .bind(r.auto_delete)
        .bind(r.destroy_at)
        .bind(&r.auth_token)
        .bind(&r.signing_key)
        .bind(&r.linked_sandbox_id)
        .bind(&r.warm_pool_id)
        .bind(&r.daemon_version)
        .bind(r.created_at)
        .bind(r.updated_at)
        .bind(r.last_activity_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Removes a sandbox.
pub(crate) async fn delete(conn: &mut Conn, id: &str) -> Result<()> {
    sqlx::query("DELETE FROM sandboxes WHERE id = ?").bind(id).execute(conn).await.map(|_| ())
}

/// Notes when a sandbox was last used.
pub(crate) async fn touch(conn: &mut Conn, id: &str, at: i64) -> Result<()> {
    let query = sqlx::query("UPDATE sandboxes SET last_activity_at = ? WHERE id = ?");
    query.bind(at).bind(id).execute(conn).await.map(|_| ())
}

/// All sandboxes.
pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<Record>> {
    sqlx::query("SELECT * FROM sandboxes").fetch_all(conn).await?.iter().map(record).collect()
}

fn record(row: &SqliteRow) -> Result<Record> {
    let flag = |column: &str| row.try_get::<i64, _>(column).map(|v| v != 0);
    let size = |column: &str| row.try_get::<i64, _>(column).map(small);
    let text = |column: &str| row.try_get::<String, _>(column);
    let maybe = |column: &str| row.try_get::<Option<String>, _>(column);
    let unknown = |word: String| sqlx::Error::Decode(format!("{word:?} is not a state").into());
    let state = text("state")?;
    let desired = text("desired")?;
    Ok(Record {
        id: text("id")?,
        name: text("name")?,
        region: text("region")?,
        runner_id: maybe("runner_id")?,
        snapshot: maybe("snapshot")?,
        image: text("image")?,
        entrypoint: maybe("entrypoint")?.as_deref().map(from_json).transpose()?,
        build_ref: maybe("build_ref")?,
        os_user: text("os_user")?,
        env: from_json(&text("env")?)?,
        late_env: flag("late_env")?,
        labels: from_json(&text("labels")?)?,
        volumes: from_json(&text("volumes")?)?,
        public: flag("public")?,
        network_block_all: flag("network_block_all")?,
        network_allow_list: maybe("network_allow_list")?,
        domain_allow_list: maybe("domain_allow_list")?,
        cpu: size("cpu")?,
        gpu: size("gpu")?,
        gpu_type: maybe("gpu_type")?,
        memory: size("memory")?,
        disk: size("disk")?,
        state: SandboxState::from_word(&state).ok_or_else(|| unknown(state))?,
        desired: DesiredState::from_word(&desired).ok_or_else(|| unknown(desired))?,
        error_reason: maybe("error_reason")?,
        recoverable: flag("recoverable")?,
        job: maybe("job")?.as_deref().map(from_json).transpose()?,
        task: maybe("task")?.as_deref().map(from_json).transpose()?.unwrap_or_default(),
        backup_image: maybe("backup_image")?,
        backup_at: row.try_get("backup_at")?,
        backup: maybe("backup")?.as_deref().map(from_json).transpose()?.unwrap_or_default(),
        auto_stop: row.try_get("auto_stop")?,
        auto_archive: row.try_get("auto_archive")?,
        auto_delete: row.try_get("auto_delete")?,
        destroy_at: row.try_get("destroy_at")?,
        auth_token: text("auth_token")?,
        signing_key: maybe("signing_key")?,
        linked_sandbox_id: maybe("linked_sandbox_id")?,
        warm_pool_id: maybe("warm_pool_id")?,
        daemon_version: maybe("daemon_version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        last_activity_at: row.try_get("last_activity_at")?,
    })
}
