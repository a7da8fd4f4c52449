//! Create (runner contract 5.3). Image, volumes and policy are prepared side by side; two engine calls remain: create and start.

use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pinfold_engine::{Container, ContainerSpec, ContainerStatus, EngineError, Image};
use pinfold_network::Endpoint;
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::{CreateSandbox, NetworkSettings, Started};

use super::links::link_attachment;
use super::{Urgency, android, definition, start};
use crate::error::{Class, OpError, OpResult};
use crate::images::build_id;
use crate::index::{Sandbox, SandboxState, state_of};
use crate::node::{Node, sandbox_id};
use crate::policy;
use crate::records::Record;

/// How long the engine may take to end a create that was cut off.
const CUT_OFF_CREATE: Duration = Duration::from_secs(30);
/// Between two looks at it; the engine has no event for the freeing of a name.
const CUT_OFF_PAUSE: Duration = Duration::from_millis(200);

impl Node {
    /// Creates a sandbox, and starts it unless told otherwise. A sandbox that exists is started, or found running: both are successes.
    pub async fn create(self: &Arc<Self>, request: CreateSandbox) -> OpResult<Started> {
        let began = Instant::now();
        let _under_way = self.counters.begin("create");
        let object = request.id.clone();
        let result = self.create_checked(request).await;
        self.counters.finished("create", &object, began, &result);
        result
    }

    async fn create_checked(self: &Arc<Self>, request: CreateSandbox) -> OpResult<Started> {
        let id = sandbox_id(&request.id)?;
        if request.snapshot.is_empty() {
            return Err(OpError::new(Class::BadRequest, "the request names no snapshot"));
        }
        if request.gpu_quota > 1 {
            return Err(OpError::new(Class::BadRequest, "a sandbox gets one GPU at most"));
        }
        policy::parse_beside(&wanted_network(&request), self.config.container_network.as_deref())?;
        let node = self.clone();
        self.owners
            .run(&id.clone(), Urgency::InTurn, async move { node.create_in_turn(&id, request).await })
            .await
    }

    async fn create_in_turn(self: &Arc<Self>, id: &SandboxId, request: CreateSandbox) -> OpResult<Started> {
        let _busy = self.busy(id);
        // An archived sandbox comes back under its id.
        self.destroyed.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if self.index.get(id).is_some_and(|s| !s.container_id.is_empty()) {
            return self.create_existing(id, &request).await;
        }
        match self.create_fresh(id, &request).await {
            // A container that the index did not know: join it.
            Err(error) if error.class == Class::Conflict && self.adopt(id).await? => {
                self.create_existing(id, &request).await
            }
            other => other,
        }
    }

    async fn create_existing(self: &Arc<Self>, id: &SandboxId, request: &CreateSandbox) -> OpResult<Started> {
        self.take_over_late(id).await?;
        let record = match self.records.get(id) {
            Some(known) => {
                Record { network: wanted_network(request), volumes: request.volumes.clone(), ..known }
            }
            // The run that made the container ended before it recorded it.
            None => {
                let found = self.engine.inspect(id.as_str()).await?;
                wanted(request, self.address_of_container(&found))
            }
        };
        self.records.put(id, record).await?;
        if request.skip_start == Some(true) {
            return Ok(Started::default());
        }
        self.start_in_turn(id, request.auth_token.clone(), start::Known::Nothing).await
    }

