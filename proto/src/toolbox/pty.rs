//! Requests and responses of the toolbox's pty routes.
