//! The in-sandbox daemon that this binary carries, and its copy on disk that sandboxes mount.
//!
//! The file's name holds version and content hash, so a container keeps the daemon it was created with and an upgrade never changes what a
//! stopped sandbox runs next. Containers of the original runner mount a fixed path instead; that path is kept up to date while one exists.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::error::RunError;

static EMBEDDED: &[u8] = include_bytes!(env!("PINFOLD_EMBEDDED_DAEMON"));

/// Beginning of the file's name; version and hash follow.
const NAME: &str = "pinfold-daemon-";
/// End of the path under which the original runner mounts its daemon.
const LEGACY_SUFFIX: &str = ".tmp/binaries/daemon-amd64";

/// The daemon on this host.
#[derive(Debug, Clone)]
pub struct InstalledDaemon {
    path: PathBuf,
}

impl InstalledDaemon {
    /// Writes the daemon to the data directory, atomically, unless the very same one is there.
    pub fn install(config: &Config) -> Result<Self, RunError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| RunError::DataDir { path, source }
        };
        let bytes = match &config.daemon_binary {
            Some(path) => std::borrow::Cow::Owned(std::fs::read(path).map_err(failed(path))?),
            None => std::borrow::Cow::Borrowed(EMBEDDED),
        };
        if bytes.is_empty() {
            return Err(RunError::NoDaemon);
        }
        let hash: String = Sha256::digest(&bytes).iter().take(6).map(|b| format!("{b:02x}")).collect();
        let dir = config.data_dir.join("daemon");
        std::fs::create_dir_all(&dir).map_err(failed(&dir))?;
        let path = dir.join(format!("{NAME}{}-{hash}", env!("CARGO_PKG_VERSION")));
        let same = std::fs::read(&path).is_ok_and(|found| found == *bytes);
        if !same {
            write_executable(&path, &bytes).map_err(failed(&path))?;
        }
        // The engine resolves bind sources itself, so the path has to be absolute.
        let path = path.canonicalize().map_err(failed(&path))?;
        Ok(Self { path })
    }

    /// Whether it is a program for sandboxes of this architecture (`amd64`, `arm64`); every sandbox would fail otherwise, each in its own words.
    pub fn check(&self, architecture: &str) -> Result<(), RunError> {
        let mut head = [0; 20];
        let read = std::fs::File::open(&self.path).and_then(|mut file| file.read_exact(&mut head));
        let reason = match (read, elf_architecture(&head)) {
            (Err(error), _) => format!("cannot be read: {error}"),
            (Ok(()), None) => "is no Linux program".to_owned(),
            (Ok(()), Some(built)) if built != architecture => {
                format!("is built for {built}, and the engine runs {architecture}")
            }
            (Ok(()), Some(_)) => return Ok(()),
        };
        Err(RunError::Part {
            part: "the daemon for sandboxes",
            reason: format!("{} {reason}", self.path.display()),
        })
    }

    /// Where sandboxes mount it from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a container that mounts these paths was made by us rather than by the original runner.
    pub(crate) fn is_ours(mount_sources: &[String]) -> bool {
        let name = |source: &String| Path::new(source).file_name().map(|n| n.to_string_lossy().into_owned());
        mount_sources.iter().filter_map(name).any(|name| name.starts_with(NAME))
    }

    /// Removes versions that no container mounts, and refreshes the original's path where a container still does.
    pub fn reconcile(&self, in_use: &HashSet<PathBuf>) {
        for legacy in in_use.iter().filter(|p| p.to_string_lossy().ends_with(LEGACY_SUFFIX)) {
            if let Err(error) = std::fs::read(&self.path).and_then(|bytes| write_executable(legacy, &bytes)) {
                tracing::warn!(path = %legacy.display(), %error, "could not keep the daemon of older containers up to date");
            }
        }
        let Some(siblings) = self.path.parent().and_then(|dir| std::fs::read_dir(dir).ok()) else { return };
        for entry in siblings.flatten() {
            let path = entry.path();
            if path != self.path && !in_use.contains(&path) && std::fs::remove_file(&path).is_ok() {
                tracing::info!(path = %path.display(), "removed a daemon version that no sandbox uses");
            }
        }
    }
}

/// The architecture in an ELF header (elf(5)), by the name that images use.
fn elf_architecture(head: &[u8; 20]) -> Option<&'static str> {
    let machine = u16::from_le_bytes([head[18], head[19]]);
    head.starts_with(b"\x7fELF").then_some(match machine {
        62 => "amd64",
        183 => "arm64",
        40 => "arm",
        _ => "another architecture",
    })
}

/// A new inode under the old name: a running container keeps the one it has.
fn write_executable(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_use_stay_and_others_go() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let mut config =
            Config::local("http://a/api", pinfold_proto::id::Secret::new("t"), 1, dir.path().join("data"));
        config.daemon_binary = Some(source.clone());
        let mut installed = Vec::new();
        for content in ["one", "two", "three"] {
            std::fs::write(&source, content).unwrap();
            installed.push(InstalledDaemon::install(&config).unwrap());
        }
        assert_eq!(InstalledDaemon::install(&config).unwrap().path(), installed[2].path());
        let legacy = dir.path().join("old").join(LEGACY_SUFFIX);
        installed[2].reconcile(&HashSet::from([installed[0].path().to_owned(), legacy.clone()]));
        assert!(
            installed[0].path().exists() && !installed[1].path().exists() && installed[2].path().exists()
        );
        assert_eq!(std::fs::read_to_string(legacy).unwrap(), "three");
    }

    /// A runner without a daemon that works answers nothing but errors from every sandbox; it does not start.
    #[test]
    fn pain_53_a_daemon_that_could_not_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |content: &[u8], architecture: &str| {
            let path = dir.path().join("daemon");
            std::fs::write(&path, content).unwrap();
            InstalledDaemon { path }.check(architecture).err().map(|error| error.to_string())
        };
        let elf = |machine: u8| {
            let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
            head.extend([machine, 0]);
            head
        };
        assert_eq!(refusal(&elf(62), "amd64"), None);
        assert_eq!(refusal(&elf(183), "arm64"), None);
        let wrong = refusal(&elf(62), "arm64").unwrap();
        assert!(wrong.contains("built for amd64") && wrong.contains("runs arm64"), "{wrong}");
        assert!(refusal(b"#!/bin/sh\nexec sleep 9\n", "amd64").unwrap().contains("no Linux program"));
        assert!(refusal(b"\x7fELF", "amd64").unwrap().contains("cannot be read"));
    }

    #[test]
    fn an_empty_daemon_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("empty");
        std::fs::write(&source, "").unwrap();
        let mut config = Config::local("http://a/api", pinfold_proto::id::Secret::new("t"), 1, dir.path());
        config.daemon_binary = Some(source);
        let error = InstalledDaemon::install(&config).unwrap_err();
        assert!(error.to_string().contains("make build"), "{error}");
    }
}
