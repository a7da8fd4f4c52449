//! Builds (runner contract 7.4). A build's life does not depend on who reads its log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pinfold_engine::{BuildSpec, Credentials, Limits};
use pinfold_proto::runner::payload::{BuildSnapshot, SnapshotInfo};
use tokio::sync::mpsc;

use super::context::{Contexts, LocalContexts, stream};
use super::reference::{build_id, normalise, registry_host, split};
use super::{credentials, info};
use crate::error::{Class, OpError, OpResult};
use crate::node::Node;

/// The name under which engines look for Docker Hub's credentials.
const HUB: &str = "https://index.docker.io/v1/";

fn source_credentials(request: &BuildSnapshot) -> BTreeMap<String, Credentials> {
    let mut all = BTreeMap::new();
    for registry in &request.source_registries {
        let Some(auth) = credentials(Some(registry)) else { continue };
        let host = registry_host(registry);
        if matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io" | "") {
            all.insert(HUB.to_owned(), auth);
        } else {
            all.insert(format!("https://{host}"), auth.clone());
            all.insert(format!("http://{host}"), auth);
        }
    }
    all
}

impl Node {
    /// `BUILD_SNAPSHOT`: builds the image unless it is there, and pushes it if asked to.
    pub async fn build(self: &Arc<Self>, request: BuildSnapshot) -> OpResult<SnapshotInfo> {
        let began = Instant::now();
        let _under_way = self.counters.begin("build");
        let key = request.snapshot.clone();
        self.images.clear_failure(&key);
        let result = self.build_inner(request).await;
        if let Err(error) = &result {
            self.images.note_failure(&key, error);
        }
        self.counters.finished("build", &key, began, &result);
        result
    }

    async fn build_inner(&self, request: BuildSnapshot) -> OpResult<SnapshotInfo> {
        let reference = normalise(&request.snapshot);
        if !matches!(split(&reference), (_, Some(tag)) if !tag.is_empty()) {
            return Err(OpError::new(Class::BadRequest, format!("the snapshot {reference:?} has no tag")));
        }
        if request.dockerfile.trim().is_empty() {
            return Err(OpError::new(Class::BadRequest, "the request carries no Dockerfile"));
        }
        self.reinstate(&reference).await;
        if self.local_image(&reference).await.is_err() {
            self.build_image(&reference, &request).await?;
        }
        if request.push_to_internal_registry {
            self.publish(&reference, &request).await?;
        }
        self.images.invalidate();
        Ok(info(&request.snapshot, &self.engine.image(&reference).await?))
    }

    async fn build_image(&self, reference: &str, request: &BuildSnapshot) -> OpResult<()> {
        let failed =
            |e: std::io::Error| OpError::new(Class::Internal, format!("could not write the build log: {e}"));
        let mut log = self.images.logs.begin(build_id(reference)).await.map_err(failed)?;
        let config = &self.config;
        let limited = !config.limits_disabled;
        let spec = BuildSpec {
            tag: reference.to_owned(),
            dockerfile: "Dockerfile".to_owned(),
            builder: config.builder,
            limits: Limits {
                cpu: limited.then_some(config.build_cpu),
                memory: limited.then_some(i64::from(config.build_memory_gib) << 30),
                ..Limits::default()
            },
            credentials: source_credentials(request),
            platform: self.platform(),
            // A parent that is only local is no reason to fail, so a newer one is not asked for.
            pull: false,
        };
        let contexts: Box<dyn Contexts> = match &config.object_store {
            Some(store) if store.bucket.is_some() => Box::new(super::inspect::S3Contexts::new(store)),
            _ => Box::new(LocalContexts(config.data_dir.join("contexts"))),
        };
        let context = stream(
            request.dockerfile.clone(),
            request.organization_id.clone(),
            request.context.clone(),
            contexts,
        );
        let (lines, mut output) = mpsc::channel::<Bytes>(64);
        let build = self.engine.build(&spec, context, lines, config.build_timeout);
        let mut build = std::pin::pin!(build);
        let result = loop {
            tokio::select! {
                Some(line) = output.recv() => drop(log.write(&line).await),
                result = &mut build => break result,
            }
        };
        while let Ok(line) = output.try_recv() {
            let _ = log.write(&line).await;
        }
        if let Err(error) = result {
            let text = match error {
                pinfold_engine::EngineError::Timeout { .. } => {
                    format!("the build timed out after {} minutes", config.build_timeout.as_secs() / 60)
                }
                other => other.to_string(),
            };
            let _ = log.write(format!("ERROR: {text}\n").as_bytes()).await;
            let error = OpError::new(Class::Internal, text);
            // Before the log ends: who has followed it to its end asks for the reason next.
            self.images.note_failure(&request.snapshot, &error);
            return Err(error);
        }
        Ok(())
    }

    async fn publish(&self, reference: &str, request: &BuildSnapshot) -> OpResult<()> {
        let Some(registry) = request.registry.as_ref().filter(|r| !r.url.is_empty()) else {
            return Err(OpError::new(
                Class::BadRequest,
                "the build should be pushed, but the request names no registry",
            ));
        };
        let Some(project) = registry.project.as_deref() else {
            return Err(OpError::new(
                Class::BadRequest,
                "the build should be pushed, but its registry names no project",
            ));
        };
        // The control plane pulls this very name next, and gets it from the local store.
        let full = format!("{}/{project}/{reference}", registry_host(registry)).replace("//", "/");
        let began = Instant::now();
        self.engine.tag(reference, &full).await?;
        let pushed = self.push(&full, registry, self.config.backup_timeout).await;
        pushed.map_err(|e| OpError::from(e).during("pushing the build", began))
    }
}
