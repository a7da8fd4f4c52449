//! What passes through the [`Engine`](crate::Engine) trait: only what the runner reads or sets, in the runner's units.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use pinfold_proto::id::Secret;

/// What kind of engine answers, and where it keeps its data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineInfo {
    /// The engine's version.
    pub version: String,
    /// Where images and containers are, for disk figures.
    pub data_root: PathBuf,
    /// Storage driver, for example `overlay2`.
    pub driver: String,
    /// Filesystem under the storage driver, for example `extfs` or `xfs`.
    pub backing_filesystem: Option<String>,
    /// `amd64`, `arm64`, …: the name that image manifests use.
    pub architecture: String,
    /// Number of images.
    pub images: u64,
    /// OCI runtimes that containers may ask for.
    pub runtimes: Vec<String>,
    /// Registries, by `host[:port]` or network, that the engine's operator allows without TLS.
    pub insecure_registries: Vec<String>,
    /// Whether the engine can limit the number of processes.
    pub pids_limit: bool,
}

impl EngineInfo {
    /// Why containers cannot have `runtime`, if they cannot: the engine has not been told of it. Newer engines also take shims by their full names.
    pub fn lacks_runtime(&self, runtime: &str) -> Option<String> {
        let known = self.runtimes.iter().any(|known| known == runtime);
        if known || runtime.starts_with("io.containerd.") || runtime.contains('/') {
            return None;
        }
        let mut others: Vec<&str> = self.runtimes.iter().map(String::as_str).collect();
        others.sort_unstable();
        Some(format!("CONTAINER_RUNTIME: this engine has no {runtime:?}, it has {}", others.join(", ")))
    }
}

/// Where a container stands, in the engine's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the engine's own words")]
pub enum ContainerStatus {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    #[default]
    Unknown,
}

impl ContainerStatus {
    /// Reads the engine's word.
    pub fn parse(text: &str) -> Self {
        match text {
            "created" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "restarting" => Self::Restarting,
            "removing" => Self::Removing,
            "exited" => Self::Exited,
            "dead" => Self::Dead,
            _ => Self::Unknown,
        }
    }
}

/// One line of a container listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSummary {
    /// The container's id.
    pub id: String,
    /// Its name, without the leading slash.
    pub name: String,
    /// The image it was created from, as it was named.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    pub status: ContainerStatus,
    /// Host paths mounted into it.
    pub mount_sources: Vec<String>,
}

/// A container as inspected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// The container's id.
    pub id: String,
    /// Its name, without the leading slash.
    pub name: String,
    /// The image it was created from, as it was named.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// Where it stands.
    pub status: ContainerStatus,
    /// Status of its first process, when that is over.
    pub exit_code: i64,
    /// Whether the kernel ended it for want of memory.
    pub oom_killed: bool,
    /// What the engine says went wrong, often empty.
    pub error: String,
    /// Its first process on the host, when it runs.
    pub pid: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// What it runs.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint.
    pub cmd: Vec<String>,
    /// Where it runs; empty for the root.
    pub working_dir: String,
    /// Host paths mounted into it.
    pub mount_sources: Vec<String>,
    /// Addresses by network name; `None` while it does not run.
    pub networks: BTreeMap<String, Option<Ipv4Addr>>,
    /// Hardware addresses by network name, of those that have one.
    pub macs: BTreeMap<String, String>,
    /// CPU quota in microseconds per 100 ms; 0 for none.
    pub cpu_quota: i64,
    /// Memory limit in bytes; 0 for none.
    pub memory: i64,
    /// The `size` storage option, as text.
    pub storage_size: Option<String>,
    /// The writable layer, when the storage driver is overlay2.
    pub upper_dir: Option<PathBuf>,
}

/// A network a container is attached to at creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// An address chosen by us; the engine's choice otherwise.
    pub address: Option<Ipv4Addr>,
    /// Hardware address that goes with the address. Engines before API 1.44 derive it from the address themselves.
    pub mac: Option<String>,
    /// Names under which others on the network find it.
    pub aliases: Vec<String>,
}

/// Upper bounds. `None` leaves a bound as it is, or unset at creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Cores.
    pub cpu: Option<u32>,
    /// Memory in bytes; swap is not allowed on top.
    pub memory: Option<i64>,
    /// Writable layer in bytes.
    pub storage: Option<u64>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

