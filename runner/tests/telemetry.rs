//! Telemetry of a whole node, read by a collector: what a job and a request leave there, and what a collector that is no good does to the node.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Path;
use axum::http::HeaderMap;
use common::{Bench, Control, TOKEN, create_payload, eventually};
use pinfold_otlp::{Collector, Exporter, Record, Settings, Span};
use pinfold_proto::id::SandboxId;
use pinfold_protobuf::{Value, fields};
use pinfold_settings::LogFormat;
use serde_json::json;
use tracing::level_filters::LevelFilter;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A span or a log record, as far as it is looked at.
#[derive(Debug, Clone, Default)]
struct Item {
    trace: String,
    id: String,
    parent: String,
    /// The name of a span, the body of a log record.
    name: String,
    kind: u64,
    status: u64,
    attributes: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Collected {
    labels: BTreeMap<String, String>,
    spans: Vec<Item>,
    logs: Vec<Item>,
    headers: Vec<HeaderMap>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of(message: &[u8], number: u64) -> Vec<&[u8]> {
    fields(message).filter(|(n, _)| *n == number).map(|(_, value)| value.bytes()).collect()
}

/// `KeyValue`s in field `number`.
fn attributes(message: &[u8], number: u64) -> BTreeMap<String, String> {
    let pairs = of(message, number).into_iter().map(|pair| {
        let value = of(pair, 2).concat();
        let value = match fields(&value).next() {
            Some((1, text)) => text.text(),
            Some((_, number)) => number.number().to_string(),
            None => String::new(),
        };
        (String::from_utf8(of(pair, 1).concat()).unwrap(), value)
    });
    pairs.collect()
}

fn number(message: &[u8], wanted: u64) -> u64 {
    fields(message).find(|(n, _)| *n == wanted).map_or(0, |(_, value)| value.number())
}

fn span(message: &[u8]) -> Item {
    Item {
        trace: hex(&of(message, 1).concat()),
        id: hex(&of(message, 2).concat()),
        parent: hex(&of(message, 4).concat()),
        name: String::from_utf8(of(message, 5).concat()).unwrap(),
        kind: number(message, 6),
        status: number(&of(message, 15).concat(), 3),
        attributes: attributes(message, 9),
    }
}

fn log(message: &[u8]) -> Item {
    let body = of(message, 5).concat();
    Item {
        trace: hex(&of(message, 9).concat()),
        id: hex(&of(message, 10).concat()),
        name: fields(&body).next().map(|(_, value): (u64, Value<'_>)| value.text()).unwrap_or_default(),
        attributes: attributes(message, 6),
        ..Item::default()
    }
}

impl Collected {
    fn take(&mut self, signal: &str, body: &[u8], headers: HeaderMap) {
        self.headers.push(headers);
        for resource in of(body, 1) {
            self.labels.extend(attributes(&of(resource, 1).concat(), 1));
            for item in of(resource, 2).into_iter().flat_map(|scope| of(scope, 2)) {
                match signal {
                    "traces" => self.spans.push(span(item)),
                    _ => self.logs.push(log(item)),
                }
            }
        }
    }

    fn span(&self, name: &str, trace: &str) -> Option<&Item> {
        self.spans.iter().find(|span| span.name == name && span.trace == trace)
    }
}

/// A collector, and its endpoint.
async fn collector() -> (Arc<Mutex<Collected>>, String) {
    let collected = Arc::new(Mutex::new(Collected::default()));
    let taken = collected.clone();
    let receive = move |Path(signal): Path<String>, headers: HeaderMap, body: axum::body::Bytes| async move {
        taken.lock().unwrap().take(&signal, &body, headers);
    };
    let app = axum::Router::new().route("/v1/{signal}", axum::routing::post(receive));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (collected, endpoint)
}

/// The contract's sections 3.8 and 12.2: spans of jobs, requests and calls in the traces of those who asked, and logs that say so.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_requests_are_traced() {
    let (collected, endpoint) = collector().await;
    let headers = vec![("x-tenant".to_owned(), "t1".to_owned())];
    let settings = Settings { endpoint, headers, traces: true, logs: true };
    let (exporter, observers) =
        pinfold_runner::telemetry::start(&settings, "test", LevelFilter::INFO).unwrap();
    let client = pinfold_runner::jobs::http_client().unwrap();
    pinfold_settings::init_logging(LevelFilter::OFF, LogFormat::Text, observers);

    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let (address, stop, task) = bench.serve(control.clone()).await;
    let id = SandboxId::random();
    let context = json!({
        "traceparent": format!("00-{TRACE}-{PARENT}-01"), "baggage": "tenant=blue", "odd": 7
    });
    let job = control.push_traced("CREATE_SANDBOX", id.as_str(), Some(create_payload(&id)), &context);
    control.result(&job).await;
    let failing = control.push("MAKE_COFFEE", id.as_str(), None);
    control.result(&failing).await;
    let path = format!("/sandboxes/{id}/toolbox/files/x?y=1");
    let request = client.get(format!("http://{address}{path}")).bearer_auth(TOKEN);
    let request = request.header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(request.send().await.unwrap().status(), 200);
    let missing = client.get(format!("http://{address}/snapshots/info?snapshot=a:1")).bearer_auth(TOKEN);
    assert_eq!(missing.send().await.unwrap().status(), 404);

    eventually("the collector to have the job, its report and the requests", || {
        let all = collected.lock().unwrap();
        // A batch may go out between any two.
        let spans = [
            "execute_CREATE_SANDBOX",
            "wait_for_daemon_running",
            "update_job_status",
            "GET /sandboxes/{id}/toolbox/{*path}",
        ];
        spans.iter().all(|name| all.span(name, TRACE).is_some())
            && ["execute_MAKE_COFFEE", "GET /snapshots/info"]
                .iter()
                .all(|name| all.spans.iter().any(|span| span.name == *name))
            && all.logs.iter().any(|log| log.name == "job completed" && log.trace == TRACE)
            && all.logs.iter().any(|log| log.name == "job failed")
    })
    .await;
    let metrics = client.get(format!("http://{address}/metrics")).bearer_auth(TOKEN).send().await.unwrap();
    assert!(metrics.text().await.unwrap().contains("pinfold_telemetry_dropped_total 0"));
    stop.cancel();
    task.await.unwrap();
    tokio::task::spawn_blocking(move || exporter.stop()).await.unwrap();

    let all = collected.lock().unwrap();
    for (label, value) in [("service.name", "daytona-runner"), ("deployment.environment.name", "test")] {
        assert_eq!(all.labels.get(label).map(String::as_str), Some(value));
    }
    assert!(all.headers.iter().all(|headers| headers["x-tenant"] == "t1"));
    // The job continues its control plane's trace, and what it does is within it.
    let execute = all.span("execute_CREATE_SANDBOX", TRACE).unwrap();
    assert_eq!((execute.parent.as_str(), execute.kind, execute.status), (PARENT, 1, 0));
    for (name, value) in [
        ("job.id", job.as_str()),
        ("job.type", "CREATE_SANDBOX"),
        ("job.status", "COMPLETED"),
        ("resource.type", "SANDBOX"),
        ("resource.id", id.as_str()),
    ] {
        assert_eq!(execute.attributes.get(name).map(String::as_str), Some(value), "{execute:?}");
    }
    let ready = all.span("wait_for_daemon_running", TRACE).unwrap();
    assert_eq!(ready.parent, execute.id, "the wait is part of the job");
    assert!(ready.attributes.contains_key("container.ip") && ready.attributes.contains_key("retries"));
    let reported = all.span("update_job_status", TRACE).unwrap();
    assert_eq!((&reported.parent, reported.kind), (&execute.id, 3));
    let failed = all.spans.iter().find(|span| span.name == "execute_MAKE_COFFEE").unwrap();
    assert_eq!((failed.status, failed.parent.as_str()), (2, ""));
    assert_ne!(failed.trace, TRACE, "a job without a context begins a trace of its own");
    // Requests: the caller's trace goes on through the proxy into the daemon; a 404 is no failure.
    let served = all.span("GET /sandboxes/{id}/toolbox/{*path}", TRACE).unwrap();
    assert_eq!((served.parent.as_str(), served.kind), (PARENT, 2));
    let (_, passed_on) = bench.daemon.requests.lock().unwrap().last().cloned().unwrap();
    assert_eq!(passed_on["traceparent"], format!("00-{TRACE}-{}-01", served.id));
    let absent = all.spans.iter().find(|span| span.name == "GET /snapshots/info").unwrap();
    assert_eq!((absent.status, absent.attributes["http.response.status_code"].as_str()), (0, "404"));
    // What is logged within a job says so.
    let done = all.logs.iter().find(|log| log.name == "job completed" && log.trace == TRACE).unwrap();
    assert_eq!(done.id, execute.id);
}

/// A collector that is slow or gone costs records, which are counted, and nothing else: neither recording nor a stop waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_stalls_nothing() {
    // It takes connections and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_gone, gone) = common::closed_port();
    for port in [silent.local_addr().unwrap().port(), gone] {
        let (telemetry, records) = pinfold_otlp::channel();
        let client = pinfold_runner::jobs::http_client().unwrap();
        let collector = Collector::new(client, format!("http://127.0.0.1:{port}"), "test");
        let exporter = Exporter::start(collector, records).unwrap();
        let began = Instant::now();
        for _ in 0..20_000 {
            telemetry.record(Record::Span(Span::default()));
        }
        assert!(began.elapsed() < Duration::from_secs(2), "recording waited {:?}", began.elapsed());
        let stopping = Instant::now();
        tokio::task::spawn_blocking(move || exporter.stop()).await.unwrap();
        // Shorter than an answer is waited for.
        assert!(stopping.elapsed() < Duration::from_secs(8), "the stop waited {:?}", stopping.elapsed());
        // Both what did not fit and what could not be sent.
        eventually("every record to be counted", || telemetry.dropped() == 20_000).await;
    }
}
