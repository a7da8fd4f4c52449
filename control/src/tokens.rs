//! Short-lived credentials for one sandbox: SSH access and signed preview links.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::tokens::{self as table, Kind, Token};
use crate::store::{Result, Store};
use crate::time::now;
use crate::token::hash;

/// All tokens, by hash.
#[derive(Debug)]
pub(crate) struct Tokens {
    store: Store,
    all: Mutex<HashMap<String, Token>>,
}

impl Tokens {
    /// Loads the tokens that are still good.
    pub(crate) async fn load(store: &Store) -> Result<Self> {
        let mut tx = store.begin().await?;
        let live = table::live(&mut tx, now()).await?;
        tx.commit().await?;
        let all = live.into_iter().map(|token| (token.hash.clone(), token)).collect();
        Ok(Self { store: store.clone(), all: Mutex::new(all) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Token>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores `secret`. An SSH token replaces its sandbox's former ones.
    pub(crate) async fn issue(
        &self,
        secret: &str,
        kind: Kind,
        sandbox_id: &str,
        port: Option<u16>,
        lifetime_ms: i64,
    ) -> Result<Token> {
        let at = now();
        let token = Token {
            hash: hash(secret),
            id: uuid::Uuid::new_v4().to_string(),
            kind,
            sandbox_id: sandbox_id.to_owned(),
            port,
            created_at: at,
            expires_at: at.saturating_add(lifetime_ms),
        };
        let mut tx = self.store.begin().await?;
        if kind == Kind::Ssh {
            table::delete_kind(&mut tx, sandbox_id, kind).await?;
        }
        table::insert(&mut tx, &token).await?;
        tx.commit().await?;
        let mut all = self.lock();
        all.retain(|_, old| {
            old.expires_at > at && !(kind == Kind::Ssh && old.kind == kind && old.sandbox_id == sandbox_id)
        });
        all.insert(token.hash.clone(), token.clone());
        Ok(token)
    }

    /// The token that `secret` is, if it is of this kind and has not expired.
    pub(crate) fn find(&self, secret: &str, kind: Kind) -> Option<Token> {
        self.lock().get(&hash(secret)).filter(|t| t.kind == kind && t.expires_at > now()).cloned()
    }

    /// Ends one token.
    pub(crate) async fn revoke(&self, secret: &str) -> Result<()> {
        let hash = hash(secret);
        let mut tx = self.store.begin().await?;
        table::delete(&mut tx, &hash).await?;
        tx.commit().await?;
        self.lock().remove(&hash);
        Ok(())
    }

    /// Ends all tokens of a kind of one sandbox.
    pub(crate) async fn revoke_all(&self, sandbox_id: &str, kind: Kind) -> Result<()> {
        let mut tx = self.store.begin().await?;
        table::delete_kind(&mut tx, sandbox_id, kind).await?;
        tx.commit().await?;
        self.lock().retain(|_, t| t.sandbox_id != sandbox_id || t.kind != kind);
        Ok(())
    }

    /// Forgets a sandbox whose rows are gone.
    pub(crate) fn forget_sandbox(&self, sandbox_id: &str) {
        self.lock().retain(|_, t| t.sandbox_id != sandbox_id);
    }
}
