//! The compressed size of an image, asked from its registry (OCI distribution specification; runner contract 7.7).

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::StreamExt;
use http::StatusCode;
use http::header::{ACCEPT, WWW_AUTHENTICATE};
use pinfold_engine::Credentials;
use reqwest::{Client, Response};
use serde::Deserialize;

use super::reference::{has_registry, split};

/// Manifests are small; more than this is none.
const LARGEST: usize = 4 << 20;
const CALL: Duration = Duration::from_secs(6);
const KINDS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Manifest {
    config: Sized,
    layers: Vec<Sized>,
    manifests: Vec<Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Sized {
    size: u64,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    platform: Platform,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

struct Place<'a> {
    host: &'a str,
    name: String,
    tag: &'a str,
}

fn place(reference: &str) -> Place<'_> {
    let (name, tag) = match reference.split_once('@') {
        Some((name, digest)) => (split(name).0, digest),
        None => (split(reference).0, split(reference).1.unwrap_or("latest")),
    };
    let (host, name) = if has_registry(name) {
        name.split_once('/').unwrap_or(("docker.io", name))
    } else {
        ("docker.io", name)
    };
    let hub = matches!(host, "docker.io" | "index.docker.io");
    let name = if hub && !name.contains('/') { format!("library/{name}") } else { name.to_owned() };
    Place { host: if hub { "registry-1.docker.io" } else { host }, name, tag }
}

struct Registry<'a> {
    client: Client,
    auth: Option<&'a Credentials>,
}

impl Registry<'_> {
    fn basic(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self.auth {
            Some(auth) => request.basic_auth(&auth.username, Some(auth.password.expose())),
            None => request,
        }
    }

    async fn manifest(&self, url: &str) -> Result<Manifest, String> {
        let request = || self.client.get(url).header(ACCEPT, KINDS).timeout(CALL);
        let mut response = self.basic(request()).send().await.map_err(|e| e.to_string())?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let token = self.token(&response).await?;
            response = request().bearer_auth(token).send().await.map_err(|e| e.to_string())?;
        }
        if !response.status().is_success() {
            return Err(format!("the registry answered {}", response.status()));
        }
        serde_json::from_slice(&limited(response).await?).map_err(|e| e.to_string())
    }

    /// The token that the registry's challenge asks for.
    async fn token(&self, refused: &Response) -> Result<String, String> {
        let challenge =
            refused.headers().get(WWW_AUTHENTICATE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let Some(parameters) = challenge.strip_prefix("Bearer ") else {
            return Err("the registry refused the credentials".to_owned());
        };
        let parameter = |key: &str| {
            let at = parameters.find(&format!("{key}=\""))? + key.len() + 2;
            parameters[at..].split('"').next()
        };
        let realm = parameter("realm").ok_or("the registry's challenge names no realm")?;
        let query: Vec<_> =
            ["service", "scope"].iter().filter_map(|key| Some((*key, parameter(key)?))).collect();
        let request = self.basic(self.client.get(realm).query(&query).timeout(CALL));
        let response = request.send().await.map_err(|e| e.to_string())?;
        let token: Token = serde_json::from_slice(&limited(response).await?)
            .map_err(|e| format!("the registry's token: {e}"))?;
        Ok(token.token)
    }
}

async fn limited(response: Response) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk.map_err(|e| e.to_string())?);
        if all.len() > LARGEST {
            return Err("the registry's answer is too large".to_owned());
        }
    }
    Ok(all)
}

/// Whether an engine would speak to this registry without TLS.
fn is_insecure(host: &str, insecure: &[String]) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = if name == "localhost" { Some(Ipv4Addr::LOCALHOST) } else { name.parse().ok() };
    insecure.iter().any(|entry| match entry.parse::<pinfold_network::Cidr>() {
        Ok(network) => address.is_some_and(|address| network.contains(address)),
        Err(_) => entry == host,
    })
}

