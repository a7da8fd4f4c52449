//! Host keys and gateway keys on disk and in settings.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use pinfold_ssh_transport::keys;
use russh::keys::{PrivateKey, PublicKey};

/// A key could not be read, made, or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is there and holds no private key in a format that is known.
    #[error("{path:?} is not a private key: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: russh::keys::Error,
    },
    /// No key could be generated.
    #[error(transparent)]
    Generate(#[from] keys::GenerateError),
    /// A key cannot be written as a line.
    #[error("could not write a key as an authorized_keys line: {0}")]
    Encode(#[source] russh::keys::ssh_key::Error),
    /// The new key could not be written.
    #[error("could not keep a new key in {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's word on it.
        source: std::io::Error,
    },
    /// Not the base64 of one `authorized_keys` line.
    #[error("not the base64 of an authorized_keys line")]
    AuthorizedLine,
}

/// The private key at `path` (OpenSSH's format, PKCS#1 or PKCS#8); a new ed25519 one if the file is missing, readable by its owner only, in a directory
/// that is so too (runner contract 1.8, 10.3).
pub fn load_or_create(path: &Path) -> Result<PrivateKey, KeyError> {
    if path.exists() {
        return russh::keys::load_secret_key(path, None)
            .map_err(|source| KeyError::Read { path: path.to_owned(), source });
    }
    let key = keys::generate()?;
    keys::keep(&key, path, 0o700).map_err(|source| KeyError::Write { path: path.to_owned(), source })?;
    Ok(key)
}

/// The key in a setting such as `SSH_PUBLIC_KEY`: the base64 of one `authorized_keys` line (runner contract 1.6).
pub fn parse_authorized_line(base64: &str) -> Result<PublicKey, KeyError> {
    let base64 = base64.trim();
    let line = STANDARD
        .decode(base64)
        .or_else(|_| STANDARD_NO_PAD.decode(base64))
        .map_err(|_| KeyError::AuthorizedLine)?;
    let line = String::from_utf8(line).map_err(|_| KeyError::AuthorizedLine)?;
    PublicKey::from_openssh(line.trim()).map_err(|_| KeyError::AuthorizedLine)
}

/// What [`parse_authorized_line`] reads, for the public half of `key`.
pub fn authorized_line_base64(key: &PrivateKey) -> Result<String, KeyError> {
    key.public_key().to_openssh().map(|line| STANDARD.encode(line)).map_err(KeyError::Encode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn makes_a_private_key_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/host");
        let key = load_or_create(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(load_or_create(&path).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_file_that_is_no_key_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host");
        std::fs::write(&path, "something of somebody's").unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyError::Read { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"something of somebody's");
    }

    #[test]
    fn authorized_lines_go_both_ways() {
        let directory = tempfile::tempdir().unwrap();
        let key = load_or_create(&directory.path().join("key")).unwrap();
        let line = authorized_line_base64(&key).unwrap();
        assert_eq!(parse_authorized_line(&line).unwrap().key_data(), key.public_key().key_data());
        for bad in ["", "!", "aGVsbG8="] {
            assert!(parse_authorized_line(bad).is_err(), "{bad}");
        }
    }
}
