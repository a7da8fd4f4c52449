//! One sandbox for all tests of a binary: a process can have only one reaper, so its spawner lives on a runtime of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use pinfold_spawn::{Environment, Sandbox, Spawner};
use tokio::runtime::Runtime;

static REAPER: LazyLock<(Runtime, Spawner)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let spawner = {
        let _entered = runtime.enter();
        Spawner::start().unwrap()
    };
    (runtime, spawner)
});

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
        spawner: REAPER.1.clone(),
        environment: Environment::from_map(BTreeMap::from(path)),
        work_dir: Path::new("/tmp").into(),
        home: HOME.path().into(),
    }
}
