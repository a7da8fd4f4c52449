//! Build logs: files that can be followed while a build writes them, and that end when it does, however it ends.
//!
//! A follower reads the file and waits on the build's own signal; it neither polls nor spins, creates no file, and holds no build up.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// How long a follower waits for a build that was announced but has not begun.
const PATIENCE: Duration = Duration::from_secs(5);
/// A log that grew this large is not appended to any more.
const LARGEST: u64 = 64 << 20;
/// Logs that are kept: the newest ones, and together no more than these bytes. Those of running builds always are.
const MOST: usize = 500;
const MOST_BYTES: u64 = 1 << 30;

/// Bytes of a build log.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// All build logs of a node.
#[derive(Debug)]
pub struct BuildLogs {
    dir: PathBuf,
    running: Mutex<HashMap<String, watch::Receiver<u64>>>,
    begun: watch::Sender<u64>,
}

/// Writes one build's log. Dropping it ends the log for its followers.
#[derive(Debug)]
pub struct LogWriter {
    file: tokio::fs::File,
    written: u64,
    progress: watch::Sender<u64>,
}

impl LogWriter {
    /// Appends to the log; followers see it at once.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > LARGEST {
            return Ok(());
        }
        self.file.write_all(bytes).await?;
        self.file.flush().await?;
        self.written += u64::try_from(bytes.len()).unwrap_or(0);
        self.progress.send_modify(|n| *n += 1);
        Ok(())
    }
}

/// A build id becomes a file name, so nothing else is one.
fn is_name(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 200
        && !id.starts_with('.')
        && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

impl BuildLogs {
    /// Logs in `dir`, which is made when the first build begins.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, running: Mutex::default(), begun: watch::channel(0).0 }
    }

    /// Opens the log of a build that begins.
    pub async fn begin(&self, id: &str) -> io::Result<LogWriter> {
        if !is_name(id) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{id:?} cannot name a build log"),
            ));
        }
        // Known as running before its file exists: whoever sees the file can follow it.
        let (progress, follow) = watch::channel(0);
        self.lock().insert(id.to_owned(), follow);
        tokio::fs::create_dir_all(&self.dir).await?;
        self.remove_old(MOST, MOST_BYTES).await;
        let file = tokio::fs::OpenOptions::new().append(true).create(true).open(self.dir.join(id)).await?;
        let written = file.metadata().await?.len();
        self.begun.send_modify(|n| *n += 1);
        Ok(LogWriter { file, written, progress })
    }

    /// Removes the oldest logs beyond `count` or `bytes`. What cannot be removed stays; the next build tries again.
    async fn remove_old(&self, count: usize, bytes: u64) {
        let Ok(mut entries) = tokio::fs::read_dir(&self.dir).await else { return };
        let mut logs = Vec::new();
        while let Ok(Some(entry)) = entries.next_entry().await {
            let Ok(found) = entry.metadata().await else { continue };
            if found.is_file() {
                logs.push((found.modified().ok(), found.len(), entry.path()));
            }
        }
        logs.sort_by_key(|log| std::cmp::Reverse(log.0));
        let mut kept = 0;
        for (at, (_, size, path)) in logs.into_iter().enumerate() {
            kept += size;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if (at < count && kept <= bytes) || self.lock().contains_key(name) {
                continue;
            }
            if let Err(error) = tokio::fs::remove_file(&path).await {
                tracing::warn!(path = %path.display(), %error, "could not remove an old build log");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Receiver<u64>>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, follow| follow.has_changed().is_ok());
        running
    }

    /// How many builds write one.
    pub(super) fn running(&self) -> usize {
        self.lock().len()
    }

    /// The log of a build: what is there, and with `follow` what is appended until the build ends. `None` when there is no such log.
    pub async fn read(&self, id: &str, follow: bool) -> io::Result<Option<LogStream>> {
        if !is_name(id) {
            return Ok(None);
        }
        if follow && !tokio::fs::try_exists(self.dir.join(id)).await? {
            let mut begun = self.begun.subscribe();
            let _ = tokio::time::timeout(PATIENCE, begun.wait_for(|_| self.dir.join(id).exists())).await;
        }
        let progress = if follow { self.lock().get(id).cloned() } else { None };
        match tokio::fs::File::open(self.dir.join(id)).await {
            Ok(file) => Ok(Some(tail(file, progress).boxed())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn tail(
    file: tokio::fs::File,
    progress: Option<watch::Receiver<u64>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold((file, progress), |(mut file, mut progress)| async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            // Seen before reading: what is written after the read changes it again.
            let ended = progress.as_mut().is_none_or(|p| {
                p.mark_unchanged();
                p.has_changed().is_err()
            });
            let read = file.read(&mut buffer).await?;
            if read > 0 {
                buffer.truncate(read);
                return Ok(Some((Bytes::from(buffer), (file, progress))));
            }
            if ended {
                return Ok(None);
            }
            if let Some(progress) = progress.as_mut() {
                // An error means that the writer is gone; one more read finds its last bytes.
                let _ = progress.changed().await;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn pain_34_build_logs_do_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let logs = BuildLogs::new(dir.path().to_owned());
        let running = logs.begin("daytona-old-and-running").await.unwrap();
        let mut writer = logs.begin("daytona-large").await.unwrap();
        // One log is bounded, and so are all together, whose oldest go first.
        writer.written = LARGEST + 1;
        writer.write(b"not any more").await.unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("daytona-large")).unwrap().len(), 0);
        drop(writer);
        let hour = Duration::from_secs(3600);
        for (age, name) in [(3, "daytona-a"), (2, "daytona-b"), (1, "daytona-c")] {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(100).unwrap();
            file.set_modified(std::time::SystemTime::now() - hour * age).unwrap();
        }
        let left = || {
            let names = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name());
            let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        logs.remove_old(100, 250).await;
        assert_eq!(left(), ["daytona-b", "daytona-c", "daytona-large", "daytona-old-and-running"]);
        logs.remove_old(0, 250).await;
        assert_eq!(left(), ["daytona-old-and-running"], "whoever follows a build reads to its end");
        drop(running);
        logs.remove_old(0, 0).await;
        assert!(left().is_empty());
    }

    #[tokio::test]
    async fn a_follower_sees_everything_and_ends_with_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let logs = BuildLogs::new(dir.path().join("builds"));
        let mut writer = logs.begin("daytona-1").await.unwrap();
        writer.write(b"one\n").await.unwrap();
        let stream = logs.read("daytona-1", true).await.unwrap().unwrap();
        let follower = tokio::spawn(stream.try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        }));
        for _ in 0..100 {
            writer.write(b"line\n").await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(writer);
        let all = tokio::time::timeout(Duration::from_secs(60), follower)
            .await
            .expect("the follower ends")
            .unwrap()
            .unwrap();
        assert_eq!(all.len(), 4 + 500);
        assert!(logs.read("daytona-2", false).await.unwrap().is_none());
        assert!(!dir.path().join("builds/daytona-2").exists());
        assert!(logs.read("../etc/passwd", false).await.unwrap().is_none());
    }
}
