//! What is kept of sandboxes and images while they are there, and no longer.

use super::*;

const SANDBOXES: usize = 500;

/// What of the node's tables has entries.
fn full(bench: &Bench) -> Vec<(&'static str, usize)> {
    bench.node.tables().into_iter().filter(|(_, entries)| *entries > 0).collect()
}

/// 14.5, row 14: nothing grows with the sandboxes that a node has had. Five hundred are made, used and destroyed, with everything that is kept beside
/// them; then every table is empty.
#[tokio::test]
async fn tables_shrink_with_the_sandboxes_they_are_about() {
    let bench = Bench::new().await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let ids: Vec<SandboxId> = (0..SANDBOXES).map(|_| SandboxId::random()).collect();
    let life = |n: usize, id: &SandboxId| {
        let (node, id) = (bench.node.clone(), id.clone());
        async move {
            let image =
                if n.is_multiple_of(50) { format!("pulled-{n}:latest") } else { common::IMAGE.to_owned() };
            node.create(CreateSandbox { snapshot: image, ..request(&id) }).await.unwrap();
            if n.is_multiple_of(10) {
                let wanted = CreateBackup { snapshot: format!("backup-{id}:1"), registry: None };
                node.backup(&id, wanted).await.unwrap();
            }
        }
    };
    futures_util::future::join_all(ids.iter().enumerate().map(|(n, id)| life(n, id))).await;
    // A pull that fails is remembered for those who ask why.
    bench.engine.fail_next("pull", Fault::Error(broken()));
    let missing = PullSnapshot { snapshot: "nothing:1".to_owned(), ..PullSnapshot::default() };
    bench.node.pull_snapshot(missing).await.unwrap_err();
    let last = PullSnapshot { snapshot: "pulled-last:latest".to_owned(), ..PullSnapshot::default() };
    bench.node.pull_snapshot(last).await.unwrap();
    let tables: std::collections::HashMap<&str, usize> = full(&bench).into_iter().collect();
    for table in ["sandboxes", "records", "addresses"] {
        assert_eq!(tables.get(table), Some(&SANDBOXES), "{tables:?}");
    }
    // An owner without work stays for half a minute, which all this may take on a busy machine.
    for table in ["owners", "backups", "image_looks", "image_failures"] {
        assert!(tables.contains_key(table), "{table} of {tables:?}");
    }
    assert_eq!(bench.policy.applied.lock().unwrap().len(), SANDBOXES);
    futures_util::future::join_all(ids.iter().map(|id| bench.node.destroy(id)))
        .await
        .into_iter()
        .for_each(|destroyed| destroyed.unwrap());
    bench.node.images.invalidate();
    assert!(full(&bench).iter().any(|(table, entries)| (*table, *entries) == ("destroyed", SANDBOXES)));
    // The rest goes with time: some minutes of it.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(700)).await;
    eventually("the tables to be empty", || full(&bench).is_empty()).await;
    assert!(bench.policy.applied.lock().unwrap().is_empty() && bench.engine.container_names().is_empty());
    let files = std::fs::read_dir(bench.node.config.data_dir.join("sandboxes")).unwrap().count();
    assert_eq!(files, 0);
    stop.cancel();
    task.await.unwrap();
}
