//! The cgroup below which the engine keeps what it runs. The API does not tell it, so the engine's own arguments and configuration file do
//! (dockerd(8): `--cgroup-parent`, `--config-file`).

use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

/// What an engine has that was told nothing.
const DEFAULT: &str = "docker";
const CONFIG: &str = "/etc/docker/daemon.json";

/// The engine's process, as the kernel knows it.
const PROGRAM: &str = "dockerd";

/// The parent of the engine that listens on `socket`, without slashes around it; or why it is not known.
pub(super) async fn of_engine_at(socket: &Path) -> Result<String, String> {
    let listener =
        UnixStream::connect(socket).await.and_then(|s| s.peer_cred()).map_err(|e| e.to_string())?;
    let proc = Path::new("/proc");
    let listener = listener.pid().map(|pid| proc.join(pid.to_string())).filter(|process| is_engine(process));
    // Where systemd listens for the engine, the name has to do.
    let engines = listener.map_or_else(|| engines(proc), |one| vec![one]);
    let mut parents = engines.iter().map(|process| parent_of(process)).collect::<Result<Vec<_>, _>>()?;
    parents.dedup();
    match parents.as_slice() {
        [parent] => Ok(parent.clone()),
        [] => Err("the engine's process is not to be seen, so the cgroup of its steps is unknown".to_owned()),
        _ => Err("several engines run here, with cgroups of their own".to_owned()),
    }
}

fn is_engine(process: &Path) -> bool {
    std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim_end() == PROGRAM)
}

fn engines(proc: &Path) -> Vec<PathBuf> {
    let processes = std::fs::read_dir(proc).into_iter().flatten().flatten();
    processes.map(|entry| entry.path()).filter(|process| is_engine(process)).collect()
}

fn parent_of(process: &Path) -> Result<String, String> {
    let arguments = std::fs::read_to_string(process.join("cmdline")).map_err(|e| e.to_string())?;
    let arguments: Vec<&str> = arguments.split('\0').collect();
    let parent = match option(&arguments, "--cgroup-parent") {
        Some(parent) => parent.to_owned(),
        None => configured(Path::new(option(&arguments, "--config-file").unwrap_or(CONFIG)))?,
    };
    Ok(parent.trim_matches('/').to_owned())
}

/// The last value of an option, however it is written.
fn option<'a>(arguments: &[&'a str], name: &str) -> Option<&'a str> {
    let at = arguments
        .iter()
        .rposition(|a| a.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))?;
    arguments[at].split_once('=').map(|(_, value)| value).or_else(|| arguments.get(at + 1).copied())
}

fn configured(file: &Path) -> Result<String, String> {
    let unread = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(DEFAULT.to_owned()),
        Err(error) => return Err(unread(&error)),
    };
    let config: serde_json::Value = serde_json::from_slice(&text).map_err(|e| unread(&e))?;
    let parent = config.get("cgroup-parent").and_then(|parent| parent.as_str()).filter(|p| !p.is_empty());
    Ok(parent.unwrap_or(DEFAULT).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(arguments: &[&str]) -> Result<String, String> {
        let process = tempfile::tempdir().unwrap();
        std::fs::write(process.path().join("cmdline"), arguments.join("\0") + "\0").unwrap();
        parent_of(process.path())
    }

    #[test]
    fn the_engine_is_asked_by_its_arguments_and_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("daemon.json");
        let configured = format!("--config-file={}", file.display());
        assert_eq!(engine(&["dockerd", "--config-file", "/nowhere"]).unwrap(), "docker");
        assert_eq!(engine(&["dockerd", "--cgroup-parent", "/mine/"]).unwrap(), "mine");
        std::fs::write(&file, r#"{"cgroup-parent": "/sandboxes/all"}"#).unwrap();
        assert_eq!(engine(&["dockerd", &configured]).unwrap(), "sandboxes/all");
        assert_eq!(engine(&["dockerd", &configured, "--cgroup-parent=a", "--cgroup-parent=b"]).unwrap(), "b");
        std::fs::write(&file, r#"{"debug": true}"#).unwrap();
        assert_eq!(engine(&["dockerd", &configured]).unwrap(), "docker");
        std::fs::write(&file, "{").unwrap();
        assert!(engine(&["dockerd", &configured]).unwrap_err().contains("daemon.json"));
    }
}
