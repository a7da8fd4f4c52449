//! The status of a repository for the fuzz targets in `fuzz/`, which are outside of this crate. No part of its interface.

#![allow(missing_docs, clippy::expect_used)]

use std::path::Path;

use git2::{Repository, Signature};

use crate::status;

/// A repository with one commit of one file.
pub fn repository(path: &Path) {
    let repository = Repository::init(path).expect("a repository");
    std::fs::write(path.join("file"), "content").expect("a file");
    let mut index = repository.index().expect("an index");
    index.add_path(Path::new("file")).expect("add");
    let tree = index.write_tree().and_then(|id| repository.find_tree(id)).expect("a tree");
    let author = Signature::now("a", "a@example.org").expect("an author");
    repository.commit(Some("HEAD"), &author, &author, "first", &tree, &[]).expect("a commit");
}

/// Whether the status could be read.
pub fn status(path: &Path) -> bool {
    Repository::open(path).is_ok_and(|repository| status::read(&repository).is_ok())
}
