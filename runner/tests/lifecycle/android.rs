//! Android devices, on the simulated engine.

use super::*;

/// The contract's section 5.10: an Android device is the image's own program, without our daemon, and ready when its debug bridge is.
#[tokio::test]
async fn an_android_device_has_no_daemon_and_boots_its_own_image() {
    let bridge = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = bridge.local_addr().unwrap().port();
    let bench = Bench::with(|c| {
        c.adb_port = port;
        c.android_kvm = true;
        c.privileged = true;
        c.runtime = Some("sysbox-runc".to_owned());
    })
    .await;
    let device = |id: &SandboxId| CreateSandbox { sandbox_class: Some("android".to_owned()), ..request(id) };
    let (owner, alone, linked) = (SandboxId::random(), SandboxId::random(), SandboxId::random());
    let started = bench.node.create(device(&alone)).await.unwrap();
    assert_eq!(started.daemon_version, "");
    let spec = bench.engine.spec(alone.as_str()).unwrap();
    assert_eq!((&spec.entrypoint, &spec.cmd, &spec.working_dir, &spec.runtime), (&None, &None, &None, &None));
    assert!(spec.binds.is_empty() && !spec.privileged, "{spec:?}");
    assert_eq!(spec.devices, ["/dev/kvm"]);
    assert_eq!(spec.labels["daytona.android_device"], "true");
    assert!(spec.limits.cpu == Some(1) && spec.limits.memory == Some(1 << 30));
    assert!(bench.policy.applied.lock().unwrap().contains_key(alone.as_str()), "its network has a policy");
    // Started again it is still a device: nothing is launched in it, and no daemon is waited for.
    bench.node.stop(&alone, StopSandbox::default()).await.unwrap();
    assert_eq!(bench.node.start(&alone, StartSandbox::default()).await.unwrap().daemon_version, "");
    assert_eq!(bench.engine.calls("exec"), 0);
    assert!(bench.daemon.tokens.lock().unwrap().is_empty(), "nobody was handed a token");
    // A linked one is on its owner's network alone, from its creation on.
    bench.node.create(request(&owner)).await.unwrap();
    let request = CreateSandbox { linked_sandbox_id: Some(owner.to_string()), ..device(&linked) };
    bench.node.create(request).await.unwrap();
    let networks = bench.engine.spec(linked.as_str()).unwrap().networks;
    let [only] = networks.as_slice() else { panic!("{networks:?}") };
    assert_eq!(only.network, format!("daytona-link-{owner}"));
    assert_eq!((only.address, only.aliases.as_slice()), (None, &["box".to_owned()][..]));
    assert!(!bench.policy.applied.lock().unwrap().contains_key(linked.as_str()));
    bench.node.stop(&linked, StopSandbox::default()).await.unwrap();
    bench.node.start(&linked, StartSandbox::default()).await.unwrap();
    assert_eq!(bench.node.index.get(&linked).unwrap().state, SandboxState::Started);
}

#[tokio::test]
async fn an_android_device_that_does_not_boot_says_so() {
    let (_closed, closed) = common::closed_port();
    let bench = Bench::with(|c| {
        c.adb_port = closed;
        c.android_boot_timeout = Duration::from_millis(300);
    })
    .await;
    let id = SandboxId::random();
    let device = CreateSandbox { sandbox_class: Some("android".to_owned()), ..request(&id) };
    let error = bench.node.create(device).await.unwrap_err();
    assert!(
        error.message.contains("waiting for the Android device") && error.message.contains("300ms"),
        "{error}"
    );
    assert!(error.message.contains("last words"), "the end of its output is told: {error}");
}