/// A container to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name and host name.
    pub name: String,
    /// The image.
    pub image: String,
    /// `KEY=value`, unique keys.
    pub env: Vec<String>,
    /// Labels; they win over the image's.
    pub labels: BTreeMap<String, String>,
    /// `None` for the image's own.
    pub entrypoint: Option<Vec<String>>,
    /// `None` for the image's own.
    pub cmd: Option<Vec<String>>,
    /// `None` for the image's own.
    pub working_dir: Option<String>,
    /// `host:container[:ro]`.
    pub binds: Vec<String>,
    /// Everything the host can do. Never unless an operator asked for it by name.
    pub privileged: bool,
    /// Capabilities on top of the kept ones, which are all that are left when `cap_drop` is `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// `no-new-privileges` and the like.
    pub security_opt: Vec<String>,
    /// Upper bounds.
    pub limits: Limits,
    /// No core dumps unless a process asks for them: a crashing emulator's can be as large as its machine.
    pub no_core_dumps: bool,
    /// OCI runtime; the engine's default when `None`.
    pub runtime: Option<String>,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Name servers that the sandbox's own network asks; the engine's choice when empty.
    pub dns: Vec<String>,
    /// The first is the primary network; none means the engine's default.
    pub networks: Vec<Attachment>,
    /// Host devices, mapped under their own path.
    pub devices: Vec<String>,
    /// CDI device names, for example `nvidia.com/gpu=0`.
    pub cdi_devices: Vec<String>,
    /// `linux/amd64`; empty for the engine's own.
    pub platform: String,
}

/// A command launched in a running container and left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// `None` for the container's own.
    pub working_dir: Option<String>,
}

/// An image in the engine's store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…`.
    pub id: String,
    /// Names it goes by.
    pub tags: Vec<String>,
    /// `repository@sha256:…`.
    pub digests: Vec<String>,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
    /// Unpacked size in bytes.
    pub size: u64,
    /// How many layers it has; engines refuse more than some 125.
    pub layers: usize,
    /// Its entrypoint.
    pub entrypoint: Vec<String>,
    /// Its command.
    pub cmd: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Its working directory; empty when unset.
    pub working_dir: String,
    /// Its user; empty when unset.
    pub user: String,
    /// Its exposed ports.
    pub exposed_ports: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// User name and password for a registry.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: Secret,
}

/// What a registry says of a reference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// `sha256:…`.
    pub digest: String,
    /// Size of the manifest itself, bytes.
    pub size: u64,
}

/// What builds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Builder {
    /// The engine's BuildKit; where it cannot build within the limits, the legacy builder does, and the build's log says why.
    #[default]
    BuildKit,
    /// The engine's first builder.
    Legacy,
}

impl std::fmt::Display for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BuildKit => "buildkit",
            Self::Legacy => "legacy",
        })
    }
}

/// An image to build.
#[derive(Debug, Clone, Default)]
pub struct BuildSpec {
    /// Reference of the result.
    pub tag: String,
    /// Where the Dockerfile is in the context.
    pub dockerfile: String,
    /// What builds it.
    pub builder: Builder,
    /// Upper bounds: of each build step with the legacy builder, of all builds together with BuildKit.
    pub limits: Limits,
    /// Credentials by registry address, for parents that are private.
    pub credentials: BTreeMap<String, Credentials>,
    /// `linux/amd64`; empty for the engine's own.
    pub platform: String,
    /// Look for newer parents.
    pub pull: bool,
}

/// A network to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// The bridge's interface name; the engine's choice when `None`.
    pub bridge: Option<String>,
    /// Whether its members may talk to each other.
    pub icc: bool,
    /// Whether it leads nowhere else.
    pub internal: bool,
    /// IPv4 subnet; the engine's choice when `None`.
    pub subnet: Option<String>,
    /// Part of the subnet from which the engine chooses addresses itself.
    pub dynamic_range: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A network as inspected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// First IPv4 subnet.
    pub subnet: Option<String>,
    /// The gateway, which is the host's address on it.
    pub gateway: Option<Ipv4Addr>,
    /// The bridge's interface name.
    pub bridge: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ids of the attached containers that run.
    pub containers: Vec<String>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
}

/// Something that happened in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub kind: EventKind,
    /// `create`, `start`, `die`, `oom`, `destroy`, `pull`, `tag`, …: the engine's word.
    pub action: String,
    /// The container's or image's id.
    pub id: String,
    /// The container's name, when it is about one.
    pub name: String,
    /// Status of the first process, for `die`.
    pub exit_code: Option<i64>,
}
