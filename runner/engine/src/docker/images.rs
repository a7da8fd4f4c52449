//! Image calls.

use std::io;
use std::time::Duration;

use bollard::body_try_stream;
use bollard::models::ContainerConfig;
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CommitContainerOptionsBuilder, CreateImageOptionsBuilder,
    ListImagesOptionsBuilder, PushImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{Docker, LIFECYCLE, QUICK, classify, convert};
use crate::error::{EngineError, Result};
use crate::types::{BuildSpec, Credentials};

/// Longest silence in a transfer. Extracting a large layer reports progress, so silence means a dead connection.
const STALL: Duration = Duration::from_secs(600);

/// Splits `host:port/name:tag` into name and tag; a digest stays with the name.
fn split_tag(reference: &str) -> (&str, &str) {
    if reference.contains('@') {
        return (reference, "");
    }
    let name_start = reference.rfind('/').map_or(0, |i| i + 1);
    match reference[name_start..].rfind(':') {
        Some(colon) => (&reference[..name_start + colon], &reference[name_start + colon + 1..]),
        None => (reference, "latest"),
    }
}

impl Docker {
    /// Reads a progress stream to its end; any error in it is the call's.
    async fn drain<T>(
        &self,
        what: String,
        deadline: Duration,
        stream: impl Stream<Item = std::result::Result<T, bollard::errors::Error>> + Send,
        mut line: impl FnMut(T) -> Option<String>,
    ) -> Result<()> {
        let mut stream = std::pin::pin!(stream);
        let read = async {
            loop {
                match tokio::time::timeout(STALL, stream.next()).await {
                    Err(_) => return Err(EngineError::Timeout { what: what.clone(), after: STALL }),
                    Ok(None) => return Ok(()),
                    Ok(Some(Err(error))) => return Err(classify(&what, error)),
                    Ok(Some(Ok(item))) => {
                        if let Some(error) = line(item) {
                            return Err(EngineError::from_status(&what, super::stream_status(&error), error));
                        }
                    }
                }
            }
        };
        let span = super::span(|| what.clone());
        let result = match tokio::time::timeout(deadline, read.instrument(span.clone())).await {
            Ok(result) => result,
            Err(_) => Err(EngineError::Timeout { what: what.clone(), after: deadline }),
        };
        super::ended(&span, &result);
        result
    }

    pub(super) async fn list_image_tags(&self) -> Result<Vec<String>> {
        let options = ListImagesOptionsBuilder::default().digests(true).build();
        let call = self.client.list_images(Some(options));
        let listed = self.within(QUICK, || "list images".to_owned(), call).await?;
        Ok(listed
            .into_iter()
            .flat_map(|image| image.repo_tags.into_iter().chain(image.repo_digests))
            .collect())
    }

    pub(super) async fn pull_image(
        &self,
        reference: &str,
        platform: &str,
        auth: Option<&Credentials>,
        deadline: Duration,
    ) -> Result<()> {
        let (name, tag) = split_tag(reference);
        let mut options = CreateImageOptionsBuilder::default().from_image(name);
        if !tag.is_empty() {
            options = options.tag(tag);
        }
        if !platform.is_empty() {
            options = options.platform(platform);
        }
        let stream = self.client.create_image(Some(options.build()), None, auth.map(convert::credentials));
        self.drain(format!("pull {reference}"), deadline, stream, |info| {
            info.error_detail.and_then(|e| e.message)
        })
        .await
    }

    pub(super) async fn push_image(
        &self,
        reference: &str,
        auth: Option<&Credentials>,
        deadline: Duration,
    ) -> Result<()> {
        let (name, tag) = split_tag(reference);
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let stream = self.client.push_image(name, Some(options), auth.map(convert::credentials));
        self.drain(format!("push {reference}"), deadline, stream, |info| {
            info.error_detail.and_then(|e| e.message)
        })
        .await
    }

    pub(super) async fn tag_image(&self, source: &str, reference: &str) -> Result<()> {
        let (repo, tag) = split_tag(reference);
        let options = TagImageOptionsBuilder::default().repo(repo).tag(tag).build();
        self.within(
            QUICK,
            || format!("tag {source} as {reference}"),
            self.client.tag_image(source, Some(options)),
        )
        .await
    }

