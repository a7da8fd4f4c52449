//! The trait, over the state in memory.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::BroadcastStream;

use super::{Simulated, conflict, not_found};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::types::{
    Attachment, BuildSpec, Container, ContainerSpec, ContainerStatus, ContainerSummary, Credentials,
    Descriptor, EngineInfo, Event, ExecSpec, Image, Limits, Network, NetworkSpec,
};

fn lost<T>(value: T, fault: Option<EngineError>) -> Result<T> {
    fault.map_or(Ok(value), Err)
}

#[async_trait]
impl Engine for Simulated {
    async fn ping(&self) -> Result<()> {
        self.enter("ping", "").await.map(drop)
    }

    async fn info(&self) -> Result<EngineInfo> {
        self.enter("info", "").await?;
        Ok(EngineInfo {
            version: "simulated".to_owned(),
            data_root: "/".into(),
            driver: "overlay2".to_owned(),
            backing_filesystem: Some(if self.state().layers.is_some() { "xfs" } else { "extfs" }.to_owned()),
            architecture: "amd64".to_owned(),
            images: u64::try_from(self.state().images.len()).unwrap_or(0),
            runtimes: vec!["runc".to_owned()],
            insecure_registries: vec!["127.0.0.0/8".to_owned()],
            pids_limit: true,
        })
    }

    fn events(&self) -> BoxStream<'static, Result<Event>> {
        BroadcastStream::new(self.events.subscribe()).filter_map(|event| async { event.ok().map(Ok) }).boxed()
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>> {
        self.enter("list", "").await?;
        let summary = |c: &Container| ContainerSummary {
            id: c.id.clone(),
            name: c.name.clone(),
            image: c.image.clone(),
            image_id: c.image_id.clone(),
            labels: c.labels.clone(),
            status: c.status,
            mount_sources: c.mount_sources.clone(),
        };
        Ok(self.state().containers.values().map(summary).collect())
    }

    async fn inspect(&self, name: &str) -> Result<Container> {
        let late = self.take_late("inspect");
        let asked = self.with("inspect container", name, |c| Ok(c.clone()));
        self.enter("inspect", name).await?;
        if let Some(gate) = late {
            gate.notified().await;
            return asked;
        }
        self.with("inspect container", name, |c| Ok(c.clone()))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String> {
        let fault = self.enter("create", &spec.name).await?;
        if self.state().containers.contains_key(&spec.name) {
            return Err(conflict("create container", &spec.name, "the name is already in use"));
        }
        let Some(image) = self.state().images.get(&spec.image).cloned() else {
            return Err(not_found("create container: image", &spec.image));
        };
        let id = self.new_id();
        let mut labels = image.labels.clone();
        labels.extend(spec.labels.clone());
        let container = Container {
            id: id.clone(),
            name: spec.name.clone(),
            image: spec.image.clone(),
            image_id: image.id,
            status: ContainerStatus::Created,
            labels,
            env: spec.env.clone(),
            entrypoint: spec.entrypoint.clone().unwrap_or(image.entrypoint),
            cmd: spec.cmd.clone().unwrap_or(image.cmd),
            working_dir: spec.working_dir.clone().unwrap_or(image.working_dir),
            mount_sources: spec.binds.iter().filter_map(|b| b.split(':').next().map(str::to_owned)).collect(),
            networks: spec.networks.iter().map(|n| (n.network.clone(), n.address)).collect(),
            cpu_quota: i64::from(spec.limits.cpu.unwrap_or(0)) * 100_000,
            memory: spec.limits.memory.unwrap_or(0),
            storage_size: spec.limits.storage.map(|s| s.to_string()),
            ..Container::default()
        };
        self.state().specs.insert(spec.name.clone(), spec.clone());
        self.insert(container, &spec.networks);
        lost(id, fault)
    }

    async fn start(&self, name: &str) -> Result<()> {
        let late = self.take_late("start");
        let fault = self.enter("start", name).await?;
        let attachments = self.attachments(name);
        let id = self.with("start container", name, |container| {
            container.status = ContainerStatus::Running;
            container.exit_code = 0;
            container.oom_killed = false;
            container.pid = Some(4_000_000);
            for attachment in &attachments {
                let address = attachment.address.unwrap_or(Ipv4Addr::new(127, 0, 0, 2));
                container.networks.insert(attachment.network.clone(), Some(address));
            }
            Ok(container.id.clone())
        })?;
        self.emit("start", &id, name, None);
        if let Some(gate) = late {
            gate.notified().await;
        }
        lost((), fault)
    }

    async fn stop(&self, name: &str, _grace: Duration) -> Result<()> {
        let fault = self.enter("stop", name).await?;
        if self.with("stop container", name, |c| Ok(c.status == ContainerStatus::Running))? {
            self.exit(name, 143, false);
        }
        lost((), fault)
    }

    async fn kill(&self, name: &str) -> Result<()> {
        let fault = self.enter("kill", name).await?;
        if self.with("kill container", name, |c| Ok(c.status == ContainerStatus::Running))? {
            self.exit(name, 137, false);
        }
        lost((), fault)
    }

    async fn remove(&self, name: &str, force: bool) -> Result<()> {
        let fault = self.enter("remove", name).await?;
        let (id, name) = self.with("remove container", name, |container| {
            if container.status == ContainerStatus::Running && !force {
                return Err(conflict("remove container", name, "the container is running"));
            }
            Ok((container.id.clone(), container.name.clone()))
        })?;
        self.state().containers.remove(&name);
        self.emit("destroy", &id, &name, None);
        lost((), fault)
    }

    async fn update(&self, name: &str, limits: Limits) -> Result<()> {
        let fault = self.enter("update", name).await?;
        self.with("update container", name, |container| {
            if let Some(cpu) = limits.cpu {
                container.cpu_quota = i64::from(cpu) * 100_000;
            }
            if let Some(memory) = limits.memory {
                container.memory = memory;
            }
            Ok(())
        })?;
        lost((), fault)
    }

    async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let fault = self.enter("rename", name).await?;
        let mut state = self.state();
        if state.containers.contains_key(new_name) {
            return Err(conflict("rename container", name, "the name is already in use"));
        }
        let mut container =
            state.containers.remove(name).ok_or_else(|| not_found("rename container", name))?;
        container.name = new_name.to_owned();
        state.containers.insert(new_name.to_owned(), container);
        lost((), fault)
    }

