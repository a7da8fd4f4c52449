//! From a configuration to a running node, and back to nothing: checks, network, daemon file, tasks; then a drain.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pinfold_engine::{Docker, Engine};
use pinfold_network::{Bridge, Cidr, Firewall, Resolver, upstreams_of};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon::InstalledDaemon;
use crate::error::RunError;
use crate::health::Health;
use crate::jobs::{ControlPlane, Executor, HttpControlPlane, Outbox, poll};
use crate::node::{Node, Parts, sandbox_network};
use crate::policy::{NetworkPolicy, Unenforced};
use crate::volumes::{HostVolumes, Volumes};
use crate::{api, events, gateway, healing, sync, tls};

/// How long open HTTP requests may go on after a stop.
const HTTP_GRACE: Duration = Duration::from_secs(5);

/// Runs a node until `stop`, then drains it; `ready` is called with the API's address once the node serves. Every error names what to do; see
/// [`RunError::exit_status`].
pub async fn run(
    mut config: Config,
    stop: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), RunError> {
    root()?;
    let daemon = InstalledDaemon::install(&config)?;
    let listener = listen(&config).await?;
    // Port 0 means any: what is advertised is what was found.
    let taken = |source| RunError::PortTaken { port: config.port, source };
    let address = listener.local_addr().map_err(taken)?;
    config.port = address.port();
    let ssh = match &mut config.ssh_gateway {
        Some(settings) => Some(gateway::prepare(config.listen, settings).await?),
        None => None,
    };
    let engine: Arc<dyn Engine> =
        Arc::new(patiently(&stop, config.engine_wait, Duration::from_secs(1), Docker::connect).await?);
    let info = engine.info().await.map_err(|e| RunError::NoEngine(e.to_string()))?;
    daemon.check(&info.architecture)?;
    let network = sandbox_network(&*engine, &config).await?;
    let (policy, resolver) = network_policy(&config, &network).await?;
    // Names go on resolving while jobs drain; the process's end ends it.
    tokio::spawn(resolver);
    let volumes: Arc<dyn Volumes> = Arc::new(HostVolumes::new(&config));
    let control = HttpControlPlane::new(&config.api_url, config.token.clone())
        .map_err(|e| RunError::Part { part: "the control plane's client", reason: e.to_string() })?;
    let node = Node::new(Parts { config, engine, info, network, policy, volumes, daemon })?;
    if let Some(ssh) = ssh {
        tokio::spawn(gateway::run(node.clone(), ssh, stop.clone()));
    }
    ready(address);
    serve(node, Arc::new(control), listener, stop).await
}

/// Runs an assembled node: what [`run`] does after it has found engine and network. Tests call it with simulated ones.
pub async fn serve(
    node: Arc<Node>,
    control: Arc<dyn ControlPlane>,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let config = node.config.clone();
    let tls = config.tls.as_ref().map(|(cert, key)| tls::acceptor(cert, key)).transpose()?;
    let outbox = Outbox::open(&config.data_dir.join("outbox"))?;
    if let Err(error) = events::repair(&node).await {
        return Err(RunError::Part { part: "the node's inventory", reason: error.to_string() });
    }
    let domain = config.domain.clone().unwrap_or_else(crate::domain::first_address);
    let health = Health::new(node.clone());
    let executor = Executor::new(node.clone(), control.clone(), outbox.clone());
    // Background work ends last: operations that drain still need the engine's events.
    let background = CancellationToken::new();
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(events::follow(node.clone(), background.clone()));
    tasks.spawn(health.clone().sample(background.clone()));
    tasks.spawn(health.clone().keep_policy(background.clone()));
    tasks.spawn(node.clone().give_volumes_back(stop.clone()));
    tasks.spawn(healing::run(node.clone(), stop.clone()));
    tasks.spawn(sync::run(node.clone(), control.clone(), stop.clone()));
    let poller = if config.api_version == 2 {
        outbox.resume(&control);
        tasks.spawn(health.clone().run(control.clone(), domain.clone(), stop.clone()));
        let grace = config.drain_timeout.min(config.poll_timeout + Duration::from_secs(1));
        let polling = poll(
            control.clone(),
            executor.clone(),
            config.poll_timeout,
            config.poll_limit,
            grace,
            stop.clone(),
        );
        Some(tokio::spawn(polling))
    } else {
        None
    };
    let address =
        listener.local_addr().map_err(|source| RunError::PortTaken { port: config.port, source })?;
    tracing::info!(%address, url = config.public_url(&domain), "the runner is up");
    let router = api::router(node.clone(), health);
    match tls {
        Some(acceptor) => tls::serve(listener, acceptor, router, stop.clone(), HTTP_GRACE).await,
        None => {
            if let Err(error) = pinfold_http::serve(listener, router, stop.cancelled(), HTTP_GRACE).await {
                tracing::warn!(%error, "requests were cut at shutdown");
            }
        }
    }
    if let Some(poller) = poller {
        let _ = poller.await;
    }
    executor.drain(config.drain_timeout).await;
    outbox.close(Duration::from_secs(3)).await;
    background.cancel();
    tasks.close();
    tasks.wait().await;
    tracing::info!("the runner stopped; sandboxes go on running");
    Ok(())
}