    pub(super) async fn remove_image_name(&self, reference: &str, force: bool) -> Result<()> {
        let options = RemoveImageOptionsBuilder::default().force(force).noprune(false).build();
        let call = self.client.remove_image(reference, Some(options), None);
        self.within(LIFECYCLE, || format!("remove image {reference}"), call).await.map(drop)
    }

    pub(super) async fn commit_container(
        &self,
        container: &str,
        reference: &str,
        changes: &[String],
        deadline: Duration,
    ) -> Result<String> {
        let (repo, tag) = split_tag(reference);
        let changes = changes.join("\n");
        let mut options =
            CommitContainerOptionsBuilder::default().container(container).repo(repo).tag(tag).pause(false);
        if !changes.is_empty() {
            options = options.changes(&changes);
        }
        let call = self.client.commit_container(options.build(), ContainerConfig::default());
        self.within(deadline, || format!("commit container {container} as {reference}"), call)
            .await
            .map(|made| made.id)
    }

    pub(super) fn export_container(&self, container: &str) -> BoxStream<'static, io::Result<Bytes>> {
        let (client, container) = (self.client.clone(), container.to_owned());
        // bollard's stream borrows the client, so it lives in a task; the channel is the bound.
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut stream = client.export_container(&container).boxed();
            while let Some(chunk) = stream.next().await {
                if sender.send(chunk.map_err(io::Error::other)).await.is_err() {
                    break;
                }
            }
        });
        tokio_stream::wrappers::ReceiverStream::new(receiver).boxed()
    }

    pub(super) async fn import_image(
        &self,
        reference: &str,
        changes: &[String],
        tar: BoxStream<'static, io::Result<Bytes>>,
        deadline: Duration,
    ) -> Result<()> {
        let (repo, tag) = split_tag(reference);
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(repo).tag(tag);
        let options = options.changes(changes.to_vec()).build();
        let stream = self.client.create_image(Some(options), Some(body_try_stream(tar)), None);
        self.drain(format!("import {reference}"), deadline, stream, |info| {
            info.error_detail.and_then(|e| e.message)
        })
        .await
    }

    pub(super) async fn build_image(
        &self,
        spec: &BuildSpec,
        context: BoxStream<'static, io::Result<Bytes>>,
        log: mpsc::Sender<Bytes>,
        deadline: Duration,
    ) -> Result<()> {
        let mut options = BuildImageOptionsBuilder::default()
            .dockerfile(&spec.dockerfile)
            .t(&spec.tag)
            .rm(true)
            .forcerm(true);
        if !spec.platform.is_empty() {
            options = options.platform(&spec.platform);
        }
        if spec.pull {
            options = options.pull("true");
        }
        if let Some(cpu) = spec.limits.cpu.and_then(|cpu| i32::try_from(cpu).ok()) {
            options = options.cpuperiod(100_000).cpuquota(cpu.saturating_mul(100_000));
        }
        // In KiB: see `build_memory_in_bytes`.
        if let Some(memory) = spec.limits.memory.and_then(|bytes| i32::try_from(bytes / 1024).ok()) {
            options = options.memory(memory).memswap(memory);
        }
        let credentials =
            spec.credentials.iter().map(|(host, auth)| (host.clone(), convert::credentials(auth)));
        let stream = self.client.build_image(
            options.build(),
            Some(credentials.collect()),
            Some(body_try_stream(context)),
        );
        let stream = stream.try_filter_map(|info| {
            let log = log.clone();
            async move {
                let text = info.stream.or(info.status.map(|s| s + "\n"));
                if let Some(text) = text.filter(|t| !t.is_empty()) {
                    // A reader that went away does not stop the build.
                    let _ = log.send(Bytes::from(text)).await;
                }
                Ok(Some(info.error_detail))
            }
        });
        self.drain(format!("build {}", spec.tag), deadline, stream, |error| error.and_then(|e| e.message))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::split_tag;

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(split_tag("reg:5000/a/b"), ("reg:5000/a/b", "latest"));
        assert_eq!(split_tag("reg:5000/a/b:1"), ("reg:5000/a/b", "1"));
        assert_eq!(split_tag("debian"), ("debian", "latest"));
        assert_eq!(split_tag("a@sha256:ff"), ("a@sha256:ff", ""));
    }
}
