//! Finds the in-sandbox daemon to embed: `PINFOLD_DAEMON_BINARY`, or where `make build` puts it. Without one the runner still builds,
//! so that it can be checked and tested alone, and says at start what is missing.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=PINFOLD_DAEMON_BINARY");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let built =
        root.join("target").join(format!("{arch}-unknown-linux-musl")).join("release").join("pinfold-daemon");
    let named = env::var_os("PINFOLD_DAEMON_BINARY").filter(|p| !p.is_empty()).map(PathBuf::from);
    let source = named.unwrap_or(built);
    println!("cargo:rerun-if-changed={}", source.display());
    let embedded = if source.is_file() {
        source.canonicalize().unwrap_or(source)
    } else {
        println!(
            "cargo:warning=no daemon binary at {}: this runner cannot start sandboxes; run `make build`",
            source.display()
        );
        let empty = out.join("no-daemon");
        if let Err(error) = std::fs::write(&empty, b"") {
            println!("cargo:warning=cannot write {}: {error}", empty.display());
        }
        empty
    };
    println!("cargo:rustc-env=PINFOLD_EMBEDDED_DAEMON={}", embedded.display());
}
