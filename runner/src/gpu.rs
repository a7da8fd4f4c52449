//! GPUs (runner contract 5.9): one for a sandbox, chosen under one lock; the container's label is the only record of it.

use std::collections::BTreeSet;

use pinfold_engine::ContainerStatus;
use pinfold_proto::id::SandboxId;

use crate::error::{Class, OpError, OpResult};
use crate::node::Node;

/// The label that names a sandbox's GPU by its index on the host.
pub(crate) const LABEL: &str = "daytona.gpu_index";

/// The names of this host's GPUs, one each; none where the driver does not answer.
pub(crate) fn probe() -> Vec<String> {
    let asked =
        std::process::Command::new("nvidia-smi").args(["--query-gpu=name", "--format=csv,noheader"]).output();
    match asked {
        Ok(output) if output.status.success() => names(&String::from_utf8_lossy(&output.stdout)),
        Ok(output) => {
            tracing::warn!(status = ?output.status, "nvidia-smi failed; this node gives no GPUs");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(%error, "could not run nvidia-smi; this node gives no GPUs");
            Vec::new()
        }
    }
}

fn names(listed: &str) -> Vec<String> {
    listed.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

impl Node {
    /// The GPUs that containers other than `except` hold. Call it under [`Node::gpu_turn`].
    async fn gpus_in_use(&self, except: &SandboxId) -> OpResult<BTreeSet<u32>> {
        let ended =
            |s| matches!(s, ContainerStatus::Exited | ContainerStatus::Dead | ContainerStatus::Removing);
        let listed = self.engine.list().await?;
        let holding = listed.into_iter().filter(|c| c.name != except.as_str() && !ended(c.status));
        Ok(holding.filter_map(|c| c.labels.get(LABEL)?.parse().ok()).collect())
    }

    /// The first free GPU.
    pub(crate) async fn free_gpu(&self, id: &SandboxId) -> OpResult<u32> {
        let used = self.gpus_in_use(id).await?;
        let count = u32::try_from(self.config.gpus.len()).unwrap_or(u32::MAX);
        (0..count)
            .find(|index| !used.contains(index))
            .ok_or_else(|| OpError::new(Class::Conflict, format!("none of this node's {count} GPUs is free")))
    }

    /// A stopped sandbox's GPU may have been given to another one since.
    pub(crate) async fn check_gpu(&self, id: &SandboxId, label: &str) -> OpResult<()> {
        let Ok(index) = label.parse::<u32>() else { return Ok(()) };
        if self.gpus_in_use(id).await?.contains(&index) {
            let message =
                format!("GPU {index}, which this sandbox was created with, is another sandbox's now");
            return Err(OpError::new(Class::Conflict, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_is_a_card() {
        assert_eq!(super::names("NVIDIA H100 80GB HBM3\n NVIDIA H100 80GB HBM3 \n\n").len(), 2);
        assert!(super::names("").is_empty());
    }
}
