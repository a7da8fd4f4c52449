//! Traffic recorded from an unmodified control plane: everything decodes, and every recorded job, run here, ends with a result of the
//! recorded shape.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use common::{Bench, Control};
use pinfold_proto::runner::health::Healthcheck;
use pinfold_proto::runner::job::{Job, JobKind, JobPage, JobStatus, PollResponse, StatusUpdate};
use pinfold_runner::jobs::RemoteSandbox;
use serde_json::Value;

fn recordings() -> Vec<(String, Vec<Value>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 25);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (path.file_stem().unwrap().to_string_lossy().into_owned(), lines)
    };
    files.into_iter().map(read).collect()
}

fn is(exchange: &Value, method: &str, suffix: &str, status: u64) -> bool {
    exchange["from"] == "runner"
        && exchange["method"] == method
        && exchange["path"].as_str().is_some_and(|p| p.ends_with(suffix))
        && exchange["status"].as_u64() == Some(status)
}

fn jobs_of(lines: &[Value]) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let polls = lines.iter().filter(|l| is(l, "GET", "/jobs/poll", 200));
    let jobs =
        polls.flat_map(|l| serde_json::from_value::<PollResponse>(l["response"].clone()).unwrap().jobs);
    jobs.filter(|job| seen.insert(job["id"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn every_recorded_message_decodes() {
    let (mut jobs, mut reports, mut checks, mut rows) = (0, 0, 0, 0);
    for (file, lines) in recordings() {
        for job in jobs_of(&lines) {
            let decoded: Job =
                serde_json::from_value(job.clone()).unwrap_or_else(|e| panic!("{file}: {job}: {e}"));
            assert!(!matches!(decoded.kind, JobKind::Unknown(_)), "{file}: {job}");
            jobs += 1;
        }
        for line in &lines {
            if is(line, "GET", "/api/jobs", 200) {
                let page: JobPage = serde_json::from_value(line["response"].clone()).unwrap();
                assert!(
                    page.items.iter().all(|job| serde_json::from_value::<Job>(job.clone()).is_ok()),
                    "{file}: {line}"
                );
            }
            if is(line, "POST", "/status", 201) {
                let update: StatusUpdate = serde_json::from_value(line["body"].clone())
                    .unwrap_or_else(|e| panic!("{file}: {line}: {e}"));
                let job: Job = serde_json::from_value(line["response"].clone()).unwrap();
                assert_eq!(update.status, job.status, "{file}");
                reports += 1;
            }
            if is(line, "POST", "/healthcheck", 201) && line["body"]["metrics"]["cpu"].is_number() {
                // Recorded on purpose: numeric texts, which we never send.
                if serde_json::from_value::<Healthcheck>(line["body"].clone()).is_ok() {
                    checks += 1;
                }
            }
            if is(line, "GET", "/for-runner", 200) {
                let listed: Vec<RemoteSandbox> = serde_json::from_value(line["response"].clone()).unwrap();
                assert!(
                    listed
                        .iter()
                        .all(|s| !s.id.is_empty() && !s.state.is_empty() && !s.desired_state.is_empty())
                );
                rows += listed.len();
            }
        }
    }
    assert!(jobs > 150 && reports > 150 && checks > 30 && rows > 3, "{jobs} {reports} {checks} {rows}");
}

fn keys(text: Option<&str>) -> BTreeSet<String> {
    match text.and_then(|t| serde_json::from_str::<Value>(t).ok()) {
        Some(Value::Object(object)) => object.keys().cloned().collect(),
        _ => BTreeSet::new(),
    }
}

fn put_contexts(bench: &Bench, job: &Value) {
    let Some(payload) = job["payload"].as_str().and_then(|p| serde_json::from_str::<Value>(p).ok()) else {
        return;
    };
    for hash in payload["context"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let organization = payload["organizationId"].as_str().unwrap();
        let dir = bench.dir.path().join("data/contexts").join(organization).join(hash);
        std::fs::create_dir_all(&dir).unwrap();
        // An archive without entries is an end mark.
        std::fs::write(dir.join("context.tar"), [0_u8; 1024]).unwrap();
    }
}

#[tokio::test]
async fn every_recorded_job_ends_with_a_result_of_the_recorded_shape() {
    let mut completed = 0;
    for (file, lines) in recordings() {
        let bench = Bench::new().await;
        let control = Arc::new(Control::default());
        let (_, stop, task) = bench.serve(control.clone()).await;
        for job in jobs_of(&lines) {
            put_contexts(&bench, &job);
            let (id, kind) =
                (job["id"].as_str().unwrap().to_owned(), job["type"].as_str().unwrap().to_owned());
            control.jobs.lock().unwrap().push_back(job.clone());
            let result = control.result(&id).await;
            let always = [
                "CREATE_SANDBOX",
                "STOP_SANDBOX",
                "DESTROY_SANDBOX",
                "PULL_SNAPSHOT",
                "BUILD_SNAPSHOT",
                "INSPECT_SNAPSHOT_IN_REGISTRY",
                "REMOVE_SNAPSHOT",
            ];
            match result.status {
                JobStatus::Completed => completed += 1,
                _ => {
                    assert!(!always.contains(&kind.as_str()), "{file}: {kind}: {result:?}\n{job}");
                    assert!(
                        result.error_message.as_deref().is_some_and(|m| !m.is_empty()),
                        "{file}: {kind}: {result:?}"
                    );
                    continue;
                }
            }
            // What the scripted runner answered was taken by the real control plane.
            let recorded = lines.iter().filter(|l| {
                l["path"].as_str().is_some_and(|p| p.contains(&id)) && l["body"]["status"] == "COMPLETED"
            });
            for line in recorded {
                let expected = keys(line["body"]["resultMetadata"].as_str());
                let given = keys(result.result_metadata.as_deref());
                let optional = BTreeSet::from(["entrypoint".to_owned(), "cmd".to_owned(), "ref".to_owned()]);
                let missing: Vec<_> =
                    expected.difference(&given).filter(|k| !optional.contains(*k)).collect();
                let odd = file.starts_with("20-");
                assert!(odd || missing.is_empty(), "{file}: {kind}: {missing:?} missing in {given:?}");
            }
        }
        // Parts of volumes are mounts, which would outlast the directory that they are in.
        for (id, _) in bench.node.index.all() {
            bench.node.destroy(&id).await.unwrap();
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(bench.dir.path().to_str().unwrap()), "{file}: {mounts}");
        stop.cancel();
        task.await.unwrap();
    }
    assert!(completed > 120, "{completed}");
}