async fn listen(config: &Config) -> Result<TcpListener, RunError> {
    let taken = |source| RunError::PortTaken { port: config.port, source };
    TcpListener::bind(SocketAddr::from((config.listen, config.port))).await.map_err(taken)
}

/// Connects to the engine, which may still be starting: it is tried for `wait` from now on, with growing pauses, and always once.
async fn patiently<T, E, F>(
    stop: &CancellationToken,
    wait: Duration,
    mut pause: Duration,
    attempt: impl Fn() -> F,
) -> Result<T, RunError>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + wait;
    loop {
        let left = match attempt().await {
            Ok(engine) => return Ok(engine),
            Err(error) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || stop.is_cancelled() {
                    return Err(RunError::NoEngine(error.to_string()));
                }
                tracing::warn!(%error, ?left, "waiting for the engine");
                left
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause.min(left)) => pause = (pause * 2).min(Duration::from_secs(5)),
            () = stop.cancelled() => {}
        }
    }
}

/// Mounts, bridges and their rules are root's.
fn root() -> Result<(), RunError> {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata("/proc/self") {
        Ok(process) if process.uid() != 0 => Err(RunError::NotRoot),
        _ => Ok(()),
    }
}

/// The firewall, and the resolver behind domain allow lists.
async fn network_policy(
    config: &Config,
    network: &pinfold_engine::Network,
) -> Result<(Arc<dyn NetworkPolicy>, BoxFuture<'static, ()>), RunError> {
    if !config.enforce_policy {
        tracing::warn!(
            "PINFOLD_NETWORK_POLICY=off: sandboxes reach each other, this host, and everything it reaches"
        );
        return Ok((Arc::new(Unenforced), std::future::ready(()).boxed()));
    }
    let no_subnet = || RunError::Network(format!("the network {} has no IPv4 subnet", network.name));
    let subnet: Cidr = network.subnet.as_deref().and_then(|s| s.parse().ok()).ok_or_else(no_subnet)?;
    let gateway = network.gateway.unwrap_or(Ipv4Addr::from_bits(subnet.network().to_bits() + 1));
    let bridge = Bridge {
        interface: network.bridge.clone(),
        subnet,
        gateway,
        inter_sandbox: config.inter_sandbox,
        resolver_port: Some(config.resolver_port),
        names_for_all: config.dns.is_empty(),
    };
    let firewall = Firewall::install(bridge).await.map_err(|e| {
        RunError::Network(format!("{e}; the runner needs nftables in this kernel and the nft program"))
    })?;
    let firewall = Arc::new(firewall);
    let upstreams = upstreams_of(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let address = SocketAddr::from((gateway, config.resolver_port));
    let resolver = Resolver::bind(firewall.clone(), address, upstreams).await;
    let resolver =
        resolver.map_err(|e| RunError::Network(format!("{e}; set PINFOLD_RESOLVER_PORT to a free port")))?;
    Ok((firewall, resolver.boxed()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// At boot the runner may be started before the engine, and its snapshots would stay pending for ever.
    #[tokio::test(start_paused = true)]
    async fn pain_28_an_engine_that_starts_later_is_waited_for() {
        let (tries, stop) = (Cell::new(0), CancellationToken::new());
        let late = || {
            tries.set(tries.get() + 1);
            std::future::ready(if tries.get() < 4 { Err("no socket") } else { Ok("an engine") })
        };
        let (wait, pause) = (Duration::from_secs(60), Duration::from_secs(1));
        assert_eq!(patiently(&stop, wait, pause, late).await.unwrap(), "an engine");
        let (began, never) = (Instant::now(), || std::future::ready(Err::<(), _>("no socket")));
        let gone = patiently(&stop, wait, pause, never).await.unwrap_err();
        assert!(matches!(&gone, RunError::NoEngine(reason) if reason == "no socket"), "{gone}");
        assert!(began.elapsed() >= wait && began.elapsed() < wait + pause, "{:?}", began.elapsed());
        let impatient = patiently(&stop, Duration::ZERO, pause, never).await;
        assert!(impatient.is_err() && began.elapsed() < wait + pause);
        // A stop does not wait.
        stop.cancel();
        let began = Instant::now();
        assert!(patiently(&stop, wait, pause, never).await.is_err() && began.elapsed() < pause);
    }
}
