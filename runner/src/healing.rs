//! Keeps the volumes of running sandboxes alive: a mount whose client died is replaced under them.
//!
//! The end of a client is told by the kernel. What nobody tells, a client that hangs or that was not found, is seen by a look at every mount now and then. One task a volume heals,
//! one at a time, so that a store that is away holds up nothing else; what failed is tried again with growing pauses for as long as a sandbox needs it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pinfold_engine::ContainerStatus;
use pinfold_proto::id::VolumeId;
use pinfold_volumes::User;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::error::OpResult;
use crate::node::Node;

/// Time between two looks at all mounts.
const LOOK: Duration = Duration::from_secs(10);
/// The pause after a failure, which doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long what is being healed at a stop may go on.
const GRACE: Duration = Duration::from_secs(5);

/// A volume that could not be healed.
struct Failed {
    pause: Duration,
    due: Instant,
}

#[derive(Default)]
struct Healing {
    tasks: JoinSet<(VolumeId, OpResult<usize>)>,
    /// Volumes that a task is at, and whether something may have happened since it began.
    under_way: HashMap<VolumeId, bool>,
    failed: HashMap<VolumeId, Failed>,
}

impl Healing {
    /// Looks at every volume that is not being looked at.
    fn look(&mut self, node: &Arc<Node>) {
        let users = node.users_of_volumes();
        self.failed.retain(|volume, _| users.contains_key(volume));
        for (volume, users) in users {
            if let Some(again) = self.under_way.get_mut(&volume) {
                *again = true;
            } else if self.failed.get(&volume).is_none_or(|failed| failed.due <= Instant::now()) {
                self.under_way.insert(volume.clone(), false);
                let node = node.clone();
                self.tasks.spawn(async move {
                    let began = std::time::Instant::now();
                    let result = node.volumes.heal(&volume, &users).await;
                    node.counters.healed(&volume, began, &result);
                    (volume, result)
                });
            }
        }
    }

    /// Takes a task's result; whether its volume has to be looked at again at once.
    fn ended(&mut self, volume: VolumeId, result: &OpResult<usize>) -> bool {
        let again = self.under_way.remove(&volume).unwrap_or_default();
        if result.is_ok() {
            self.failed.remove(&volume);
            return again;
        }
        let pause = self.failed.get(&volume).map_or(FIRST_PAUSE, |f| (f.pause * 2).min(LONGEST_PAUSE));
        self.failed.insert(volume, Failed { pause, due: Instant::now() + pause });
        false
    }

    /// When the next failure is to be tried again.
    fn due(&self) -> Option<Instant> {
        let waiting = self.failed.iter().filter(|(volume, _)| !self.under_way.contains_key(*volume));
        waiting.map(|(_, failed)| failed.due).min()
    }
}

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    if !node.volumes.may_die() {
        return;
    }
    let mut healing = Healing::default();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = healing.due();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = looks.tick() => {}
            () = node.volumes.disturbed() => {}
            () = node.volumes_bound.notified() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            Some(ended) = healing.tasks.join_next() => {
                let Ok((volume, result)) = ended else { continue };
                if !healing.ended(volume, &result) {
                    continue;
                }
            }
        }
        healing.look(&node);
    }
    // A client that is just being started would be in the way of the next runner's.
    let _ = tokio::time::timeout(GRACE, healing.tasks.join_all()).await;
}

impl Node {
    /// The volumes that running sandboxes have, and those sandboxes.
    fn users_of_volumes(&self) -> HashMap<VolumeId, Vec<User>> {
        let mut users: HashMap<VolumeId, Vec<User>> = HashMap::new();
        for (id, sandbox) in self.index.all() {
            if sandbox.status != ContainerStatus::Running {
                continue;
            }
            let mounts = self.records.get(&id).map(|record| record.volumes).unwrap_or_default();
            let volumes: HashSet<VolumeId> = mounts.iter().filter_map(|m| m.volume_id.parse().ok()).collect();
            for volume in volumes {
                users.entry(volume).or_default().push((id.clone(), mounts.clone()));
            }
        }
        users
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, OpError};

    fn failure() -> OpResult<usize> {
        Err(OpError::new(Class::Internal, "the store is away"))
    }

    /// A store that is away is asked again after one second, and then ever more rarely, but never less than twice a minute.
    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_healed_is_tried_again_with_growing_pauses() {
        let (mut healing, volume) = (Healing::default(), VolumeId::random());
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            healing.under_way.insert(volume.clone(), false);
            assert_eq!(healing.due(), None, "it is being tried");
            assert!(!healing.ended(volume.clone(), &failure()), "not at once");
            assert_eq!(healing.due(), Some(Instant::now() + Duration::from_secs(seconds)));
            tokio::time::advance(Duration::from_secs(seconds)).await;
        }
        healing.under_way.insert(volume.clone(), false);
        assert!(!healing.ended(volume.clone(), &Ok(1)), "nothing has happened since");
        assert_eq!(healing.due(), None);
        // The next failure is a first one; and what happens during a look is looked at again.
        healing.under_way.insert(volume.clone(), true);
        assert!(!healing.ended(volume.clone(), &failure()));
        assert_eq!(healing.due(), Some(Instant::now() + FIRST_PAUSE));
        healing.under_way.insert(volume.clone(), true);
        assert!(healing.ended(volume, &Ok(0)));
    }
}
