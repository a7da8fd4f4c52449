//! A file that is renamed, compressed and forgotten as it grows: so that the daemon's log cannot fill the sandbox's disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::config::LogFile;

/// An append-only file with a bound.
#[derive(Debug)]
pub(crate) struct Rotating {
    settings: LogFile,
    file: File,
    size: u64,
}

impl Rotating {
    /// Opens the file for appending, creating it and its directory.
    pub(crate) fn open(settings: LogFile) -> io::Result<Self> {
        if let Some(directory) = settings.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = append(&settings.path)?;
        let size = file.metadata()?.len();
        Ok(Self { settings, file, size })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let rotated = rotated_name(&self.settings.path, &jiff::Timestamp::now());
        fs::rename(&self.settings.path, &rotated)?;
        self.file = append(&self.settings.path)?;
        self.size = 0;
        if self.settings.compress {
            compress(&rotated)?;
        }
        self.forget()
    }

    /// Removes rotated files that are too many or too old.
    fn forget(&self) -> io::Result<()> {
        let mut rotated = rotated_files(&self.settings.path)?;
        rotated.sort_unstable_by(|a, b| b.cmp(a));
        let now = SystemTime::now();
        for (index, path) in rotated.iter().enumerate() {
            let age =
                fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|at| now.duration_since(at).ok());
            if index >= self.settings.backups || age.is_some_and(|age| age > self.settings.max_age) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.settings.max_bytes {
            // A failed rotation must not lose the line; the next write tries again.
            let _ = self.rotate();
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// `daemon.log` becomes `daemon-2026-05-04T10-11-12.123456.log`: sorting by name is sorting by age.
fn rotated_name(path: &Path, at: &jiff::Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    let at = at.strftime("%Y-%m-%dT%H-%M-%S%.6f");
    path.with_file_name(format!("{stem}-{at}{extension}"))
}

fn parts(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    (stem, extension)
}

fn rotated_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = parts(path);
    let (prefix, plain, zipped) = (format!("{stem}-2"), extension.clone(), format!("{extension}.gz"));
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(names
        .filter(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && (name.ends_with(&plain) || name.ends_with(&zipped))
        })
        .collect())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let mut encoder = GzEncoder::new(File::create(&name)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    #[test]
    fn keeps_the_newest_few_and_every_line_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/daemon.log");
        let settings = LogFile {
            path: path.clone(),
            max_bytes: 64,
            backups: 2,
            max_age: Duration::from_secs(3600),
            compress: true,
        };
        let mut log = Rotating::open(settings).unwrap();
        for n in 0..20 {
            log.write_all(format!("line {n:02} of the log file\n").as_bytes()).unwrap();
        }
        let mut rotated = rotated_files(&path).unwrap();
        rotated.sort();
        assert_eq!(rotated.len(), 2, "{rotated:?}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(&rotated[1]).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "line 16 of the log file\nline 17 of the log file\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 18 of the log file\nline 19 of the log file\n");
    }
}