    async fn create_fresh(self: &Arc<Self>, id: &SandboxId, request: &CreateSandbox) -> OpResult<Started> {
        let began = Instant::now();
        self.index.change(id, |s| s.state = SandboxState::Creating);
        let owner =
            self.prepare_link(request).await.map_err(|e| e.during("preparing the link network", began))?;
        let is_restore = build_id(&request.snapshot) == format!("backup-{id}");
        let image = async {
            if is_restore {
                self.reinstate(&request.snapshot).await;
            }
            let image = self.ensure_image(id, &request.snapshot, request.registry.as_ref()).await;
            image.map_err(|e| e.during("preparing the image", began))
        };
        let volumes = async {
            self.volumes.mount(id, &request.volumes).await.map_err(|e| e.during("mounting volumes", began))
        };
        // A linked device's only network is its owner's, where the engine gives the addresses.
        let alone_with = owner.clone().filter(|_| android::is_wanted(request));
        let prepared = async {
            // Both to their end: what is still being mounted cannot be released.
            let (image, binds) = tokio::join!(image, volumes);
            let (image, binds) = (image?, binds?);
            self.check_architecture(&request.snapshot, &image)?;
            let endpoint = if alone_with.is_none() { Some(self.take_address(id)?) } else { None };
            OpResult::Ok((image, binds, endpoint))
        };
        let (image, binds, endpoint) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.release_unowned(id).await;
                self.index.remove(id);
                return Err(error);
            }
        };
        let record = wanted(request, endpoint.map(|endpoint| endpoint.ip));
        let mut gpu_turn = None;
        let gpu = match request.gpu_quota {
            0 => None,
            _ => {
                gpu_turn = Some(self.gpu_turn.lock().await);
                let chosen = self.free_gpu(id).await;
                Some(match chosen {
                    Ok(index) => index,
                    Err(error) => {
                        self.undo_create(id, endpoint, false).await;
                        return Err(error);
                    }
                })
            }
        };
        let networks = match (&alone_with, endpoint) {
            (Some(owner), _) => vec![link_attachment(id, owner, request.name.as_deref())],
            (None, Some(endpoint)) => definition::attachments(self, endpoint, None),
            (None, None) => Vec::new(),
        };
        let spec = definition::container(self, request, &image, &binds, networks, gpu);
        let creating = Instant::now();
        let create = async {
            self.create_container(id, &spec)
                .await
                .map_err(|e| OpError::from(e).during("creating the container", creating))
        };
        let enforce = async {
            // Without a place on our network it is guarded on its owner's.
            let Some(endpoint) = endpoint else { return Ok(()) };
            let policy = policy::parse(&record.network)?;
            self.policy
                .apply(id, endpoint, policy)
                .await
                .map_err(|e| e.during("enforcing the network policy", creating))
        };
        let (made, enforced, recorded) = tokio::join!(create, enforce, self.records.put(id, record.clone()));
        drop(gpu_turn);
        // A registry has the backup for the next time; one that is only here is the only one.
        if is_restore && !image.digests.is_empty() {
            self.leave_with_sandbox(&request.snapshot).await;
        }
        let container_id = match (made, enforced.and(recorded)) {
            (Ok(container_id), Ok(())) => container_id,
            (made, refused) => {
                let ours = made.is_ok();
                let error = made
                    .err()
                    .or(refused.err())
                    .unwrap_or_else(|| OpError::new(Class::Internal, "create failed"));
                self.undo_create(id, endpoint, ours).await;
                return Err(error);
            }
        };
        self.index.change(id, |s| {
            s.container_id = container_id;
            s.status = ContainerStatus::Created;
            s.cpu = f64::from(spec.limits.cpu.unwrap_or(0));
            s.memory = spec.limits.memory.and_then(|m| u64::try_from(m).ok()).unwrap_or(0);
            s.disk = spec.limits.storage.unwrap_or(0);
        });
        if let Some(owner) = owner.filter(|_| alone_with.is_none()) {
            self.join_link(id, &owner, request.name.as_deref())
                .await
                .map_err(|e| e.during("joining the link network", creating))?;
        }
        if request.skip_start == Some(true) {
            return Ok(Started::default());
        }
        let known = match endpoint {
            Some(endpoint) => {
                start::Known::Fresh { address: endpoint.ip, inside: start::Inside::of_spec(&spec) }
            }
            None => start::Known::Nothing,
        };
        self.start_in_turn(id, request.auth_token.clone(), known).await
    }

    /// A name that is taken while no container has it is that of a create which an earlier run of ours asked for, and which the engine has
    /// not ended: it is waited for.
    async fn create_container(&self, id: &SandboxId, spec: &ContainerSpec) -> Result<String, EngineError> {
        let deadline = Instant::now() + CUT_OFF_CREATE;
        loop {
            let taken = match self.engine.create(spec).await {
                Err(error @ EngineError::Conflict { .. }) => error,
                other => return other,
            };
            let nobody = matches!(self.engine.inspect(id.as_str()).await, Err(e) if e.is_not_found());
            if !nobody || Instant::now() >= deadline {
                return Err(taken);
            }
            tokio::time::sleep(CUT_OFF_PAUSE).await;
        }
    }

    fn check_architecture(&self, reference: &str, image: &Image) -> OpResult<()> {
        let (theirs, ours) = (image.architecture.to_ascii_lowercase(), &self.info.architecture);
        if theirs.is_empty() || theirs == *ours || (theirs == "x86_64" && ours == "amd64") {
            return Ok(());
        }
        let message = format!("the image {reference} is built for {theirs}, this node runs {ours}");
        Err(OpError::new(Class::Conflict, message))
    }

    /// Releases the volumes that a create mounted before it came to record its sandbox: for that one no destroy may ever come.
    pub(crate) async fn release_unowned(&self, id: &SandboxId) {
        if self.records.get(id).is_none() {
            self.volumes.release(id).await;
        }
    }

    /// An address for a new sandbox: the one it had, if it is recorded, so that a repeated create is not a second address.
    fn take_address(&self, id: &SandboxId) -> OpResult<Endpoint> {
        if let Some(address) = self.records.get(id).and_then(|r| r.address) {
            return Ok(Endpoint::new(address));
        }
        self.addresses.take().map_err(|e| OpError::new(Class::Unavailable, e.to_string()))
    }

    /// Nothing of a container that could not be created stays behind. `ours`: it was created, but something beside it failed.
    async fn undo_create(&self, id: &SandboxId, endpoint: Option<Endpoint>, ours: bool) {
        if ours && let Err(error) = self.engine.remove(id.as_str(), true).await {
            tracing::warn!(sandbox = %id, %error, "could not remove a half-made container");
        }
        if let Err(error) = self.policy.remove(id).await {
            tracing::warn!(sandbox = %id, %error, "could not remove a half-made sandbox's policy");
        }
        self.volumes.release(id).await;
        self.records.remove(id).await;
        if let Some(endpoint) = endpoint {
            self.addresses.release(endpoint.ip);
        }
        self.index.remove(id);
    }

    /// The container of a sandbox that the index may not know; none if there is none, or if it is somebody else's.
    pub(crate) async fn find(&self, id: &SandboxId) -> OpResult<Option<Container>> {
        let found = self.look_at(id.as_str()).await?;
        Ok(found.filter(|found| definition::is_of(id, found)))
    }

    /// The container of that name, whoever's it is.
    pub(super) async fn look_at(&self, container: &str) -> OpResult<Option<Container>> {
        match self.engine.inspect(container).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a container that the index does not know into it. False when there is none.
    pub(crate) async fn adopt(&self, id: &SandboxId) -> OpResult<bool> {
        let found = self.find(id).await?;
        Ok(found.map(|found| self.learn(id, &found)).is_some())
    }

    /// What is known of a sandbox, by the engine where the index does not have it. None when the engine does not have it either.
    pub(crate) async fn known(&self, id: &SandboxId) -> OpResult<Option<Sandbox>> {
        if self.index.get(id).is_none() {
            self.adopt(id).await?;
        }
        Ok(self.index.get(id))
    }

    /// Marks a sandbox as having an operation of ours under way, until the guard is dropped.
    pub(crate) fn busy<'a>(&'a self, id: &SandboxId) -> Busy<'a> {
        self.index.change(id, |s| s.busy = true);
        Busy { node: self, id: id.clone() }
    }
}

