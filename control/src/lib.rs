//! (being written)
pub mod ssh_gateway;
