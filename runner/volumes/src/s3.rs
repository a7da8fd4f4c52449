//! Volumes as S3 buckets, each mounted once on this host by a FUSE client (runner contract 8).
//!
//! The client is mount-s3 where it is installed, else s3fs. It is started outside our own cgroup and session where systemd runs, so that it outlives a restart of the runner;
//! a mount whose client died, or hangs, is found, detached and mounted anew. Credentials reach the client by its environment or a private file, never by its arguments.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nix::mount::MntFlags;
use pinfold_proto::id::{Secret, VolumeId};
use tokio::process::Command;
use tokio::time::Instant;

use crate::mounts::{Health, is_mount_point, mountinfo, probe};
use crate::{VolumeError, VolumeStore};

mod clients;

/// Mount directories carry this prefix; nothing without it is ever touched.
const PREFIX: &str = "daytona-volume-";
/// How long a client has to bring its mount up.
const MOUNT_DEADLINE: Duration = Duration::from_secs(15);
/// A client that says that it has mounted, and has nothing mounted after this, is no more.
const GONE: Duration = Duration::from_secs(1);

/// How to reach the object store.
#[derive(Debug, Clone, Default)]
pub struct S3Credentials {
    /// Endpoint URL, scheme included; AWS itself if unset.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Access key id.
    pub access_key: Secret,
    /// Secret access key.
    pub secret_key: Secret,
}

impl S3Credentials {
    /// Whether the store is not Amazon's.
    fn is_elsewhere(&self) -> bool {
        let host = |url: &str| {
            let (_, rest) = url.split_once("://").unwrap_or(("", url));
            rest.split(['/', ':']).next().unwrap_or_default().to_owned()
        };
        self.endpoint
            .as_deref()
            .map(host)
            .is_some_and(|host| !host.ends_with(".amazonaws.com") && !host.ends_with(".amazonaws.com.cn"))
    }
}

/// Buckets mounted below a base directory.
#[derive(Debug)]
pub struct S3Volumes {
    base: PathBuf,
    credentials: S3Credentials,
    exclusion: Duration,
    /// Where clients are looked for.
    search_path: OsString,
    /// When a volume was last asked for. The time of its directory does not tell: while it is mounted, that is the bucket's.
    asked_for: std::sync::Mutex<HashMap<VolumeId, Instant>>,
    locks: std::sync::Mutex<HashMap<VolumeId, Arc<tokio::sync::Mutex<()>>>>,
    clients: clients::Clients,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    MountS3,
    S3fs,
}

impl Client {
    const fn program(self) -> &'static str {
        match self {
            Self::MountS3 => "mount-s3",
            Self::S3fs => "s3fs",
        }
    }
}

impl S3Volumes {
    /// Volumes mounted at `<base>/daytona-volume-<id>`; [`VolumeStore::cleanup`] leaves those alone that changed, or were asked for, less than
    /// `exclusion` ago: the sandbox that wants one may not be known yet.
    pub fn new(base: impl Into<PathBuf>, credentials: S3Credentials, exclusion: Duration) -> Self {
        Self {
            base: base.into(),
            credentials,
            exclusion,
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            asked_for: std::sync::Mutex::default(),
            locks: std::sync::Mutex::default(),
            clients: clients::Clients::default(),
        }
    }

    fn find_client(&self) -> Option<Client> {
        let installed = |client: &Client| {
            std::env::split_paths(&self.search_path).any(|dir| dir.join(client.program()).is_file())
        };
        [Client::MountS3, Client::S3fs].into_iter().find(installed)
    }

    fn note_asked_for(&self, volume: &VolumeId) {
        let mut asked_for = self.asked_for.lock().unwrap_or_else(PoisonError::into_inner);
        asked_for.retain(|_, at| at.elapsed() < self.exclusion);
        asked_for.insert(volume.clone(), Instant::now());
    }

    fn was_asked_for(&self, volume: &VolumeId) -> bool {
        let asked_for = self.asked_for.lock().unwrap_or_else(PoisonError::into_inner);
        asked_for.get(volume).is_some_and(|at| at.elapsed() < self.exclusion)
    }

    /// Whether its directory was changed a short time ago. Of a mounted one only the bucket is seen, whose time says nothing, and whose client may never answer.
    fn is_young(&self, volume: &VolumeId, mountinfo: &str) -> bool {
        let path = self.path_of(volume);
        if is_mount_point(mountinfo, &path) {
            return false;
        }
        let changed = path.symlink_metadata().and_then(|m| m.modified()).ok();
        changed
            .and_then(|at| SystemTime::now().duration_since(at).ok())
            .is_some_and(|age| age < self.exclusion)
    }

