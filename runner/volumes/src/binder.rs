//! From a sandbox's mounts to bind strings.
//!
//! A subpath lives inside a volume that sandboxes write to, so by the time the engine binds it, it may have become a link to anywhere. Hence a subpath is opened beneath the
//! volume's root without following links, and the opened directory itself, not its path, is bound to a staging directory of ours; that is what the engine gets. Volumes that may
//! die are staged as a whole too, so that they can be healed there ([`crate::anchor`]).

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use pinfold_proto::id::{SandboxId, VolumeId};
use pinfold_proto::runner::payload::VolumeMount;

use crate::{SharedStore, VolumeError, anchor};

/// Directories of a sandbox's root that must stay the image's own.
const RESERVED: [&str; 8] = ["/proc", "/sys", "/dev", "/boot", "/etc", "/bin", "/sbin", "/lib"];

/// Turns mounts into binds.
#[derive(Debug, Clone)]
pub struct Binder {
    store: SharedStore,
    staging: PathBuf,
}

impl Binder {
    /// Binds volumes of `store`; subpaths are staged below `staging`.
    pub fn new(store: SharedStore, staging: impl Into<PathBuf>) -> Self {
        Self { store, staging: staging.into() }
    }

    /// The store behind it.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Where mount number `index` of a sandbox is staged.
    pub(crate) fn staged(&self, sandbox: &SandboxId, index: usize) -> PathBuf {
        self.staging.join(sandbox.as_str()).join(index.to_string())
    }

    /// The bind strings (`host:container`, and how mounts propagate) for `mounts`, in their order. Every volume is mounted and every subpath exists when this returns; calling it again is harmless.
    pub async fn bind(
        &self,
        sandbox: &SandboxId,
        mounts: &[VolumeMount],
    ) -> Result<Vec<String>, VolumeError> {
        let all = mounts.iter().enumerate().map(|(index, wanted)| self.bind_one(sandbox, index, wanted));
        futures_util::future::try_join_all(all).await
    }

    async fn bind_one(
        &self,
        sandbox: &SandboxId,
        index: usize,
        wanted: &VolumeMount,
    ) -> Result<String, VolumeError> {
        let volume: VolumeId = wanted.volume_id.parse()?;
        let target = mount_path(&wanted.mount_path)?;
        let root = self.store.ensure(&volume).await?;
        let subpath = subpath(wanted);
        if subpath.is_empty() && !self.store.may_die() {
            return Ok(format!("{}:{target}", root.display()));
        }
        let staged = self.staged(sandbox, index);
        let at = staged.clone();
        blocking(move || {
            let directory = open_beneath(&root, &subpath)?;
            anchor::set(&directory, &at).map_err(|source| VolumeError::Io { step: "bind", path: at, source })
        })
        .await?;
        let propagation = if self.store.may_die() { ":rslave" } else { "" };
        Ok(format!("{}:{target}{propagation}", staged.display()))
    }

    /// The sandboxes that something is staged for.
    pub fn sandboxes(&self) -> Vec<SandboxId> {
        // Nothing was ever staged where there is no such directory.
        let entries = std::fs::read_dir(&self.staging).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Removes what was staged for a sandbox that is gone.
    pub async fn release(&self, sandbox: &SandboxId) -> Result<(), VolumeError> {
        let directory = self.staging.join(sandbox.as_str());
        blocking(move || {
            let Ok(entries) = std::fs::read_dir(&directory) else { return Ok(()) };
            for entry in entries.flatten() {
                // What could not be removed is told below.
                let _ = anchor::remove(&entry.path());
            }
            std::fs::remove_dir(&directory).map_err(|source| VolumeError::Io {
                step: "remove",
                path: directory,
                source,
            })
        })
        .await
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// An absolute path in a sandbox that may be a mount point.
fn mount_path(text: &str) -> Result<&str, VolumeError> {
    let refuse = |reason: &str| VolumeError::Path {
        path: text.to_owned(),
        what: "mount path",
        reason: reason.to_owned(),
    };
    let trimmed = text.trim_end_matches('/');
    if !text.starts_with('/') || trimmed.is_empty() {
        return Err(refuse("it must be absolute and not the root"));
    }
    if text.contains([':', '\0']) || text.contains("//") {
        return Err(refuse("it holds a character that the engine would misread"));
    }
    if Path::new(text).components().any(|c| matches!(c, Component::ParentDir | Component::CurDir))
        || text.contains("/./")
    {
        return Err(refuse("it must not hold . or .."));
    }
    let reserved =
        |r: &str| trimmed == r || trimmed.starts_with(&format!("{r}/")) || trimmed.starts_with("/lib64");
    if RESERVED.iter().any(|r| reserved(r)) {
        return Err(refuse("it belongs to the system"));
    }
    Ok(trimmed)
}

/// The part of the volume that is wanted; empty for the whole.
pub(crate) fn subpath(wanted: &VolumeMount) -> String {
    wanted.subpath.as_deref().unwrap_or_default().trim_matches('/').to_owned()
}

/// Opens the directory `subpath` below `root`, making each missing component; links are not followed, so nothing leads out. The root itself for an empty one.
pub(crate) fn open_beneath(root: &Path, subpath: &str) -> Result<File, VolumeError> {
    let refuse = |reason: String| VolumeError::Path { path: subpath.to_owned(), what: "subpath", reason };
    // Only named: a whole volume is bound without a word to its store.
    let place = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(place.bits())
        .open(root)
        .map_err(|source| VolumeError::Io { step: "open", path: root.to_owned(), source })?;
    let how = OpenHow::new().flags(OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    for component in Path::new(subpath).components() {
        let Component::Normal(name) = component else {
            return Err(refuse("it must not hold . or ..".to_owned()));
        };
        let opened = match openat2(&directory, name, how) {
            Err(nix::errno::Errno::ENOENT) => {
                let made = mkdirat(&directory, name, Mode::empty());
                let opened = openat2(&directory, name, how);
                match (made, &opened) {
                    // Sandboxes of any user share it, as they do the volume; our umask has no say in that.
                    (Ok(()), Ok(new)) => {
                        fchmod(new, Mode::from_bits_truncate(0o777)).map_err(|e| refuse(e.to_string()))?
                    }
                    (Err(nix::errno::Errno::EEXIST), _) | (Ok(()), Err(_)) => {}
                    (Err(error), _) => return Err(refuse(error.to_string())),
                }
                opened
            }
            other => other,
        };
        directory = opened.map(File::from).map_err(|error| match error {
            nix::errno::Errno::ELOOP | nix::errno::Errno::EXDEV => {
                refuse("it leads through a link".to_owned())
            }
            other => refuse(other.to_string()),
        })?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_paths_stay_out_of_the_system() {
        for good in ["/data", "/home/daytona/data/", "/library", "/devices"] {
            assert!(mount_path(good).is_ok(), "{good}");
        }
        for bad in
            ["", "/", "data", "/a/../etc", "/./a", "/a//b", "/proc", "/etc/x", "/lib64/x", "/a:b", "///"]
        {
            assert!(mount_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn subpaths_never_leave_the_volume() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("escape")).unwrap();
        std::os::unix::fs::symlink("real", root.join("inside")).unwrap();
        open_beneath(root, "a/b/c").unwrap();
        let made = std::fs::metadata(root.join("a/b/c")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&made.permissions()) & 0o7777, 0o777);
        for bad in ["escape", "escape/passwd", "../x", "a/../../x", "inside", "a/./b/../.."] {
            assert!(open_beneath(root, bad).is_err(), "{bad}");
        }
    }
}
