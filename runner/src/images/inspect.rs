//! What a registry says of a reference (runner contract 7.7), and build contexts from an object store.

use std::io;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pinfold_proto::runner::payload::{InspectSnapshot, RegistryInfo};
use tokio::io::AsyncRead;

use super::context::Contexts;
use super::reference::{digest_of, has_registry, normalise};
use super::{credentials, gib};
use crate::config::ObjectStore;
use crate::error::{Class, OpError, OpResult};
use crate::node::Node;

/// The control plane waits 30 s; a failure makes it restore an older backup, so passing errors are retried until shortly before.
const PATIENCE: Duration = Duration::from_secs(24);

impl Node {
    /// Digest and size of a reference. What no registry knows may still be in the local store.
    pub async fn inspect_snapshot(&self, request: InspectSnapshot) -> OpResult<RegistryInfo> {
        let began = Instant::now();
        let reference = normalise(&request.snapshot);
        if reference.is_empty() {
            return Err(OpError::new(Class::BadRequest, "the request names no snapshot"));
        }
        let auth = credentials(request.registry.as_ref());
        let local = |error: OpError| async {
            match self.engine.image(&reference).await {
                Ok(image) => {
                    Ok(RegistryInfo { hash: digest_of(&reference, &image), size_gb: gib(image.size) })
                }
                Err(_) => Err(error),
            }
        };
        if auth.is_none() && !has_registry(&reference) {
            let nothing = OpError::new(Class::NotFound, "not in the local store");
            if let Ok(found) = local(nothing).await {
                return Ok(found);
            }
        }
        let mut pause = Duration::from_millis(200);
        loop {
            match self.engine.registry_digest(&reference, auth.as_ref()).await {
                Ok(found) => {
                    let hash = found.digest.trim_start_matches("sha256:").to_owned();
                    let size = super::registry::compressed_size(
                        &reference,
                        &self.info.architecture,
                        &self.info.insecure_registries,
                        auth.as_ref(),
                    );
                    let left = PATIENCE.saturating_sub(began.elapsed());
                    let size = tokio::time::timeout(left, size)
                        .await
                        .unwrap_or_else(|_| Err("it took too long".to_owned()));
                    // Where the registry does not say, the unpacked size of a local copy is nearer than the manifest's own.
                    let size = match size {
                        Ok(size) => size,
                        Err(error) => {
                            tracing::debug!(reference, error, "could not learn the compressed size");
                            self.engine.image(&reference).await.map_or(found.size, |image| image.size)
                        }
                    };
                    return Ok(RegistryInfo { hash, size_gb: gib(size) });
                }
                Err(error) if error.is_not_found() || began.elapsed() + pause > PATIENCE => {
                    return local(error.into()).await;
                }
                Err(error) if matches!(error, pinfold_engine::EngineError::Unauthorized { .. }) => {
                    return local(error.into()).await;
                }
                Err(error) => {
                    // A node that cannot reach any registry answers from its store at once.
                    if let Ok(found) = local(error.into()).await {
                        return Ok(found);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }
}

/// Context archives in an S3 bucket.
pub(super) struct S3Contexts {
    store: ObjectStore,
}

impl S3Contexts {
    pub(super) fn new(store: &ObjectStore) -> Self {
        Self { store: store.clone() }
    }
}

#[async_trait]
impl Contexts for S3Contexts {
    async fn open(&self, organization: &str, hash: &str) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        crate::s3::get(&self.store, &format!("{organization}/{hash}/context.tar")).await
    }
}