    fn path_of(&self, volume: &VolumeId) -> PathBuf {
        self.base.join(format!("{PREFIX}{volume}"))
    }

    /// The volume's own lock; those that nobody holds are forgotten, so that the map stays as small as the work in hand.
    fn lock_of(&self, volume: &VolumeId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(volume.clone()).or_default())
    }

    async fn mount(&self, volume: &VolumeId, path: &Path) -> Result<(), VolumeError> {
        let client = self.find_client().ok_or(VolumeError::NoClient)?;
        let bucket = format!("{PREFIX}{volume}");
        let failed =
            |reason: String| VolumeError::Mount { volume: volume.clone(), client: client.program(), reason };
        let password_file = self.password_file(client)?;
        let mut command = self.command(client, &bucket, path, password_file.as_deref());
        let output = tokio::time::timeout(MOUNT_DEADLINE, command.output()).await;
        let output = output.map_err(|_| failed(format!("no answer within {MOUNT_DEADLINE:?}")))?;
        let output = output.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(failed(words.trim().chars().take(500).collect()));
        }
        let began = Instant::now();
        loop {
            let health = probe(path).await;
            // A client that cannot reach its store may be mounted and list nothing.
            if health == Health::Live && tokio::fs::read_dir(path).await.is_ok() {
                return Ok(());
            }
            if health == Health::Absent && began.elapsed() > GONE {
                return Err(failed(
                    "it ended, as it does when the bucket cannot be used; its log says why".to_owned(),
                ));
            }
            if began.elapsed() > MOUNT_DEADLINE {
                return Err(failed(format!("the mount did not come up within {MOUNT_DEADLINE:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn command(&self, client: Client, bucket: &str, path: &Path, password_file: Option<&Path>) -> Command {
        let mut command = outlasting_us(client.program());
        self.configure(&mut command, client, bucket, path, password_file);
        command
    }

    /// Arguments and environment of the client.
    fn configure(
        &self,
        command: &mut Command,
        client: Client,
        bucket: &str,
        path: &Path,
        password_file: Option<&Path>,
    ) {
        match client {
            Client::MountS3 => {
                command.args([
                    "--allow-other",
                    "--allow-delete",
                    "--allow-overwrite",
                    "--file-mode",
                    "0666",
                    "--dir-mode",
                    "0777",
                ]);
                if self.credentials.is_elsewhere() {
                    // Only Amazon gives every bucket a host name.
                    command.arg("--force-path-style");
                }
                command.arg(bucket).arg(path);
            }
            Client::S3fs => {
                command.arg(bucket).arg(path);
                let mut options = vec![
                    "allow_other".to_owned(),
                    "umask=0000".to_owned(),
                    "use_path_request_style".to_owned(),
                ];
                options.extend(self.credentials.endpoint.as_ref().map(|url| format!("url={url}")));
                options.extend(self.credentials.region.as_ref().map(|region| format!("endpoint={region}")));
                options.extend(password_file.map(|file| format!("passwd_file={}", file.display())));
                command.arg("-o").arg(options.join(","));
            }
        }
        command.env_clear().env("PATH", &self.search_path);
        let S3Credentials { endpoint, region, access_key, secret_key } = &self.credentials;
        if client == Client::MountS3 {
            let pairs = [
                ("AWS_ENDPOINT_URL", endpoint.as_deref()),
                ("AWS_REGION", region.as_deref()),
                ("AWS_ACCESS_KEY_ID", Some(access_key.expose())),
                ("AWS_SECRET_ACCESS_KEY", Some(secret_key.expose())),
            ];
            command.envs(pairs.into_iter().filter_map(|(k, v)| Some((k, v?))));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    }

    /// s3fs reads its credentials from a file that only root can read.
    fn password_file(&self, client: Client) -> Result<Option<PathBuf>, VolumeError> {
        if client != Client::S3fs {
            return Ok(None);
        }
        let path = self.base.join(".pinfold-s3fs");
        let failed = |source| VolumeError::Io { step: "write", path: path.clone(), source };
        let text =
            format!("{}:{}\n", self.credentials.access_key.expose(), self.credentials.secret_key.expose());
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(Some(path));
        }
        let new = path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600);
        let mut file = options.open(&new).map_err(failed)?;
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
        std::fs::rename(&new, &path).map_err(failed)?;
        Ok(Some(path))
    }
}

#[async_trait]
impl VolumeStore for S3Volumes {
    async fn ensure(&self, volume: &VolumeId) -> Result<PathBuf, VolumeError> {
        let lock = self.lock_of(volume);
        let _mounting = lock.lock().await;
        self.note_asked_for(volume);
        let path = self.path_of(volume);
        match probe(&path).await {
            Health::Live => return Ok(path),
            Health::Dead => {
                tracing::warn!(%volume, path = %path.display(), "the volume's mount is dead; mounting it anew");
                // Whoever waits for a client that hangs gets an error.
                unmount(&path, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE).await?;
            }
            Health::Absent => {}
        }
        let made = !path.exists();
        std::fs::create_dir_all(&path).map_err(|source| VolumeError::Io {
            step: "make",
            path: path.clone(),
            source,
        })?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .map_err(|source| VolumeError::Io { step: "open up", path: path.clone(), source })?;
        if let Err(error) = self.mount(volume, &path).await {
            let _ = unmount(&path, MntFlags::MNT_DETACH).await;
            if made {
                let _ = std::fs::remove_dir(&path);
            }
            return Err(error);
        }
        self.clients.watch(volume, &path, true).await;
        Ok(path)
    }

    fn may_die(&self) -> bool {
        true
    }

    async fn watch(&self, volume: &VolumeId) {
        self.clients.watch(volume, &self.path_of(volume), false).await;
    }

    async fn client_ended(&self) {
        self.clients.ended().await;
    }

    fn problem(&self) -> Option<String> {
        if self.find_client().is_none() {
            return Some(VolumeError::NoClient.to_string());
        }
        (!Path::new("/dev/fuse").exists())
            .then(|| "this host has no /dev/fuse; load the kernel module fuse".to_owned())
    }

    async fn remove(&self, _volume: &VolumeId) -> Result<(), VolumeError> {
        // The bucket is the control plane's to remove, and a mount without containers ends by itself.
        Ok(())
    }

    fn unused(
        &self,
        in_use: &(dyn for<'a> Fn(&'a VolumeId) -> bool + Sync),
    ) -> Result<Vec<VolumeId>, VolumeError> {
        let failed = |source| VolumeError::Io { step: "list", path: self.base.clone(), source };
        let (mounts, mut unused) = (mountinfo(), Vec::new());
        for entry in std::fs::read_dir(&self.base).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let volume = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|id| id.parse().ok());
            let wanted = |v: &VolumeId| in_use(v) || self.was_asked_for(v) || self.is_young(v, &mounts);
            unused.extend(volume.filter(|volume| !wanted(volume)));
        }
        Ok(unused)
    }

    async fn cleanup(
        &self,
        in_use: &(dyn for<'a> Fn(&'a VolumeId) -> bool + Sync),
    ) -> Result<Vec<VolumeId>, VolumeError> {
        let mut removed = Vec::new();
        for volume in self.unused(in_use)? {
            let lock = self.lock_of(&volume);
            let _mounting = lock.lock().await;
            if self.was_asked_for(&volume) {
                continue;
            }
            let path = self.path_of(&volume);
            match probe(&path).await {
                Health::Absent => {}
                Health::Live => unmount(&path, MntFlags::MNT_DETACH).await?,
                // Whoever waits for a client that hangs gets an error: our own probe does.
                Health::Dead => unmount(&path, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE).await?,
            }
            match std::fs::remove_dir(&path) {
                Ok(()) => removed.push(volume),
                // Written before the mount was ready: somebody may want it.
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                    quarantine(&self.base, &path, &volume)?
                }
                Err(source) => return Err(VolumeError::Io { step: "remove", path, source }),
            }
        }
        Ok(removed)
    }
}

