//! Requests and responses of the toolbox's files routes.
