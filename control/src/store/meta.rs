//! Table `meta`: single values of this installation.

use super::{Conn, Result};

/// Reads a value, or stores `default()` under its name and returns that.
pub(crate) async fn get_or_set(
    conn: &mut Conn,
    name: &str,
    default: impl FnOnce() -> String,
) -> Result<String> {
    let found: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE name = ?")
        .bind(name)
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(value) = found {
        return Ok(value);
    }
    let value = default();
    sqlx::query("INSERT INTO meta (name, value) VALUES (?, ?)").bind(name).bind(&value).execute(conn).await?;
    Ok(value)
}
