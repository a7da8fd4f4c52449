//! Between bollard's models and ours.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use bollard::auth::DockerCredentials;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary as Listed, ContainerUpdateBody,
    DeviceMapping, DeviceRequest, EndpointIpamConfig, EndpointSettings, EventMessage, EventMessageTypeEnum,
    HostConfig, ImageInspect, Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect, NetworkingConfig,
    RegistryServiceConfig, ResourcesUlimits,
};

use crate::types::{
    Attachment, Container, ContainerSpec, ContainerStatus, ContainerSummary, Credentials, Event, EventKind,
    Image, Limits, Network, NetworkSpec,
};

/// Microseconds of one CPU quota period.
pub(super) const CPU_PERIOD: i64 = 100_000;

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const BRIDGE_ICC: &str = "com.docker.network.bridge.enable_icc";

/// The kernel's name of an architecture as image manifests write it.
pub(super) fn architecture(machine: &str) -> String {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" => "arm",
        other => other,
    }
    .to_owned()
}

pub(super) fn insecure_registries(config: RegistryServiceConfig) -> Vec<String> {
    let named = config.index_configs.unwrap_or_default().into_iter();
    let named = named.filter(|(_, index)| index.secure == Some(false)).map(|(host, _)| host);
    named.chain(config.insecure_registry_cidrs.unwrap_or_default()).collect()
}

pub(super) fn credentials(auth: &Credentials) -> DockerCredentials {
    DockerCredentials {
        username: Some(auth.username.clone()),
        password: Some(auth.password.expose().to_owned()),
        ..Default::default()
    }
}

pub(super) fn event(message: EventMessage) -> Option<Event> {
    let kind = match message.typ? {
        EventMessageTypeEnum::CONTAINER => EventKind::Container,
        EventMessageTypeEnum::IMAGE => EventKind::Image,
        _ => return None,
    };
    let actor = message.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    Some(Event {
        kind,
        // `exec_start: sh -c …` and the like carry their command in the action.
        action: message.action?.split(':').next().unwrap_or_default().to_owned(),
        id: actor.id.unwrap_or_default(),
        name: attributes.get("name").cloned().unwrap_or_default(),
        exit_code: attributes.get("exitCode").and_then(|c| c.parse().ok()),
    })
}

pub(super) fn summary(listed: Listed) -> ContainerSummary {
    let state = listed.state.map(|s| s.to_string()).unwrap_or_default();
    ContainerSummary {
        id: listed.id.unwrap_or_default(),
        name: listed
            .names
            .unwrap_or_default()
            .first()
            .map(|n| n.trim_start_matches('/').to_owned())
            .unwrap_or_default(),
        image: listed.image.unwrap_or_default(),
        image_id: listed.image_id.unwrap_or_default(),
        labels: listed.labels.unwrap_or_default().into_iter().collect(),
        status: ContainerStatus::parse(&state),
        mount_sources: listed.mounts.unwrap_or_default().into_iter().filter_map(|m| m.source).collect(),
    }
}

pub(super) fn container(found: ContainerInspectResponse) -> Container {
    let state = found.state.unwrap_or_default();
    let config = found.config.unwrap_or_default();
    let host = found.host_config.unwrap_or_default();
    let status = state.status.map(|s| s.to_string()).unwrap_or_default();
    let upper = found.graph_driver.and_then(|driver| driver.data.get("UpperDir").map(Into::into));
    let networks = found.network_settings.and_then(|n| n.networks).unwrap_or_default();
    Container {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        status: ContainerStatus::parse(&status),
        exit_code: state.exit_code.unwrap_or(0),
        oom_killed: state.oom_killed.unwrap_or(false),
        error: state.error.unwrap_or_default(),
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        env: config.env.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        mount_sources: found.mounts.unwrap_or_default().into_iter().filter_map(|m| m.source).collect(),
        macs: networks.iter().filter_map(|(name, e)| Some((name.clone(), mac(e)?))).collect(),
        networks: networks.into_iter().map(|(name, e)| (name, address(e))).collect(),
        cpu_quota: host.cpu_quota.unwrap_or(0),
        memory: host.memory.unwrap_or(0),
        storage_size: host.storage_opt.and_then(|o| o.get("size").cloned()),
        upper_dir: upper,
    }
}

