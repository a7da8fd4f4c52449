//! A copy of the database in one file, made while it is in use, and the way back.
//!
//! The copy is SQLite's own (`VACUUM INTO`): one consistent moment, without the journal. It holds everything that the control plane knows, tokens of
//! runners among it, so it is readable by its owner alone. Nothing is replaced before the new file is whole and on the disk.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::{DATABASE, migrate};
use crate::lock::{self, LockError};

/// Why a copy was not made, or not put back: one sentence that names what to change.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The data directory has no database.
    #[error("there is no database {path}: set PINFOLD_DATA_DIR to the data directory of `pinfold up`", path = .0.display())]
    NoDatabase(PathBuf),
    /// Something would be replaced.
    #[error("{path} exists already: --force replaces it", path = .0.display())]
    Exists(PathBuf),
    /// An instance uses the data directory.
    #[error("pinfold is running with the data directory {path}: end it first", path = .0.display())]
    Running(PathBuf),
    /// The file is no copy of a database of ours.
    #[error("{path} cannot be restored: {reason}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// SQLite could not copy.
    #[error("the database {path} could not be copied: {source}", path = path.display())]
    Copy {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A file could not be handled.
    #[error("{path} could not be {step}: {source}", path = path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl BackupError {
    /// The documented exit status of each class (docs/exit-status.md).
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exists(_) => 2,
            _ => 5,
        }
    }
}

fn file(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { step, path, source }
}

/// `path` with something added to its last part.
fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Copies the database of `data_dir` into `target`, whether or not an instance is using it.
pub async fn backup(data_dir: &Path, target: &Path, force: bool) -> Result<(), BackupError> {
    let database = data_dir.join(DATABASE);
    if !database.is_file() {
        return Err(BackupError::NoDatabase(database));
    }
    if target.exists() && !force {
        return Err(BackupError::Exists(target.to_owned()));
    }
    let part = with(target, ".part");
    // SQLite fills an empty file, and would make one that others may read.
    private(&part)?;
    let copied = copy(&database, &part).await;
    if let Err(error) = copied.and_then(|()| into_place(&part, target)) {
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    Ok(())
}

async fn copy(database: &Path, part: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Copy { path: database.to_owned(), source };
    let options = SqliteConnectOptions::new().filename(database).busy_timeout(super::BUSY);
    let mut connection = options.connect().await.map_err(failed)?;
    let copied =
        sqlx::query("VACUUM INTO ?").bind(part.to_string_lossy().into_owned()).execute(&mut connection);
    copied.await.map_err(failed)?;
    connection.close().await.map_err(failed)
}

/// Puts a copy back as the database of `data_dir`. With `force` a database that is there is put aside first, as `control.db.replaced`.
pub async fn restore(data_dir: &Path, source: &Path, force: bool) -> Result<(), BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(file("made", data_dir))?;
    let _lock = lock::take(data_dir).map_err(|error| match error {
        LockError::Held => BackupError::Running(data_dir.to_owned()),
        LockError::File(error) => file("locked", data_dir)(error),
    })?;
    let database = data_dir.join(DATABASE);
    if database.exists() && !force {
        return Err(BackupError::Exists(database));
    }
    check(source).await.map_err(|reason| BackupError::Unusable { path: source.to_owned(), reason })?;
    let part = with(&database, ".part");
    let mut copy = private(&part)?;
    let mut original = File::open(source).map_err(file("read", source))?;
    std::io::copy(&mut original, &mut copy).map_err(file("written", &part))?;
    // The journal belongs to the database by name alone: one that stayed would be applied to the copy.
    for suffix in ["", "-wal", "-shm"] {
        let (old, aside) = (with(&database, suffix), with(&database, &format!(".replaced{suffix}")));
        remove(&aside)?;
        match std::fs::rename(&old, &aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file("put aside", &old)(error));
            }
            _ => {}
        }
    }
    into_place(&part, &database)
}

