//! Table `volumes`.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::mirror::Row;
use super::{Conn, Result};

/// Where a volume stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VolumeState {
    /// Its bucket is being made.
    Creating,
    /// It can be mounted.
    Ready,
    /// What is in it is being removed.
    Deleting,
    /// What is in it could not be removed; it can be tried again.
    Error,
}

impl VolumeState {
    /// The contract's word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
            Self::Error => "error",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Creating, Self::Ready, Self::Deleting, Self::Error]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// A volume: a directory at its runner or a bucket, named by its id.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: VolumeState,
    pub(crate) error_reason: Option<String>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) last_used_at: Option<i64>,
}

impl Row for Volume {
    const ALL: &'static str = "SELECT * FROM volumes";
    const DELETE: &'static [&'static str] = &["DELETE FROM volumes WHERE id = ?"];

    fn id(&self) -> &str {
        &self.id
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }

    fn read(row: &SqliteRow) -> Result<Self> {
        let state = row.try_get::<String, _>("state")?;
        let unknown = || sqlx::Error::Decode(format!("{state:?} is not a volume's state").into());
        Ok(Volume {
            state: VolumeState::from_word(&state).ok_or_else(unknown)?,
            error_reason: row.try_get("error_reason")?,
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    }

    async fn put(&self, conn: &mut Conn) -> Result<()> {
        sqlx::query(
            "INSERT INTO volumes (id, name, state, error_reason, created_at, updated_at, last_used_at) VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, state = excluded.state, error_reason = excluded.error_reason,
             updated_at = excluded.updated_at, last_used_at = excluded.last_used_at",
        )
        .bind(&self.id)
        .bind(&self.name)
        .bind(self.state.as_str())
        .bind(&self.error_reason)
        .bind(self.created_at)
        .bind(self.updated_at)
        .bind(self.last_used_at)
        .execute(conn)
        .await?;
        Ok(())
    }
}