/// The hardware address that an endpoint has, or was promised.
fn mac(endpoint: &EndpointSettings) -> Option<String> {
    endpoint.mac_address.clone().filter(|mac| !mac.is_empty())
}

/// Where a container is reached on a network: the address it has, or before its start the one it was promised.
fn address(endpoint: EndpointSettings) -> Option<Ipv4Addr> {
    let promised = endpoint.ipam_config.and_then(|ipam| ipam.ipv4_address);
    endpoint.ip_address.and_then(|ip| ip.parse().ok()).or_else(|| promised?.parse().ok())
}

pub(super) fn image(found: ImageInspect) -> Image {
    let config = found.config.unwrap_or_default();
    Image {
        id: found.id.unwrap_or_default(),
        tags: found.repo_tags.unwrap_or_default(),
        digests: found.repo_digests.unwrap_or_default(),
        architecture: found.architecture.unwrap_or_default(),
        size: u64::try_from(found.size.unwrap_or(0)).unwrap_or(0),
        layers: found.root_fs.and_then(|fs| fs.layers).map_or(0, |layers| layers.len()),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        exposed_ports: config.exposed_ports.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
    }
}

pub(super) fn endpoint(attachment: &Attachment) -> EndpointSettings {
    let ipam = attachment
        .address
        .map(|address| EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..Default::default() });
    EndpointSettings {
        ipam_config: ipam,
        mac_address: attachment.mac.clone(),
        aliases: Some(attachment.aliases.clone()).filter(|a| !a.is_empty()),
        ..Default::default()
    }
}

pub(super) fn apply_limits(host: &mut HostConfig, limits: Limits) {
    if let Some(cpu) = limits.cpu {
        host.cpu_period = Some(CPU_PERIOD);
        host.cpu_quota = Some(i64::from(cpu) * CPU_PERIOD);
    }
    if let Some(memory) = limits.memory {
        host.memory = Some(memory);
        host.memory_swap = Some(memory);
    }
    if let Some(pids) = limits.pids {
        host.pids_limit = Some(pids);
    }
    if let Some(storage) = limits.storage {
        host.storage_opt = Some(HashMap::from([("size".to_owned(), storage.to_string())]));
    }
}

pub(super) fn update(limits: Limits) -> ContainerUpdateBody {
    ContainerUpdateBody {
        cpu_period: limits.cpu.map(|_| CPU_PERIOD),
        cpu_quota: limits.cpu.map(|cpu| i64::from(cpu) * CPU_PERIOD),
        memory: limits.memory,
        memory_swap: limits.memory,
        pids_limit: limits.pids,
        ..Default::default()
    }
}

pub(super) fn networking(networks: &[Attachment]) -> Option<NetworkingConfig> {
    // Engines before API 1.44 take one network at creation; the others are attached before the start.
    let primary = networks.first()?;
    let endpoints = HashMap::from([(primary.network.clone(), endpoint(primary))]);
    Some(NetworkingConfig { endpoints_config: Some(endpoints) })
}

/// What a container sees as empty: the engine's own list as of version 28, which a list of ours replaces, and the firmware's tables, in which a cloud's
/// machine says whose and which it is. A path that is not there is passed over.
const MASKED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/hypervisor",
];

pub(super) fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let some = |list: &[String]| Some(list.to_vec()).filter(|l| !l.is_empty());
    let mut host = HostConfig {
        binds: some(&spec.binds),
        privileged: Some(spec.privileged),
        cap_add: some(&spec.cap_add),
        cap_drop: some(&spec.cap_drop),
        security_opt: some(&spec.security_opt),
        masked_paths: (!spec.privileged).then(|| MASKED.map(str::to_owned).to_vec()),
        runtime: spec.runtime.clone(),
        extra_hosts: some(&spec.extra_hosts),
        ulimits: spec.no_core_dumps.then(|| vec![no_core_dumps()]),
        dns: some(&spec.dns),
        network_mode: spec.networks.first().map(|n| n.network.clone()),
        devices: some(&spec.devices).map(|paths| paths.iter().map(|path| device(path)).collect()),
        device_requests: some(&spec.cdi_devices).map(|ids| {
            vec![DeviceRequest {
                driver: Some("cdi".to_owned()),
                device_ids: Some(ids),
                ..Default::default()
            }]
        }),
        ..Default::default()
    };
    apply_limits(&mut host, spec.limits);
    ContainerCreateBody {
        hostname: Some(spec.name.clone()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        env: some(&spec.env),
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.cmd.clone(),
        working_dir: spec.working_dir.clone(),
        labels: Some(spec.labels.clone().into_iter().collect()),
        networking_config: networking(&spec.networks),
        host_config: Some(host),
        ..Default::default()
    }
}

