//! The container of a sandbox (runner contract 5.4): environment, labels, mounts, limits, and what it may do.

use std::collections::BTreeMap;

use pinfold_engine::{Attachment, Container, ContainerSpec, Image, Limits};
use pinfold_network::Endpoint;
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::CreateSandbox;
use pinfold_proto::well_known::DAEMON_PATH;

use super::android;
use crate::node::Node;

/// Bytes in a GiB; the contract's "GB" are GiB.
pub(crate) const GIB: i64 = 1 << 30;

/// Cores, memory and disk (GiB) of a sandbox with a GPU, whatever was asked for.
const GPU_SIZE: (u32, u32, u32) = (16, 256, 512);

/// Capabilities that a sandbox keeps: the engine's usual ones without raw sockets (spoofing on the bridge) and device nodes.
const CAPABILITIES: [&str; 12] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Labels of the contract that mean something to a runner; an image committed from a sandbox must not bring them along.
const OWNED_LABELS: [&str; 6] = [
    "daytona.sandbox_name",
    "daytona.volume_mount_paths",
    "daytona.organization_id",
    "daytona.organization_name",
    "daytona.gpu_index",
    "daytona.android_device",
];

/// The variable that every sandbox's container has, whichever runner made it.
const ID: &str = "DAYTONA_SANDBOX_ID";

/// Whether a container of a sandbox's name is the sandbox's: others may name theirs after a UUID, too. What was committed from a sandbox brings along
/// the id of that one, and a resize by the original keeps the variables.
pub(super) fn is_of(id: &SandboxId, found: &Container) -> bool {
    found.env.contains(&format!("{ID}={id}"))
}

/// `ssh_key`: the line of the only key that the sandbox's SSH server is to take.
fn environment(request: &CreateSandbox, image: &Image, ssh_key: Option<&str>) -> Vec<String> {
    let mut env: BTreeMap<&str, &str> = request.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    // The system's values win over the caller's: a tenant must not be able to take another identity.
    let system = [
        (ID, Some(request.id.as_str())),
        ("DAYTONA_SANDBOX_SNAPSHOT", Some(request.snapshot.as_str())),
        ("DAYTONA_SANDBOX_USER", Some(request.os_user.as_str())),
        ("DAYTONA_OTEL_ENDPOINT", request.otel_endpoint.as_deref().filter(|v| !v.is_empty())),
        ("DAYTONA_ORGANIZATION_ID", request.organization_id.as_deref().filter(|v| !v.is_empty())),
        ("DAYTONA_REGION_ID", request.region_id.as_deref().filter(|v| !v.is_empty())),
        ("DAYTONA_USER_HOME_AS_WORKDIR", image.working_dir.is_empty().then_some("true")),
    ];
    for (key, value) in system {
        match value {
            Some(value) => drop(env.insert(key, value)),
            None => drop(env.remove(key)),
        }
    }
    if let Some(line) = ssh_key {
        env.insert("PINFOLD_SSH_WELL_KNOWN_PASSWORD", "false");
        env.insert("PINFOLD_SSH_AUTHORIZED_KEYS", line);
    }
    // Names that no environment can hold would make the engine refuse the whole container.
    env.into_iter()
        .filter(|(k, _)| !k.is_empty() && !k.contains(['=', '\0']))
        .map(|(k, v)| format!("{k}={v}"))
        .collect()
}

fn labels(request: &CreateSandbox, image: &Image) -> BTreeMap<String, String> {
    let inherited = OWNED_LABELS.iter().filter(|label| image.labels.contains_key(**label));
    let mut labels: BTreeMap<String, String> =
        inherited.map(|label| ((*label).to_owned(), String::new())).collect();
    let paths: Vec<&str> = request.volumes.iter().map(|v| v.mount_path.as_str()).collect();
    let metadata = |key: &str| request.metadata.get(key).cloned().unwrap_or_default();
    let ours = [
        ("daytona.sandbox_name", request.name.clone().unwrap_or_default()),
        ("daytona.volume_mount_paths", paths.join(",")),
        ("daytona.organization_id", metadata("organizationId")),
        ("daytona.organization_name", metadata("organizationName")),
    ];
    labels.extend(ours.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v)));
    labels
}

