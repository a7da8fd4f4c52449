//! Requests and responses of the toolbox's process routes.
