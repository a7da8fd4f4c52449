//! Image references: the shapes that control planes send, and the names that runners make (runner contract 7.1).

use pinfold_engine::Image;
use pinfold_proto::runner::payload::Registry;

/// A reference as engines accept it. Control planes mangle digests into `name:sha256:<hex>` (17.3).
pub(crate) fn normalise(reference: &str) -> String {
    let reference = reference.trim().trim_start_matches("https://").trim_start_matches("http://");
    match reference.split_once(":sha256:") {
        Some((name, hex)) if !name.contains('@') => format!("{name}@sha256:{hex}"),
        _ => reference.to_owned(),
    }
}

/// Name and tag; a port is not a tag.
pub(crate) fn split(reference: &str) -> (&str, Option<&str>) {
    let name_start = reference.rfind('/').map_or(0, |i| i + 1);
    match reference[name_start..].rfind(':') {
        Some(colon) => (&reference[..name_start + colon], Some(&reference[name_start + colon + 1..])),
        None => (reference, None),
    }
}

/// Whether a name may point at another image tomorrow.
pub(crate) fn is_latest(reference: &str) -> bool {
    !reference.contains('@') && matches!(split(reference).1, None | Some("latest"))
}

/// Whether the first part of a reference is a registry's host.
pub(crate) fn has_registry(reference: &str) -> bool {
    reference.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost")
}

/// Name of a build's log: the last part of its reference, without the tag (runner contract 1.8).
pub(crate) fn build_id(reference: &str) -> &str {
    let (name, _) = split(reference);
    name.rsplit('/').next().unwrap_or(name)
}

/// The registry's address without scheme and trailing slash.
pub(crate) fn registry_host(registry: &Registry) -> &str {
    registry.url.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/')
}

/// `<registry>/<project or daytona>/daytona-<hash>:daytona`.
pub(crate) fn internal(registry: &Registry, hash: &str) -> String {
    let project = registry.project.as_deref().filter(|p| !p.is_empty()).unwrap_or("daytona");
    format!("{}/{project}/daytona-{hash}:daytona", registry_host(registry))
}

/// The digest that belongs to `reference`'s repository, else the first one, else the image's id; hex alone.
pub(crate) fn digest_of(reference: &str, image: &Image) -> String {
    let repository = split(reference.split('@').next().unwrap_or(reference)).0;
    let of = |digest: &&String| digest.split('@').next() == Some(repository);
    let digest = image
        .digests
        .iter()
        .find(of)
        .or(image.digests.first())
        .and_then(|d| d.split_once('@'))
        .map(|(_, d)| d);
    digest.unwrap_or(&image.id).trim_start_matches("sha256:").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_shapes_of_the_contract() {
        for reference in
            ["host:1/p/daytona-ab", "daytona-ab", "daytona-ab:daytona", "host/a/b/daytona-ab:daytona"]
        {
            assert_eq!(build_id(reference), "daytona-ab", "{reference}");
        }
        assert_eq!(normalise("docker.io/name:sha256:ff"), "docker.io/name@sha256:ff");
        assert!(
            is_latest("host:5000/a")
                && is_latest("a:latest")
                && !is_latest("a:1")
                && !is_latest("a@sha256:ff")
        );
        assert!(
            has_registry("host:5000/a")
                && has_registry("docker.io/a/b")
                && !has_registry("library/a")
                && !has_registry("a")
        );
    }

    #[test]
    fn the_digest_of_the_asked_repository_wins() {
        let image = Image {
            id: "sha256:id".to_owned(),
            digests: vec!["a/x@sha256:one".to_owned(), "b/x@sha256:two".to_owned()],
            ..Image::default()
        };
        assert_eq!(digest_of("b/x:1", &image), "two");
        assert_eq!(digest_of("c:1", &image), "one");
        assert_eq!(digest_of("c:1", &Image { digests: Vec::new(), ..image }), "id");
    }
}