/// `program`, started so that it outlives us: stopping our service must not stop the file system under running sandboxes.
fn outlasting_us(program: &str) -> Command {
    if Path::new("/run/systemd/system").exists() {
        let mut scope = Command::new("systemd-run");
        scope.args(["--scope", "--collect", "--quiet", "--", program]);
        scope
    } else {
        let mut session = Command::new("setsid");
        session.arg("--fork").arg("--wait").arg(program);
        session
    }
}

/// Moves a directory with data in it out of the way, under a name that says what it was.
fn quarantine(base: &Path, path: &Path, volume: &VolumeId) -> Result<(), VolumeError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let target = base.join(format!("garbage-{now}-{volume}"));
    tracing::warn!(%volume, to = %target.display(), "an unmounted volume directory holds data; moved away");
    std::fs::rename(path, &target).map_err(|source| VolumeError::Io {
        step: "move away",
        path: path.to_owned(),
        source,
    })
}

async fn unmount(path: &Path, how: MntFlags) -> Result<(), VolumeError> {
    let owned = path.to_owned();
    let done = tokio::task::spawn_blocking(move || nix::mount::umount2(&owned, how)).await;
    match done {
        Ok(Ok(()) | Err(nix::errno::Errno::EINVAL)) => Ok(()),
        Ok(Err(error)) => {
            Err(VolumeError::Io { step: "unmount", path: path.to_owned(), source: error.into() })
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests;
