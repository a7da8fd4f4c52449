//! The server's identity: an ed25519 key kept in the sandbox's home, so that clients see the same host after a restart.

use std::path::Path;

use pinfold_ssh_transport::keys::{self, GenerateError};
use russh::keys::PrivateKey;

const DIRECTORY: &str = ".daytona";
const FILE: &str = "ssh_host_ed25519_key";

/// Reads `$HOME/.daytona/ssh_host_ed25519_key`, or makes and keeps a new one. If it cannot be kept, it serves until the daemon ends.
pub(crate) fn load_or_create(home: &Path) -> Result<PrivateKey, GenerateError> {
    let path = home.join(DIRECTORY).join(FILE);
    match std::fs::read_to_string(&path).map(|text| PrivateKey::from_openssh(text.as_bytes())) {
        Ok(Ok(key)) => return Ok(key),
        Ok(Err(error)) => {
            tracing::warn!(path = %path.display(), %error, "the SSH host key cannot be used; making a new one")
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the SSH host key cannot be read; making a new one")
        }
    }
    let key = keys::generate()?;
    if let Err(error) = keys::keep(&key, &path, 0o755) {
        tracing::warn!(path = %path.display(), %error, "the SSH host key cannot be kept: it will be another after a restart");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use russh::keys::Algorithm;

    use super::*;

    #[test]
    fn is_the_same_after_a_restart_and_private() {
        let home = tempfile::tempdir().unwrap();
        let first = load_or_create(home.path()).unwrap();
        let second = load_or_create(home.path()).unwrap();
        assert_eq!(first.public_key(), second.public_key());
        assert_eq!(first.algorithm(), Algorithm::Ed25519);
        let file = home.path().join(DIRECTORY).join(FILE);
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn serves_from_memory_where_it_cannot_be_kept() {
        let home = tempfile::tempdir().unwrap();
        let not_a_directory = home.path().join("file");
        std::fs::write(&not_a_directory, "").unwrap();
        assert!(load_or_create(&not_a_directory).is_ok());
    }

    #[test]
    fn replaces_a_key_that_is_none() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(DIRECTORY).join(FILE);
        std::fs::create_dir(home.path().join(DIRECTORY)).unwrap();
        std::fs::write(&file, "nonsense").unwrap();
        let key = load_or_create(home.path()).unwrap();
        assert_eq!(
            PrivateKey::from_openssh(std::fs::read(file).unwrap()).unwrap().public_key(),
            key.public_key()
        );
    }
}
