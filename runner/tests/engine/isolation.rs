//! Sandboxes and their neighbours, linked or not.

use super::*;

/// A linked sandbox reaches its owner's services by name, and not its toolbox; nor does the link lead to the host.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_neither_the_toolbox_nor_the_host() {
    let engine = Docker::connect().await.unwrap();
    let _tables = Tables;
    let real = Real::guarded(|_| {}, firewall(&engine).await).await;
    let (owner, follower) = (SandboxId::random(), SandboxId::random());
    let _cleanup = Cleanup(vec![owner.clone(), follower.clone()]);
    let serve = ["sh", "-c", "while true; do echo hello | busybox nc -l -p 8000; done"];
    let entrypoint = serve.iter().map(|s| (*s).to_owned()).collect();
    let named = CreateSandbox { name: Some("base".to_owned()), entrypoint, ..real.request(&owner) };
    real.node.create(named).await.unwrap();
    let blocked = CreateSandbox {
        linked_sandbox_id: Some(owner.to_string()),
        network_block_all: Some(true),
        ..real.request(&follower)
    };
    real.node.create(blocked).await.unwrap();
    let link = real.engine.network(&format!("daytona-link-{owner}")).await.unwrap();
    let gateway =
        shell(&format!("ip -4 -o addr show dev {} | awk '{{ print $4 }}' | cut -d/ -f1", link.bridge));
    let gateway = gateway.trim();
    let host = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = host.local_addr().unwrap().port();
    assert!(
        tokio::net::TcpStream::connect((gateway, port)).await.is_ok(),
        "the host listens on the link's bridge"
    );
    let within = |command: String| {
        shell(&format!("docker exec {follower} sh -c '{command}' </dev/null 2>&1; echo status=$?"))
    };
    let reached = || within("busybox nc -w 3 base 8000".to_owned()).contains("hello");
    eventually("the service to be up and reached by its name", reached).await;
    for place in ["base 2280", "base 22220", "base 22222", &format!("{gateway} {port}")] {
        let answer = within(format!("busybox nc -w 2 {place}"));
        assert!(!answer.contains("status=0"), "{place}: {answer}");
    }
    real.node.destroy(&follower).await.unwrap();
    real.node.destroy(&owner).await.unwrap();
    assert!(real.engine.network(&format!("daytona-link-{owner}")).await.unwrap_err().is_not_found());
    assert!(!shell("nft list set inet pinfold link_bridges").contains(&link.bridge));
    real.end().await;
}

/// Takes the host's `pinfold` tables for itself: nothing else of Pinfold's may run beside it.
#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_reach_neither_each_other_nor_the_host() {
    let engine = Docker::connect().await.unwrap();
    let network = network(&engine).await;
    let gateway = network.gateway.unwrap();
    let bridge = Bridge {
        interface: network.bridge.clone(),
        subnet: network.subnet.as_deref().unwrap().parse().unwrap(),
        gateway,
        inter_sandbox: false,
        resolver_port: None,
        names_for_all: false,
    };
    let _tables = Tables;
    let real = Real::guarded(|_| {}, Arc::new(Firewall::install(bridge).await.unwrap())).await;
    let (one, two) = (SandboxId::random(), SandboxId::random());
    let _cleanup = Cleanup(vec![one.clone(), two.clone()]);
    let closed = CreateSandbox { network_block_all: Some(true), ..real.request(&two) };
    let (first, second) = tokio::join!(real.node.create(real.request(&one)), real.node.create(closed));
    first.unwrap();
    second.unwrap();
    let host = tokio::net::TcpListener::bind((gateway, 0)).await.unwrap();
    let port = host.local_addr().unwrap().port();
    let address = |id: &SandboxId| real.node.index.get(id).unwrap().address.unwrap();
    for (from, to) in [
        (&one, format!("{} 2280", address(&two))),
        (&two, format!("{} 2280", address(&one))),
        (&one, format!("{gateway} {port}")),
    ] {
        let command = format!("busybox nc -w 2 {to}");
        let url = format!("{}/sandboxes/{from}/toolbox/process/execute", real.base);
        let body = serde_json::json!({"command": command, "timeout": 60});
        let answer = real.client.post(url).bearer_auth(TOKEN).json(&body).send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(answer["exitCode"], 1, "{command}: {answer}");
    }
    // The same question has another answer where it may be asked, so the refusals above were refusals.
    let here = real.client.get(format!("http://{}:2280/version", address(&two))).send().await.unwrap();
    assert_eq!(here.status(), 200);
    real.node.destroy(&one).await.unwrap();
    real.node.destroy(&two).await.unwrap();
    real.end().await;
}

/// Pain B14, and what walls a sandbox in on the real engine: system calls are filtered, what the kernel shows is masked, processes are counted, the
/// daemon is the last to be killed; and no program gains rights where the operator says so, for images that need no sudo.
#[tokio::test(flavor = "multi_thread")]
async fn the_walls_of_a_sandbox_are_the_kernels() {
    for no_new_privileges in [false, true] {
        let real = Real::with(|config| {
            config.pids_limit = 40;
            config.no_new_privileges = no_new_privileges;
        })
        .await;
        let id = SandboxId::random();
        let _cleanup = Cleanup(vec![id.clone()]);
        real.node.create(real.request(&id)).await.unwrap();
        let run = async |command: &str| {
            let url = format!("{}/sandboxes/{id}/toolbox/process/execute", real.base);
            let body = serde_json::json!({"command": format!("sh -c '{command}'"), "timeout": 20});
            let answer = real.client.post(url).bearer_auth(TOKEN).json(&body).send().await.unwrap();
            let answer: serde_json::Value = answer.json().await.unwrap();
            answer["result"].as_str().unwrap_or_default().to_owned()
        };
        for process in ["1", "self"] {
            let status = run(&format!("cat /proc/{process}/status")).await;
            let gains = format!("NoNewPrivs:\t{}\n", u8::from(no_new_privileges));
            assert!(status.contains("Seccomp:\t2\n") && status.contains(&gains), "{status}");
        }
        let masked = ["kcore", "keys", "timer_list", "sched_debug"].map(|name| format!("/proc/{name}"));
        let masked = masked.iter().filter(|file| std::path::Path::new(file).exists());
        let files = masked.cloned().collect::<Vec<String>>().join(" ");
        let look = format!("for f in {files}; do busybox head -c 9 $f; done | busybox wc -c");
        assert_ne!(shell(&look), "0\n", "the host has something to hide in {files}");
        assert_eq!(run(&look).await, "0\n", "{files}");
        // A program is given its score when it runs already, so it waits for another than the daemon's.
        let worse = run(
            "cd /proc; until [ $(cat self/oom_score_adj) -gt $(cat 1/oom_score_adj) ]; do sleep 0.02; done; echo worse",
        );
        assert_eq!(worse.await, "worse\n", "the daemon is a later victim than what it runs");
        // A shell that may not fork says so; those that it did start are few.
        let storm = run("i=0; while [ $i -lt 80 ]; do sleep 5 & i=$((i+1)); done; echo all").await;
        assert!(!storm.contains("all"), "80 processes of 40 allowed: {storm}");
        real.node.destroy(&id).await.unwrap();
        real.stop.cancel();
    }
}
