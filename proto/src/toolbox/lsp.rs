//! Requests and responses of the toolbox's lsp routes.
