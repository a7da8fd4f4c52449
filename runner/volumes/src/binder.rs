//! From a sandbox's mounts to bind strings.
//!
//! A subpath lives inside a volume that sandboxes write to, so by the time the engine binds it, it may have become a link to anywhere. Hence a subpath is opened beneath the
//! volume's root without following links, and the opened directory itself, not its path, is bound to a staging directory of ours; that is what the engine gets.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use pinfold_proto::id::{SandboxId, VolumeId};
use pinfold_proto::runner::payload::VolumeMount;

use crate::mounts::{Health, health};
use crate::{SharedStore, VolumeError};

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

    /// The bind strings (`host:container`) for `mounts`, in their order. Every volume is mounted and every subpath exists when this returns; calling it again is harmless.
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
        let source = match wanted.subpath.as_deref().map(|s| s.trim_matches('/')).filter(|s| !s.is_empty()) {
            None => root,
            Some(subpath) => {
                let staged = self.staging.join(sandbox.as_str()).join(index.to_string());
                let (root, subpath, staged_at) = (root.clone(), subpath.to_owned(), staged.clone());
                blocking(move || stage(&root, &subpath, &staged_at)).await?;
                staged
            }
        };
        Ok(format!("{}:{target}", source.display()))
    }

    /// Removes what was staged for a sandbox that is gone.
    pub async fn release(&self, sandbox: &SandboxId) -> Result<(), VolumeError> {
        let directory = self.staging.join(sandbox.as_str());
        blocking(move || {
            let Ok(entries) = std::fs::read_dir(&directory) else { return Ok(()) };
            for entry in entries.flatten() {
                let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
                // Not recursive: if the unmounting failed, the volume's data is below.
                let _ = std::fs::remove_dir(entry.path());
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

async fn blocking<T: Send + 'static>(
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

/// Makes `subpath` below `root` and binds it to `staged`.
fn stage(root: &Path, subpath: &str, staged: &Path) -> Result<(), VolumeError> {
    let io = |step: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: std::io::Error| VolumeError::Io { step, path, source }
    };
    let directory = open_beneath(root, subpath)?;
    std::fs::create_dir_all(staged).map_err(io("make", staged))?;
    if health(staged) != Health::Absent {
        // From an earlier start: what it shows may be an old mount of the volume, so it is replaced.
        umount2(staged, MntFlags::MNT_DETACH).map_err(|e| io("unmount", staged)(e.into()))?;
    }
    let opened = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    mount(Some(&opened), staged, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| io("bind", staged)(e.into()))
}

/// Opens the directory `subpath` below `root`, making each missing component; links are not followed, so nothing leads out.
fn open_beneath(root: &Path, subpath: &str) -> Result<File, VolumeError> {
    let refuse = |reason: String| VolumeError::Path { path: subpath.to_owned(), what: "subpath", reason };
    let mut directory =
        File::open(root).map_err(|source| VolumeError::Io { step: "open", path: root.to_owned(), source })?;
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