    async fn pause(&self, name: &str) -> Result<()> {
        let fault = self.enter("pause", name).await?;
        self.with("pause container", name, |c| {
            c.status = ContainerStatus::Paused;
            Ok(())
        })?;
        lost((), fault)
    }

    async fn unpause(&self, name: &str) -> Result<()> {
        let fault = self.enter("unpause", name).await?;
        self.with("unpause container", name, |c| {
            if c.status == ContainerStatus::Paused {
                c.status = ContainerStatus::Running;
            }
            Ok(())
        })?;
        lost((), fault)
    }

    async fn exec(&self, name: &str, _exec: &ExecSpec) -> Result<()> {
        let fault = self.enter("exec", name).await?;
        self.with("launch in container", name, |_| Ok(()))?;
        lost((), fault)
    }

    async fn logs(&self, name: &str, _lines: u32) -> Result<String> {
        self.enter("logs", name).await?;
        self.with("read the output of container", name, |c| Ok(format!("last words of {}", c.name)))
    }

    async fn duplicate(
        &self,
        source: &str,
        name: &str,
        networks: &[Attachment],
        limits: Limits,
    ) -> Result<String> {
        let fault = self.enter("duplicate", name).await?;
        let mut container = self.with("inspect container", source, |c| Ok(c.clone()))?;
        if self.state().containers.contains_key(name) {
            return Err(conflict("create container", name, "the name is already in use"));
        }
        container.id = self.new_id();
        container.name = name.to_owned();
        container.status = ContainerStatus::Created;
        container.networks = networks.iter().map(|n| (n.network.clone(), n.address)).collect();
        container.storage_size = limits.storage.map(|s| s.to_string()).or(container.storage_size);
        let id = container.id.clone();
        self.insert(container, networks);
        lost(id, fault)
    }

    async fn image(&self, reference: &str) -> Result<Image> {
        self.enter("image", reference).await?;
        self.state().images.get(reference).cloned().ok_or_else(|| not_found("inspect image", reference))
    }

    async fn image_tags(&self) -> Result<Vec<String>> {
        self.enter("image_tags", "").await?;
        Ok(self.state().images.keys().cloned().collect())
    }

    async fn pull(
        &self,
        reference: &str,
        _platform: &str,
        _auth: Option<&Credentials>,
        _deadline: Duration,
    ) -> Result<()> {
        let fault = self.enter("pull", reference).await?;
        let image = Image {
            id: format!("sha256:{:064x}", 7),
            tags: vec![reference.to_owned()],
            architecture: "amd64".to_owned(),
            size: 1 << 20,
            cmd: vec!["sh".to_owned()],
            ..Image::default()
        };
        self.state().images.entry(reference.to_owned()).or_insert(image);
        lost((), fault)
    }

    async fn push(&self, reference: &str, _auth: Option<&Credentials>, _deadline: Duration) -> Result<()> {
        let fault = self.enter("push", reference).await?;
        lost((), fault)
    }

    async fn tag(&self, source: &str, reference: &str) -> Result<()> {
        let fault = self.enter("tag", reference).await?;
        let image = self.state().images.get(source).cloned().ok_or_else(|| not_found("tag image", source))?;
        self.state().images.insert(reference.to_owned(), image);
        lost((), fault)
    }

