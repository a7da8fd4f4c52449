//! The output of an executed command: one pipe for both streams, so that it is interleaved exactly as it was written, or one for each.

use std::io;
use std::process::{Command, Stdio};

use pinfold_proto::markers::{self, Splitter, Stream};

use crate::body::Source;
use crate::pipe::{CAPACITY, Reader, pipe, read_some};
use crate::spool::Spool;

/// The reading side of a command's output.
#[derive(Debug)]
pub(crate) struct Outputs {
    out: Option<Reader>,
    err: Option<Reader>,
    /// Separate streams are recorded as a log with markers.
    tagger: Option<markers::Writer>,
    spool: Spool,
    buffer: Vec<u8>,
    max: u64,
}

impl Outputs {
    /// Makes the pipes and gives their writing ends to `command`.
    pub(crate) fn attach(command: &mut Command, separate: bool, max: u64) -> io::Result<Self> {
        let (out, write) = pipe()?;
        let (err, tagger) = if separate {
            let (err, write) = pipe()?;
            command.stderr(Stdio::from(write));
            (Some(Reader::new(err)?), Some(markers::Writer::default()))
        } else {
            command.stderr(Stdio::from(write.try_clone()?));
            (None, None)
        };
        command.stdout(Stdio::from(write));
        Ok(Self {
            out: Some(Reader::new(out)?),
            err,
            tagger,
            spool: Spool::new(max),
            buffer: vec![0; CAPACITY],
            max,
        })
    }

    /// Whether anybody may still write.
    pub(crate) fn open(&self) -> bool {
        self.out.is_some() || self.err.is_some()
    }

    /// Takes in the next piece of output, or the end of one stream; waits for ever when all have ended. Cancel-safe.
    pub(crate) async fn collect(&mut self) {
        let mut second = [0; 8192];
        let (stream, length) = tokio::select! {
            read = read_some(self.out.as_ref(), &mut self.buffer) => (Stream::Stdout, read),
            read = read_some(self.err.as_ref(), &mut second) => (Stream::Stderr, read),
        };
        match (stream, length) {
            (Stream::Stdout, 0) => self.out = None,
            (Stream::Stderr, 0) => self.err = None,
            (Stream::Stdout, n) => keep(&mut self.spool, self.tagger.as_mut(), stream, &self.buffer[..n]),
            (Stream::Stderr, n) => keep(&mut self.spool, self.tagger.as_mut(), stream, &second[..n]),
        }
    }

    /// Takes in what the pipes hold at this moment: all that was written before something whose end is known. Asks the kernel, so no clock has a say.
    pub(crate) fn collect_rest(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // Somebody in the background may write for ever; what was written before fits the pipe.
            let mut left = CAPACITY;
            while left > 0 {
                let reader = if stream == Stream::Stdout { &mut self.out } else { &mut self.err };
                let Some(open) = reader else { break };
                match open.now(&mut self.buffer) {
                    Ok(None) => break,
                    Ok(Some(0)) | Err(_) => *reader = None,
                    Ok(Some(read)) => {
                        left = left.saturating_sub(read);
                        keep(&mut self.spool, self.tagger.as_mut(), stream, &self.buffer[..read]);
                    }
                }
            }
        }
    }

    pub(crate) fn truncated(&self) -> bool {
        self.spool.truncated()
    }

    /// The end of the output, without markers.
    pub(crate) fn tail(mut self, count: usize) -> Vec<u8> {
        self.drain_rest();
        let tail = self.spool.tail(count);
        if self.tagger.is_none() {
            return tail;
        }
        let mut plain = Vec::new();
        let mut splitter = Splitter::default();
        splitter.feed(&tail, |_, bytes| plain.extend_from_slice(bytes));
        splitter.finish(|_, bytes| plain.extend_from_slice(bytes));
        plain
    }

    /// What was collected. Whoever still writes is read from until he ends, so that he does not die of it.
    pub(crate) fn leave(mut self) -> Source {
        self.drain_rest();
        if self.spool.truncated() {
            let notice = format!("\n[output truncated: only the first {} bytes were kept]\n", self.max);
            let mut tagged = Vec::new();
            match &mut self.tagger {
                Some(tagger) => tagger.chunk(Stream::Stderr, notice.as_bytes(), &mut tagged),
                None => tagged = notice.into_bytes(),
            }
            self.spool.append_past_cap(&tagged);
        }
        self.spool.source()
    }

    fn drain_rest(&mut self) {
        for reader in [self.out.take(), self.err.take()].into_iter().flatten() {
            tokio::spawn(async move {
                let mut buffer = vec![0; CAPACITY];
                while reader.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            });
        }
    }
}

fn keep(spool: &mut Spool, tagger: Option<&mut markers::Writer>, stream: Stream, bytes: &[u8]) {
    match tagger {
        None => spool.push(bytes),
        Some(tagger) => {
            let mut tagged = Vec::new();
            tagger.chunk(stream, bytes, &mut tagged);
            spool.push(&tagged);
        }
    }
}
