//! Resize and storage recovery (runner contract 5.8).

use std::sync::Arc;
use std::time::Instant;

use pinfold_engine::{ContainerStatus, Limits};
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::{RecoverSandbox, ResizeSandbox};
use pinfold_proto::runner::recovery::is_recoverable;

use super::Urgency;
use super::definition::GIB;
use super::quota;
use super::start::storage_of;
use crate::error::{Class, OpError, OpResult};
use crate::node::Node;

impl Node {
    /// Changes a sandbox's limits: processor and memory at once, disk only while it is stopped.
    pub async fn resize(self: &Arc<Self>, id: &SandboxId, request: ResizeSandbox) -> OpResult<()> {
        let began = Instant::now();
        let _under_way = self.counters.begin("resize");
        let (node, owned) = (self.clone(), id.clone());
        let work = async move { node.resize_in_turn(&owned, request).await };
        let result = self.owners.run(id, Urgency::InTurn, work).await;
        self.counters.finished("resize", id.as_str(), began, &result);
        result
    }

    async fn resize_in_turn(&self, id: &SandboxId, request: ResizeSandbox) -> OpResult<()> {
        let began = Instant::now();
        let wanted = |value: Option<u32>| value.filter(|v| *v > 0);
        let (cpu, memory, disk) = (wanted(request.cpu), wanted(request.memory), wanted(request.disk));
        if cpu.is_none() && memory.is_none() && disk.is_none() {
            return Ok(());
        }
        self.make_whole(id).await.map_err(|e| e.during("ending an earlier resize", began))?;
        let looked = self.known(id).await.map_err(|e| e.during("inspecting", began))?;
        let Some(known) = looked else {
            return Err(OpError::new(Class::NotFound, format!("sandbox {id} is not on this node")));
        };
        let mut limits = Limits { cpu, memory: memory.map(|m| i64::from(m) * GIB), ..Limits::default() };
        if self.config.limits_disabled {
            limits = Limits::default();
        } else if let Some(disk) = disk {
            if known.status == ContainerStatus::Running {
                return Err(OpError::new(
                    Class::Conflict,
                    "the disk of a running sandbox cannot be resized; stop it first",
                ));
            }
            limits.storage = Some(u64::from(disk) << 30);
            let _busy = self.busy(id);
            self.give_storage(id, "resize", limits)
                .await
                .map_err(|e| e.during("resizing the disk", began))?;
        } else {
            self.engine
                .update(id.as_str(), limits)
                .await
                .map_err(|e| OpError::from(e).during("changing the limits", began))?;
        }
        self.index.change_known(id, |s| {
            s.cpu = limits.cpu.map_or(s.cpu, f64::from);
            s.memory = limits.memory.and_then(|m| u64::try_from(m).ok()).unwrap_or(s.memory);
            s.disk = limits.storage.unwrap_or(s.disk);
        });
        self.records
            .change(id, |r| {
                r.cpu = cpu.unwrap_or(r.cpu);
                r.memory_gib = memory.unwrap_or(r.memory_gib);
                r.disk_gib = disk.unwrap_or(r.disk_gib);
            })
            .await
    }

    /// Gives a sandbox that ran out of storage a little more, and leaves it stopped.
    pub async fn recover(self: &Arc<Self>, id: &SandboxId, request: RecoverSandbox) -> OpResult<()> {
        let began = Instant::now();
        let (node, owned) = (self.clone(), id.clone());
        let work = async move { node.recover_in_turn(&owned, request).await };
        let result = self.owners.run(id, Urgency::InTurn, work).await;
        self.counters.finished("recover", id.as_str(), began, &result);
        result
    }

    async fn recover_in_turn(&self, id: &SandboxId, request: RecoverSandbox) -> OpResult<()> {
        let began = Instant::now();
        let reasons = [request.error_reason.as_deref(), request.backup_error_reason.as_deref()];
        if !reasons.into_iter().flatten().any(is_recoverable) {
            return Err(OpError::new(Class::BadRequest, "this error has no known recovery"));
        }
        self.make_whole(id).await.map_err(|e| e.during("ending an earlier resize", began))?;
        let found = self
            .engine
            .inspect(id.as_str())
            .await
            .map_err(|e| OpError::from(e).during("inspecting", began))?;
        let original = u64::from(request.storage_quota.max(1)) << 30;
        let current = storage_of(&found).unwrap_or(original);
        let bigger = current + original / 20;
        if bigger.saturating_sub(original) > original / 10 {
            let message = "the sandbox's storage cannot be further expanded; free some space or create a larger sandbox";
            return Err(OpError::new(Class::BadRequest, message));
        }
        self.learn(id, &found);
        self.stop_in_turn(id, false).await?;
        let _busy = self.busy(id);
        let limits = Limits { storage: Some(bigger), ..Limits::default() };
        let given = self.give_storage(id, "recovery", limits).await;
        given.map_err(|e| e.during("expanding the storage", began))?;
        self.index.change_known(id, |s| s.disk = bigger);
        Ok(())
    }

    /// Gives a stopped sandbox another disk limit, and what other limits come with it: in place where its layer has a quota of its own that
    /// the kernel lets us change, else by a new container.
    async fn give_storage(&self, id: &SandboxId, operation: &str, limits: Limits) -> OpResult<()> {
        let Some(bytes) = limits.storage else { return Ok(()) };
        self.repair_recreation(id).await?;
        let Some(layer) = self.engine.inspect(id.as_str()).await?.upper_dir else {
            return self.recreate(id, operation, limits).await;
        };
        if let Err(error) = quota::set_limit(&layer, bytes) {
            tracing::info!(sandbox = %id, %error, "the disk cannot be resized in place; its data is copied");
            return self.recreate(id, operation, limits).await;
        }
        let rest = Limits { storage: None, ..limits };
        if rest != Limits::default() {
            self.engine.update(id.as_str(), rest).await?;
        }
        Ok(())
    }
}
