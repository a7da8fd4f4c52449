//! Pinfold, the node agent of a sandbox cloud.
fn main() {}
