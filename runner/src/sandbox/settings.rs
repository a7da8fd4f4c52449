//! Network settings of a sandbox that exists (runner contract 9.4 and 17.3): the whole desired policy, stored and, if it has an address,
//! enforced. A stopped sandbox is as good as a running one.

use std::sync::Arc;
use std::time::Instant;

use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::NetworkSettings;

use super::Urgency;
use crate::error::{Class, OpError, OpResult};
use crate::node::{ATTEMPTS, FIRST_PAUSE, Node};
use crate::policy;

impl Node {
    /// Replaces a sandbox's network policy.
    pub async fn set_network(self: &Arc<Self>, id: &SandboxId, settings: NetworkSettings) -> OpResult<()> {
        let began = Instant::now();
        policy::parse_beside(&settings, self.config.container_network.as_deref())?;
        let (node, owned) = (self.clone(), id.clone());
        let work = async move { node.set_network_in_turn(&owned, settings).await };
        let result = self.owners.run(id, Urgency::InTurn, work).await;
        self.counters.finished("network", id.as_str(), began, &result);
        result
    }

    async fn set_network_in_turn(&self, id: &SandboxId, settings: NetworkSettings) -> OpResult<()> {
        let (known, recorded) = (self.known(id).await, self.records.get(id));
        let known = match known {
            Ok(None) => {
                return Err(OpError::new(Class::NotFound, format!("sandbox {id} is not on this node")));
            }
            Ok(known) => known,
            // An engine that does not answer is no reason to lose what a sandbox of ours may reach.
            Err(_) if recorded.is_some() => None,
            Err(error) => return Err(error),
        };
        self.take_over_late(id).await?;
        let mut record = self.records.get(id).unwrap_or_default();
        // The egress limit is only sent when it changes; everything else is the whole policy.
        let limit = settings.network_limit_egress.or(record.network.network_limit_egress);
        record.network = NetworkSettings { network_limit_egress: limit, ..settings };
        let address = record.address.or(known.and_then(|k| k.address));
        self.records.put(id, record).await?;
        // A control plane does not tell its users of a failure here (runner contract 14.4), so one that passes is waited for. What is left is
        // put in force at the next start or full listing.
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.enforce(id, address).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, "could not change a network policy; trying again")
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.enforce(id, address).await
    }
}
