//! Frames between daemon and worker: length (4 bytes, big endian, of what follows), kind (1), execution (8), payload.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// Kind and execution.
const HEADER: usize = 9;
/// The largest frame a worker may send: an exception's text.
const MAX_FRAME: usize = 64 << 20;

/// What a worker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It can take work.
    Ready,
    /// The interrupt has reached the code.
    Interrupted,
    /// The code raised an exception.
    Error,
    /// The execution is over.
    Done,
}

/// One frame from a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: Kind,
    pub execution: u64,
    pub payload: Bytes,
}

/// The daemon's end of a worker's socket.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    received: BytesMut,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, received: BytesMut::new() }
    }

    /// Sends the worker's own program, which its bootstrap waits for.
    pub(super) async fn send_program(&mut self, program: &[u8]) -> io::Result<()> {
        self.stream.write_all(&length(program.len())?).await?;
        self.stream.write_all(program).await
    }

    /// Sends the order to run `request`.
    pub(super) async fn send_run(&mut self, execution: u64, request: &[u8]) -> io::Result<()> {
        let mut header = length(HEADER + request.len())?.to_vec();
        header.push(b'R');
        header.extend_from_slice(&execution.to_be_bytes());
        self.stream.write_all(&header).await?;
        self.stream.write_all(request).await
    }

    /// Waits for a frame; `None` when the worker has closed its end. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = parse(&mut self.received)? {
                return Ok(Some(frame));
            }
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A frame that is here already.
    pub(super) fn now(&mut self) -> Option<Frame> {
        loop {
            match parse(&mut self.received) {
                Ok(None) => {}
                parsed => return parsed.ok().flatten(),
            }
            if !self.stream.try_read_buf(&mut self.received).is_ok_and(|read| read > 0) {
                return None;
            }
        }
    }
}

fn length(length: usize) -> io::Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_be_bytes).map_err(|_| invalid("the request is too large"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Takes a complete frame off the front of `received`, if there is one.
fn parse(received: &mut BytesMut) -> io::Result<Option<Frame>> {
    let Some(length) = received.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| invalid("a frame is too large"))?;
    if !(HEADER..=MAX_FRAME).contains(&length) {
        return Err(invalid("a frame has an impossible length"));
    }
    if received.len() < 4 + length {
        received.reserve(4 + length - received.len());
        return Ok(None);
    }
    received.advance(4);
    let mut frame = received.split_to(length).freeze();
    let kind = match frame.get_u8() {
        b'Y' => Kind::Ready,
        b'I' => Kind::Interrupted,
        b'E' => Kind::Error,
        b'D' => Kind::Done,
        _ => return Err(invalid("a frame is of no known kind")),
    };
    Ok(Some(Frame { kind, execution: frame.get_u64(), payload: frame }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(kind: u8, execution: u64, payload: &[u8]) -> Vec<u8> {
        let mut frame = length(HEADER + payload.len()).unwrap().to_vec();
        frame.push(kind);
        frame.extend_from_slice(&execution.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn refuses_nonsense() {
        for bytes in [&[0u8, 0, 0, 8, 0, 0, 0, 0, 0][..], &[255, 255, 255, 255], &encode(b'?', 1, b"")] {
            assert!(parse(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6), piece in 1usize..30) {
            let sent: Vec<u8> = payloads.iter().enumerate().flat_map(|(i, p)| encode(b'E', i as u64, p)).collect();
            let mut received = BytesMut::new();
            let mut got = Vec::new();
            for part in sent.chunks(piece) {
                received.extend_from_slice(part);
                while let Some(frame) = parse(&mut received).unwrap() {
                    prop_assert_eq!(frame.execution, got.len() as u64);
                    got.push(frame.payload.to_vec());
                }
            }
            prop_assert_eq!(got, payloads);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut received = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = parse(&mut received) {}
        }
    }
}
