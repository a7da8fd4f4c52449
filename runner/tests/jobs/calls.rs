//! The calls themselves, on the wire: what each carries, and how odd answers are taken.

use std::sync::Mutex;

use axum::extract::Request;
use axum::response::IntoResponse;
use http::StatusCode;

use super::*;

/// A control plane that notes each call and answers with a status and a body.
async fn answering(status: u16, body: serde_json::Value) -> (HttpControlPlane, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let app = axum::Router::new().fallback(move |request: Request| async move {
        let header =
            |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
        let (token, source) = (header("authorization"), header("x-daytona-source"));
        noted.lock().unwrap().push(format!("{} {} {token} {source}", request.method(), request.uri()));
        (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/api/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (HttpControlPlane::new(&base, Secret::new("t0k")).unwrap(), seen)
}

/// Contract 2.2.
#[tokio::test]
async fn every_call_says_who_it_is_from_and_asks_for_what_the_contract_names() {
    let (control, seen) = answering(200, json!([])).await;
    let _ = control.poll(Duration::from_secs(12), 7).await;
    let _ = control.in_progress(3).await;
    let update = StatusUpdate { status: JobStatus::Completed, error_message: None, result_metadata: None };
    control.report("j-1", &update).await.unwrap();
    control.sandboxes(true).await.unwrap();
    control.sandboxes(false).await.unwrap();
    control.push_state("s-1", "stopped", None, false).await.unwrap();
    let expected = [
        "GET /api/jobs/poll?timeout=12&limit=7",
        "GET /api/jobs?status=IN_PROGRESS&limit=200&page=3",
        "POST /api/jobs/j-1/status",
        "GET /api/sandbox/for-runner?states=started,stopped&skipReconcilingSandboxes=true",
        "GET /api/sandbox/for-runner",
        "PUT /api/sandbox/s-1/state",
    ];
    let expected: Vec<String> = expected.iter().map(|call| format!("{call} Bearer t0k runner")).collect();
    assert_eq!(*seen.lock().unwrap(), expected);
}

/// Contract 3.1: a poll that the control plane calls too long is an empty one.
#[tokio::test]
async fn a_poll_that_timed_out_there_is_empty() {
    let (control, _) = answering(408, json!({"message": "timeout"})).await;
    assert!(control.poll(Duration::from_secs(1), 1).await.unwrap().is_empty());
    let (control, _) = answering(500, json!({"message": "no"})).await;
    assert_eq!(control.poll(Duration::from_secs(1), 1).await.unwrap_err().status(), Some(500));
}

/// By its own clock a control plane says when it listed what.
#[tokio::test]
async fn a_listing_says_when_it_was_made() {
    let page = json!({"items": [{"id": "j"}], "total": 1, "page": 1, "totalPages": 1});
    let (control, _) = answering(200, page).await;
    let before = jiff::Timestamp::now();
    let listed = control.in_progress(1).await.unwrap();
    assert_eq!((listed.jobs, listed.pages), (vec![json!({"id": "j"})], 1));
    // Headers tell whole seconds.
    let off = listed.at.unwrap().duration_since(before).abs();
    assert!(off < jiff::SignedDuration::from_mins(1), "{off}");
}

/// Stops the clock for as long as the returned end is kept, while calls go on: no time goes by beside work that blocks.
fn stopped_clock() -> std::sync::mpsc::Sender<()> {
    tokio::time::pause();
    let (kept, gone) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || gone.recv());
    kept
}

/// Contract 2.2: refusals of a token are counted against this address, so its loops do not go on asking.
#[tokio::test]
async fn a_refused_token_holds_every_call_back_and_a_forbidden_job_none() {
    let _stopped = stopped_clock();
    let (control, seen) = answering(401, json!({"message": "no"})).await;
    let update = StatusUpdate { status: JobStatus::Completed, error_message: None, result_metadata: None };
    assert_eq!(control.in_progress(1).await.unwrap_err().status(), Some(401));
    let again = control.clone();
    for _ in 0..5 {
        for held in [
            control.poll(Duration::from_secs(1), 1).await.unwrap_err(),
            again.in_progress(1).await.unwrap_err(),
            control.report("j-1", &update).await.unwrap_err(),
            control.sandboxes(true).await.unwrap_err(),
            control.push_state("s-1", "stopped", None, false).await.unwrap_err(),
        ] {
            assert!(held.is_told() && held.status().is_none(), "{held}");
        }
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
    let (control, seen) = answering(403, json!({"message": "somebody else's"})).await;
    for _ in 0..3 {
        assert_eq!(control.report("j-1", &update).await.unwrap_err().status(), Some(403));
    }
    assert_eq!(control.sandboxes(true).await.unwrap_err().status(), Some(403));
    control.report("j-1", &update).await.unwrap_err();
    assert_eq!(seen.lock().unwrap().len(), 4);
}
