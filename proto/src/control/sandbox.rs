//! Control-plane shapes: sandbox.
