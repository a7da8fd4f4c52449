//! Table `jobs`: the durable queue of every runner.

use pinfold_proto::runner::job::{Job, JobKind, JobStatus};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Conn, Result};
use crate::time::{iso, now};

/// A job and what the wire form leaves out.
#[derive(Debug, Clone)]
pub(crate) struct JobRow {
    pub(crate) id: String,
    pub(crate) seq: i64,
    pub(crate) runner_id: String,
    pub(crate) kind: JobKind,
    pub(crate) status: JobStatus,
    pub(crate) resource_type: String,
    pub(crate) resource_id: String,
    pub(crate) payload: Option<String>,
    pub(crate) result_metadata: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

impl JobRow {
    /// A job that waits for its runner.
    pub(crate) fn pending(
        runner: &str,
        kind: JobKind,
        resource_type: &str,
        resource_id: &str,
        payload: Option<String>,
    ) -> Self {
        let at = now();
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            seq: 0,
            runner_id: runner.to_owned(),
            kind,
            status: JobStatus::Pending,
            resource_type: resource_type.to_owned(),
            resource_id: resource_id.to_owned(),
            payload,
            result_metadata: None,
            error_message: None,
            created_at: at,
            updated_at: at,
        }
    }

    /// The wire form. `resultMetadata` is never echoed.
    pub(crate) fn wire(&self) -> Job {
        Job {
            id: self.id.clone(),
            kind: self.kind.clone(),
            status: self.status,
            resource_type: self.resource_type.clone(),
            resource_id: self.resource_id.clone(),
            payload: self.payload.clone(),
            trace_context: None,
            error_message: self.error_message.clone(),
            created_at: Some(iso(self.created_at)),
            updated_at: Some(iso(self.updated_at)),
        }
    }
}

fn status_of(word: &str) -> JobStatus {
    match word {
        "PENDING" => JobStatus::Pending,
        "IN_PROGRESS" => JobStatus::InProgress,
        "COMPLETED" => JobStatus::Completed,
        _ => JobStatus::Failed,
    }
}

