//! Backups: commit a sandbox, push the image, remove it locally (runner contract 7.5). One at a time for each sandbox; a newer one, a start,
//! a stop and a destroy cancel it. Handles are owned, so a cancelled backup's clean-up cannot touch its successor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use pinfold_engine::{EngineError, Image};
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::CreateBackup;
use tokio_util::sync::CancellationToken;

use super::credentials;
use super::reference::normalise;
use crate::error::{Class, OpError, OpResult};
use crate::node::Node;

/// An image of this many layers is flattened before it gets another.
const MOST_LAYERS: usize = 100;

/// Where a sandbox's last backup stands, for push-mode callers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BackupState {
    /// None is known, or the last one was cancelled.
    #[default]
    None,
    /// Under way, to this reference.
    InProgress(String),
    /// Done, under this reference.
    Completed(String),
    /// Failed, with the text.
    Failed(String, String),
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<SandboxId, (u64, CancellationToken)>,
    last: HashMap<SandboxId, (Instant, BackupState)>,
    turns: HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>,
}

/// The backups of all sandboxes.
#[derive(Debug, Default)]
pub struct Backups {
    next: AtomicU64,
    state: Mutex<State>,
}

impl Backups {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels the sandbox's running backup, if there is one.
    pub fn cancel(&self, id: &SandboxId) {
        if let Some((_, token)) = self.state().running.remove(id) {
            token.cancel();
        }
    }

    /// Where the last backup stands.
    pub fn last(&self, id: &SandboxId) -> BackupState {
        self.state().last.get(id).map(|(_, state)| state.clone()).unwrap_or_default()
    }

    /// The lock under which a sandbox is committed; those that nobody holds are forgotten.
    pub(crate) fn turn(&self, id: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.state();
        state.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        state.turns.entry(id.clone()).or_default().clone()
    }

    fn begin(&self, id: &SandboxId, reference: &str, retention: Duration) -> (u64, CancellationToken) {
        let (number, token) = (self.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let mut state = self.state();
        state.last.retain(|_, (at, _)| at.elapsed() < retention);
        state.last.insert(id.clone(), (Instant::now(), BackupState::InProgress(reference.to_owned())));
        if let Some((_, older)) = state.running.insert(id.clone(), (number, token.clone())) {
            older.cancel();
        }
        (number, token)
    }

    fn end(&self, id: &SandboxId, number: u64, outcome: BackupState) {
        let mut state = self.state();
        match state.running.get(id) {
            Some((running, _)) if *running == number => drop(state.running.remove(id)),
            // A newer one runs; its state is the sandbox's.
            Some(_) => return,
            // It was cancelled, and its sandbox may be gone.
            None => return drop(state.last.remove(id)),
        }
        state.last.insert(id.clone(), (Instant::now(), outcome));
    }

    /// Forgets a sandbox that is gone.
    pub(crate) fn forget(&self, id: &SandboxId) {
        self.state().last.remove(id);
    }

    /// Forgets what is older than `retention`, and locks that nobody holds.
    pub(crate) fn tidy(&self, retention: Duration) {
        let mut state = self.state();
        state.last.retain(|_, (at, _)| at.elapsed() < retention);
        state.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
    }

    /// Entries of its tables.
    pub(crate) fn len(&self) -> usize {
        let state = self.state();
        state.running.len() + state.last.len() + state.turns.len()
    }
}

impl Node {
    /// Backs a sandbox up. Without a registry the image stays on this node, under the same reference.
    pub async fn backup(self: &Arc<Self>, id: &SandboxId, request: CreateBackup) -> OpResult<()> {
        let began = Instant::now();
        if request.snapshot.is_empty() {
            return Err(OpError::new(Class::BadRequest, "the request names no reference to back up to"));
        }
        let _under_way = self.counters.begin("backup");
        let reference = normalise(&request.snapshot);
        let (number, cancelled) = self.backups.begin(id, &reference, self.config.backup_retention);
        let limit = self.config.backup_timeout;
        let (result, state) = tokio::select! {
            () = cancelled.cancelled() => {
                let message = "the backup was cancelled by a start, stop, destroy or newer backup of the sandbox";
                (Err(OpError::new(Class::Conflict, message)), BackupState::None)
            }
            finished = tokio::time::timeout(limit, self.back_up(id, &reference, &request)) => {
                let late = || Err(OpError::new(Class::Timeout, format!("the backup did not finish within {limit:?}")));
                match finished.unwrap_or_else(|_| late()) {
                    Ok(()) => (Ok(()), BackupState::Completed(reference.clone())),
                    Err(error) => (Err(error.clone()), BackupState::Failed(reference.clone(), error.message)),
                }
            }
        };
        self.backups.end(id, number, state);
        if result.is_err() {
            self.discard(id, reference);
        }
        self.counters.finished("backup", id.as_str(), began, &result);
        result
    }

