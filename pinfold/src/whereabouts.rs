//! How `pinfold status` finds the runner of this host: a file in its data directory that says where it serves, and with which token.
//!
//! The runner of `up` takes any free port, and an operator at a terminal has not the unit's environment. The file is for its owner alone, is
//! written when the runner serves, and goes with it; one that stayed after a `kill -9` names a port where nobody, or a stranger, answers.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pinfold_proto::id::Secret;
use pinfold_runner::Config;
use serde_json::{Value, json};

const FILE: &str = "runner.json";

/// What a runner says of itself; taken back when this is dropped.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    path: PathBuf,
    token: Secret,
    scheme: &'static str,
}

impl Whereabouts {
    /// Of a runner with this configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        Self { path: config.data_dir.join(FILE), token: config.token.clone(), scheme }
    }

    /// Writes down where the runner serves. Without the file only `pinfold status` is missing, so that is no reason to end.
    pub(crate) fn tell(&self, address: SocketAddr) {
        if let Err(error) = self.write(address) {
            tracing::warn!(path = %self.path.display(), %error, "pinfold status will not find this runner");
        }
    }

    fn write(&self, mut address: SocketAddr) -> std::io::Result<()> {
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let text = json!({ "url": format!("{}://{address}", self.scheme), "token": self.token.expose() });
        let part = self.path.with_extension("part");
        let _ = std::fs::remove_file(&part);
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&part)?;
        file.write_all(text.to_string().as_bytes())?;
        std::fs::rename(part, &self.path)
    }
}

impl Drop for Whereabouts {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The runners that a data directory tells of, `up`'s before `run`'s: URL and token.
pub(crate) fn found(data_dir: &Path) -> Vec<(String, Secret)> {
    let read = |dir: PathBuf| {
        let text = std::fs::read_to_string(dir.join(FILE)).ok()?;
        let told: Value = serde_json::from_str(&text).ok()?;
        Some((told["url"].as_str()?.to_owned(), Secret::new(told["token"].as_str()?)))
    };
    [data_dir.join("runner"), data_dir.to_owned()].into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_there_while_the_runner_is() {
        let dir = std::env::temp_dir().join(format!("whereabouts-{}", std::process::id()));
        // A run that was killed had this number, perhaps.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let config = Config::local("http://127.0.0.1:1/api", Secret::new("t0k"), 0, &dir);
        let whereabouts = Whereabouts::of(&config);
        assert!(found(&dir).is_empty());
        whereabouts.tell("0.0.0.0:8080".parse().unwrap());
        let all = found(&dir);
        assert_eq!((all.len(), all[0].0.as_str(), all[0].1.expose()), (1, "http://127.0.0.1:8080", "t0k"));
        let mode = std::fs::metadata(dir.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(whereabouts);
        assert!(found(&dir).is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
