//! Random credentials and their hashes. The store keeps SHA-256 only, so a copy of the database opens nothing.

use rand::Rng;
use rand::distr::Alphanumeric;
use sha2::{Digest, Sha256};

/// An API key or runner token: `dtn_` and 64 hexadecimal digits.
pub(crate) fn api_key() -> String {
    let mut bytes = [0u8; 32];
    rand::rng().fill(&mut bytes);
    format!("dtn_{}", hex(&bytes))
}

/// `length` letters and digits: safe in a URL, a shell and an SSH user name.
pub(crate) fn alphanumeric(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

/// `length` lower-case letters and digits: safe in a host name.
pub(crate) fn dns_label(length: usize) -> String {
    const SET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(SET[rng.random_range(0..SET.len())])).collect()
}

/// SHA-256 as hexadecimal digits.
pub(crate) fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A key as it is shown in lists: its first and last characters.
pub(crate) fn masked(key: &str) -> String {
    let head: String = key.chars().take(4).collect();
    let tail: String = key.chars().skip(key.chars().count().saturating_sub(3)).collect();
    format!("{head}********************{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_contracts_form() {
        let key = api_key();
        assert!(
            key.len() == 68 && key.starts_with("dtn_") && key[4..].bytes().all(|b| b.is_ascii_hexdigit())
        );
        assert_eq!(masked("dtn_0123456789abc"), "dtn_********************abc");
        assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(dns_label(16).bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    }
}
