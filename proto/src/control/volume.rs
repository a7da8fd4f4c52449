//! Control-plane shapes: volume.