    async fn remove_image(&self, reference: &str, _force: bool) -> Result<()> {
        let fault = self.enter("remove_image", reference).await?;
        self.state().images.remove(reference).ok_or_else(|| not_found("remove image", reference))?;
        lost((), fault)
    }

    async fn commit(
        &self,
        container: &str,
        reference: &str,
        _changes: &[String],
        _deadline: Duration,
    ) -> Result<String> {
        let fault = self.enter("commit", container).await?;
        let made = self.with("commit container", container, |c| {
            Ok(Image {
                entrypoint: c.entrypoint.clone(),
                cmd: c.cmd.clone(),
                env: c.env.clone(),
                ..Image::default()
            })
        })?;
        let layers = self.with("commit container", container, |c| Ok(c.image.clone()))?;
        let layers = self.state().images.get(&layers).map_or(0, |image| image.layers);
        let id = format!("sha256:{}", self.new_id());
        let image = Image {
            id: id.clone(),
            architecture: "amd64".to_owned(),
            size: 1 << 20,
            layers: layers + 1,
            ..made
        };
        self.state().images.insert(reference.to_owned(), image);
        lost(id, fault)
    }

    fn export(&self, _container: &str) -> BoxStream<'static, io::Result<Bytes>> {
        stream::once(async { Ok(Bytes::from_static(b"tar")) }).boxed()
    }

    async fn import(
        &self,
        reference: &str,
        _changes: &[String],
        mut tar: BoxStream<'static, io::Result<Bytes>>,
        _deadline: Duration,
    ) -> Result<()> {
        let fault = self.enter("import", reference).await?;
        while tar.next().await.is_some() {}
        self.add_image(reference, Image { architecture: "amd64".to_owned(), ..Image::default() });
        lost((), fault)
    }

    async fn build(
        &self,
        spec: &BuildSpec,
        mut context: BoxStream<'static, io::Result<Bytes>>,
        log: mpsc::Sender<Bytes>,
        _deadline: Duration,
    ) -> Result<()> {
        while context.next().await.is_some() {}
        let _ = log.send(Bytes::from_static(b"Step 1/1 : FROM scratch\n")).await;
        let fault = self.enter("build", &spec.tag).await?;
        let id = format!("sha256:{}", self.new_id());
        self.add_image(
            &spec.tag,
            Image { id, architecture: "amd64".to_owned(), size: 1 << 20, ..Image::default() },
        );
        lost((), fault)
    }

    async fn registry_digest(&self, reference: &str, _auth: Option<&Credentials>) -> Result<Descriptor> {
        let fault = self.enter("registry_digest", reference).await?;
        lost(Descriptor { digest: format!("sha256:{:064x}", 9), size: 1024 }, fault)
    }

    async fn network(&self, name: &str) -> Result<Network> {
        self.enter("network", name).await?;
        self.state().networks.get(name).cloned().ok_or_else(|| not_found("inspect network", name))
    }

    async fn networks(&self, label: &str) -> Result<Vec<Network>> {
        self.enter("networks", "").await?;
        Ok(self.state().networks.values().filter(|n| n.labels.contains_key(label)).cloned().collect())
    }

    async fn create_network(&self, spec: &NetworkSpec) -> Result<String> {
        let fault = self.enter("create_network", &spec.name).await?;
        if self.state().networks.contains_key(&spec.name) {
            return Err(conflict("create network", &spec.name, "the name is already in use"));
        }
        let id = self.new_id();
        let network = Network {
            id: id.clone(),
            name: spec.name.clone(),
            subnet: spec.subnet.clone(),
            gateway: None,
            bridge: spec.bridge.clone().unwrap_or_else(|| format!("br-{}", &id[52..])),
            labels: spec.labels.clone(),
            containers: Vec::new(),
        };
        self.state().networks.insert(spec.name.clone(), network);
        lost(id, fault)
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        let fault = self.enter("remove_network", name).await?;
        self.state().networks.remove(name).ok_or_else(|| not_found("remove network", name))?;
        lost((), fault)
    }

    async fn connect(&self, container: &str, attachment: &Attachment) -> Result<()> {
        let fault = self.enter("connect", container).await?;
        self.with("attach", container, |c| {
            c.networks.entry(attachment.network.clone()).or_insert(attachment.address);
            Ok(())
        })?;
        let mut state = self.state();
        let attached = state.attachments.entry(container.to_owned()).or_default();
        attached.retain(|other| other.network != attachment.network);
        attached.push(attachment.clone());
        drop(state);
        lost((), fault)
    }

    async fn disconnect(&self, container: &str, network: &str) -> Result<()> {
        let fault = self.enter("disconnect", container).await?;
        self.with("detach", container, |c| {
            c.networks.remove(network);
            Ok(())
        })?;
        if let Some(attached) = self.state().attachments.get_mut(container) {
            attached.retain(|other| other.network != network);
        }
        lost((), fault)
    }
}
