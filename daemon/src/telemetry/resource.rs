//! What everything that is sent is labelled with.

use crate::config::{Config, EXTRA_LABELS};

/// Resource attributes, in the contract's order. The extra labels are read anew each time.
pub(crate) fn labels(config: &Config) -> Vec<(String, String)> {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let own = [
        ("service.name", format!("sandbox-{}", config.sandbox_id)),
        ("service.version", crate::VERSION.to_owned()),
        ("service.instance.id", host.unwrap_or_else(|| "unknown".to_owned())),
        ("deployment.environment.name", String::new()),
    ];
    let mut labels: Vec<(String, String)> = own.map(|(name, value)| (name.to_owned(), value)).into();
    labels.extend(extra(&std::env::var(EXTRA_LABELS).unwrap_or_default()));
    let platform = config.telemetry.iter().flat_map(|telemetry| &telemetry.labels);
    labels.extend(platform.map(|(name, value)| ((*name).to_owned(), value.clone())));
    labels
}

/// `k=v,k=v`; what is no pair is skipped.
fn extra(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    pairs.filter(|(name, _)| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_labels_are_trimmed_and_nonsense_is_skipped() {
        let expected = [("a", "1"), ("b", "x=y"), ("c", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(extra(" a = 1 ,b=x=y,nonsense,=z,c="), expected);
        assert!(extra("").is_empty());
    }
}
