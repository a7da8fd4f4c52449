//! Requests and responses of the toolbox's system routes.
