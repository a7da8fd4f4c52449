//! Requests and responses of the toolbox's interpreter routes.
