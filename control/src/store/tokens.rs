//! Table `tokens`: SSH credentials and signed preview links, by hash.

use sqlx::Row;

use super::{Conn, Result};

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An SSH session.
    Ssh,
    /// One port.
    Preview,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Preview => "preview",
        }
    }
}

/// A token without its secret.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) hash: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) sandbox_id: String,
    pub(crate) port: Option<u16>,
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
}

/// Stores a token.
pub(crate) async fn insert(conn: &mut Conn, token: &Token) -> Result<()> {
    sqlx::query(
        "INSERT INTO tokens (hash, id, kind, sandbox_id, port, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&token.hash)
    .bind(&token.id)
    .bind(token.kind.as_str())
    .bind(&token.sandbox_id)
    .bind(token.port.map(i64::from))
    .bind(token.created_at)
    .bind(token.expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes one token.
pub(crate) async fn delete(conn: &mut Conn, hash: &str) -> Result<()> {
    sqlx::query("DELETE FROM tokens WHERE hash = ?").bind(hash).execute(conn).await.map(|_| ())
}

/// Removes all tokens of a kind of one sandbox.
pub(crate) async fn delete_kind(conn: &mut Conn, sandbox_id: &str, kind: Kind) -> Result<()> {
    let query = sqlx::query("DELETE FROM tokens WHERE sandbox_id = ? AND kind = ?");
    query.bind(sandbox_id).bind(kind.as_str()).execute(conn).await.map(|_| ())
}

/// Removes all tokens of one sandbox.
pub(crate) async fn delete_sandbox(conn: &mut Conn, sandbox_id: &str) -> Result<()> {
    sqlx::query("DELETE FROM tokens WHERE sandbox_id = ?").bind(sandbox_id).execute(conn).await.map(|_| ())
}

/// Drops expired tokens and returns the rest.
pub(crate) async fn live(conn: &mut Conn, now: i64) -> Result<Vec<Token>> {
    sqlx::query("DELETE FROM tokens WHERE expires_at <= ?").bind(now).execute(&mut *conn).await?;
    let rows = sqlx::query("SELECT * FROM tokens").fetch_all(conn).await?;
    let token = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Token {
            hash: row.try_get("hash")?,
            id: row.try_get("id")?,
            kind: if row.try_get::<&str, _>("kind")? == "ssh" { Kind::Ssh } else { Kind::Preview },
            sandbox_id: row.try_get("sandbox_id")?,
            port: row.try_get::<Option<i64>, _>("port")?.and_then(|p| u16::try_from(p).ok()),
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
        })
    };
    rows.iter().map(token).collect()
}
