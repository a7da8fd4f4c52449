//! Snapshots: named and sized templates of sandboxes.
//!
//! A snapshot that waits for its image has a task that watches the image at one runner; at the next start the task is there again. Changes come one
//! after the other, each of the snapshot as the one before has left it: none undoes another or brings back what was removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pinfold_proto::control::sandbox::BuildInfo;
use pinfold_proto::control::snapshot::{self as wire, SnapshotState};
use pinfold_proto::runner::payload::SandboxSnapshot;

use crate::config::DefaultSnapshot;
use crate::core::Core;
use crate::events;
use crate::images::Recipe;
use crate::registries;
use crate::runners::Need;
use crate::store::images::ImageState;
use crate::store::sandboxes::Record;
use crate::store::snapshots::{self as table, Snapshot};
use crate::store::{Result, Store};
use crate::time::{iso, now};

/// All snapshots, by id.
#[derive(Debug)]
pub(crate) struct Snapshots {
    store: Store,
    all: Mutex<HashMap<String, Snapshot>>,
    /// Held from the look at a snapshot until its change is seen.
    changing: tokio::sync::Mutex<()>,
}

impl Snapshots {
    /// Loads all snapshots, and makes or updates the default one.
    pub(crate) async fn load(store: &Store, default: &DefaultSnapshot) -> Result<Self> {
        let mut tx = store.begin().await?;
        let mut all: HashMap<String, Snapshot> =
            table::all(&mut tx).await?.into_iter().map(|s| (s.id.clone(), s)).collect();
        let at = now();
        let known = all.values().find(|s| s.name == default.name).cloned();
        let created = known.as_ref().map_or(at, |s| s.created_at);
        let mut row = Snapshot {
            id: known.as_ref().map_or_else(|| uuid::Uuid::new_v4().to_string(), |s| s.id.clone()),
            name: default.name.clone(),
            image_name: Some(default.image.clone()),
            reference: default.image.clone(),
            build_ref: None,
            general: true,
            state: SnapshotState::Active,
            error_reason: None,
            entrypoint: default.entrypoint.clone(),
            image_entrypoint: None,
            size_gib: None,
            cpu: default.cpu,
            gpu: 0,
            gpu_type: None,
            memory: default.memory,
            disk: default.disk,
            runner_id: None,
            source_sandbox_id: None,
            created_at: created,
            updated_at: at,
            last_used_at: None,
        };
        if let Some(known) = known {
            row.last_used_at = known.last_used_at;
            row.size_gib = known.size_gib;
        }
        table::put(&mut tx, &row).await?;
        tx.commit().await?;
        all.insert(row.id.clone(), row);
        Ok(Self { store: store.clone(), all: Mutex::new(all), changing: Default::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Snapshot>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot with this id or name.
    pub(crate) fn find(&self, id_or_name: &str) -> Option<Snapshot> {
        let all = self.lock();
        all.get(id_or_name).or_else(|| all.values().find(|s| s.name == id_or_name)).cloned()
    }

    /// All snapshots: own ones first, then those used last, then the newest.
    pub(crate) fn list(&self) -> Vec<Snapshot> {
        let mut all: Vec<Snapshot> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| {
            let key = |s: &Snapshot| {
                (s.general, std::cmp::Reverse(s.last_used_at), std::cmp::Reverse(s.created_at))
            };
            key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
        });
        all
    }

    /// Stores a new snapshot, unless its name is taken.
    pub(crate) async fn insert(&self, core: &Core, snapshot: Snapshot) -> Result<bool> {
        let _changing = self.changing.lock().await;
        let free = self.find(&snapshot.name).is_none();
        if free {
            self.save(core, snapshot).await?;
        }
        Ok(free)
    }

    /// Changes a snapshot, and returns it; none if it has been removed.
    pub(crate) async fn change(
        &self,
        core: &Core,
        id: &str,
        change: impl FnOnce(&mut Snapshot),
    ) -> Result<Option<Snapshot>> {
        let _changing = self.changing.lock().await;
        let Some(mut snapshot) = self.lock().get(id).cloned() else { return Ok(None) };
        change(&mut snapshot);
        self.save(core, snapshot.clone()).await?;
        Ok(Some(snapshot))
    }

    /// Stores a snapshot and tells the event sockets.
    async fn save(&self, core: &Core, snapshot: Snapshot) -> Result<()> {
        let mut tx = self.store.begin().await?;
        table::put(&mut tx, &snapshot).await?;
        tx.commit().await?;
        self.note(core, snapshot);
        Ok(())
    }

    /// Makes a committed snapshot known.
    pub(crate) fn note(&self, core: &Core, snapshot: Snapshot) {
        let old = self.lock().insert(snapshot.id.clone(), snapshot.clone());
        let json = || serde_json::to_value(dto(&snapshot, core)).unwrap_or_default();
        match old {
            None => core.events.emit("snapshot.created", json),
            Some(old) if old.state != snapshot.state => core.events.emit("snapshot.state.updated", || {
                events::changed("snapshot", json(), "State", old.state.as_str(), snapshot.state.as_str())
            }),
            Some(_) => {}
        }
    }

    /// Removes a snapshot.
    pub(crate) async fn delete(&self, core: &Core, id: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        let mut tx = self.store.begin().await?;
        table::delete(&mut tx, id).await?;
        // An image that a user has put there is the user's.
        let made = self.lock().get(id).filter(|s| s.image_name.is_none()).map(|s| s.reference.clone());
        if let Some(reference) = made {
            registries::leave(core, &mut tx, &reference).await?;
        }
        tx.commit().await?;
        let old = self.lock().remove(id);
        core.leftovers.notify_one();
        if let Some(old) = old {
            core.events
                .emit("snapshot.removed", || serde_json::to_value(dto(&old, core)).unwrap_or_default());
        }
        Ok(())
    }

    /// Notes a use.
    pub(crate) async fn used(&self, core: &Core, id: &str) -> Result<()> {
        let at = now();
        // The list's order is all that depends on it, so minutes are enough.
        let noted = self.find(id).and_then(|s| s.last_used_at).is_some_and(|noted| at - noted < 60_000);
        if !noted {
            self.change(core, id, |s| s.last_used_at = Some(at)).await?;
        }
        Ok(())
    }

    /// The snapshot that was made of a sandbox, not stored yet.
    pub(crate) fn made_from(
        &self,
        r: &Record,
        name: String,
        result: &SandboxSnapshot,
        in_registry: bool,
    ) -> Snapshot {
        let at = now();
        let taken = self.find(&name).is_some();
        Snapshot {
            id: uuid::Uuid::new_v4().to_string(),
            // The name was free when it was asked for; if it is not any more, the snapshot still is not lost.
            name: if taken { format!("{name}-{}", crate::token::dns_label(6)) } else { name },
            image_name: None,
            reference: result.reference.clone().unwrap_or_default(),
            build_ref: None,
            general: false,
            state: SnapshotState::Active,
            error_reason: None,
            entrypoint: None,
            image_entrypoint: result.entrypoint.clone().or_else(|| result.cmd.clone()),
            size_gib: Some(result.size_gb),
            cpu: r.cpu,
            gpu: r.gpu,
            gpu_type: r.gpu_type.clone(),
            memory: r.memory,
            disk: r.disk,
            runner_id: r.runner_id.clone().filter(|_| !in_registry),
            source_sandbox_id: Some(r.id.clone()),
            created_at: at,
            updated_at: at,
            last_used_at: None,
        }
    }

    /// Starts the tasks of all snapshots that wait for their images.
    pub(crate) fn resume(&self, core: &Arc<Core>) {
        use SnapshotState::{Building, Pending, Pulling};
        let waiting = self.list().into_iter().filter(|s| matches!(s.state, Pending | Pulling | Building));
        for snapshot in waiting {
            core.tasks.spawn(bring(core.clone(), snapshot.id));
        }
    }
}

/// How a snapshot's image comes about.
pub(crate) fn recipe(core: &Core, snapshot: &Snapshot) -> Recipe {
    match snapshot.build_ref.as_deref().and_then(|reference| core.images.build(reference)) {
        Some(build) if build.reference == snapshot.reference => Recipe::Build(build),
        Some(build) if core.registries.in_own(&build.reference).as_ref() == Some(&snapshot.reference) => {
            Recipe::Publish(build, snapshot.reference.clone())
        }
        _ => Recipe::Pull(snapshot.reference.clone()),
    }
}

/// Brings a snapshot's image to a runner and makes the snapshot active, or says why not.
pub(crate) async fn bring(core: Arc<Core>, id: String) {
    let work = async {
        let Some(snapshot) = core.snapshots.find(&id) else { return Ok(()) };
        let recipe = recipe(&core, &snapshot);
        let runner = match snapshot.runner_id {
            Some(runner) => runner,
            None => core.runners.wait_for(&Need::any(&core.config.region)).await.id,
        };
        let building = !matches!(recipe, Recipe::Pull(_));
        let local = matches!(recipe, Recipe::Build(_));
        let begin = |s: &mut Snapshot| {
            s.state = if building { SnapshotState::Building } else { SnapshotState::Pulling };
            s.runner_id = Some(runner.clone());
            s.updated_at = now();
        };
        if core.snapshots.change(&core, &id, begin).await?.is_none() {
            return Ok(());
        }
        let mut image = core.images.ensure(&runner, &recipe, &core.org_id).await?;
        let Ok(image) = image.wait_for(|image| image.state != ImageState::Working).await.map(|i| i.clone())
        else {
            return Ok(());
        };
        let end = |s: &mut Snapshot| {
            s.updated_at = now();
            if image.state == ImageState::Ready {
                s.state = SnapshotState::Active;
                s.error_reason = None;
                s.size_gib = image.size_gib;
                s.image_entrypoint = image.entrypoint;
                // What a registry has can run anywhere.
                if !local {
                    s.runner_id = None;
                }
            } else {
                s.state = if building { SnapshotState::BuildFailed } else { SnapshotState::Error };
                s.error_reason = image.error;
            }
        };
        core.snapshots.change(&core, &id, end).await.map(drop)
    };
    tokio::select! {
        result = work => if let Err(error) = result {
            tracing::warn!(snapshot = id, %error, "could not store a snapshot");
        },
        () = core.stop.cancelled() => {}
    }
}

/// A snapshot for the wire.
pub(crate) fn dto(s: &Snapshot, core: &Core) -> wire::Snapshot {
    wire::Snapshot {
        id: s.id.clone(),
        organization_id: core.org_id.clone(),
        general: s.general,
        name: s.name.clone(),
        image_name: s.image_name.clone(),
        state: s.state,
        size: s.size_gib,
        entrypoint: s.entrypoint.clone().or_else(|| s.image_entrypoint.clone()),
        cpu: s.cpu,
        gpu: s.gpu,
        gpu_type: s.gpu_type.clone(),
        mem: s.memory,
        disk: s.disk,
        error_reason: s.error_reason.clone(),
        created_at: iso(s.created_at),
        updated_at: iso(s.updated_at),
        last_used_at: s.last_used_at.map(iso),
        build_info: s.build_ref.as_ref().and_then(|reference| build_info(core, reference)),
        region_ids: vec![core.config.region.clone()],
        initial_runner_id: s.runner_id.clone(),
        reference: Some(s.reference.clone()),
        source_sandbox_id: s.source_sandbox_id.clone(),
        sandbox_class: "container".to_owned(),
    }
}

/// A recipe for the wire.
pub(crate) fn build_info(core: &Core, reference: &str) -> Option<BuildInfo> {
    let build = core.images.build(reference)?;
    Some(BuildInfo {
        dockerfile_content: build.dockerfile,
        context_hashes: build.context_hashes,
        created_at: iso(build.created_at),
        updated_at: iso(build.last_used_at),
        snapshot_ref: build.reference,
    })
}