/// What the daemon is given to run: the caller's entrypoint; else, for an image committed from a sandbox, its command; else the image's
/// entrypoint.
fn arguments(request: &CreateSandbox, image: &Image) -> Vec<String> {
    if !request.entrypoint.is_empty() {
        request.entrypoint.clone()
    } else if image.entrypoint.len() == 1 && image.entrypoint[0] == DAEMON_PATH {
        image.cmd.clone()
    } else {
        image.entrypoint.clone()
    }
}

/// The limits that a request asks for and this node can set.
pub(crate) fn limits(node: &Node, cpu: u32, memory_gib: u32, storage_gib: u32) -> Limits {
    let pids = node.info.pids_limit.then_some(i64::from(node.config.pids_limit));
    if node.config.limits_disabled {
        return Limits { pids, ..Limits::default() };
    }
    let quota = node.info.backing_filesystem.as_deref() == Some("xfs");
    Limits {
        cpu: (cpu > 0).then_some(cpu),
        memory: (memory_gib > 0).then_some(i64::from(memory_gib) * GIB),
        storage: (quota && storage_gib > 0).then_some(u64::from(storage_gib) << 30),
        pids,
    }
}

/// The sandbox's place on the sandbox network, and on the operator's own if there is one.
pub(crate) fn attachments(node: &Node, endpoint: Endpoint, alias: Option<&str>) -> Vec<Attachment> {
    let own = Attachment {
        network: node.network.name.clone(),
        address: Some(endpoint.ip),
        mac: Some(endpoint.mac_text()),
        aliases: alias.map(str::to_owned).into_iter().collect(),
    };
    let extra = node
        .config
        .container_network
        .iter()
        .map(|network| Attachment { network: network.clone(), ..Attachment::default() });
    std::iter::once(own).chain(extra).collect()
}

/// The container to create.
pub(crate) fn container(
    node: &Node,
    request: &CreateSandbox,
    image: &Image,
    binds: &[String],
    networks: Vec<Attachment>,
    gpu: Option<u32>,
) -> ContainerSpec {
    let config = &node.config;
    // The one card that a sandbox sees is its device 0, whatever it is on the host.
    let ssh_key = config.ssh_gateway.as_ref().and_then(|gateway| gateway.sandbox_line.as_deref());
    let mut env = environment(request, image, ssh_key);
    let mut labels = labels(request, image);
    let (mut cpu, mut memory, mut storage) = (request.cpu_quota, request.memory_quota, request.storage_quota);
    if let Some(index) = gpu {
        for name in ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"] {
            env.retain(|entry| entry.split('=').next() != Some(name));
            env.push(format!("{name}=0"));
        }
        labels.insert(crate::gpu::LABEL.to_owned(), index.to_string());
        (cpu, memory, storage) = GPU_SIZE;
    }
    let device = android::is_wanted(request);
    if device {
        labels.insert(android::LABEL.to_owned(), "true".to_owned());
        env.retain(|entry| !entry.starts_with("DAYTONA_USER_HOME_AS_WORKDIR="));
    }
    let privileged = config.privileged && gpu.is_none() && !device;
    let daemon_bind = format!("{}:{DAEMON_PATH}:ro", node.daemon.path().display());
    let (entrypoint, cmd, working_dir) = if device {
        (None, None, None)
    } else if config.use_snapshot_entrypoint {
        (Some(request.entrypoint.clone()).filter(|e| !e.is_empty()), None, None)
    } else {
        let working_dir = Some(image.working_dir.clone()).filter(|w| !w.is_empty());
        (Some(vec![DAEMON_PATH.to_owned()]), Some(arguments(request, image)), working_dir)
    };
    let otel_on_host = request.otel_endpoint.as_deref().is_some_and(|e| e.contains("host.docker.internal"));
    let kept = CAPABILITIES.iter().map(|c| (*c).to_owned()).chain(config.capabilities.iter().cloned());
    ContainerSpec {
        name: request.id.clone(),
        image: request.snapshot.clone(),
        env,
        labels,
        entrypoint,
        cmd,
        working_dir,
        binds: Some(daemon_bind).filter(|_| !device).into_iter().chain(binds.iter().cloned()).collect(),
        privileged,
        cap_add: if privileged { Vec::new() } else { kept.collect() },
        cap_drop: if privileged { Vec::new() } else { vec!["ALL".to_owned()] },
        security_opt: if config.no_new_privileges {
            vec!["no-new-privileges".to_owned()]
        } else {
            Vec::new()
        },
        limits: limits(node, cpu, memory, storage),
        no_core_dumps: true,
        runtime: config.runtime.clone().filter(|_| !device),
        extra_hosts: if otel_on_host {
            vec!["host.docker.internal:host-gateway".to_owned()]
        } else {
            Vec::new()
        },
        dns: name_servers(node),
        networks,
        devices: Some(android::KVM.to_owned()).filter(|_| device && config.android_kvm).into_iter().collect(),
        cdi_devices: gpu.map(|index| format!("nvidia.com/gpu={index}")).into_iter().collect(),
        platform: node.platform(),
    }
}

