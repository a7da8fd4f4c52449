//! Start (runner contract 5.5): policy, volumes, engine start, daemon, token.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use pinfold_engine::{Container, ContainerSpec, ContainerStatus, EngineError, ExecSpec};
use pinfold_network::{Endpoint, Policy};
use pinfold_proto::id::{SandboxId, Secret};
use pinfold_proto::runner::payload::{StartSandbox, Started, VolumeMount};
use pinfold_proto::well_known::DAEMON_PATH;

use super::{Urgency, android, quota, readiness};
use crate::error::{Class, OpError, OpResult};
use crate::gpu;
use crate::index::{Ending, SandboxState, state_of};
use crate::node::Node;
use crate::policy;

/// What the caller of a start knows already, so that it need not be asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    /// The container was just created.
    Fresh {
        /// Its address.
        address: Ipv4Addr,
        /// What runs in it.
        inside: Inside,
    },
    /// Nothing: the container is inspected.
    Nothing,
}

/// What runs in a container, and so what a start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    /// The daemon, as the first process.
    Daemon,
    /// The image's own program, beside which the daemon is launched.
    Program,
    /// An Android device, without a daemon.
    Android,
}

impl Inside {
    pub(super) fn of(labels: &BTreeMap<String, String>, entrypoint: &[String]) -> Self {
        if android::is_one(labels) {
            Self::Android
        } else if entrypoint == [DAEMON_PATH] {
            Self::Daemon
        } else {
            Self::Program
        }
    }

    /// What is going to run in a container that is made so.
    pub(super) fn of_spec(spec: &ContainerSpec) -> Self {
        Self::of(&spec.labels, spec.entrypoint.as_deref().unwrap_or_default())
    }
}

impl Node {
    /// Starts a sandbox; one that runs is a success.
    pub async fn start(self: &Arc<Self>, id: &SandboxId, request: StartSandbox) -> OpResult<Started> {
        let began = Instant::now();
        let _under_way = self.counters.begin("start");
        let (node, owned) = (self.clone(), id.clone());
        let work = async move {
            let _busy = node.busy(&owned);
            node.take_metadata(&owned, &request).await?;
            node.start_in_turn(&owned, request.auth_token, Known::Nothing).await
        };
        let result = self.owners.run(id, Urgency::InTurn, work).await;
        self.counters.finished("start", id.as_str(), began, &result);
        result
    }

    async fn take_metadata(&self, id: &SandboxId, request: &StartSandbox) -> OpResult<()> {
        let volumes = match request.metadata.get("volumes").filter(|t| !t.trim().is_empty()) {
            Some(text) => {
                let bad =
                    |e: serde_json::Error| OpError::new(Class::BadRequest, format!("metadata.volumes: {e}"));
                Some(serde_json::from_str::<Option<Vec<VolumeMount>>>(text).map_err(bad)?.unwrap_or_default())
            }
            None => None,
        };
        let limit = request.metadata.get("limitNetworkEgress").map(|v| v == "true");
        // A sandbox of an earlier runner has no record; its metadata alone must not make one that says "no restriction".
        if self.records.get(id).is_none() {
            return Ok(());
        }
        self.records
            .change(id, |r| {
                if let Some(volumes) = volumes.filter(|v| !v.is_empty()) {
                    r.volumes = volumes;
                }
                if limit.is_some() {
                    r.network.network_limit_egress = limit;
                }
            })
            .await
    }

