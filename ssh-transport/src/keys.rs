//! Private keys on disk, in OpenSSH's format.

use std::fs::{DirBuilder, OpenOptions, remove_file, rename};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

/// A key could not be generated.
#[derive(Debug, thiserror::Error)]
#[error("could not generate a key: {0}")]
pub struct GenerateError(#[source] russh::keys::ssh_key::Error);

/// A new ed25519 key.
pub fn generate() -> Result<PrivateKey, GenerateError> {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).map_err(GenerateError)
}

/// Writes a key that its owner alone may read. Directories that are missing get `directory_mode`. It is written beside its place and renamed, so that it is
/// never half there.
pub fn keep(key: &PrivateKey, path: &Path, directory_mode: u32) -> io::Result<()> {
    let text = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(directory_mode).create(directory)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let written =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| rename(&new, path));
    if written.is_err() {
        let _ = remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_private_whole_and_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/host");
        let key = generate().unwrap();
        keep(&key, &path, 0o700).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let read = PrivateKey::from_openssh(std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read.public_key(), key.public_key());
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        assert!(keep(&key, &path.join("below a file"), 0o700).is_err());
    }
}