/// The soft limit alone: a process may raise it.
fn no_core_dumps() -> ResourcesUlimits {
    ResourcesUlimits { name: Some("core".to_owned()), soft: Some(0), hard: Some(-1) }
}

fn device(path: &str) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(path.to_owned()),
        path_in_container: Some(path.to_owned()),
        cgroup_permissions: Some("rwm".to_owned()),
    }
}

pub(super) fn network_request(spec: &NetworkSpec) -> NetworkCreateRequest {
    let mut options = HashMap::from([(BRIDGE_ICC.to_owned(), spec.icc.to_string())]);
    if let Some(bridge) = &spec.bridge {
        options.insert(BRIDGE_NAME.to_owned(), bridge.clone());
    }
    let config = IpamConfig {
        subnet: spec.subnet.clone(),
        ip_range: spec.dynamic_range.clone(),
        ..Default::default()
    };
    NetworkCreateRequest {
        name: spec.name.clone(),
        driver: Some("bridge".to_owned()),
        internal: Some(spec.internal),
        options: Some(options),
        ipam: spec.subnet.as_ref().map(|_| Ipam { config: Some(vec![config]), ..Default::default() }),
        labels: Some(spec.labels.clone().into_iter().collect()),
        ..Default::default()
    }
}

/// Engines that were given a subnet alone do not say that its first address is theirs.
fn gateway(config: &IpamConfig) -> Option<Ipv4Addr> {
    let said = config.gateway.as_deref().and_then(|g| g.parse().ok());
    said.or_else(|| {
        let (base, _) = config.subnet.as_deref()?.split_once('/')?;
        base.parse::<Ipv4Addr>().ok()?.to_bits().checked_add(1).map(Ipv4Addr::from_bits)
    })
}

pub(super) fn network(found: NetworkInspect) -> Network {
    let id = found.id.unwrap_or_default();
    let configs = found.ipam.and_then(|i| i.config).unwrap_or_default();
    let first = configs
        .into_iter()
        .find(|c| c.subnet.as_deref().is_some_and(|s| !s.contains(':')))
        .unwrap_or_default();
    let named = found.options.unwrap_or_default().remove(BRIDGE_NAME);
    Network {
        bridge: named.unwrap_or_else(|| format!("br-{}", id.get(..12).unwrap_or(&id))),
        name: found.name.unwrap_or_default(),
        gateway: gateway(&first),
        subnet: first.subnet,
        labels: found.labels.unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>(),
        containers: found.containers.unwrap_or_default().into_keys().collect(),
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_with_walls_of_its_own_is_asked_for_under_the_same_rules() {
        for runtime in ["runsc", "kata", "sysbox-runc"] {
            let spec = ContainerSpec {
                runtime: Some(runtime.to_owned()),
                cap_drop: vec!["ALL".to_owned()],
                ..ContainerSpec::default()
            };
            let host = create_body(&spec).host_config.unwrap();
            assert_eq!(host.runtime.as_deref(), Some(runtime));
            assert_eq!((host.privileged, host.cap_drop), (Some(false), Some(vec!["ALL".to_owned()])));
            assert!(host.masked_paths.unwrap().contains(&"/sys/devices/virtual/dmi".to_owned()));
        }
        let privileged = ContainerSpec { privileged: true, ..ContainerSpec::default() };
        assert_eq!(create_body(&privileged).host_config.unwrap().masked_paths, None);
    }
}
