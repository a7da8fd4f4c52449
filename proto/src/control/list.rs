//! Control-plane shapes: list.
