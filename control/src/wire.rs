//! A sandbox's record as clients read it.

use pinfold_proto::control::sandbox::Sandbox;

use super::sandbox::plan::wire_state;
use crate::core::Core;
use crate::snapshots::build_info;
use crate::store::sandboxes::Record;
use crate::time::iso;

/// The sandbox, for a client that reaches us at `base`.
pub(crate) fn sandbox(core: &Core, r: &Record, last_activity: i64, base: &str) -> Sandbox {
    Sandbox {
        id: r.id.clone(),
        organization_id: core.org_id.clone(),
        name: r.name.clone(),
        target: r.region.clone(),
        snapshot: r.snapshot.clone(),
        user: r.os_user.clone(),
        env: r.env.clone(),
        cpu: r.cpu,
        gpu: r.gpu,
        gpu_type: r.gpu_type.clone(),
        memory: r.memory,
        disk: r.disk,
        public: r.public,
        network_block_all: r.network_block_all,
        kvm: false,
        network_allow_list: r.network_allow_list.clone(),
        domain_allow_list: r.domain_allow_list.clone(),
        labels: r.labels.clone(),
        volumes: r.volumes.clone(),
        state: wire_state(r.state, r.desired),
        desired_state: r.desired,
        error_reason: r.error_reason.clone().or_else(|| core.runner_lost(r)),
        recoverable: r.recoverable,
        backup_state: r.backup.state,
        backup_created_at: r.backup_at.map(iso),
        auto_stop_interval: r.auto_stop,
        auto_archive_interval: r.auto_archive,
        auto_delete_interval: r.auto_delete,
        auto_destroy_at: r.destroy_at.map(iso),
        sandbox_class: "container".to_owned(),
        created_at: iso(r.created_at),
        updated_at: iso(r.updated_at),
        last_activity_at: iso(last_activity),
        build_info: r.build_ref.as_ref().and_then(|reference| build_info(core, reference)),
        daemon_version: r.daemon_version.clone(),
        runner_id: r.runner_id.clone(),
        linked_sandbox_id: r.linked_sandbox_id.clone(),
        warm_pool_id: r.warm_pool_id.clone(),
        toolbox_proxy_url: format!("{base}/toolbox"),
    }
}
