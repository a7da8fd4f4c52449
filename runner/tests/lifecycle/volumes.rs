//! What creates that come to nothing leave of their volumes on this host.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pinfold_engine::Image;
use pinfold_proto::id::VolumeId;
use pinfold_proto::runner::payload::VolumeMount;
use pinfold_volumes::{VolumeError, VolumeStore};
use tokio::sync::Notify;

use super::*;

/// A store that is done when it is told to, whoever still waits for it, and by then something is staged.
#[derive(Debug)]
struct Slow {
    data: PathBuf,
    staged: PathBuf,
    go_on: Arc<Notify>,
    done: Arc<AtomicUsize>,
}

#[async_trait]
impl VolumeStore for Slow {
    async fn ensure(&self, _volume: &VolumeId) -> Result<PathBuf, VolumeError> {
        let (go_on, staged, done) = (self.go_on.clone(), self.staged.clone(), self.done.clone());
        let work = tokio::spawn(async move {
            go_on.notified().await;
            std::fs::create_dir_all(staged).unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        });
        work.await.unwrap();
        Ok(self.data.clone())
    }

    async fn remove(&self, _volume: &VolumeId) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn cleanup(
        &self,
        _in_use: &(dyn for<'a> Fn(&'a VolumeId) -> bool + Sync),
    ) -> Result<Vec<VolumeId>, VolumeError> {
        Ok(Vec::new())
    }
}

fn staged(dir: &Path, id: &SandboxId) -> PathBuf {
    dir.join("data/volume-mounts").join(id.as_str())
}

/// 17.2: no destroy ever comes for a sandbox whose create failed, so nothing may be left to it.
#[tokio::test]
async fn a_create_that_fails_before_its_container_releases_its_volumes() {
    let (engine, dir) = (Arc::new(pinfold_engine::Simulated::default()), tempfile::tempdir().unwrap());
    engine.add_image("foreign:1", Image { architecture: "arm64".to_owned(), ..common::image() });
    let (id, go_on) = (SandboxId::random(), Arc::new(Notify::new()));
    let at = staged(dir.path(), &id);
    let done = Arc::new(AtomicUsize::new(0));
    let store =
        Slow { data: dir.path().to_owned(), staged: at.join("0"), go_on: go_on.clone(), done: done.clone() };
    let policy = Arc::new(common::RecordingPolicy::new(engine.clone()));
    let bench = Bench::assembled(engine, dir, policy, Some(Arc::new(store)), |_| {}).await;
    let mount = VolumeMount {
        volume_id: VolumeId::random().to_string(),
        mount_path: "/data".to_owned(),
        subpath: None,
    };
    for (mounts, snapshot) in ["reg.test/p/missing:1", "foreign:1"].into_iter().enumerate() {
        let pulls = bench.engine.calls("pull");
        if snapshot != "foreign:1" {
            bench.engine.fail_next("pull", Fault::Error(broken()));
        }
        let volumes = vec![mount.clone()];
        let wanted = CreateSandbox { snapshot: snapshot.to_owned(), volumes, ..request(&id) };
        let node = bench.node.clone();
        let create = tokio::spawn(async move { node.create(wanted).await });
        if snapshot != "foreign:1" {
            eventually("the pull", || bench.engine.calls("pull") > pulls).await;
        }
        // The volume comes after the failure.
        go_on.notify_one();
        create.await.unwrap().unwrap_err();
        eventually("the volume", || done.load(Ordering::SeqCst) > mounts).await;
        assert!(!at.exists(), "{snapshot}");
        assert!(bench.node.index.get(&id).is_none() && bench.node.records.get(&id).is_none());
        assert!(bench.node.addresses.is_empty());
    }
}

/// A runner that is killed in the midst of a create cannot release anything; its next life does.
#[tokio::test]
async fn volumes_of_creates_that_were_cut_off_are_released_at_the_next_start() {
    let bench = Bench::new().await;
    let (known, lost) = (SandboxId::random(), SandboxId::random());
    bench.node.create(request(&known)).await.unwrap();
    let Bench { engine, dir, .. } = bench;
    for id in [&known, &lost] {
        std::fs::create_dir_all(staged(dir.path(), id).join("0")).unwrap();
    }
    let again = Bench::over(engine, dir, |_| {}).await;
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    assert!(!staged(again.dir.path(), &lost).exists() && staged(again.dir.path(), &known).exists());
    stop.cancel();
    task.await.unwrap();
}