/// While it lives, engine events do not change the sandbox's state.
pub(crate) struct Busy<'a> {
    node: &'a Node,
    id: SandboxId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // An entry that never got a container is no sandbox.
        if self.node.index.get(&self.id).is_some_and(|s| s.container_id.is_empty()) {
            self.node.index.remove(&self.id);
            return;
        }
        self.node.index.change_known(&self.id, |s| {
            s.busy = false;
            if s.status != ContainerStatus::Unknown {
                s.state = state_of(s.status, s.ending.as_ref());
            }
        });
    }
}

/// What is remembered of a sandbox that a create asks for.
fn wanted(request: &CreateSandbox, address: Option<Ipv4Addr>) -> Record {
    Record {
        network: wanted_network(request),
        address,
        volumes: request.volumes.clone(),
        cpu: request.cpu_quota,
        memory_gib: request.memory_quota,
        disk_gib: request.storage_quota,
        start_given_up: false,
        replacing: None,
        copied: false,
    }
}

/// The network policy that a create asks for.
fn wanted_network(request: &CreateSandbox) -> NetworkSettings {
    NetworkSettings {
        network_block_all: request.network_block_all,
        network_allow_list: request.network_allow_list.clone(),
        domain_allow_list: request.domain_allow_list.clone(),
        network_limit_egress: request.metadata.get("limitNetworkEgress").map(|v| v == "true"),
    }
}
