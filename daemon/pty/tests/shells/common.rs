//! One sandbox for all tests of a binary.

use std::path::Path;
use std::sync::LazyLock;

use pinfold_spawn::Sandbox;

/// A home directory in which no shell asks new users questions.
static HOME: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".zshrc"), "").unwrap();
    home
});

pub(crate) fn sandbox() -> Sandbox {
    pinfold_testing::sandbox(Path::new("/tmp"), HOME.path(), &[])
}
