//! The payload of each job, from a sandbox's record (control-plane contract 19.4; presence and nulls as recorded).

use std::collections::BTreeMap;

use pinfold_proto::control::sandbox::SandboxState;
use pinfold_proto::id::Secret;
use pinfold_proto::runner::job::JobKind;
use pinfold_proto::runner::payload::{
    CreateBackup, CreateSandbox, NetworkSettings, RecoverSandbox, Registry, ResizeSandbox, SnapshotSandbox,
    StartSandbox, StopSandbox,
};

use crate::store::json;
use crate::store::sandboxes::Record;

/// The name of the only organization.
pub(crate) const ORGANIZATION_NAME: &str = "Default";

/// The image that a create starts from: a restore's is the backup.
pub(crate) fn image(r: &Record) -> &str {
    match &r.backup_image {
        Some(backup) if r.state == SandboxState::Restoring => backup,
        _ => &r.image,
    }
}

/// The payload of `kind`; `None` where there is none. `registry` opens the one that the job reads from or writes to.
pub(crate) fn compose(kind: &JobKind, r: &Record, org: &str, registry: Option<Registry>) -> Option<String> {
    Some(match kind {
        JobKind::CreateSandbox => json(&create(r, org, registry)),
        JobKind::CreateBackup => {
            json(&CreateBackup { snapshot: r.backup.reference.clone().unwrap_or_default(), registry })
        }
        JobKind::StartSandbox => json(&start(r, org)),
        JobKind::StopSandbox => json(&StopSandbox { force: r.task.force }),
        JobKind::ResizeSandbox => {
            let to = r.task.resize?;
            json(&ResizeSandbox { cpu: to.cpu, memory: to.memory, disk: to.disk, registry: None })
        }
        JobKind::RecoverSandbox => json(&recover(r, org)),
        JobKind::UpdateSandboxNetworkSettings => json(&NetworkSettings {
            network_block_all: Some(r.network_block_all),
            network_allow_list: r.network_allow_list.clone(),
            domain_allow_list: r.domain_allow_list.clone(),
            network_limit_egress: None,
        }),
        JobKind::SnapshotSandbox => json(&SnapshotSandbox {
            sandbox_id: r.id.clone(),
            name: r.task.snapshot.clone().unwrap_or_default(),
            organization_id: org.to_owned(),
            registry,
            include_memory: None,
        }),
        _ => return None,
    })
}

fn create(r: &Record, org: &str, registry: Option<Registry>) -> CreateSandbox {
    let restored = r.state == SandboxState::Restoring && r.backup_image.is_some();
    CreateSandbox {
        id: r.id.clone(),
        name: Some(r.name.clone()),
        user_id: org.to_owned(),
        snapshot: image(r).to_owned(),
        os_user: r.os_user.clone(),
        cpu_quota: r.cpu,
        gpu_quota: r.gpu,
        memory_quota: r.memory,
        storage_quota: r.disk,
        env: r.env.clone(),
        registry,
        // A backup has its own.
        entrypoint: r.entrypoint.clone().filter(|_| !restored).unwrap_or_default(),
        volumes: r.volumes.clone(),
        network_block_all: Some(r.network_block_all),
        network_allow_list: r.network_allow_list.clone(),
        domain_allow_list: r.domain_allow_list.clone(),
        metadata: metadata(r, org),
        auth_token: Some(Secret::new(r.auth_token.clone())),
        otel_endpoint: None,
        skip_start: r.task.moving.then_some(true),
        organization_id: Some(org.to_owned()),
        region_id: Some(r.region.clone()),
        sandbox_class: Some("container".to_owned()),
        linked_sandbox_id: r.linked_sandbox_id.clone(),
    }
}

fn metadata(r: &Record, org: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("organizationId".to_owned(), org.to_owned()),
        ("organizationName".to_owned(), ORGANIZATION_NAME.to_owned()),
        ("limitNetworkEgress".to_owned(), "false".to_owned()),
        ("sandboxName".to_owned(), r.name.clone()),
    ])
}

fn start(r: &Record, org: &str) -> StartSandbox {
    let mut metadata = metadata(r, org);
    metadata.remove("sandboxName");
    if !r.volumes.is_empty() {
        metadata.insert("volumes".to_owned(), json(&r.volumes));
    }
    if let Some(domains) = &r.domain_allow_list {
        metadata.insert("domainAllowList".to_owned(), domains.clone());
    }
    StartSandbox { auth_token: Some(Secret::new(r.auth_token.clone())), metadata }
}

fn recover(r: &Record, org: &str) -> RecoverSandbox {
    RecoverSandbox {
        user_id: org.to_owned(),
        snapshot: r.snapshot.clone(),
        os_user: r.os_user.clone(),
        cpu_quota: r.cpu,
        gpu_quota: r.gpu,
        memory_quota: r.memory,
        storage_quota: r.disk,
        env: r.env.clone(),
        volumes: r.volumes.clone(),
        network_block_all: Some(r.network_block_all),
        network_allow_list: r.network_allow_list.clone(),
        error_reason: r.error_reason.clone(),
        backup_error_reason: None,
        registry: None,
        skip_start: r.task.recover,
    }
}

#[cfg(test)]
mod tests {
    use pinfold_proto::control::sandbox::{DesiredState, SandboxState};
    use serde_json::Value;

    use super::*;
    use crate::sandbox::plan::tests::record;

    /// Every member that the original always sends is there (`golden/README.md`, presence table).
    #[test]
    fn payloads_have_the_recorded_members() {
        let r = record(SandboxState::Creating, DesiredState::Started);
        let members = |kind| -> Vec<String> {
            let payload: Value = serde_json::from_str(&compose(&kind, &r, "org", None).unwrap()).unwrap();
            payload.as_object().unwrap().keys().cloned().collect()
        };
        let create = members(JobKind::CreateSandbox);
        for name in "id name userId snapshot osUser cpuQuota gpuQuota memoryQuota storageQuota env volumes networkBlockAll \
            networkAllowList domainAllowList metadata authToken organizationId regionId sandboxClass"
            .split_whitespace()
        {
            assert!(create.iter().any(|m| m == name), "{name} is missing from {create:?}");
        }
        assert_eq!(members(JobKind::StartSandbox), ["authToken", "metadata"]);
        assert_eq!(compose(&JobKind::StopSandbox, &r, "org", None).unwrap(), "{}");
        assert_eq!(compose(&JobKind::DestroySandbox, &r, "org", None), None);
    }
}
