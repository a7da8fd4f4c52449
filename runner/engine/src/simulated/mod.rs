//! An engine in memory, for tests of what is above it: the same trait, the same error classes, and faults and delays on demand.
//!
//! It keeps the rules callers rely on (names are unique, a running container is not removed without force, a name that is gone is
//! "not found") and counts calls, so that a test can say how many an operation costs.

mod engine;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};

use crate::error::{EngineError, Result};
use crate::types::{Attachment, Container, ContainerSpec, ContainerStatus, Event, EventKind, Image, Network};

/// What the next call of a kind does instead of working.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Fails with this error.
    Error(EngineError),
    /// Never answers; only a caller's deadline or cancellation ends it.
    Hang,
    /// Works when it is told to go on.
    Held(Arc<Notify>),
    /// Takes effect, but the caller sees this error: an answer that was lost.
    Lost(EngineError),
    /// Of `inspect` and `start` alone: answers as it was when it was asked, or when it was done, but only when it is told to.
    Late(Arc<Notify>),
}

#[derive(Debug, Default)]
struct State {
    containers: BTreeMap<String, Container>,
    specs: HashMap<String, ContainerSpec>,
    attachments: HashMap<String, Vec<Attachment>>,
    images: BTreeMap<String, Image>,
    networks: BTreeMap<String, Network>,
    faults: HashMap<&'static str, VecDeque<Fault>>,
    delays: HashMap<&'static str, Duration>,
    calls: HashMap<&'static str, u64>,
    log: Vec<String>,
    /// How many more calls that change something are answered, if not all.
    allowed: Option<u64>,
    halted: bool,
    layers: Option<PathBuf>,
    next: u64,
}

/// The engine in memory.
#[derive(Debug)]
pub struct Simulated {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
}

impl Default for Simulated {
    fn default() -> Self {
        Self { state: Mutex::default(), events: broadcast::channel(4096).0 }
    }
}

fn not_found(what: &str, name: &str) -> EngineError {
    EngineError::NotFound { what: format!("{what} {name}"), message: format!("no such object: {name}") }
}

fn conflict(what: &str, name: &str, message: &str) -> EngineError {
    EngineError::Conflict { what: format!("{what} {name}"), message: message.to_owned() }
}

impl Simulated {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next call of `kind` (a method name) fail; repeated calls queue up.
    pub fn fail_next(&self, kind: &'static str, fault: Fault) {
        self.state().faults.entry(kind).or_default().push_back(fault);
    }

    /// Makes every call of `kind` take this long.
    pub fn delay(&self, kind: &'static str, delay: Duration) {
        self.state().delays.insert(kind, delay);
    }

    /// After `count` more calls that change something, no call is answered any more: what a process sees of an engine that it is killed beside.
    pub fn halt_after(&self, count: u64) {
        self.state().allowed = Some(count);
    }

    /// Whether a halt has begun.
    pub fn has_halted(&self) -> bool {
        self.state().halted
    }

    /// Answers again.
    pub fn resume(&self) {
        let mut state = self.state();
        (state.allowed, state.halted) = (None, false);
    }

    /// Gives every container from now on a writable layer below `dir`, as overlay2 on xfs does.
    pub fn keep_layers_in(&self, dir: impl Into<PathBuf>) {
        self.state().layers = Some(dir.into());
    }

    /// The names of all containers.
    pub fn container_names(&self) -> Vec<String> {
        self.state().containers.keys().cloned().collect()
    }

    /// What a container was created from.
    pub fn spec(&self, name: &str) -> Option<ContainerSpec> {
        self.state().specs.get(name).cloned()
    }

    /// The names of all networks.
    pub fn network_names(&self) -> Vec<String> {
        self.state().networks.keys().cloned().collect()
    }

    /// The names of all images.
    pub fn image_names(&self) -> Vec<String> {
        self.state().images.keys().cloned().collect()
    }

    /// How many calls of `kind` were made.
    pub fn calls(&self, kind: &str) -> u64 {
        self.state().calls.get(kind).copied().unwrap_or(0)
    }

    /// The calls that changed something, in order, as `kind name`.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// Puts an image into the store.
    pub fn add_image(&self, reference: &str, image: Image) {
        self.state().images.insert(reference.to_owned(), image);
    }

    /// A container's first process ends.
    pub fn exit(&self, name: &str, code: i64, oom: bool) {
        let id = {
            let mut state = self.state();
            let Some(container) = state.containers.get_mut(name) else { return };
            container.status = ContainerStatus::Exited;
            container.exit_code = code;
            container.oom_killed = oom;
            container.id.clone()
        };
        if oom {
            self.emit("oom", &id, name, None);
        }
        self.emit("die", &id, name, Some(code));
    }

    /// Tells of something that did not change a container, as engines do of signals and of processes in it.
    pub fn tell(&self, action: &str, name: &str) {
        if let Some(container) = self.container(name) {
            self.emit(action, &container.id, name, None);
        }
    }

    /// A container vanishes without an event, as when an engine's data is restored from elsewhere.
    pub fn vanish(&self, name: &str) {
        self.state().containers.remove(name);
    }

