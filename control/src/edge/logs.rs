//! Build logs. The stream opens at once, even before a runner has the build, and ends when the build does.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use pinfold_proto::control::sandbox::SandboxState;
use pinfold_proto::control::snapshot::SnapshotState;
use tokio::sync::mpsc;

use super::runner::Upstream;
use crate::core::Core;
use crate::sandbox::Handle;

/// How long to wait before looking again for a log file that the runner has not begun; it cannot tell us.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long the rest of a log may take to arrive after the build is over.
const REST: Duration = Duration::from_secs(3);

/// Whose build.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The image of a sandbox.
    Sandbox(Box<Handle>),
    /// The image of a snapshot, by its id.
    Snapshot(String),
}

/// Where a build stands.
#[derive(Debug, Clone)]
struct Stand {
    runner: Option<String>,
    reference: String,
    over: bool,
    error: Option<String>,
}

impl Source {
    /// The build of a sandbox.
    pub(crate) fn of_sandbox(handle: Handle) -> Self {
        Self::Sandbox(Box::new(handle))
    }

    /// The build of a snapshot.
    pub(crate) fn of_snapshot(id: String) -> Self {
        Self::Snapshot(id)
    }

    fn stand(&self, core: &Core) -> Option<Stand> {
        use SandboxState::{BuildingSnapshot, PendingBuild, PullingSnapshot};
        match self {
            Self::Sandbox(handle) => {
                let record = handle.record();
                core.directory.find(&record.id)?;
                Some(Stand {
                    runner: record.runner_id.clone(),
                    reference: record.image.clone(),
                    over: !matches!(record.state, PendingBuild | BuildingSnapshot | PullingSnapshot),
                    error: record.error_reason.clone(),
                })
            }
            Self::Snapshot(id) => {
                let snapshot = core.snapshots.find(id)?;
                let working = matches!(
                    snapshot.state,
                    SnapshotState::Pending | SnapshotState::Pulling | SnapshotState::Building
                );
                Some(Stand {
                    runner: snapshot.runner_id,
                    reference: snapshot.reference,
                    over: !working,
                    error: snapshot.error_reason,
                })
            }
        }
    }
}

/// The log as a body that grows until the build is over, or is what there is now.
pub(crate) fn stream(core: Arc<Core>, source: Source, follow: bool) -> Body {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    core.tasks.clone().spawn(async move {
        let stop = core.stop.clone();
        tokio::select! {
            () = copy(&core, &source, follow, &sender) => {}
            // Nobody reads any more.
            () = sender.closed() => {}
            () = stop.cancelled() => {}
        }
    });
    Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok::<_, std::convert::Infallible>(bytes), receiver))
    }))
}

async fn copy(core: &Core, source: &Source, follow: bool, out: &mpsc::Sender<Bytes>) {
    let Some(first) = source.stand(core) else { return };
    let last = first.reference.rsplit('/').next().unwrap_or_default();
    let pulled = !last.starts_with("daytona-");
    if pulled {
        let _ = out.send(format!("Pulling {}\n", first.reference).into()).await;
    }
    let mut some = false;
    let mut stand = first;
    loop {
        if let Some(runner) = stand.runner.as_deref().and_then(|id| core.runners.get(id)) {
            match read(core, source, &runner, &stand.reference, follow, out).await {
                Read::Done => {
                    some = true;
                    break;
                }
                Read::Missing if stand.over || !follow => break,
                Read::Missing => {}
            }
        } else if stand.over || !follow {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        let Some(next) = source.stand(core) else { return };
        stand = next;
    }
    let Some(end) = source.stand(core) else { return };
    if !follow {
        return;
    }
    let end = if end.over { end } else { wait_over(core, source, end).await };
    let last = match (&end.error, pulled && !some) {
        (Some(reason), _) => format!("ERROR: {reason}\n"),
        (None, true) => format!("Pulled {}\n", end.reference),
        (None, false) => return,
    };
    let _ = out.send(last.into()).await;
}

enum Read {
    Done,
    Missing,
}

async fn read(
    core: &Core,
    source: &Source,
    runner: &crate::store::runners::Runner,
    reference: &str,
    follow: bool,
    out: &mpsc::Sender<Bytes>,
) -> Read {
    let query = percent_encoding::utf8_percent_encode(reference, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("/snapshots/logs?snapshotRef={query}&follow={follow}");
    let Ok(upstream) = Upstream::api_of(runner).await else { return Read::Missing };
    let answer = match upstream.get(core, &path).await {
        Ok(answer) if answer.status() == StatusCode::OK => answer,
        Ok(_) => return Read::Missing,
        Err(error) => {
            tracing::debug!(%error, "could not read a build log");
            return Read::Missing;
        }
    };
    let mut chunks = answer.into_body().into_data_stream();
    let over = async {
        if let Some(stand) = source.stand(core).filter(|stand| !stand.over) {
            wait_over(core, source, stand).await;
        }
        // Not every runner ends the stream of a build that failed.
        tokio::time::sleep(REST).await;
    };
    let mut over = std::pin::pin!(over);
    loop {
        tokio::select! {
            chunk = chunks.next() => match chunk {
                Some(Ok(bytes)) => {
                    if out.send(bytes).await.is_err() {
                        return Read::Done;
                    }
                }
                _ => return Read::Done,
            },
            () = &mut over, if follow => break,
        }
    }
    // Having stood still, we find that the time is over and the rest is there.
    let rest = async {
        while let Some(Ok(bytes)) = chunks.next().await
            && out.send(bytes).await.is_ok()
        {}
    };
    let _ = tokio::time::timeout(LOOK_AGAIN, rest).await;
    Read::Done
}

/// Waits until the build is over.
async fn wait_over(core: &Core, source: &Source, mut stand: Stand) -> Stand {
    if let Source::Sandbox(handle) = source {
        let mut view = handle.watch();
        loop {
            match source.stand(core) {
                None => return stand,
                Some(now) if now.over => return now,
                Some(now) => stand = now,
            }
            if view.changed().await.is_err() {
                return stand;
            }
        }
    }
    let mut events = core.events.subscribe();
    loop {
        match source.stand(core) {
            None => return stand,
            Some(now) if now.over => return now,
            Some(now) => stand = now,
        }
        // A change of the snapshot is an event; having missed some, we look again.
        if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
            return stand;
        }
    }
}
