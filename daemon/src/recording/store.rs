//! Recordings: those that run, those that ended since the daemon started, and those found in the directory.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use pinfold_proto::toolbox::system::Recording;
use pinfold_spawn::{Process, Sandbox};
use uuid::Uuid;

use crate::recording::pipe_quit;

/// How long ffmpeg may take to finish its file once it is told to.
const FINISH: Duration = Duration::from_secs(10);
/// Recordings that may run at once.
const MAX_ACTIVE: usize = 8;

/// Why something could not be done with a recording.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordingError {
    #[error("ffmpeg was not found in PATH; install it to record the screen")]
    NoFfmpeg,
    #[error(
        "the label has to be 1 to 100 letters, digits, spaces, '.', '_' or '-', and may not begin with a dot"
    )]
    Label,
    #[error("recording {0} was not found")]
    Unknown(String),
    #[error("recording {0} is still active; stop it first")]
    Active(String),
    #[error("{MAX_ACTIVE} recordings run already")]
    TooMany,
    #[error("could not start ffmpeg: {0}")]
    Start(String),
    #[error("could not use {path:?}: {source}")]
    File { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
struct Active {
    process: Process,
    path: PathBuf,
    started: SystemTime,
}

/// All recordings of this sandbox. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recordings {
    sandbox: Sandbox,
    directory: Arc<Path>,
    display: Arc<str>,
    active: Arc<Mutex<HashMap<String, Arc<Active>>>>,
}

impl Recordings {
    pub(crate) fn new(sandbox: Sandbox, directory: &Path, display: &str) -> Self {
        Self { sandbox, directory: directory.into(), display: display.into(), active: Arc::default() }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn running(&self) -> Vec<(String, Arc<Active>)> {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.iter().map(|(id, one)| (id.clone(), Arc::clone(one))).collect()
    }

    /// Starts ffmpeg on the display.
    pub(crate) fn start(&self, label: Option<&str>) -> Result<Recording, RecordingError> {
        if label.is_some_and(|label| !valid_label(label)) {
            return Err(RecordingError::Label);
        }
        let ffmpeg = self.ffmpeg().ok_or(RecordingError::NoFfmpeg)?;
        let file = |source| RecordingError::File { path: self.directory.to_path_buf(), source };
        std::fs::create_dir_all(&self.directory).map_err(file)?;
        let id = Uuid::new_v4().to_string();
        let at = jiff::Timestamp::now().strftime("%Y%m%d_%H%M%S");
        let path = self.directory.join(format!("{id}_{}_{at}.mp4", label.unwrap_or("session")));
        let mut command = Command::new(ffmpeg);
        command.args(["-hide_banner", "-loglevel", "error", "-y", "-f", "x11grab", "-framerate", "30", "-i"]);
        command
            .arg(&*self.display)
            .args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"])
            .arg(&path);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.sandbox.environment.apply(&mut command, []);
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.len() >= MAX_ACTIVE {
            return Err(RecordingError::TooMany);
        }
        let process =
            self.sandbox.spawner.spawn(command).map_err(|e| RecordingError::Start(e.to_string()))?;
        let one = Arc::new(Active { process, path, started: SystemTime::now() });
        active.insert(id.clone(), Arc::clone(&one));
        Ok(one.describe(&id))
    }

    /// Lets ffmpeg finish the file; kills it if it does not.
    pub(crate) async fn stop(&self, id: &str) -> Result<Recording, RecordingError> {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let active = active.ok_or_else(|| RecordingError::Unknown(id.to_owned()))?;
        pipe_quit(&active.process);
        if tokio::time::timeout(FINISH, active.process.wait()).await.is_err() {
            let _ = active.process.signal(Signal::SIGKILL);
            active.process.wait().await;
        }
        let described = active.describe(id);
        self.active.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(described)
    }

    fn ffmpeg(&self) -> Option<PathBuf> {
        let path = self.sandbox.environment.get("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|directory| directory.join("ffmpeg"))
            .find(|candidate| candidate.is_file())
    }

    /// All, the oldest first.
    pub(crate) fn list(&self) -> Result<Vec<Recording>, RecordingError> {
        let running = self.running();
        let mut all: Vec<Recording> = running.iter().map(|(id, active)| active.describe(id)).collect();
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
            Err(source) => return Err(RecordingError::File { path: self.directory.to_path_buf(), source }),
        };
        let found = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let found = found.filter(|path| path.extension().is_some_and(|e| e == "mp4"));
        all.extend(
            found.filter(|path| !running.iter().any(|(_, a)| a.path == *path)).filter_map(|p| finished(&p)),
        );
        all.sort_by(|a, b| (&a.start_time, &a.id).cmp(&(&b.start_time, &b.id)));
        Ok(all)
    }

    pub(crate) fn get(&self, id: &str) -> Result<Recording, RecordingError> {
        let found = self.list()?.into_iter().find(|recording| recording.id == id);
        found.ok_or_else(|| RecordingError::Unknown(id.to_owned()))
    }

    pub(crate) fn delete(&self, id: &str) -> Result<(), RecordingError> {
        let recording = self.get(id)?;
        if recording.status == "recording" {
            return Err(RecordingError::Active(id.to_owned()));
        }
        let path = PathBuf::from(recording.file_path);
        std::fs::remove_file(&path).map_err(|source| RecordingError::File { path, source })?;
        self.active.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }
}

impl Active {
    fn describe(&self, id: &str) -> Recording {
        // A recording that ended by itself stays listed, as failed unless ffmpeg says that all is well.
        let status = match self.process.exited() {
            None => "recording",
            Some(pinfold_spawn::Exit::Code(0 | 255)) if self.path.exists() => "completed",
            Some(_) => "failed",
        };
        let over = status != "recording";
        let found = std::fs::metadata(&self.path).ok();
        let end = found.as_ref().and_then(|m| m.modified().ok()).filter(|_| over);
        let duration = end.and_then(|end| end.duration_since(self.started).ok());
        Recording {
            id: id.to_owned(),
            file_name: name(&self.path),
            file_path: self.path.display().to_string(),
            start_time: time(self.started),
            end_time: end.map(time),
            status: status.to_owned(),
            duration_seconds: duration.map(|d| d.as_secs_f64()),
            size_bytes: found.filter(|_| over).map(|m| m.len()),
        }
    }
}

/// A file left by an earlier life of the daemon. Its id is the UUID before the first underscore, or one made from its path.
fn finished(path: &Path) -> Option<Recording> {
    let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let file_name = name(path);
    let id = file_name.split_once('_').and_then(|(id, _)| Uuid::parse_str(id).ok());
    let id = id.unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_URL, path.as_os_str().as_encoded_bytes()));
    let at = time(found.modified().ok()?);
    Some(Recording {
        id: id.to_string(),
        file_name,
        file_path: path.display().to_string(),
        start_time: at.clone(),
        end_time: Some(at),
        status: "completed".to_owned(),
        duration_seconds: None,
        size_bytes: Some(found.len()),
    })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).unwrap_or_default().to_string()
}

fn valid_label(label: &str) -> bool {
    (1..=100).contains(&label.chars().count())
        && !label.starts_with('.')
        && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_plain_names() {
        assert!(valid_label("demo 1.2_x-y") && valid_label(&"a".repeat(100)));
        for bad in ["", ".hidden", "a/b", "é", "a\nb", &"a".repeat(101)] {
            assert!(!valid_label(bad), "{bad:?}");
        }
    }
}
