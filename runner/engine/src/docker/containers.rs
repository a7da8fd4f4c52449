//! Container calls.

use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    RenameContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};

use super::{Docker, LIFECYCLE, QUICK, convert};
use crate::error::{EngineError, Result};
use crate::types::{Attachment, Container, ContainerSpec, ContainerSummary, ExecSpec, Limits};

/// Most bytes of container output that an error message quotes from.
const LOG_LIMIT: usize = 16 * 1024;

impl Docker {
    pub(super) async fn list_containers(&self) -> Result<Vec<ContainerSummary>> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let call = self.client.list_containers(Some(options));
        // A listing walks every container; at thousands it is not quick.
        let listed = self.within(LIFECYCLE, || "list containers".to_owned(), call).await?;
        Ok(listed.into_iter().map(convert::summary).collect())
    }

    pub(super) async fn inspect_container(&self, name: &str) -> Result<Container> {
        let call = self.client.inspect_container(name, None::<InspectContainerOptions>);
        self.within(QUICK, || format!("inspect container {name}"), call).await.map(convert::container)
    }

    pub(super) async fn create_container(&self, spec: &ContainerSpec) -> Result<String> {
        let id = self.create_raw(&spec.name, &spec.platform, convert::create_body(spec)).await?;
        self.attach_rest(&id, &spec.networks).await?;
        Ok(id)
    }

    async fn create_raw(&self, name: &str, platform: &str, body: ContainerCreateBody) -> Result<String> {
        let mut options = CreateContainerOptionsBuilder::default().name(name);
        if !platform.is_empty() {
            options = options.platform(platform);
        }
        let call = self.client.create_container(Some(options.build()), body);
        self.within(LIFECYCLE, || format!("create container {name}"), call).await.map(|made| made.id)
    }

    /// Attaches all networks but the first; a container that cannot get one of them is not left behind.
    async fn attach_rest(&self, id: &str, networks: &[Attachment]) -> Result<()> {
        for attachment in networks.iter().skip(1) {
            if let Err(error) = crate::Engine::connect(self, id, attachment).await {
                let _ = self.remove_container(id, true).await;
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) async fn start_container(&self, name: &str) -> Result<()> {
        let call = self.client.start_container(name, None::<StartContainerOptions>);
        ignore_unmodified(self.within(LIFECYCLE, || format!("start container {name}"), call).await)
    }

    pub(super) async fn stop_container(&self, name: &str, grace: Duration) -> Result<()> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(10);
        let call =
            self.client.stop_container(name, Some(StopContainerOptionsBuilder::default().t(seconds).build()));
        ignore_unmodified(self.within(grace + LIFECYCLE, || format!("stop container {name}"), call).await)
    }

    pub(super) async fn kill_container(&self, name: &str) -> Result<()> {
        let call = self
            .client
            .kill_container(name, Some(KillContainerOptionsBuilder::default().signal("SIGKILL").build()));
        match self.within(LIFECYCLE, || format!("kill container {name}"), call).await {
            Err(EngineError::Conflict { message, .. }) if message.contains("not running") => Ok(()),
            other => other,
        }
    }

    pub(super) async fn remove_container(&self, name: &str, force: bool) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default().force(force).v(true).build();
        let call = self.client.remove_container(name, Some(options));
        self.within(LIFECYCLE, || format!("remove container {name}"), call).await
    }

    pub(super) async fn update_container(&self, name: &str, limits: Limits) -> Result<()> {
        let call = self.client.update_container(name, convert::update(limits));
        self.within(LIFECYCLE, || format!("update container {name}"), call).await
    }

    pub(super) async fn rename_container(&self, name: &str, new_name: &str) -> Result<()> {
        let options = RenameContainerOptionsBuilder::default().name(new_name).build();
        let call = self.client.rename_container(name, options);
        self.within(QUICK, || format!("rename container {name} to {new_name}"), call).await
    }

    pub(super) async fn exec_detached(&self, name: &str, exec: &ExecSpec) -> Result<()> {
        let options = CreateExecOptions {
            cmd: Some(exec.cmd.clone()),
            env: Some(exec.env.clone()),
            working_dir: exec.working_dir.clone(),
            ..Default::default()
        };
        let what = || format!("launch {:?} in container {name}", exec.cmd.first().map_or("", String::as_str));
        let made = self.within(QUICK, what, self.client.create_exec(name, options)).await?;
        let start = StartExecOptions { detach: true, ..Default::default() };
        self.within(LIFECYCLE, what, self.client.start_exec(&made.id, Some(start))).await.map(drop)
    }

    pub(super) async fn container_logs(&self, name: &str, lines: u32) -> Result<String> {
        let options =
            LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let mut stream = self.client.logs(name, Some(options)).boxed();
        let read = async {
            let mut text = Vec::new();
            while let Some(chunk) = stream.try_next().await? {
                text.extend_from_slice(chunk.as_ref());
                if text.len() > LOG_LIMIT {
                    text.drain(..text.len() - LOG_LIMIT);
                }
            }
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        self.within(QUICK, || format!("read the output of container {name}"), read).await
    }

    pub(super) async fn duplicate_container(
        &self,
        source: &str,
        name: &str,
        networks: &[Attachment],
        limits: Limits,
    ) -> Result<String> {
        let call = self.client.inspect_container(source, None::<InspectContainerOptions>);
        let found = self.within(QUICK, || format!("inspect container {source}"), call).await?;
        let config = found.config.unwrap_or_default();
        let mut host: HostConfig = found.host_config.unwrap_or_default();
        convert::apply_limits(&mut host, limits);
        host.network_mode = networks.first().map(|n| n.network.clone());
        let body = ContainerCreateBody {
            hostname: config.hostname,
            user: config.user,
            attach_stdout: config.attach_stdout,
            attach_stderr: config.attach_stderr,
            env: config.env,
            cmd: config.cmd,
            // The name may have moved to another image since; the id has not.
            image: config.image.filter(|image| !image.is_empty()).or(found.image),
            working_dir: config.working_dir,
            entrypoint: config.entrypoint,
            labels: config.labels,
            stop_signal: config.stop_signal,
            host_config: Some(host),
            networking_config: convert::networking(networks),
            ..Default::default()
        };
        let id = self.create_raw(name, "", body).await?;
        self.attach_rest(&id, networks).await?;
        Ok(id)
    }
}

/// 304 means that the container already is as asked.
fn ignore_unmodified(result: Result<()>) -> Result<()> {
    match result {
        Err(EngineError::Internal { message, .. }) if message.is_empty() => Ok(()),
        other => other,
    }
}
