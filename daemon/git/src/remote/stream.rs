//! The two directions of an HTTP exchange as libgit2 reads and writes them.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use reqwest::{Body, Response};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::http::{ANSWER, SILENCE, Session, broken};
use crate::error::{Failure, Kind};

/// A request up to this size is sent whole, with its length, which every server takes; git's `http.postBuffer` is the same.
const WHOLE: usize = 1 << 20;
/// Size of the chunks of a longer one.
const CHUNK: usize = 64 << 10;

/// An answer's body.
pub(super) struct Answer {
    session: Arc<Session>,
    response: Response,
    rest: Bytes,
}

impl Answer {
    pub(super) fn new(session: Arc<Session>, response: Response) -> Self {
        Self { session, response, rest: Bytes::new() }
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let chunk = self.session.wait(SILENCE, "receiving", self.response.chunk());
            match chunk.and_then(|chunk| chunk.map_err(|error| broken(&error))) {
                Ok(Some(chunk)) => self.rest = chunk,
                Ok(None) => return Ok(0),
                Err(failure) => return Err(self.session.fail(failure)),
            }
        }
        let length = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

impl Write for Answer {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("the exchange has no request"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request that is written, then its answer that is read.
pub(super) struct Exchange {
    session: Arc<Session>,
    base: String,
    service: &'static str,
    written: BytesMut,
    sending: Option<Sending>,
    answer: Option<Answer>,
}

/// A request under way.
struct Sending {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    response: JoinHandle<reqwest::Result<Response>>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        // A request whose end was not written must not look complete.
        self.response.abort();
    }
}

impl Exchange {
    pub(super) fn new(session: Arc<Session>, base: String, service: &'static str) -> Self {
        Self { session, base, service, written: BytesMut::new(), sending: None, answer: None }
    }

    /// Sends what is written so far as a chunk, beginning the request with the first.
    fn send_chunk(&mut self) -> Result<(), Failure> {
        if self.sending.is_none() {
            let (chunks, receiver) = mpsc::channel(4);
            let body = Body::wrap_stream(ReceiverStream::new(receiver));
            let request = self.session.request(&self.base, self.service)?.body(body);
            let response = self.session.runtime.spawn(request.send());
            self.sending = Some(Sending { chunks, response });
        }
        let Some(sending) = &self.sending else { return Ok(()) };
        let chunk = self.written.split().freeze();
        let sent = self.session.wait(SILENCE, "sending", sending.chunks.send(Ok(chunk)))?;
        if sent.is_err() {
            // The remote has answered before the end: its answer says why.
            self.finish()?;
            return Err(Failure::new(Kind::Transport, "the remote ended the transfer early"));
        }
        Ok(())
    }

    /// Ends the request and waits for the answer.
    fn finish(&mut self) -> Result<(), Failure> {
        let response = match self.sending.take() {
            None => {
                let body = self.written.split().freeze();
                let request = self.session.request(&self.base, self.service)?.body(body);
                self.session.wait(ANSWER, "waiting for the answer", request.send())?
            }
            Some(mut sending) => {
                let rest = self.written.split().freeze();
                if !rest.is_empty() {
                    // A failed send means that the answer is there.
                    let _ = self.session.wait(SILENCE, "sending", sending.chunks.send(Ok(rest)))?;
                }
                // Closing the channel ends the body; the sender in `sending` stays for its `Drop`.
                let (closed, _) = mpsc::channel(1);
                drop(std::mem::replace(&mut sending.chunks, closed));
                let response = self.session.wait(ANSWER, "waiting for the answer", &mut sending.response)?;
                response.map_err(|error| {
                    Failure::new(Kind::Transport, format!("the request broke off: {error}"))
                })?
            }
        };
        let response = response.map_err(|error| broken(&error))?;
        self.session.accept(&response, &format!("application/x-{}-result", self.service))?;
        self.answer = Some(Answer::new(Arc::clone(&self.session), response));
        Ok(())
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.answer.is_none() {
            self.finish().map_err(|failure| self.session.fail(failure))?;
        }
        match &mut self.answer {
            Some(answer) => answer.read(buffer),
            None => Ok(0),
        }
    }
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        let limit = if self.sending.is_some() { CHUNK } else { WHOLE };
        if self.written.len() >= limit {
            self.send_chunk().map_err(|failure| self.session.fail(failure))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
