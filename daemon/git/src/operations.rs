//! Every operation once: how it is asked for, what the daemon does around it, and what serves it in the engine. Both routers are made from this table.

use axum::Router;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::repository::Context;
use crate::{
    branches, clone, commit, config, credentials, history, init, pull, push, remotes, reset, restore, stage,
    status,
};

/// What the daemon does around an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It reads: nobody waits for it, and it waits for nobody.
    Look,
    /// It has its repository to itself.
    Change,
    /// The same, and it may have a time limit.
    Transfer,
    /// It has the configuration of its scope to itself.
    Configure,
    /// It fills a directory that appears complete, or not at all.
    Clone,
}

/// One operation.
pub(crate) struct Operation {
    pub(crate) method: MethodFilter,
    pub(crate) path: &'static str,
    pub(crate) manner: Manner,
    /// The engine's side.
    served: fn(MethodFilter) -> MethodRouter<Context>,
}

const GET: MethodFilter = MethodFilter::GET;
const POST: MethodFilter = MethodFilter::POST;
const DELETE: MethodFilter = MethodFilter::DELETE;

const fn operation(
    method: MethodFilter,
    path: &'static str,
    manner: Manner,
    served: fn(MethodFilter) -> MethodRouter<Context>,
) -> Operation {
    Operation { method, path, manner, served }
}

/// Toolbox contract, section 12.
pub(crate) const OPERATIONS: [Operation; 20] = [
    operation(POST, "/git/clone", Manner::Clone, |method| on(method, clone::clone)),
    operation(GET, "/git/status", Manner::Look, |method| on(method, status::status)),
    operation(GET, "/git/branches", Manner::Look, |method| on(method, branches::list)),
    operation(POST, "/git/branches", Manner::Change, |method| on(method, branches::create)),
    operation(DELETE, "/git/branches", Manner::Change, |method| on(method, branches::delete)),
    operation(POST, "/git/checkout", Manner::Change, |method| on(method, branches::checkout)),
    operation(POST, "/git/add", Manner::Change, |method| on(method, stage::add)),
    operation(POST, "/git/commit", Manner::Change, |method| on(method, commit::commit)),
    operation(POST, "/git/push", Manner::Transfer, |method| on(method, push::push)),
    operation(POST, "/git/pull", Manner::Transfer, |method| on(method, pull::pull)),
    operation(GET, "/git/history", Manner::Look, |method| on(method, history::history)),
    operation(POST, "/git/init", Manner::Change, |method| on(method, init::init)),
    operation(GET, "/git/remotes", Manner::Look, |method| on(method, remotes::list)),
    operation(POST, "/git/remotes", Manner::Transfer, |method| on(method, remotes::add)),
    operation(POST, "/git/reset", Manner::Change, |method| on(method, reset::reset)),
    operation(POST, "/git/restore", Manner::Change, |method| on(method, restore::restore)),
    operation(GET, "/git/config", Manner::Look, |method| on(method, config::get)),
    operation(POST, "/git/config", Manner::Configure, |method| on(method, config::set)),
    operation(POST, "/git/config/user", Manner::Configure, |method| on(method, config::user)),
    operation(POST, "/git/credentials", Manner::Configure, |method| on(method, credentials::authenticate)),
];

/// The routes as the engine serves them.
pub(crate) fn served(context: Context) -> Router {
    let add = |router: Router<Context>, operation: &Operation| {
        router.route(operation.path, (operation.served)(operation.method))
    };
    OPERATIONS.iter().fold(Router::new(), add).with_state(context)
}