    pub(super) async fn start_in_turn(
        self: &Arc<Self>,
        id: &SandboxId,
        token: Option<Secret>,
        known: Known,
    ) -> OpResult<Started> {
        let began = Instant::now();
        self.backups.cancel(id);
        let mut gpu_turn = None;
        let (mut address, inside, status) = match known {
            Known::Fresh { address, inside } => (Some(address), inside, ContainerStatus::Created),
            Known::Nothing => {
                self.make_whole(id).await.map_err(|e| e.during("ending a resize", began))?;
                // Without a record nobody else would put a policy in force, and the original runner's may be what closes it.
                self.take_over_late(id).await.map_err(|e| e.during("taking the sandbox over", began))?;
                let found = self
                    .engine
                    .inspect(id.as_str())
                    .await
                    .map_err(|e| OpError::from(e).during("inspecting", began))?;
                if let Some(label) = found.labels.get(gpu::LABEL).filter(|l| !l.is_empty()) {
                    gpu_turn = Some(self.gpu_turn.lock().await);
                    self.check_gpu(id, label).await?;
                }
                if let Some(record) = self.records.get(id) {
                    policy::parse_beside(&record.network, self.operators_network_of(&found))?;
                }
                let inside = Inside::of(&found.labels, &found.entrypoint);
                self.learn(id, &found);
                self.index.change(id, |s| s.busy = true);
                (
                    self.records.get(id).and_then(|r| r.address).or(self.address_of_container(&found)),
                    inside,
                    found.status,
                )
            }
        };
        self.index.change(id, |s| s.state = SandboxState::Starting);
        if !matches!(known, Known::Fresh { .. }) {
            self.enforce(id, address).await.map_err(|e| e.during("enforcing the network policy", began))?;
        }
        self.want(id).await?;
        let mut ends = self.index.get(id).map_or(0, |s| s.ends);
        match status {
            ContainerStatus::Running | ContainerStatus::Restarting => {}
            ContainerStatus::Paused => {
                self.engine
                    .unpause(id.as_str())
                    .await
                    .map_err(|e| OpError::from(e).during("thawing", began))?;
            }
            ContainerStatus::Dead | ContainerStatus::Removing => {
                return Err(OpError::new(Class::Conflict, format!("sandbox {id} is being removed")));
            }
            _ => {
                if !matches!(known, Known::Fresh { .. }) {
                    let volumes = self.records.get(id).map(|r| r.volumes).unwrap_or_default();
                    self.volumes
                        .mount(id, &volumes)
                        .await
                        .map_err(|e| e.during("mounting volumes", began))?;
                }
                self.start_with_volumes(id).await.map_err(|e| e.during("starting the container", began))?;
            }
        }
        drop(gpu_turn);
        if address.is_none() {
            let found = self
                .engine
                .inspect(id.as_str())
                .await
                .map_err(|e| OpError::from(e).during("inspecting", began))?;
            address = self.address_of_container(&found);
            self.enforce(id, address).await.map_err(|e| e.during("enforcing the network policy", began))?;
        }
        let Some(address) = address else {
            return Err(OpError::new(Class::Internal, "the started container has no address on any network"));
        };
        while !self.note_running(id, address, &mut ends) {
            readiness::still_runs(self, id).await.map_err(|e| e.during("starting the container", began))?;
        }
        self.volumes_bound.notify_one();
        let ((), version) = tokio::join!(self.pin(id), self.until_ready(id, address, inside, token));
        let version = version?;
        self.index.change(id, |s| {
            s.state = SandboxState::Started;
            s.daemon_version = version.clone();
        });
        Ok(Started { daemon_version: version.unwrap_or_default() })
    }

    /// Notes that a sandbox was started, unless an end of it was told since there had been `ends` of them: then the engine has the last word.
    fn note_running(&self, id: &SandboxId, address: Ipv4Addr, ends: &mut u64) -> bool {
        let mut is_last = true;
        self.index.change(id, |s| {
            is_last = s.ends == *ends;
            *ends = s.ends;
            if is_last {
                s.status = ContainerStatus::Running;
                (s.ending, s.failure, s.revived) = (None, None, 0);
                s.address = Some(address);
            }
        });
        is_last
    }

    /// Starts a container. The engine refuses what a dead mount is bound into; where one has died since it was looked at, it is mounted anew once.
    async fn start_with_volumes(self: &Arc<Self>, id: &SandboxId) -> OpResult<()> {
        self.policy.unpin(id).await?;
        let refused = match self.start_container(id).await {
            Err(error) => error,
            Ok(()) => return Ok(()),
        };
        let mounts = self.records.get(id).map(|r| r.volumes).unwrap_or_default();
        let passing = matches!(refused, EngineError::Timeout { .. } | EngineError::Unreachable { .. });
        if passing || !self.volumes.is_dead(&(id.clone(), mounts.clone())).await {
            return Err(refused.into());
        }
        tracing::warn!(sandbox = %id, error = %refused, "a volume's mount died during the start; mounting it anew");
        self.volumes.mount(id, &mounts).await?;
        Ok(self.start_container(id).await?)
    }

    /// Waits for what runs in a started container; the daemon's version, if there is one.
    async fn until_ready(
        &self,
        id: &SandboxId,
        address: Ipv4Addr,
        inside: Inside,
        token: Option<Secret>,
    ) -> OpResult<Option<String>> {
        let began = Instant::now();
        if inside == Inside::Android {
            let booted = android::wait(self, id, address).await;
            return booted.map(|()| None).map_err(|e| e.during("waiting for the Android device", began));
        }
        if inside == Inside::Program {
            self.launch_daemon(id).await.map_err(|e| e.during("launching the daemon", began))?;
        }
        let version = readiness::wait(self, id, address, token).await;
        version.map(Some).map_err(|e| e.during("waiting for the daemon", began))
    }

    /// Puts the recorded policy in force. A sandbox of an earlier runner, on another network, keeps the rules it had there.
    pub(super) async fn enforce(&self, id: &SandboxId, address: Option<Ipv4Addr>) -> OpResult<()> {
        if self.records.is_unreadable(id) {
            let message =
                "the record of this sandbox's network policy is damaged; set its network settings again";
            return Err(OpError::new(Class::Internal, message));
        }
        // A sandbox whose only network is its owner's is guarded there.
        let Some(address) = address.filter(|address| self.is_on_our_network(*address)) else { return Ok(()) };
        let mut wanted = self.records.get(id).map(|record| record.network);
        loop {
            // Nobody knows what a lost record said.
            let policy = wanted.as_ref().map_or_else(|| Ok(Policy::block_all()), policy::parse)?;
            self.policy.apply(id, Endpoint::new(address), policy).await?;
            // Recorded meanwhile, another policy may have been put in force before this one.
            match self.records.get(id) {
                Some(now) if Some(&now.network) != wanted.as_ref() => wanted = Some(now.network),
                _ => return Ok(()),
            }
        }
    }

