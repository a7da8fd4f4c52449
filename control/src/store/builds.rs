//! Table `builds`: recipes of images, by the reference that their content determines.

use sqlx::Row;

use super::{Conn, Result, from_json, json};

/// A recipe.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) reference: String,
    pub(crate) dockerfile: String,
    pub(crate) context_hashes: Vec<String>,
    pub(crate) created_at: i64,
    pub(crate) last_used_at: i64,
}

/// Inserts a recipe or notes its use.
pub(crate) async fn put(conn: &mut Conn, build: &Build) -> Result<()> {
    sqlx::query(
        "INSERT INTO builds (reference, dockerfile, context_hashes, created_at, last_used_at) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (reference) DO UPDATE SET last_used_at = excluded.last_used_at",
    )
    .bind(&build.reference)
    .bind(&build.dockerfile)
    .bind(json(&build.context_hashes))
    .bind(build.created_at)
    .bind(build.last_used_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// All recipes.
pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<Build>> {
    let rows = sqlx::query("SELECT * FROM builds").fetch_all(conn).await?;
    let build = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Build {
            reference: row.try_get("reference")?,
            dockerfile: row.try_get("dockerfile")?,
            context_hashes: from_json(row.try_get("context_hashes")?)?,
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    };
    rows.iter().map(build).collect()
}