    /// Removes the image of a backup that failed or was cancelled; nobody will ask for its name again. Its commit may still be under way.
    fn discard(self: &Arc<Self>, id: &SandboxId, reference: String) {
        let (node, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let turn = node.backups.turn(&id);
            let _turn = turn.lock().await;
            let wanted =
                [BackupState::InProgress(reference.clone()), BackupState::Completed(reference.clone())];
            if wanted.contains(&node.backups.last(&id)) {
                return;
            }
            match node.engine.remove_image(&reference, true).await {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(reference, %error, "could not remove what a failed backup left");
                }
                _ => {}
            }
        });
    }

    async fn back_up(
        self: &Arc<Self>,
        id: &SandboxId,
        reference: &str,
        request: &CreateBackup,
    ) -> OpResult<()> {
        let began = Instant::now();
        // An image that a cut-off backup left under this name would stay without one.
        let _ = self.engine.remove_image(reference, true).await;
        self.commit_frozen(id, reference).await.map_err(|e| e.during("committing the sandbox", began))?;
        let Some(registry) = request.registry.as_ref().filter(|r| !r.url.is_empty()) else { return Ok(()) };
        let pushing = Instant::now();
        let auth = credentials(Some(registry));
        let pushed = self.engine.push(reference, auth.as_ref(), self.config.backup_timeout).await;
        pushed.map_err(|e| OpError::from(e).during("pushing the backup", pushing))?;
        if let Err(error) = self.engine.remove_image(reference, true).await {
            tracing::warn!(reference, %error, "could not remove a pushed backup from the local store");
        }
        Ok(())
    }

    /// Makes an image of a sandbox under `reference` and returns its id. Labels that mean something to a runner are scrubbed.
    pub(crate) async fn commit(&self, id: &SandboxId, reference: &str) -> OpResult<String> {
        let changes: Vec<String> = ["daytona.gpu_index", "daytona.android_device"]
            .iter()
            .map(|label| format!("LABEL {label}=\"\""))
            .collect();
        let limit = self.config.backup_timeout;
        let found = self.engine.inspect(id.as_str()).await?;
        // Each archive and restore adds a layer, and engines refuse an image of too many.
        let layers = self.engine.image(&found.image_id).await.map_or(0, |image| image.layers);
        if layers >= MOST_LAYERS {
            tracing::info!(sandbox = %id, layers, "the image has many layers; making it one");
            return self.export_import(id, reference).await;
        }
        match self.engine.commit(id.as_str(), reference, &changes, limit).await {
            Err(EngineError::Internal { message, .. }) if message.contains("failed to get digest") => {
                tracing::warn!(sandbox = %id, message, "commit failed; exporting and importing instead");
                self.export_import(id, reference).await
            }
            other => Ok(other?),
        }
    }

    async fn export_import(&self, id: &SandboxId, reference: &str) -> OpResult<String> {
        let found = self.engine.inspect(id.as_str()).await?;
        let image = self.engine.image(&found.image_id).await.unwrap_or_default();
        let changes = changes_of(&found.entrypoint, &found.cmd, &found.env, &found.working_dir, &image);
        let tar = self.engine.export(id.as_str()).boxed();
        self.engine.import(reference, &changes, tar, self.config.backup_timeout).await?;
        Ok(self.engine.image(reference).await?.id)
    }
}

/// Dockerfile instructions that give an imported filesystem its configuration back.
fn changes_of(
    entrypoint: &[String],
    cmd: &[String],
    env: &[String],
    working_dir: &str,
    image: &Image,
) -> Vec<String> {
    let list = |l: &[String]| serde_json::to_string(l).unwrap_or_default();
    let quote = |text: &str| {
        let escaped: String = text
            .chars()
            .flat_map(|c| if matches!(c, '\\' | '"' | '$') { vec!['\\', c] } else { vec![c] })
            .collect();
        format!("\"{escaped}\"")
    };
    let mut changes = Vec::new();
    if !cmd.is_empty() {
        changes.push(format!("CMD {}", list(cmd)));
    }
    if !entrypoint.is_empty() {
        changes.push(format!("ENTRYPOINT {}", list(entrypoint)));
    }
    // A value of several lines cannot be an instruction.
    let lines = env.iter().filter(|e| !e.contains('\n')).filter_map(|e| e.split_once('='));
    changes.extend(lines.map(|(k, v)| format!("ENV {k}={}", quote(v))));
    if !working_dir.is_empty() {
        changes.push(format!("WORKDIR {working_dir}"));
    }
    changes.extend(image.exposed_ports.iter().map(|port| format!("EXPOSE {port}")));
    if !image.user.is_empty() {
        changes.push(format!("USER {}", image.user));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pain_32_environment_survives_quoting() {
        let changes =
            changes_of(&[], &["a b".to_owned()], &["K=a\"b$c\\d".to_owned()], "/w", &Image::default());
        assert_eq!(changes, ["CMD [\"a b\"]", "ENV K=\"a\\\"b\\$c\\\\d\"", "WORKDIR /w"]);
    }

    #[test]
    fn a_cancelled_backup_leaves_its_successor_alone() {
        let (backups, id) = (Backups::default(), SandboxId::random());
        let retention = Duration::from_secs(60);
        let (first, cancelled) = backups.begin(&id, "a", retention);
        let (_, running) = backups.begin(&id, "b", retention);
        assert!(cancelled.is_cancelled());
        backups.end(&id, first, BackupState::None);
        assert!(!running.is_cancelled());
        assert_eq!(backups.last(&id), BackupState::InProgress("b".to_owned()));
        backups.cancel(&id);
        assert!(running.is_cancelled());
    }
}
