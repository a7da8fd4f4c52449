//! Requests and responses of the toolbox's git routes.
