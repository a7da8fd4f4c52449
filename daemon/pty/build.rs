//! Compresses the web terminal's script, the largest asset by far: every sandbox carries it, and few ever open it.

use std::io::Write;
use std::path::Path;
use std::{env, fs, io};

const SCRIPT: &str = "src/terminal/assets/xterm.js";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={SCRIPT}");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    let file = fs::File::create(Path::new(&out).join("xterm.js.gz"))?;
    let mut gzip = flate2::GzBuilder::new().write(file, flate2::Compression::best());
    gzip.write_all(&fs::read(SCRIPT)?)?;
    gzip.finish()?;
    Ok(())
}
