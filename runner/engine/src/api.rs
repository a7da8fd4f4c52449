//! The trait itself.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use crate::error::Result;
use crate::types::{
    Attachment, BuildSpec, Container, ContainerSpec, ContainerSummary, Credentials, Descriptor, EngineInfo,
    Event, ExecSpec, Image, Limits, Network, NetworkSpec,
};

/// A container engine. Containers are addressed by name or id, images by reference or id.
///
/// Implementations give every call a deadline. Where an object may be gone, "gone" is an
/// [`EngineError::NotFound`](crate::EngineError::NotFound), never a success and never another class.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Whether the engine answers at all.
    async fn ping(&self) -> Result<()>;

    /// What kind of engine it is.
    async fn info(&self) -> Result<EngineInfo>;

    /// Container and image events from now on. The stream ends, with or without an error, when the engine goes away.
    fn events(&self) -> BoxStream<'static, Result<Event>>;

    /// All containers, running or not.
    async fn list(&self) -> Result<Vec<ContainerSummary>>;

    /// One container.
    async fn inspect(&self, name: &str) -> Result<Container>;

    /// Creates a container and returns its id. A taken name is a conflict.
    async fn create(&self, spec: &ContainerSpec) -> Result<String>;

    /// Starts a container; one that runs already is a success.
    async fn start(&self, name: &str) -> Result<()>;

    /// Asks a container to end, and kills it after `grace`; one that does not run is a success.
    async fn stop(&self, name: &str, grace: Duration) -> Result<()>;

    /// Sends SIGKILL; a container that does not run is a success.
    async fn kill(&self, name: &str) -> Result<()>;

    /// Removes a container and its anonymous volumes. Without `force` a running one is a conflict.
    async fn remove(&self, name: &str, force: bool) -> Result<()>;

    /// Changes the limits of a container, running or not.
    async fn update(&self, name: &str, limits: Limits) -> Result<()>;

    /// Renames a container.
    async fn rename(&self, name: &str, new_name: &str) -> Result<()>;

    /// Freezes a container's processes.
    async fn pause(&self, name: &str) -> Result<()>;

    /// Thaws a container's processes; one that is not frozen is a success.
    async fn unpause(&self, name: &str) -> Result<()>;

    /// Launches a command in a running container, detached from this caller.
    async fn exec(&self, name: &str, exec: &ExecSpec) -> Result<()>;

    /// The last `lines` lines of a container's output.
    async fn logs(&self, name: &str, lines: u32) -> Result<String>;

    /// Creates `name` with the definition of `source` (image, environment, mounts, networks and all) and other limits.
    async fn duplicate(
        &self,
        source: &str,
        name: &str,
        networks: &[Attachment],
        limits: Limits,
    ) -> Result<String>;

    /// One image of the local store.
    async fn image(&self, reference: &str) -> Result<Image>;

    /// All tags in the local store.
    async fn image_tags(&self) -> Result<Vec<String>>;

    /// Pulls an image and returns when it is in the local store. `deadline` bounds the whole transfer.
    async fn pull(
        &self,
        reference: &str,
        platform: &str,
        auth: Option<&Credentials>,
        deadline: Duration,
    ) -> Result<()>;

    /// Pushes an image under its reference. `deadline` bounds the whole transfer.
    async fn push(&self, reference: &str, auth: Option<&Credentials>, deadline: Duration) -> Result<()>;

    /// Gives an image another name.
    async fn tag(&self, source: &str, reference: &str) -> Result<()>;

    /// Removes a name, and the image when that was its last one.
    async fn remove_image(&self, reference: &str, force: bool) -> Result<()>;

    /// Makes an image of a container's filesystem, without pausing it, and returns its id. `changes` are Dockerfile instructions.
    async fn commit(
        &self,
        container: &str,
        reference: &str,
        changes: &[String],
        deadline: Duration,
    ) -> Result<String>;

    /// A container's filesystem as a tar stream.
    fn export(&self, container: &str) -> BoxStream<'static, io::Result<Bytes>>;

    /// Makes an image of a tar stream. `changes` are Dockerfile instructions.
    async fn import(
        &self,
        reference: &str,
        changes: &[String],
        tar: BoxStream<'static, io::Result<Bytes>>,
        deadline: Duration,
    ) -> Result<()>;

    /// Builds an image from a context; the build's output goes to `log` line by line as it appears.
    async fn build(
        &self,
        spec: &BuildSpec,
        context: BoxStream<'static, io::Result<Bytes>>,
        log: mpsc::Sender<Bytes>,
        deadline: Duration,
    ) -> Result<()>;

    /// What a registry says of a reference.
    async fn registry_digest(&self, reference: &str, auth: Option<&Credentials>) -> Result<Descriptor>;

    /// One network.
    async fn network(&self, name: &str) -> Result<Network>;

    /// The networks with this label.
    async fn networks(&self, label: &str) -> Result<Vec<Network>>;

    /// Creates a bridge network and returns its id. A taken name is a conflict.
    async fn create_network(&self, spec: &NetworkSpec) -> Result<String>;

    /// Removes a network.
    async fn remove_network(&self, name: &str) -> Result<()>;

    /// Attaches a container to a network.
    async fn connect(&self, container: &str, attachment: &Attachment) -> Result<()>;

    /// Detaches a container from a network.
    async fn disconnect(&self, container: &str, network: &str) -> Result<()>;
}
