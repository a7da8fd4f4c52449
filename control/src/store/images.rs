//! Table `runner_images`: which images are at which runner, or on their way there.

use sqlx::Row;

use super::{Conn, Result, from_json, json};

/// Where an image stands at a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageState {
    /// A job is under way.
    Working,
    /// Usable.
    Ready,
    /// The job failed.
    Failed,
}

impl ImageState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// An image at a runner.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) runner_id: String,
    pub(crate) reference: String,
    pub(crate) state: ImageState,
    pub(crate) job_id: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) size_gib: Option<f64>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) updated_at: i64,
}

/// Inserts or replaces an image's row.
pub(crate) async fn put(conn: &mut Conn, image: &Image) -> Result<()> {
    sqlx::query(
        "INSERT INTO runner_images (runner_id, reference, state, job_id, error, size_gib, entrypoint, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (runner_id, reference) DO UPDATE SET state = excluded.state, job_id = excluded.job_id,
         error = excluded.error, size_gib = excluded.size_gib, entrypoint = excluded.entrypoint, updated_at = excluded.updated_at",
    )
    .bind(&image.runner_id)
    .bind(&image.reference)
    .bind(image.state.as_str())
    .bind(&image.job_id)
    .bind(&image.error)
    .bind(image.size_gib)
    .bind(image.entrypoint.as_ref().map(json))
    .bind(image.updated_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets an image at a runner.
pub(crate) async fn delete(conn: &mut Conn, runner_id: &str, reference: &str) -> Result<()> {
    let query = sqlx::query("DELETE FROM runner_images WHERE runner_id = ? AND reference = ?");
    query.bind(runner_id).bind(reference).execute(conn).await.map(|_| ())
}

/// All images.
pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<Image>> {
    let rows = sqlx::query("SELECT * FROM runner_images").fetch_all(conn).await?;
    let image = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Image {
            runner_id: row.try_get("runner_id")?,
            reference: row.try_get("reference")?,
            state: match row.try_get::<&str, _>("state")? {
                "ready" => ImageState::Ready,
                "failed" => ImageState::Failed,
                _ => ImageState::Working,
            },
            job_id: row.try_get("job_id")?,
            error: row.try_get("error")?,
            size_gib: row.try_get("size_gib")?,
            entrypoint: row.try_get::<Option<&str>, _>("entrypoint")?.map(from_json).transpose()?,
            updated_at: row.try_get("updated_at")?,
        })
    };
    rows.iter().map(image).collect()
}