fn row(row: &SqliteRow) -> Result<JobRow> {
    Ok(JobRow {
        id: row.try_get("id")?,
        seq: row.try_get("seq")?,
        runner_id: row.try_get("runner_id")?,
        kind: JobKind::from(row.try_get::<String, _>("kind")?),
        status: status_of(row.try_get("status")?),
        resource_type: row.try_get("resource_type")?,
        resource_id: row.try_get("resource_id")?,
        payload: row.try_get("payload")?,
        result_metadata: row.try_get("result_metadata")?,
        error_message: row.try_get("error_message")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

/// Queues a job.
pub(crate) async fn insert(conn: &mut Conn, job: &JobRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO jobs (id, seq, runner_id, kind, status, resource_type, resource_id, payload, created_at, updated_at)
         VALUES (?, (SELECT COALESCE(MAX(seq), 0) + 1 FROM jobs), ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&job.id)
    .bind(&job.runner_id)
    .bind(job.kind.as_str())
    .bind(job.status.as_str())
    .bind(&job.resource_type)
    .bind(&job.resource_id)
    .bind(&job.payload)
    .bind(job.created_at)
    .bind(job.updated_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Claims up to `limit` waiting jobs of a runner, oldest first, in one statement.
pub(crate) async fn claim(conn: &mut Conn, runner: &str, limit: u32) -> Result<Vec<JobRow>> {
    let rows = sqlx::query(
        "UPDATE jobs SET status = 'IN_PROGRESS', updated_at = ? WHERE id IN
         (SELECT id FROM jobs WHERE runner_id = ? AND status = 'PENDING' ORDER BY seq LIMIT ?) RETURNING *",
    )
    .bind(now())
    .bind(runner)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    let mut jobs: Vec<JobRow> = rows.iter().map(row).collect::<Result<_>>()?;
    jobs.sort_by_key(|job| job.seq);
    Ok(jobs)
}

/// Gives a claimed job back. Returns whether it was still claimed.
pub(crate) async fn release(conn: &mut Conn, id: &str) -> Result<bool> {
    let query = sqlx::query("UPDATE jobs SET status = 'PENDING' WHERE id = ? AND status = 'IN_PROGRESS'");
    Ok(query.bind(id).execute(conn).await?.rows_affected() > 0)
}

/// What a job that was ended by [`supersede`] says.
pub(crate) const SUPERSEDED: &str = "the sandbox was deleted before";

/// Ends a job of a sandbox that is deleted, so that a runner that starts anew does not do it after the destroy. Returns whether nobody had claimed it.
pub(crate) async fn supersede(conn: &mut Conn, id: &str) -> Result<bool> {
    let end = async |conn: &mut Conn, status: &'static str| {
        let query = sqlx::query(
            "UPDATE jobs SET status = 'FAILED', error_message = ?, updated_at = ? WHERE id = ? AND status = ?",
        );
        let ended = query.bind(SUPERSEDED).bind(now()).bind(id).bind(status).execute(conn).await?;
        Ok::<_, sqlx::Error>(ended.rows_affected() > 0)
    };
    let unclaimed = end(conn, "PENDING").await?;
    if !unclaimed {
        end(conn, "IN_PROGRESS").await?;
    }
    Ok(unclaimed)
}

/// Stores a new status. A heartbeat moves `updated_at` only when it says something new.
pub(crate) async fn update(conn: &mut Conn, job: &JobRow) -> Result<()> {
    sqlx::query(
        "UPDATE jobs SET status = ?, result_metadata = ?, error_message = ?, updated_at = ? WHERE id = ?",
    )
    .bind(job.status.as_str())
    .bind(&job.result_metadata)
    .bind(&job.error_message)
    .bind(job.updated_at)
    .bind(&job.id)
    .execute(conn)
    .await?;
    Ok(())
}

/// One job.
pub(crate) async fn get(pool: &sqlx::SqlitePool, id: &str) -> Result<Option<JobRow>> {
    sqlx::query("SELECT * FROM jobs WHERE id = ?")
        .bind(id)
        .fetch_optional(pool)
        .await?
        .as_ref()
        .map(row)
        .transpose()
}

/// A page of a runner's jobs, newest first, and how many there are on all pages.
pub(crate) async fn page(
    pool: &sqlx::SqlitePool,
    runner: &str,
    status: Option<JobStatus>,
    offset: i64,
    limit: i64,
) -> Result<(Vec<JobRow>, i64)> {
    let status = status.map(JobStatus::as_str);
    let total: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM jobs WHERE runner_id = ?1 AND (CAST(?2 AS TEXT) IS NULL OR status = ?2)",
    )
    .bind(runner)
    .bind(status)
    .fetch_one(pool)
    .await?;
    let rows = sqlx::query(
        "SELECT * FROM jobs WHERE runner_id = ?1 AND (CAST(?2 AS TEXT) IS NULL OR status = ?2) ORDER BY seq DESC LIMIT ?3 OFFSET ?4",
    )
    .bind(runner)
    .bind(status)
    .bind(limit)
    .bind(offset)
    .fetch_all(pool)
    .await?;
    Ok((rows.iter().map(row).collect::<Result<_>>()?, total))
}

/// Every job that is not over.
pub(crate) async fn open(pool: &sqlx::SqlitePool) -> Result<Vec<JobRow>> {
    let query = sqlx::query("SELECT * FROM jobs WHERE status IN ('PENDING', 'IN_PROGRESS') ORDER BY seq");
    query.fetch_all(pool).await?.iter().map(row).collect()
}

/// Forgets jobs that ended before `before`.
pub(crate) async fn purge(conn: &mut Conn, before: i64) -> Result<()> {
    let query = sqlx::query("DELETE FROM jobs WHERE status IN ('COMPLETED', 'FAILED') AND updated_at < ?");
    query.bind(before).execute(conn).await.map(|_| ())
}
