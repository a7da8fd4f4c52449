//! Makes the daemon smaller, since every sandbox carries it.
//!
//! The description of the API, which few ever read, is compressed: the contract's own, with our routes added to its paths. And what the static program
//! has to relocate at its start is written as a bit for each place rather than 24 bytes, which is a megabyte.

use std::io::Write;
use std::path::Path;
use std::{env, fs, io};

use serde_json::Value;

const CONTRACT: &str = "src/describe/toolbox.json";
const OURS: &str = "src/describe/ours.json";

fn main() -> io::Result<()> {
    if env::var_os("CARGO_CFG_TARGET_ENV").is_some_and(|env| env == "musl") {
        // Rust's own musl can relocate so since 1.93. Linkers that cannot write it say so and go on.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    println!("cargo::rerun-if-changed={CONTRACT}");
    println!("cargo::rerun-if-changed={OURS}");
    let mut description = read(CONTRACT)?;
    let Value::Object(ours) = read(OURS)? else { return Err(io::Error::other("our paths are no object")) };
    let paths = description["paths"].as_object_mut();
    paths.ok_or_else(|| io::Error::other("the description has no paths"))?.extend(ours);
    description["info"]["version"] = format!("v{}", env!("CARGO_PKG_VERSION")).into();
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    let file = fs::File::create(Path::new(&out).join("description.json.gz"))?;
    let mut gzip = flate2::GzBuilder::new().write(file, flate2::Compression::best());
    gzip.write_all(description.to_string().as_bytes())?;
    gzip.finish()?;
    Ok(())
}

fn read(path: &str) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
