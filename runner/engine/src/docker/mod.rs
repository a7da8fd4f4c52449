//! A Docker Engine through bollard.
//!
//! bollard has one timeout for a whole client; here it is the outer bound and each call has a deadline of its own ([`Docker::within`]).
//! bollard writes registry credentials in plain base64 while engines read the URL-safe alphabet and silently ignore what they cannot
//! read, so a request modifier rewrites that header.

mod buildkit;
mod containers;
mod convert;
mod images;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bollard::Docker as Client;
use bollard::query_parameters::EventsOptionsBuilder;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use pinfold_proto::error::chain;
use tokio::sync::mpsc;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::Engine;
use crate::error::{EngineError, Result, normalise};
use crate::types::{
    Attachment, BuildSpec, Builder, Container, ContainerSpec, ContainerSummary, Credentials, Descriptor,
    EngineInfo, Event, ExecSpec, Image, Limits, Network, NetworkSpec,
};

/// Calls that only read or change the engine's own tables.
const QUICK: Duration = Duration::from_secs(15);
/// Calls that make namespaces, layers or mounts.
const LIFECYCLE: Duration = Duration::from_secs(120);
/// bollard's own timeout: above every deadline of ours.
const OUTER_SECONDS: u64 = 4 * 3600;

/// Why no engine could be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not usable, or nothing answers there.
    #[error("no Docker engine answers at {host}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        host: String,
        /// What went wrong.
        reason: String,
    },
}

/// A Docker Engine. Clones share one connection pool.
#[derive(Debug, Clone)]
pub struct Docker {
    client: Client,
}

impl Docker {
    /// Connects to `DOCKER_HOST`, or to the socket at its usual place, and agrees on an API version.
    pub async fn connect() -> std::result::Result<Self, ConnectError> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        let unreachable = |reason: String| ConnectError::Unreachable { host: host.clone(), reason };
        let client = Client::connect_with_defaults().map_err(|e| unreachable(e.to_string()))?;
        let client = client
            .with_timeout(Duration::from_secs(OUTER_SECONDS))
            .with_request_modifier(|request| build_memory_in_bytes(url_safe_credentials(request)));
        let negotiated = tokio::time::timeout(QUICK, client.negotiate_version()).await;
        let client = negotiated.map_err(|_| unreachable(format!("no answer within {QUICK:?}")))?;
        client.map(|client| Self { client }).map_err(|e| unreachable(e.to_string()))
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        what: impl Fn() -> String,
        call: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        let span = span(&what);
        let result = match tokio::time::timeout(deadline, call.instrument(span.clone())).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(classify(&what(), error)),
            Err(_) => Err(EngineError::Timeout { what: what(), after: deadline }),
        };
        ended(&span, &result);
        result
    }
}

/// The client span of a call, named by its first two words: the rest names what it is about.
fn span(what: impl Fn() -> String) -> Span {
    let span = tracing::info_span!(
        target: "pinfold_engine::span",
        "engine",
        otel.name = Empty,
        otel.kind = "client",
        engine.call = Empty,
        error = Empty,
    );
    if !span.is_disabled() {
        let what = what();
        let end = what.match_indices(' ').nth(1).map_or(what.len(), |(at, _)| at);
        span.record("otel.name", &what[..end]);
        span.record("engine.call", what.as_str());
    }
    span
}

/// That something is not there is an answer, no failure.
fn ended<T>(span: &Span, result: &Result<T>) {
    if let Err(error) = result
        && !error.is_not_found()
    {
        span.record("error", error.to_string());
    }
}

fn url_safe_credentials<B>(mut request: http::Request<B>) -> http::Request<B> {
    for name in ["x-registry-auth", "x-registry-config"] {
        if let Some(value) = request.headers().get(name).and_then(|v| v.to_str().ok())
            && let Ok(safe) = http::HeaderValue::from_str(&value.replace('+', "-").replace('/', "_"))
        {
            request.headers_mut().insert(name, safe);
        }
    }
    request
}

