//! Build contexts as one tar stream: the Dockerfile, then the entries of each context archive, nothing held in memory beyond a block.
//!
//! Context archives are objects `<organization>/<hash>/context.tar`, in a local directory or an object store.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const BLOCK: usize = 512;

/// Where context archives are.
#[async_trait]
pub(crate) trait Contexts: Send + Sync {
    /// Opens one archive.
    async fn open(&self, organization: &str, hash: &str) -> io::Result<Box<dyn AsyncRead + Send + Unpin>>;
}

/// Archives in `<dir>/<organization>/<hash>/context.tar`.
pub(crate) struct LocalContexts(pub(crate) PathBuf);

#[async_trait]
impl Contexts for LocalContexts {
    async fn open(&self, organization: &str, hash: &str) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let plain = |s: &str| !s.is_empty() && !s.starts_with('.') && !s.contains(['/', '\0']);
        if !plain(organization) || !plain(hash) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the context's name is not plain"));
        }
        let path = self.0.join(organization).join(hash).join("context.tar");
        Ok(Box::new(tokio::fs::File::open(path).await?))
    }
}

/// A ustar header for a regular file of mode 0644.
fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The size field: octal, or binary when its first bit is set.
fn size_of(block: &[u8]) -> Option<u64> {
    let field = &block[124..136];
    if field[0] & 0x80 != 0 {
        return Some(field[4..].iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

type Output = mpsc::Sender<io::Result<Bytes>>;

async fn send(output: &Output, bytes: Bytes) -> io::Result<()> {
    output.send(Ok(bytes)).await.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the build ended"))
}

/// Passes an archive's entries on, without directories and without its end mark. A broken archive loses its remaining entries.
async fn entries(mut archive: impl AsyncRead + Unpin, output: &Output) -> io::Result<bool> {
    let mut first = true;
    loop {
        let mut block = [0; BLOCK];
        match archive.read_exact(&mut block).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(!first),
            Err(error) => return Err(error),
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(true);
        }
        first = false;
        let Some(size) = size_of(&block) else {
            tracing::warn!("a build context is damaged; its remaining entries are skipped");
            return Ok(true);
        };
        let keep = block[156] != b'5';
        if keep {
            send(output, Bytes::copy_from_slice(&block)).await?;
        }
        let mut left = size.next_multiple_of(BLOCK as u64);
        while left > 0 {
            let mut chunk = BytesMut::zeroed(usize::try_from(left.min(64 * 1024)).unwrap_or(BLOCK));
            archive.read_exact(&mut chunk).await?;
            left -= chunk.len() as u64;
            if keep {
                send(output, chunk.freeze()).await?;
            }
        }
    }
}

async fn assemble(
    dockerfile: String,
    organization: String,
    hashes: Vec<String>,
    contexts: Box<dyn Contexts>,
    output: &Output,
) -> io::Result<()> {
    let mut file = BytesMut::from(&header("Dockerfile", dockerfile.len())[..]);
    file.extend_from_slice(dockerfile.as_bytes());
    file.resize(file.len().next_multiple_of(BLOCK), 0);
    send(output, file.freeze()).await?;
    for hash in &hashes {
        let with = |e: io::Error| io::Error::new(e.kind(), format!("build context {hash}: {e}"));
        let archive = contexts.open(&organization, hash).await.map_err(with)?;
        if !entries(archive, output).await.map_err(with)? {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("build context {hash} is empty"),
            ));
        }
    }
    send(output, Bytes::from_static(&[0; 2 * BLOCK])).await
}

/// The whole context as a stream; an archive that cannot be read is an error in it.
pub(crate) fn stream(
    dockerfile: String,
    organization: String,
    hashes: Vec<String>,
    contexts: Box<dyn Contexts>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let (output, input) = mpsc::channel(16);
    tokio::spawn(async move {
        if let Err(error) = assemble(dockerfile, organization, hashes, contexts, &output).await {
            let _ = output.send(Err(error)).await;
        }
    });
    ReceiverStream::new(input).boxed()
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn a_tar_that_tar_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (source, object) = (dir.path().join("s"), dir.path().join("c/org/h1"));
        std::fs::create_dir_all(source.join("d")).unwrap();
        std::fs::create_dir_all(&object).unwrap();
        std::fs::write(source.join("d/f"), vec![b'x'; 100_000]).unwrap();
        let run = |args: &[&str]| {
            std::process::Command::new("tar").args(args).current_dir(dir.path()).output().unwrap()
        };
        assert!(run(&["-cf", "c/org/h1/context.tar", "-C", "s", "."]).status.success());
        let contexts = || Box::new(LocalContexts(dir.path().join("c")));
        let whole = stream("FROM scratch\n".to_owned(), "org".to_owned(), vec!["h1".to_owned()], contexts());
        let whole: Vec<Bytes> = whole.try_collect().await.unwrap();
        std::fs::write(dir.path().join("all.tar"), whole.concat()).unwrap();
        let listed = run(&["-tvf", "all.tar"]);
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(
            listed.status.success() && text.contains("Dockerfile") && text.contains(" 100000 "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2, "{text}");
        for hash in ["h2", "../org/h1", ""] {
            let missing = stream(String::new(), "org".to_owned(), vec![hash.to_owned()], contexts());
            assert!(missing.try_collect::<Vec<_>>().await.is_err(), "{hash}");
        }
    }
}
