//! What the daemon serves inside a sandbox: one module per group of routes.

pub mod files;
pub mod git;
pub mod interpreter;
pub mod lsp;
pub mod process;
pub mod pty;
pub mod sdk;
pub mod system;
