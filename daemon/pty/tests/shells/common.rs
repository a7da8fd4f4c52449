//! One sandbox for all tests of a binary.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use pinfold_spawn::{Environment, Sandbox};

/// A home directory in which no shell asks new users questions.
static HOME: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".zshrc"), "").unwrap();
    home
});

pub(crate) fn sandbox() -> Sandbox {
    let path = [
        ("PATH".to_owned(), std::env::var("PATH").unwrap()),
        ("HOME".to_owned(), HOME.path().to_str().unwrap().to_owned()),
    ];
    Sandbox {
        spawner: pinfold_testing::spawner(),
        environment: Environment::from_map(BTreeMap::from(path)),
        work_dir: Path::new("/tmp").into(),
        home: HOME.path().into(),
    }
}
