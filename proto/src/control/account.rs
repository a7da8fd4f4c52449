//! Control-plane shapes: account.
