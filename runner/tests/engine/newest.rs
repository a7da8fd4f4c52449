//! Names that may move, with a real registry (Debian's `docker-registry`).

use pinfold_proto::runner::payload::PullSnapshot;

use super::storage::{account, registry};
use super::*;

/// How long a create may take beside a registry that says nothing, on a busy machine; a pull would be waited for much longer.
const SHORTLY: Duration = Duration::from_secs(60);

/// 14.5, row 16: `:latest` is what its registry says now, asked for by digest; a registry that hangs or is gone costs a create a moment, and none its image.
#[tokio::test(flavor = "multi_thread")]
async fn latest_is_what_the_registry_says_and_needs_no_registry() {
    let (real, server) = (Real::new().await, registry().await);
    let good = account(&server, "pf-password");
    let reference = format!("127.0.0.1:{}/p/moving:latest", server.port);
    let (first, second) = ("pf-runner-moving:1", "pf-runner-moving:2");
    for (image, word) in [(first, "first"), (second, "second")] {
        let dockerfile = format!("FROM {IMAGE}\nRUN echo {word} > /tmp/word\n");
        let build = BuildSnapshot {
            snapshot: image.to_owned(),
            dockerfile,
            organization_id: "o".to_owned(),
            ..BuildSnapshot::default()
        };
        real.node.build(build).await.unwrap();
    }
    let publish = |image: &str| PullSnapshot {
        snapshot: image.to_owned(),
        destination_registry: Some(good.clone()),
        destination_ref: Some(reference.clone()),
        ..PullSnapshot::default()
    };
    // Published in turn, each over the other; then this node has the first, as one that pulled it in between.
    let mut digests = Vec::new();
    for image in [first, second] {
        let _ = real.engine.remove_image(&reference, true).await;
        real.node.images.invalidate();
        real.node.pull_snapshot(publish(image)).await.unwrap();
        let inspect = InspectSnapshot { snapshot: reference.clone(), registry: Some(good.clone()) };
        digests.push(real.node.inspect_snapshot(inspect).await.unwrap().hash);
    }
    let older = PullSnapshot {
        snapshot: format!("{}@sha256:{}", reference.trim_end_matches(":latest"), digests[0]),
        registry: Some(good.clone()),
        ..PullSnapshot::default()
    };
    real.node.pull_snapshot(older).await.unwrap();
    real.engine.tag(first, &reference).await.unwrap();
    real.node.images.invalidate();
    let create = || async {
        let (id, began) = (SandboxId::random(), Instant::now());
        let _cleanup = Cleanup(vec![id.clone()]);
        let wanted =
            CreateSandbox { snapshot: reference.clone(), registry: Some(good.clone()), ..real.request(&id) };
        real.node.create(wanted).await.unwrap();
        let (took, word) = (began.elapsed(), shell(&format!("docker exec {id} cat /tmp/word")));
        real.node.destroy(&id).await.unwrap();
        (word, took)
    };
    let asked = || server.log().matches("/v2/p/moving/manifests/latest").count();
    assert_eq!(create().await.0, "second\n", "the registry's, and not the older one at hand");
    let before = asked();
    assert!(before > 0, "{}", server.log());
    assert_eq!(create().await.0, "second\n");
    assert_eq!(asked(), before, "the next one asks nobody");
    // The local copy is another one again, so that it has to ask; and the registry hangs.
    real.engine.tag(first, &reference).await.unwrap();
    real.node.images.invalidate();
    server.signal("STOP");
    let (word, took) = create().await;
    assert!(word == "first\n" && took < SHORTLY, "{word} after {took:?}");
    let (word, again) = create().await;
    assert!(word == "first\n" && again < SHORTLY, "{word} after {again:?}");
    let (_, info) = real.get("/info").await;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let services = info["serviceHealth"].as_array().unwrap();
    let told = services.iter().find(|s| s["serviceName"] == "registry").unwrap();
    let reason = told["errorReason"].as_str().unwrap_or_default();
    assert!(told["healthy"] == true && reason.contains(&reference), "{told}");
    println!("beside a registry that hangs: {took:?}, then {again:?}");
    server.signal("CONT");
    drop(server);
    real.engine.tag(second, &reference).await.unwrap();
    real.node.images.invalidate();
    let (word, took) = create().await;
    assert!(word == "second\n" && took < SHORTLY, "{word} after {took:?}");
    let pinned =
        digests.iter().map(|digest| format!("{}@sha256:{digest}", reference.trim_end_matches(":latest")));
    for image in [first, second, reference.as_str()].map(str::to_owned).into_iter().chain(pinned) {
        let _ = real.engine.remove_image(&image, true).await;
    }
    real.stop.cancel();
}
