//! Sandboxes of the original runner that cannot be taken over at the first attempt: they keep their rules until they are.

use pinfold_engine::{Attachment, ContainerSpec};

use super::*;

/// The chain of a container that is no more.
const GONE: &str = "DAYTONA-SB-0123456789ab";

/// A host of the original runner with one sandbox, which reaches one network. Returns its chain, too.
async fn host() -> (Bench, SandboxId, String) {
    let (bench, id) = (Bench::new().await, SandboxId::random());
    let place = Attachment {
        network: "bridge".to_owned(),
        address: Some([127, 0, 0, 9].into()),
        ..Attachment::default()
    };
    let spec = ContainerSpec {
        name: id.to_string(),
        image: IMAGE.to_owned(),
        env: vec![format!("DAYTONA_SANDBOX_ID={id}")],
        networks: vec![place],
        ..ContainerSpec::default()
    };
    let container = bench.engine.create(&spec).await.unwrap();
    let chain = format!("DAYTONA-SB-{}", &container[..12]);
    let saved = format!(
        "*filter\n:{chain} - [0:0]\n:{GONE} - [0:0]\n-A {chain} -d 203.0.113.0/24 -j RETURN\n-A {chain} -j DROP\nCOMMIT\n"
    );
    *bench.policy.legacy.lock().unwrap() = Some(saved);
    (bench, id, chain)
}

fn allowed(bench: &Bench, id: &SandboxId) -> Option<String> {
    bench.node.records.get(id).and_then(|record| record.network.network_allow_list)
}

#[tokio::test]
async fn a_sandbox_that_could_not_be_looked_at_keeps_its_rules_until_it_is_taken_over() {
    let (bench, id, chain) = host().await;
    bench.engine.fail_next("inspect", Fault::Error(broken()));
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let changes = || bench.policy.legacy_changes.lock().unwrap().clone();
    eventually("the takeover after the second look", || changes().len() == 2).await;
    assert!(changes()[0].contains(GONE) && !changes()[0].contains(&chain), "{:?}", changes());
    assert!(changes()[1].contains(&chain), "{:?}", changes());
    assert_eq!(allowed(&bench, &id).as_deref(), Some("203.0.113.0/24"));
    let networks = bench.engine.container(id.as_str()).unwrap().networks;
    assert_eq!(networks.keys().collect::<Vec<_>>(), [&bench.node.network.name]);
    let (endpoint, policy) = bench.policy.applied.lock().unwrap()[id.as_str()].clone();
    assert!(networks.values().all(|address| *address == Some(endpoint.ip)) && policy.is_closed());
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn nothing_starts_or_changes_that_cannot_be_taken_over() {
    let (bench, id, chain) = host().await;
    for _ in 0..5 {
        bench.engine.fail_next("connect", Fault::Error(broken()));
    }
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    eventually("the attempts at the start", || bench.engine.calls("connect") == 3).await;
    bench.node.set_network(&id, NetworkSettings::default()).await.unwrap_err();
    let error = bench.node.start(&id, StartSandbox::default()).await.unwrap_err();
    assert!(error.message.contains("taking the sandbox over"), "{error}");
    assert_eq!((bench.engine.calls("start"), bench.engine.calls("connect")), (0, 5));
    assert_eq!(bench.node.records.len(), 0, "nothing is remembered that is not in force");
    let rules = || bench.policy.legacy_changes.lock().unwrap().clone();
    assert!(!rules().concat().contains(&chain), "{:?}", rules());
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    assert_eq!(allowed(&bench, &id).as_deref(), Some("203.0.113.0/24"));
    assert!(rules().last().unwrap().contains(&chain), "{:?}", rules());
    let known = bench.node.index.get(&id).unwrap();
    assert_eq!(
        known.address,
        bench.node.records.get(&id).unwrap().address,
        "it is reached where it was moved"
    );
    stop.cancel();
    task.await.unwrap();
}
