//! Control-plane shapes: snapshot.
