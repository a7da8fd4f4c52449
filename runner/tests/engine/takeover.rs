//! A host that ran the original runner.

use super::*;

/// The chain of a container that is no more.
const GONE: &str = "DAYTONA-SB-0123456789ab";

/// What the original runner leaves on a host: containers on the engine's default bridge, chains and their jumps, accepts of a link network.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_the_original_runner_is_taken_over() {
    let engine = Docker::connect().await.unwrap();
    base_image(&engine).await;
    let (running, stopped, open) = (SandboxId::random(), SandboxId::random(), SandboxId::random());
    let _cleanup = Cleanup(vec![running.clone(), stopped.clone(), open.clone()]);
    for (id, verb) in [(&running, "run -d"), (&stopped, "create"), (&open, "run -d")] {
        shell(&format!("docker {verb} --name {id} -e DAYTONA_SANDBOX_ID={id} {IMAGE} sleep 3600"));
    }
    // Others' with names of the same kind: one that has nothing of a sandbox, and one of an image that was committed from a sandbox.
    let (foreign, committed) = (SandboxId::random(), SandboxId::random());
    let _foreign = Cleanup(vec![foreign.clone(), committed.clone()]);
    shell(&format!("docker run -d --name {foreign} {IMAGE} sleep 3600"));
    shell(&format!("docker run -d --name {committed} -e DAYTONA_SANDBOX_ID={open} {IMAGE} sleep 3600"));
    // One of ours, of a life whose records are gone.
    let lost = SandboxId::random();
    let _lost = Cleanup(vec![lost.clone()]);
    let daemon = tempfile::Builder::new().prefix("pinfold-daemon-").tempfile().unwrap();
    let bind = format!("{}:/usr/local/bin/daytona:ro", daemon.path().display());
    shell(&format!("docker run -d --name {lost} -e DAYTONA_SANDBOX_ID={lost} -v {bind} {IMAGE} sleep 3600"));
    let chain = |id: &SandboxId| {
        format!("DAYTONA-SB-{}", &shell(&format!("docker inspect -f '{{{{.Id}}}}' {id}"))[..12])
    };
    let (first, second) = (chain(&running), chain(&stopped));
    let rules = |name: &str| shell("iptables-save").matches(name).count();
    let address = shell(&format!("docker inspect -f '{{{{.NetworkSettings.IPAddress}}}}' {running}"));
    let address = address.trim();
    let link = format!("daytona-link-{running}");
    shell(&format!("docker network create --label daytona.link_network_owner={running} {link}"));
    let bridge = format!("br-{}", &shell(&format!("docker network inspect -f '{{{{.Id}}}}' {link}"))[..12]);
    shell(&format!(
        "set -e
         iptables -w -N {first}; iptables -w -A {first} -d 203.0.113.0/24 -j RETURN; iptables -w -A {first} -j DROP
         iptables -w -N {second}; iptables -w -A {second} -j DROP
         iptables -w -N {GONE}
         iptables -w -I DOCKER-USER 1 -s {address}/32 -j {first}
         iptables -w -I DOCKER-USER 1 -i {bridge} -o {bridge} -j ACCEPT
         iptables -w -t mangle -N {first}; iptables -w -t mangle -A {first} -j MARK --set-mark 999
         iptables -w -t mangle -A PREROUTING -s {address}/32 -j {first}"
    ));
    assert_eq!([first.as_str(), &second, GONE].map(rules), [7, 2, 1], "the fabricated state is there");

    let _tables = Tables;
    let real = Real::guarded(|_| {}, firewall(&engine).await).await;
    eventually("the takeover", || {
        [&running, &stopped, &open, &lost].iter().all(|id| real.node.records.get(id).is_some())
            && [first.as_str(), &second, GONE].map(rules) == [0, 0, 0]
    })
    .await;
    for id in [&foreign, &committed] {
        assert!(real.node.index.get(id).is_none() && real.node.records.get(id).is_none(), "{id} was taken");
        let found = real.engine.inspect(id.as_str()).await.unwrap();
        let networks: Vec<&str> = found.networks.keys().map(String::as_str).collect();
        assert_eq!((networks, found.status), (vec!["bridge"], ContainerStatus::Running));
    }
    assert!(!shell("iptables-save").contains(&format!("-A DOCKER-USER -i {bridge}")));
    let settings = |id: &SandboxId| real.node.records.get(id).unwrap().network;
    assert_eq!(settings(&running).network_allow_list.as_deref(), Some("203.0.113.0/24"));
    assert_eq!(settings(&running).network_limit_egress, Some(true));
    assert_eq!(settings(&stopped).network_block_all, Some(true));
    assert_eq!(settings(&open).network_block_all, Some(false));
    assert_eq!(settings(&lost).network_block_all, Some(true));
    for id in [&running, &open] {
        let found = real.engine.inspect(id.as_str()).await.unwrap();
        assert!(!found.networks.contains_key("bridge"), "{found:?}");
        let here = real.node.records.get(id).unwrap().address;
        assert_eq!(found.networks[NETWORK], here, "{found:?}");
        let ip = here.unwrap().to_string();
        assert!(shell("nft list map inet pinfold sandboxes").contains(&ip), "{ip} is under a policy");
        assert!(shell(&format!("docker exec {id} busybox ip addr")).contains(&ip), "{ip} is its address");
    }
    assert!(shell("nft list set inet pinfold link_bridges").contains(&bridge), "the old link is guarded");
    // A second start finds nothing to do, and no sandbox is forgotten.
    assert_eq!(
        real.node.index.all().iter().filter(|(id, _)| [&running, &stopped, &open].contains(&id)).count(),
        3
    );
    for id in [&running, &stopped, &open, &lost] {
        real.node.destroy(id).await.unwrap();
    }
    assert!(!shell("docker network ls").contains(&link));
    let rules = shell("nft list table inet pinfold");
    for id in [&running, &stopped, &open, &lost] {
        assert!(real.node.records.get(id).is_none());
        assert!(!rules.contains(&format!("sb_{}", id.as_str().replace('-', ""))), "{rules}");
    }
    real.end().await;
}
