//! Feeds the index: from the engine's events as they come, and from a full listing at each (re)connection and every few minutes.
//!
//! A container that cannot be inspected because the engine does not answer stays as it was: only a definite "not found" is an end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use pinfold_engine::{Container, ContainerStatus, Event, EventKind};
use pinfold_proto::id::SandboxId;
use tokio_util::sync::CancellationToken;

use crate::error::OpResult;
use crate::index::{Ending, state_of};
use crate::node::{ATTEMPTS, FIRST_PAUSE, Node};
use crate::sandbox::daemon_version;

/// Between two full listings.
const SYNC: Duration = Duration::from_secs(120);
const RECONNECT: Duration = Duration::from_secs(2);
/// Containers inspected at the same time during a full listing.
const PARALLEL: usize = 8;
/// How often an answer of the engine may be overtaken before it is believed all the same.
const LOOKS: u32 = 5;

/// Follows the engine until `stop`.
pub(crate) async fn follow(node: Arc<Node>, stop: CancellationToken) {
    loop {
        let mut events = node.engine.events();
        // Listed after subscribing, so that nothing falls in between.
        match sync(&node).await {
            Ok(()) => {
                enforce(&node).await;
                tokio::spawn(ask_versions(node.clone()));
            }
            Err(error) => tracing::warn!(%error, "could not list the node's sandboxes"),
        }
        node.news.raise();
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + SYNC, SYNC);
        let ended = loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => apply(&node, event).await,
                    Some(Err(error)) => break error.to_string(),
                    None => break "the stream ended".to_owned(),
                },
                _ = tick.tick() => {
                    if let Err(error) = sync(&node).await {
                        tracing::warn!(%error, "could not list the node's sandboxes");
                    }
                    enforce(&node).await;
                }
                () = stop.cancelled() => return,
            }
        };
        tracing::warn!(error = ended, "lost the engine's events; reconnecting");
        tokio::select! {
            () = tokio::time::sleep(RECONNECT) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn apply(node: &Arc<Node>, event: Event) {
    if event.kind == EventKind::Image {
        if matches!(event.action.as_str(), "delete" | "untag" | "tag" | "pull" | "import" | "load") {
            node.images.invalidate();
        }
        return;
    }
    let Ok(id) = event.name.parse::<SandboxId>() else { return };
    let known = node.index.get(&id);
    // An event of a container that was replaced or renamed says nothing about the sandbox.
    if known.as_ref().is_some_and(|s| !s.container_id.is_empty() && s.container_id != event.id)
        && event.action != "create"
    {
        return;
    }
    let busy = known.as_ref().is_some_and(|s| s.busy);
    match event.action.as_str() {
        "oom" => {
            tracing::warn!(sandbox = %id, limit_bytes = known.as_ref().map_or(0, |s| s.memory), "a sandbox ran out of memory");
            node.counters.count_oom();
            node.index.change_known(&id, |s| {
                s.ending.get_or_insert_default().oom = true;
                // It may be told after the end that it explains.
                if s.status == ContainerStatus::Exited && !s.busy {
                    s.state = state_of(s.status, s.ending.as_ref());
                }
            });
            if node.index.get(&id).map(|s| s.state) != known.map(|s| s.state) {
                node.news.raise();
            }
        }
        "die" => died(node, &id, &event).await,
        "exec_die" if !busy => {
            let node = node.clone();
            // Events go on being followed while it is looked after.
            tokio::spawn(async move { node.look_after_daemon(&id).await });
        }
        "destroy" if !busy && known.is_some() => {
            tracing::warn!(sandbox = %id, "a sandbox was removed by someone else");
            let node = node.clone();
            tokio::spawn(async move {
                if node.let_go(&id, Some(event.id)).await {
                    node.news.vanished(&id);
                }
            });
        }
        "create" if !busy && node.was_destroyed(&id) => {
            let node = node.clone();
            tokio::spawn(async move { node.remove_unowned(&id, event.id).await });
        }
        "start" if !busy && node.late_starts.expects(&id) => {
            let node = node.clone();
            tokio::spawn(async move { node.end_late_start(&id).await });
        }
        "create" | "start" | "unpause" | "pause" | "update" | "rename" if !busy => {
            if let Err(error) = refresh(node, &id).await {
                tracing::warn!(sandbox = %id, %error, "could not look at a sandbox after an event");
            }
            // Started by someone else: its policy has been in force since it was made, unless the rules were lost meanwhile. Its port is a new one.
            if event.action == "start" {
                enforce_one(node, &id).await;
            }
            if node.index.get(&id).map(|s| s.state) != known.map(|s| s.state) {
                node.news.raise();
            }
        }
        _ => {}
    }
}

/// A sandbox's first process ended, unless the event is late and the sandbox was started again since: the engine has the last word.
async fn died(node: &Node, id: &SandboxId, event: &Event) {
    let Some(known) = node.index.get(id) else { return };
    let oom = known.ending.as_ref().is_some_and(|e| e.oom);
    let seen = look(node, id).await;
    if matches!(&seen, Ok(Some(found)) if found.id == event.id && found.status == ContainerStatus::Running) {
        return;
    }
    // A start that is under way may not have said yet that the sandbox runs.
    node.index.change_known(id, |s| s.ends += 1);
    match seen {
        Ok(Some(found)) => node.learn(id, &found),
        unseen => {
            tracing::debug!(sandbox = %id, error = ?unseen.err(), "could not look at an ended sandbox; its event has to do");
            node.index.change_known(id, |s| {
                s.status = ContainerStatus::Exited;
                s.ending = Some(Ending { code: event.exit_code.unwrap_or(0), ..Ending::default() });
            });
        }
    }
    node.index.change_known(id, |s| {
        if let Some(ending) = s.ending.as_mut() {
            ending.oom |= oom;
        }
        (s.address, s.failure) = (None, None);
        s.daemon_version = None;
        if !s.busy {
            s.state = state_of(s.status, s.ending.as_ref());
        }
    });
    let Some(ended) = node.index.get(id).filter(|s| !s.busy) else { return };
    if let Some(ending) = ended.ending.filter(|e| !e.is_expected()) {
        tracing::warn!(sandbox = %id, reason = ending.reason(), "a sandbox ended unexpectedly");
    }
    if ended.state != known.state {
        node.news.raise();
    }
}

/// What the engine says of a sandbox. An answer during which the index learned something may be older than that, so the question is put again.
async fn look(node: &Node, id: &SandboxId) -> OpResult<Option<Container>> {
    for _ in 1..LOOKS {
        let before = node.index.get(id);
        let found = node.find(id).await;
        if node.index.get(id) == before {
            return found;
        }
    }
    node.find(id).await
}

/// Reads one sandbox from the engine into the index.
pub(crate) async fn refresh(node: &Node, id: &SandboxId) -> OpResult<()> {
    let found = look(node, id).await?;
    // Between the question and the answer an operation may have begun; it knows better.
    if node.index.get(id).is_some_and(|s| s.busy) {
        return Ok(());
    }
    match found {
        Some(found) => node.learn(id, &found),
        None => drop(node.index.remove(id)),
    }
    Ok(())
}

/// Compares the whole listing with the index; only what differs is inspected.
pub(crate) async fn sync(node: &Arc<Node>) -> OpResult<()> {
    let listed = node.engine.list().await?;
    let mut present = std::collections::HashSet::new();
    let mut stale = Vec::new();
    for container in listed {
        let Ok(id) = container.name.parse::<SandboxId>() else { continue };
        let fresh = node.index.get(&id).is_some_and(|s| {
            s.busy
                || (s.container_id == container.id
                    && (s.status == container.status || s.frozen)
                    && (s.status != ContainerStatus::Exited || s.ending.is_some()))
        });
        if !fresh {
            stale.push(id.clone());
        }
        present.insert(id);
    }
    futures_util::stream::iter(stale)
        .for_each_concurrent(PARALLEL, |id| async move {
            if let Err(error) = refresh(node, &id).await {
                tracing::warn!(sandbox = %id, %error, "could not inspect a sandbox");
            }
        })
        .await;
    for (id, sandbox) in node.index.all() {
        if !sandbox.busy && !present.contains(&id) {
            // The listing may be older than the sandbox, so the engine is asked once more.
            refresh(node, &id).await?;
        }
    }
    bury(node);
    Ok(())
}

/// Asks the daemons of sandboxes that ran before this process did for their versions, which an upgrade leaves as they are. One that does not answer in time, as on a busy host, is
/// asked again.
async fn ask_versions(node: Arc<Node>) {
    let running =
        node.index.all().into_iter().filter(|(_, s)| s.status == ContainerStatus::Running && !s.busy);
    let unknown = running.filter(|(_, s)| s.daemon_version.is_none());
    let addresses = unknown.filter_map(|(id, s)| Some((id, s.address?)));
    futures_util::stream::iter(addresses)
        .for_each_concurrent(PARALLEL, |(id, address)| {
            let node = &node;
            async move {
                let mut pause = FIRST_PAUSE;
                for _ in 0..ATTEMPTS {
                    let told = daemon_version((address, node.config.toolbox_port).into()).await;
                    let mut is_open = told.is_none();
                    node.index.change_known(&id, |s| {
                        if s.busy || s.address != Some(address) {
                            is_open = false;
                        } else if told.is_some() {
                            s.daemon_version = told;
                        }
                    });
                    if !is_open {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        })
        .await;
}

/// Removes what the engine could neither run nor remove: a dead container is no sandbox any more, and nothing but its removal is left to do.
fn bury(node: &Arc<Node>) {
    for (id, _) in node.index.all().into_iter().filter(|(_, s)| s.status == ContainerStatus::Dead && !s.busy)
    {
        let node = node.clone();
        tokio::spawn(async move {
            tracing::warn!(sandbox = %id, "the engine gave a sandbox's container up; removing what is left of it");
            match node.destroy(&id).await {
                Ok(()) => node.news.vanished(&id),
                Err(error) => tracing::error!(sandbox = %id, %error, "could not remove a dead container"),
            }
        });
    }
}

/// Puts the recorded policy of every running sandbox in force, and takes over what could not be taken over before; what is in force already costs nothing.
async fn enforce(node: &Node) {
    for (id, _) in node.index.all() {
        enforce_one(node, &id).await;
    }
}

async fn enforce_one(node: &Node, id: &SandboxId) {
    if node.index.get(id).is_none_or(|sandbox| sandbox.busy) {
        return;
    }
    if let Err(error) = node.take_over_late(id).await {
        tracing::error!(sandbox = %id, %error, "could not take a sandbox of the original runner over; it keeps its old rules");
        return;
    }
    let Some(sandbox) = node.index.get(id) else { return };
    let running = matches!(sandbox.status, ContainerStatus::Running | ContainerStatus::Paused);
    if !running || sandbox.busy {
        return;
    }
    if let Err(error) = node.reinforce(id, sandbox.address).await {
        tracing::error!(sandbox = %id, %error, "a running sandbox's network policy is not in force");
    } else if !node.policy.is_pinned(id).await {
        node.pin(id).await;
    }
}

/// What has to be put right before the first job: policies of running sandboxes, interrupted resizes, frozen sandboxes, leftovers.
pub(crate) async fn repair(node: &Arc<Node>) -> OpResult<()> {
    for id in node.records.ids() {
        if let Err(error) = node.repair_recreation(&id).await {
            tracing::error!(sandbox = %id, %error, "could not repair an interrupted resize");
        }
    }
    sync(node).await?;
    // One that could not be looked at just now is not gone.
    let known = node.index.all().into_iter().map(|(id, _)| id).chain(node.records.ids());
    let keep = known.map(|id| id.to_string()).collect();
    node.policy.retain(&keep).await?;
    for (id, sandbox) in node.index.all() {
        if sandbox.status == ContainerStatus::Paused {
            tracing::warn!(sandbox = %id, "a sandbox was left frozen; thawing it");
            if let Err(error) = node.thaw(&id).await {
                tracing::error!(sandbox = %id, %error, "could not thaw a sandbox");
            }
        }
    }
    node.expect_given_up();
    node.repair_links().await?;
    node.take_over().await?;
    enforce(node).await;
    node.remove_temporary_images().await;
    for id in node.records.ids() {
        // What could not be put back above has the data.
        if node.is_replacing(&id) {
            continue;
        }
        if node.index.get(&id).is_none() && !matches!(node.adopt(&id).await, Ok(true) | Err(_)) {
            node.forget(&id).await;
            node.news.vanished(&id);
        }
    }
    release_unowned(node).await;
    node.reclaim().await
}

/// Releases the volumes of creates that were cut off before they recorded their sandbox.
async fn release_unowned(node: &Node) {
    for id in node.volumes.sandboxes() {
        if node.index.get(&id).is_none() && matches!(node.find(&id).await, Ok(None)) {
            node.release_unowned(&id).await;
        }
    }
}