    /// Ties a sandbox that runs to its port of the bridge. Its policy holds without that: what it keeps out is a neighbour that can forge frames and takes both its
    /// addresses.
    pub(crate) async fn pin(&self, id: &SandboxId) {
        if !self.policy.is_enforced() {
            return;
        }
        let pinned = match self.engine.inspect(id.as_str()).await {
            Ok(Container { pid: Some(process), .. }) => self.policy.pin(id, process).await,
            // It has ended, or there is no kernel below this engine.
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = pinned {
            tracing::warn!(sandbox = %id, %error, "a neighbour with raw sockets could pass for this sandbox");
        }
    }

    fn is_on_our_network(&self, address: Ipv4Addr) -> bool {
        let subnet = self.network.subnet.as_deref().and_then(|s| s.parse::<pinfold_network::Cidr>().ok());
        subnet.is_none_or(|subnet| subnet.contains(address))
    }

    /// The policy of a sandbox that was running when this process began.
    pub(crate) async fn reinforce(&self, id: &SandboxId, address: Option<Ipv4Addr>) -> OpResult<()> {
        let address = self.records.get(id).and_then(|r| r.address).or(address);
        self.enforce(id, address).await
    }

    pub(super) async fn launch_daemon(&self, id: &SandboxId) -> OpResult<()> {
        let found = self.engine.inspect(id.as_str()).await?;
        let mut env = vec!["DEBIAN_FRONTEND=noninteractive".to_owned()];
        if found.working_dir.is_empty() {
            env.push("DAYTONA_USER_HOME_AS_WORKDIR=true".to_owned());
        }
        let working_dir = Some(found.working_dir).filter(|w| !w.is_empty());
        let exec = ExecSpec { cmd: vec![DAEMON_PATH.to_owned()], env, working_dir };
        Ok(self.engine.exec(id.as_str(), &exec).await?)
    }

    /// The address at which a container is reached, by one rule for everyone: the sandbox network, the engine's default bridge, the
    /// operator's network, then the first by name.
    pub fn address_of_container(&self, found: &Container) -> Option<Ipv4Addr> {
        let preferred = [
            Some("runner-bridge"),
            Some("runner-shared"),
            Some("bridge"),
            self.config.container_network.as_deref(),
        ];
        let own = std::iter::once(Some(self.network.name.as_str())).chain(preferred).flatten();
        let mut named = own.filter_map(|name| found.networks.get(name).copied().flatten());
        named.next().or_else(|| found.networks.values().copied().flatten().next())
    }

    /// The network that the operator put a container on besides ours, if that is one.
    pub(crate) fn operators_network_of(&self, found: &Container) -> Option<&str> {
        self.config.container_network.as_deref().filter(|network| found.networks.contains_key(*network))
    }

    /// Takes what an inspection showed into the index.
    pub(crate) fn learn(&self, id: &SandboxId, found: &Container) {
        let exited = matches!(found.status, ContainerStatus::Exited | ContainerStatus::Dead);
        let ending = exited.then(|| Ending {
            code: found.exit_code,
            oom: found.oom_killed,
            memory_limit: u64::try_from(found.memory).unwrap_or(0),
            error: found.error.clone(),
        });
        let address = self.address_of_container(found);
        if let Some(address) = address {
            self.addresses.mark_taken(address);
        }
        self.index.change(id, |s| {
            s.container_id.clone_from(&found.id);
            s.status = match found.status {
                ContainerStatus::Paused if s.frozen => ContainerStatus::Running,
                status => status,
            };
            if !s.busy {
                s.state = state_of(s.status, ending.as_ref());
            }
            s.ending = ending;
            s.failure = None;
            s.address = address.filter(|_| !exited && found.status != ContainerStatus::Created);
            s.cpu = if found.cpu_quota > 0 { found.cpu_quota as f64 / 100_000.0 } else { 0.0 };
            s.memory = u64::try_from(found.memory).unwrap_or(0);
            s.disk = storage_of(found).unwrap_or(0);
        });
    }
}

/// The disk limit of a container in bytes: the one that the kernel holds it to, which may have been changed in place, else what the engine
/// was told at its creation.
pub(super) fn storage_of(found: &Container) -> Option<u64> {
    let held =
        found.upper_dir.as_deref().and_then(|layer| quota::limit(layer).ok()).filter(|bytes| *bytes > 0);
    held.or_else(|| found.storage_size.as_deref().and_then(parse_size))
}

/// A storage size as engines accept it: `10G`, `10240M`, plain bytes.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches(['b', 'B', 'i']);
    let (number, factor) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        (at, 't' | 'T') => (&text[..at], 1 << 40),
        _ => (text, 1_u64),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_in_the_engines_ways() {
        for (text, bytes) in [
            ("10G", Some(10 << 30)),
            ("10240M", Some(10 << 30)),
            ("1024", Some(1024)),
            ("1GiB", Some(1 << 30)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