/// bollard's type for a build's memory ends below 2 GiB, so we tell it KiB, and the engine gets bytes.
fn build_memory_in_bytes<B>(mut request: http::Request<B>) -> http::Request<B> {
    let Some((path, query)) = request.uri().path_and_query().and_then(|pq| pq.as_str().split_once('?'))
    else {
        return request;
    };
    if !path.ends_with("/build") {
        return request;
    }
    let scaled = query.split('&').map(|pair| match pair.split_once('=') {
        Some((key @ ("memory" | "memswap"), value)) => {
            let bytes = value.parse::<i64>().map_or(0, |kib| kib.saturating_mul(1024));
            format!("{key}={bytes}")
        }
        _ => pair.to_owned(),
    });
    let target = format!("{path}?{}", scaled.collect::<Vec<_>>().join("&"));
    let mut parts = request.uri().clone().into_parts();
    if let Ok(target) = target.parse() {
        parts.path_and_query = Some(target);
        if let Ok(uri) = http::Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// A bollard error as ours.
fn classify(what: &str, error: bollard::errors::Error) -> EngineError {
    use bollard::errors::Error as E;
    match error {
        E::DockerResponseServerError { status_code, message } => {
            EngineError::from_status(what, status_code, message)
        }
        E::DockerStreamError { error } => EngineError::from_status(what, stream_status(&error), error),
        E::RequestTimeoutError => {
            EngineError::Timeout { what: what.to_owned(), after: Duration::from_secs(OUTER_SECONDS) }
        }
        E::SocketNotFoundError(path) => EngineError::Unreachable {
            what: what.to_owned(),
            message: format!("there is no socket at {path}"),
        },
        E::HyperLegacyError { err } if err.is_connect() => {
            EngineError::Unreachable { what: what.to_owned(), message: chain(&err) }
        }
        E::HyperLegacyError { err } => {
            EngineError::Unreachable { what: what.to_owned(), message: chain(&err) }
        }
        E::HyperResponseError { err } => {
            EngineError::Unreachable { what: what.to_owned(), message: chain(&err) }
        }
        E::IOError { err } => EngineError::Unreachable { what: what.to_owned(), message: chain(&err) },
        other => EngineError::Internal { what: what.to_owned(), message: normalise(other.to_string()) },
    }
}

/// Errors inside a progress stream have no status, only words.
fn stream_status(error: &str) -> u16 {
    let lower = error.to_ascii_lowercase();
    if lower.contains("not found") || lower.contains("manifest unknown") || lower.contains("no such image") {
        404
    } else {
        500
    }
}

#[async_trait]
impl Engine for Docker {
    async fn ping(&self) -> Result<()> {
        self.within(Duration::from_secs(2), || "ping the engine".to_owned(), self.client.ping())
            .await
            .map(drop)
    }

    async fn info(&self) -> Result<EngineInfo> {
        let info =
            self.within(QUICK, || "ask the engine about itself".to_owned(), self.client.info()).await?;
        let backing = info
            .driver_status
            .iter()
            .flatten()
            .find(|pair| pair.first().is_some_and(|k| k == "Backing Filesystem"));
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            data_root: PathBuf::from(info.docker_root_dir.unwrap_or_else(|| "/var/lib/docker".to_owned())),
            driver: info.driver.unwrap_or_default(),
            backing_filesystem: backing.and_then(|pair| pair.get(1)).cloned(),
            architecture: convert::architecture(info.architecture.as_deref().unwrap_or_default()),
            images: u64::try_from(info.images.unwrap_or(0)).unwrap_or(0),
            runtimes: info.runtimes.unwrap_or_default().into_keys().collect(),
            insecure_registries: info.registry_config.map(convert::insecure_registries).unwrap_or_default(),
            pids_limit: info.pids_limit.unwrap_or(false),
        })
    }

    fn events(&self) -> BoxStream<'static, Result<Event>> {
        let kinds = [("type", vec!["container", "image"])].into();
        // bollard asks when the stream is first read; what happens until then must not be missed.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let options = EventsOptionsBuilder::default().filters(&kinds).since(&now.to_string()).build();
        let events = self.client.events(Some(options)).map_err(|e| classify("read the engine's events", e));
        events.try_filter_map(|message| async move { Ok(convert::event(message)) }).boxed()
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>> {
        self.list_containers().await
    }

    async fn inspect(&self, name: &str) -> Result<Container> {
        self.inspect_container(name).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String> {
        self.create_container(spec).await
    }

    async fn start(&self, name: &str) -> Result<()> {
        self.start_container(name).await
    }

    async fn stop(&self, name: &str, grace: Duration) -> Result<()> {
        self.stop_container(name, grace).await
    }

    async fn kill(&self, name: &str) -> Result<()> {
        self.kill_container(name).await
    }

    async fn remove(&self, name: &str, force: bool) -> Result<()> {
        self.remove_container(name, force).await
    }

    async fn update(&self, name: &str, limits: Limits) -> Result<()> {
        self.update_container(name, limits).await
    }

    async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        self.rename_container(name, new_name).await
    }

    async fn pause(&self, name: &str) -> Result<()> {
        self.within(LIFECYCLE, || format!("pause container {name}"), self.client.pause_container(name)).await
    }

    async fn unpause(&self, name: &str) -> Result<()> {
        let thawed = self
            .within(LIFECYCLE, || format!("unpause container {name}"), self.client.unpause_container(name))
            .await;
        match thawed {
            Err(EngineError::Internal { message, .. } | EngineError::Conflict { message, .. })
                if message.contains("not paused") =>
            {
                Ok(())
            }
            other => other,
        }
    }

    async fn exec(&self, name: &str, exec: &ExecSpec) -> Result<()> {
        self.exec_detached(name, exec).await
    }

    async fn logs(&self, name: &str, lines: u32) -> Result<String> {
        self.container_logs(name, lines).await
    }

    async fn duplicate(
        &self,
        source: &str,
        name: &str,
        networks: &[Attachment],
        limits: Limits,
    ) -> Result<String> {
        self.duplicate_container(source, name, networks, limits).await
    }

    async fn image(&self, reference: &str) -> Result<Image> {
        let call = self.client.inspect_image(reference);
        self.within(QUICK, || format!("inspect image {reference}"), call).await.map(convert::image)
    }

    async fn image_tags(&self) -> Result<Vec<String>> {
        self.list_image_tags().await
    }

    async fn pull(
        &self,
        reference: &str,
        platform: &str,
        auth: Option<&Credentials>,
        deadline: Duration,
    ) -> Result<()> {
        self.pull_image(reference, platform, auth, deadline).await
    }

    async fn push(&self, reference: &str, auth: Option<&Credentials>, deadline: Duration) -> Result<()> {
        self.push_image(reference, auth, deadline).await
    }

    async fn tag(&self, source: &str, reference: &str) -> Result<()> {
        self.tag_image(source, reference).await
    }

    async fn remove_image(&self, reference: &str, force: bool) -> Result<()> {
        self.remove_image_name(reference, force).await
    }

    async fn commit(
        &self,
        container: &str,
        reference: &str,
        changes: &[String],
        deadline: Duration,
    ) -> Result<String> {
        self.commit_container(container, reference, changes, deadline).await
    }

    fn export(&self, container: &str) -> BoxStream<'static, io::Result<Bytes>> {
        self.export_container(container)
    }

    async fn import(
        &self,
        reference: &str,
        changes: &[String],
        tar: BoxStream<'static, io::Result<Bytes>>,
        deadline: Duration,
    ) -> Result<()> {
        self.import_image(reference, changes, tar, deadline).await
    }

    async fn build(
        &self,
        spec: &BuildSpec,
        context: BoxStream<'static, io::Result<Bytes>>,
        log: mpsc::Sender<Bytes>,
        deadline: Duration,
    ) -> Result<()> {
        if spec.builder == Builder::BuildKit {
            match self.no_buildkit(spec).await {
                None => return self.build_with_buildkit(spec, context, log, deadline).await,
                Some(reason) => {
                    tracing::warn!(tag = spec.tag, reason, "BuildKit cannot be used; the legacy builder is");
                    let line = format!("BuildKit cannot be used, so the legacy builder is: {reason}\n");
                    let _ = log.send(Bytes::from(line)).await;
                }
            }
        }
        self.build_image(spec, context, log, deadline).await
    }

    async fn registry_digest(&self, reference: &str, auth: Option<&Credentials>) -> Result<Descriptor> {
        let call = self.client.inspect_registry_image(reference, auth.map(convert::credentials));
        let found = self
            .within(Duration::from_secs(20), || format!("look up {reference} in its registry"), call)
            .await?;
        Ok(Descriptor {
            digest: found.descriptor.digest.unwrap_or_default(),
            size: u64::try_from(found.descriptor.size.unwrap_or(0)).unwrap_or(0),
        })
    }

    async fn network(&self, name: &str) -> Result<Network> {
        let options = None::<bollard::query_parameters::InspectNetworkOptions>;
        let call = self.client.inspect_network(name, options);
        self.within(QUICK, || format!("inspect network {name}"), call).await.map(convert::network)
    }

    async fn networks(&self, label: &str) -> Result<Vec<Network>> {
        let filters = std::collections::HashMap::from([("label", vec![label])]);
        let options =
            bollard::query_parameters::ListNetworksOptionsBuilder::default().filters(&filters).build();
        let listed = self
            .within(QUICK, || "list networks".to_owned(), self.client.list_networks(Some(options)))
            .await?;
        // A listing does not say who is attached.
        let mut found = Vec::new();
        for name in listed.into_iter().filter_map(|n| n.id) {
            match self.network(&name).await {
                Err(error) if error.is_not_found() => {}
                network => found.push(network?),
            }
        }
        Ok(found)
    }

    async fn create_network(&self, spec: &NetworkSpec) -> Result<String> {
        let call = self.client.create_network(convert::network_request(spec));
        self.within(LIFECYCLE, || format!("create network {}", spec.name), call).await.map(|made| made.id)
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        self.within(LIFECYCLE, || format!("remove network {name}"), self.client.remove_network(name)).await
    }

    async fn connect(&self, container: &str, attachment: &Attachment) -> Result<()> {
        let request = bollard::models::NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(convert::endpoint(attachment)),
        };
        let call = self.client.connect_network(&attachment.network, request);
        self.within(LIFECYCLE, || format!("attach {container} to network {}", attachment.network), call).await
    }

    async fn disconnect(&self, container: &str, network: &str) -> Result<()> {
        let request =
            bollard::models::NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
        let call = self.client.disconnect_network(network, request);
        self.within(LIFECYCLE, || format!("detach {container} from network {network}"), call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_may_have_more_than_two_gibibytes() {
        let uri = "unix://2f72756e/v1.41/build?t=a%3A1&memory=8388608&memswap=8388608&rm=true";
        let request = build_memory_in_bytes(http::Request::builder().uri(uri).body(()).unwrap());
        let query = request.uri().query().unwrap();
        assert_eq!(query, "t=a%3A1&memory=8589934592&memswap=8589934592&rm=true");
        assert_eq!(request.uri().authority().unwrap(), "2f72756e");
    }

    #[test]
    fn credentials_travel_in_the_alphabet_that_engines_read() {
        let request = http::Request::builder().header("x-registry-auth", "a+b/c=").body(()).unwrap();
        assert_eq!(url_safe_credentials(request).headers()["x-registry-auth"], "a-b_c=");
    }
}