/// Size of configuration and layers of the image for `linux/<architecture>`, bytes.
pub(crate) async fn compressed_size(
    reference: &str,
    architecture: &str,
    insecure: &[String],
    auth: Option<&Credentials>,
) -> Result<u64, String> {
    let place = place(reference);
    let registry = Registry { client: crate::jobs::http_client().map_err(|e| e.to_string())?, auth };
    let url =
        |scheme: &str, tag: &str| format!("{scheme}://{}/v2/{}/manifests/{tag}", place.host, place.name);
    let (scheme, manifest) = match registry.manifest(&url("https", place.tag)).await {
        Ok(manifest) => ("https", manifest),
        // Without TLS only where the engine's operator allows it too: credentials must not follow whoever blocks port 443.
        Err(_) if is_insecure(place.host, insecure) => {
            ("http", registry.manifest(&url("http", place.tag)).await?)
        }
        Err(error) => return Err(error),
    };
    let manifest = if manifest.manifests.is_empty() {
        manifest
    } else {
        let ours = |e: &&Entry| e.platform.os == "linux" && e.platform.architecture == architecture;
        let entry = manifest
            .manifests
            .iter()
            .find(ours)
            .ok_or_else(|| format!("the image has no variant for linux/{architecture}"))?;
        registry.manifest(&url(scheme, &entry.digest)).await?
    };
    Ok(manifest.layers.iter().fold(manifest.config.size, |sum, layer| sum.saturating_add(layer.size)))
}

#[cfg(test)]
mod tests {
    use axum::extract::{Path, Request};
    use axum::response::{IntoResponse, Response};
    use pinfold_proto::id::Secret;
    use serde_json::json;

    use super::*;

    #[test]
    fn places_follow_the_hubs_habits() {
        let text = |r: &str| {
            let p = place(r);
            format!("{} {} {}", p.host, p.name, p.tag)
        };
        assert_eq!(text("debian"), "registry-1.docker.io library/debian latest");
        assert_eq!(text("docker.io/a/b:1"), "registry-1.docker.io a/b 1");
        assert_eq!(text("h:5000/a@sha256:ff"), "h:5000 a sha256:ff");
    }

    #[test]
    fn plain_registries_are_those_the_engine_allows() {
        let allowed = ["127.0.0.0/8".to_owned(), "registry:6000".to_owned()];
        for host in ["127.0.0.1:5000", "localhost:5000", "registry:6000"] {
            assert!(is_insecure(host, &allowed), "{host}");
        }
        for host in ["10.0.0.1:5000", "registry:5000", "registry-1.docker.io"] {
            assert!(!is_insecure(host, &allowed), "{host}");
        }
    }

    async fn answer(Path((tag,)): Path<(String,)>, request: Request) -> Response {
        let auth = request
            .headers()
            .get("authorization")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        if auth != "Bearer tok" {
            let challenge =
                format!("Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:p/x:pull\"");
            return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
        }
        let body = match tag.as_str() {
            "1" => json!({"manifests": [
                {"digest": "sha256:arm", "platform": {"os": "linux", "architecture": "arm64"}},
                {"digest": "sha256:amd", "platform": {"os": "linux", "architecture": "amd64"}}]}),
            "sha256:amd" => json!({"config": {"size": 5}, "layers": [{"size": 10}, {"size": 100}]}),
            _ => return StatusCode::NOT_FOUND.into_response(),
        };
        axum::Json(body).into_response()
    }

    #[tokio::test]
    async fn layers_of_our_platform_are_summed_behind_a_token() {
        let token = |request: Request| async move {
            // user:secret
            let basic = request.headers().get("authorization").is_some_and(|v| v == "Basic dXNlcjpzZWNyZXQ=");
            let scoped = request.uri().query().is_some_and(|q| q.contains("scope=repository%3Ap%2Fx%3Apull"));
            axum::Json(json!({"token": if basic && scoped { "tok" } else { "no" }}))
        };
        let app = axum::Router::new()
            .route("/v2/p/x/manifests/{tag}", axum::routing::get(answer))
            .route("/token", axum::routing::get(token));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let auth = Credentials { username: "user".to_owned(), password: Secret::new("secret") };
        let size = |tag: &str, arch: &'static str| {
            let (reference, auth) = (format!("{host}/p/x:{tag}"), auth.clone());
            async move { compressed_size(&reference, arch, &["127.0.0.0/8".to_owned()], Some(&auth)).await }
        };
        assert_eq!(size("1", "amd64").await, Ok(115));
        assert!(size("1", "riscv64").await.unwrap_err().contains("no variant"));
        assert!(size("2", "amd64").await.unwrap_err().contains("404"));
    }
}
