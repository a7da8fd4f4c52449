//! Uploads in parts: each part is a file until the list of parts puts them together.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::time::steady;
use crate::token;

/// Uploads that may be open at once.
const MAX_UPLOADS: usize = 256;
/// How long an upload may stay open, in milliseconds.
const MAX_AGE_MS: i64 = 24 * 3_600_000;

#[derive(Debug)]
struct Upload {
    key: String,
    dir: PathBuf,
    since: i64,
}

/// Open uploads, by id.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<HashMap<String, Upload>>);

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an upload whose parts go to `dir`; `None` when there are too many.
    pub(super) fn open(&self, key: &str, dir: PathBuf) -> Option<String> {
        let mut all = self.lock();
        let old: Vec<String> =
            all.iter().filter(|(_, u)| steady() - u.since > MAX_AGE_MS).map(|(id, _)| id.clone()).collect();
        for id in old {
            if let Some(upload) = all.remove(&id) {
                // What is left behind is only space.
                let _ = std::fs::remove_dir_all(upload.dir);
            }
        }
        if all.len() >= MAX_UPLOADS {
            return None;
        }
        let id = token::alphanumeric(32);
        all.insert(id.clone(), Upload { key: key.to_owned(), dir, since: steady() });
        Some(id)
    }

    /// Where the parts of an upload of `key` are.
    pub(super) fn dir(&self, id: &str, key: &str) -> Option<PathBuf> {
        self.lock().get(id).filter(|upload| upload.key == key).map(|upload| upload.dir.clone())
    }

    /// Ends an upload.
    pub(super) fn close(&self, id: &str) {
        self.lock().remove(id);
    }
}

/// The numbers in a list of parts, in the order in which they are put together.
pub(super) fn part_numbers(xml: &str) -> Vec<u32> {
    let parts = xml.split("<PartNumber>").skip(1);
    parts.filter_map(|rest| rest.split('<').next()?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn part_lists_are_read() {
        let xml = "<C><Part><ETag>a</ETag><PartNumber>2</PartNumber></Part><Part><PartNumber> 1 </PartNumber></Part></C>";
        assert_eq!(super::part_numbers(xml), [2, 1]);
        assert!(super::part_numbers("nonsense").is_empty());
    }
}
