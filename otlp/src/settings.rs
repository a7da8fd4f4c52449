//! Which telemetry goes where (runner contract 1.7).

use pinfold_settings::Reader;

/// A collector, and what it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: its base URL, without a slash at the end; `/v1/logs` and `/v1/traces` are appended.
    pub endpoint: String,
    /// `OTEL_EXPORTER_OTLP_HEADERS`: sent with each request. They may be secrets.
    pub headers: Vec<(String, String)>,
    /// `OTEL_TRACING_ENABLED`, off.
    pub traces: bool,
    /// `OTEL_LOGGING_ENABLED`, off.
    pub logs: bool,
}

impl Settings {
    /// Reads the variables. `None` when nothing is to be sent: neither signal is on, or there is no endpoint.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (traces, logs) =
            (reader.bool("OTEL_TRACING_ENABLED", false), reader.bool("OTEL_LOGGING_ENABLED", false));
        let headers = headers(&reader.text("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default());
        let endpoint = reader.text("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            reader.reject("OTEL_EXPORTER_OTLP_ENDPOINT", "must start with http:// or https://");
        }
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        (traces || logs).then_some(Self { endpoint, headers, traces, logs })
    }
}

/// `key=value,key=value`; entries without `=` are ignored, both sides trimmed.
fn headers(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|entry| entry.split_once('='));
    let pairs = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    pairs.filter(|(name, _)| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_a_signal_and_an_endpoint_are_needed() {
        let read = |variables: &[(&str, &str)]| {
            let mut reader = Reader::new(&variables);
            let settings = Settings::read(&mut reader);
            reader.finish(settings)
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        assert_eq!(read(&[endpoint]).unwrap(), None);
        assert_eq!(read(&[("OTEL_TRACING_ENABLED", "true")]).unwrap(), None);
        let both =
            [endpoint, ("OTEL_TRACING_ENABLED", "1"), ("OTEL_EXPORTER_OTLP_HEADERS", " a = b=c ,x,=y")];
        let settings = read(&both).unwrap().unwrap();
        assert_eq!(settings.endpoint, "http://c:4318");
        assert_eq!(settings.headers, [("a".to_owned(), "b=c".to_owned())]);
        assert!(settings.traces && !settings.logs);
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318")]).is_err());
    }
}