    /// Changes a container behind its users' backs, without an event.
    pub fn alter(&self, name: &str, change: impl FnOnce(&mut Container)) {
        if let Some(container) = self.state().containers.get_mut(name) {
            change(container);
        }
    }

    /// The container, if it exists.
    pub fn container(&self, name: &str) -> Option<Container> {
        self.state().containers.get(name).cloned()
    }

    /// The networks a container was created on or attached to since.
    pub fn attachments(&self, name: &str) -> Vec<Attachment> {
        self.state().attachments.get(name).cloned().unwrap_or_default()
    }

    fn emit(&self, action: &str, id: &str, name: &str, exit_code: Option<i64>) {
        let event = Event {
            kind: EventKind::Container,
            action: action.to_owned(),
            id: id.to_owned(),
            name: name.to_owned(),
            exit_code,
        };
        let _ = self.events.send(event);
    }

    /// Counts the call, waits its delay, and returns a fault that has to be reported after the effect.
    async fn enter(&self, kind: &'static str, name: &str) -> Result<Option<EngineError>> {
        let changes = !matches!(
            kind,
            "ping" | "info" | "list" | "inspect" | "image" | "image_tags" | "network" | "networks" | "logs"
        );
        let halted = {
            let mut state = self.state();
            match state.allowed {
                Some(0) if changes || state.halted => {
                    state.halted = true;
                    true
                }
                Some(left) if changes => {
                    state.allowed = Some(left - 1);
                    false
                }
                _ => false,
            }
        };
        if halted {
            std::future::pending::<()>().await;
        }
        let (delay, fault) = {
            let mut state = self.state();
            *state.calls.entry(kind).or_default() += 1;
            if changes {
                state.log.push(format!("{kind} {name}"));
            }
            let fault = state.faults.get_mut(kind).and_then(VecDeque::pop_front);
            (state.delays.get(kind).copied(), fault)
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        match fault {
            None => Ok(None),
            Some(Fault::Error(error)) => Err(error),
            Some(Fault::Lost(error)) => Ok(Some(error)),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Held(gate) | Fault::Late(gate)) => {
                gate.notified().await;
                Ok(None)
            }
        }
    }

    /// What the next call of `kind` waits for with its answer, if that comes late.
    fn take_late(&self, kind: &str) -> Option<Arc<Notify>> {
        let mut state = self.state();
        let next = state.faults.get_mut(kind)?.pop_front_if(|fault| matches!(fault, Fault::Late(_)))?;
        match next {
            Fault::Late(gate) => Some(gate),
            _ => None,
        }
    }

    fn with<T>(&self, what: &str, name: &str, change: impl FnOnce(&mut Container) -> Result<T>) -> Result<T> {
        let mut state = self.state();
        let found = match state.containers.get_mut(name) {
            Some(container) => Some(container),
            None => state.containers.values_mut().find(|c| c.id == name),
        };
        change(found.ok_or_else(|| not_found(what, name))?)
    }

    fn insert(&self, mut container: Container, networks: &[Attachment]) {
        let (id, name) = (container.id.clone(), container.name.clone());
        let mut state = self.state();
        if let Some(dir) = state.layers.as_ref().map(|layers| layers.join(&id)) {
            container.upper_dir = std::fs::create_dir_all(&dir).is_ok().then_some(dir);
        }
        state.attachments.insert(name.clone(), networks.to_vec());
        state.containers.insert(name.clone(), container);
        drop(state);
        self.emit("create", &id, &name, None);
    }

    fn new_id(&self) -> String {
        let mut state = self.state();
        state.next += 1;
        format!("{:064x}", state.next)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::Engine;
    use crate::types::ContainerSpec;

    #[tokio::test]
    async fn keeps_the_rules_that_callers_rely_on() {
        let engine = Simulated::default();
        let mut events = engine.events();
        let spec =
            ContainerSpec { name: "a".to_owned(), image: "img:1".to_owned(), ..ContainerSpec::default() };
        assert!(engine.create(&spec).await.unwrap_err().is_not_found());
        engine.add_image("img:1", Image::default());
        engine.create(&spec).await.unwrap();
        assert!(engine.create(&spec).await.unwrap_err().is_conflict());
        engine.start("a").await.unwrap();
        assert!(engine.remove("a", false).await.unwrap_err().is_conflict());
        engine.remove("a", true).await.unwrap();
        assert!(engine.remove("a", true).await.unwrap_err().is_not_found());
        for expected in ["create", "start", "destroy"] {
            assert_eq!(events.next().await.unwrap().unwrap().action, expected);
        }
    }

    #[tokio::test]
    async fn a_lost_answer_still_takes_effect() {
        let engine = Simulated::default();
        engine.add_image("img:1", Image::default());
        let timeout = EngineError::Timeout { what: "create".to_owned(), after: Duration::ZERO };
        engine.fail_next("create", Fault::Lost(timeout));
        let spec =
            ContainerSpec { name: "a".to_owned(), image: "img:1".to_owned(), ..ContainerSpec::default() };
        assert!(engine.create(&spec).await.is_err());
        assert!(engine.container("a").is_some());
        assert_eq!(engine.calls("create"), 1);
    }
}