/// Whom sandboxes ask for names. Never nobody: then the engine would ask for them from the host's own network, past their policies.
fn name_servers(node: &Node) -> Vec<String> {
    // The resolver at the gateway answers those who may ask.
    let ours = node.network.gateway.filter(|_| node.config.dns.is_empty() && node.policy.is_enforced());
    node.config.dns.iter().copied().chain(ours).map(|server| server.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_variables_cannot_be_redefined() {
        let env = [("DAYTONA_SANDBOX_ID", "other"), ("DAYTONA_REGION_ID", "other"), ("A", "1"), ("B=C", "x")];
        let request = CreateSandbox {
            id: "me".to_owned(),
            env: env.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            ..CreateSandbox::default()
        };
        let made = environment(&request, &Image::default(), None);
        assert!(made.contains(&"DAYTONA_SANDBOX_ID=me".to_owned()) && made.contains(&"A=1".to_owned()));
        assert!(made.contains(&"DAYTONA_USER_HOME_AS_WORKDIR=true".to_owned()));
        assert!(!made.iter().any(|e| e.contains("other") || e.starts_with("B")), "{made:?}");
    }

    #[test]
    fn labels_of_the_image_are_cleared() {
        let image =
            Image { labels: [("daytona.gpu_index".to_owned(), "3".to_owned())].into(), ..Image::default() };
        let request = CreateSandbox { name: Some("n".to_owned()), ..CreateSandbox::default() };
        let made = labels(&request, &image);
        assert_eq!(made["daytona.gpu_index"], "");
        assert_eq!(made["daytona.sandbox_name"], "n");
        assert!(!made.contains_key("daytona.organization_id"));
    }

    #[test]
    fn an_image_from_a_sandbox_keeps_its_command() {
        let image = |entrypoint: &[&str]| Image {
            entrypoint: entrypoint.iter().map(|s| (*s).to_owned()).collect(),
            cmd: vec!["sleep".to_owned()],
            ..Image::default()
        };
        let mut request = CreateSandbox::default();
        assert_eq!(arguments(&request, &image(&[DAEMON_PATH])), ["sleep"]);
        assert_eq!(arguments(&request, &image(&["/init"])), ["/init"]);
        request.entrypoint = vec!["mine".to_owned()];
        assert_eq!(arguments(&request, &image(&[DAEMON_PATH])), ["mine"]);
    }
}