/// Whether a file is a whole database of ours, of a version that we know.
async fn check(source: &Path) -> Result<(), String> {
    let text = |error: sqlx::Error| error.to_string();
    if !source.is_file() {
        return Err("there is no such file".to_owned());
    }
    let options = SqliteConnectOptions::new().filename(source).read_only(true);
    let mut connection = options.connect().await.map_err(text)?;
    let verdict: String =
        sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut connection).await.map_err(text)?;
    if verdict != "ok" {
        return Err(format!("it is damaged: {verdict}"));
    }
    let found: i64 = sqlx::query_scalar("SELECT MAX(version) FROM migrations")
        .fetch_one(&mut connection)
        .await
        .map_err(|_| "it is no backup of pinfold's".to_owned())?;
    connection.close().await.map_err(text)?;
    let known = migrate::known();
    if found > known {
        return Err(format!("it has version {found}, and this program knows only versions up to {known}"));
    }
    Ok(())
}

/// An empty file for its owner alone.
fn private(path: &Path) -> Result<File, BackupError> {
    remove(path)?;
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(file("made", path))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file("removed", path)(error)),
        _ => Ok(()),
    }
}

/// Gives a whole file its name, and does not return before both are on the disk.
fn into_place(part: &Path, target: &Path) -> Result<(), BackupError> {
    let synced = File::open(part).and_then(|file| file.sync_all());
    synced.map_err(file("written", part))?;
    std::fs::rename(part, target).map_err(file("put in place", target))?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(file("written", parent))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{Store, meta};
    use super::*;

    async fn organization(store: &Store, new: &str) -> String {
        let mut tx = store.begin().await.unwrap();
        let found = meta::get_or_set(&mut tx, "organization", || new.to_owned()).await.unwrap();
        tx.commit().await.unwrap();
        found
    }

    #[tokio::test]
    async fn a_copy_of_a_database_in_use_is_whole_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
        std::fs::create_dir(&data).unwrap();
        let store = Store::open(&data.join(DATABASE)).await.unwrap();
        organization(&store, "before").await;
        // A transaction that is open meanwhile is not in it, and does not hold it up.
        let mut open = store.begin().await.unwrap();
        meta::get_or_set(&mut open, "later", || "x".to_owned()).await.unwrap();
        backup(&data, &copy, false).await.unwrap();
        drop(open);
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(backup(&data, &copy, false).await, Err(BackupError::Exists(_))));
        backup(&data, &copy, true).await.unwrap();
        store.close().await;

        let elsewhere = dir.path().join("elsewhere");
        restore(&elsewhere, &copy, false).await.unwrap();
        let store = Store::open(&elsewhere.join(DATABASE)).await.unwrap();
        assert_eq!(organization(&store, "after").await, "before");
        store.close().await;
        assert!(matches!(restore(&elsewhere, &copy, false).await, Err(BackupError::Exists(_))));
        restore(&elsewhere, &copy, true).await.unwrap();
        assert!(elsewhere.join("control.db.replaced").is_file());
    }

    #[tokio::test]
    async fn a_journal_that_was_left_is_not_applied_to_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
        std::fs::create_dir(&data).unwrap();
        let store = Store::open(&data.join(DATABASE)).await.unwrap();
        backup(&data, &copy, false).await.unwrap();
        organization(&store, "since then").await;
        // As after kill -9: the journal has what the database has not.
        let killed = dir.path().join("killed");
        std::fs::create_dir(&killed).unwrap();
        for name in [DATABASE.to_owned(), format!("{DATABASE}-wal")] {
            std::fs::copy(data.join(&name), killed.join(&name)).unwrap();
        }
        restore(&killed, &copy, true).await.unwrap();
        let store = Store::open(&killed.join(DATABASE)).await.unwrap();
        assert_eq!(organization(&store, "none").await, "none");
    }

    #[tokio::test]
    async fn what_is_no_backup_or_in_use_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (data, other) = (dir.path().join("data"), dir.path().join("other"));
        assert!(matches!(backup(&data, &other, false).await, Err(BackupError::NoDatabase(_))));
        std::fs::write(&other, "no database at all, but longer than SQLite's header is, and then some more")
            .unwrap();
        assert!(matches!(restore(&data, &other, false).await, Err(BackupError::Unusable { .. })));
        assert!(matches!(
            restore(&data, &dir.path().join("none"), false).await,
            Err(BackupError::Unusable { .. })
        ));
        let _running = lock::take(&data).unwrap();
        assert!(matches!(restore(&data, &other, true).await, Err(BackupError::Running(_))));
        let left: Vec<_> =
            std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }
}
