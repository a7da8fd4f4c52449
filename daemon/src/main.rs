//! The toolbox daemon that Pinfold injects into every sandbox.
fn main() {}
