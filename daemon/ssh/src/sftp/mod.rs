//! The `sftp` subsystem: version 3 of the protocol (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions, over the whole file system.
//!
//! A thread of its own serves a session, one request after another in the order they came: file I/O blocks, and clients pipeline and rely on that order.
//! Names are bytes, not text: a sandbox's files may be called anything. What is kept for a session is bounded: one request, one answer, and at most
//! [`handles::MAX_HANDLES`] open files.
//!
//! Why not russh-sftp: it takes names for UTF-8 and replaces what is not, so such files cannot be reached, and it copies file data byte by byte.

mod attributes;
mod extensions;
mod files;
mod handles;
mod input;
mod names;
mod protocol;

use pinfold_spawn::{Exit, Sandbox};
use tokio::runtime::Handle as Runtime;
use tokio::sync::OwnedSemaphorePermit;

use crate::channel::Channel;
use crate::session::exit;
use crate::wire::Reader;
use handles::Handles;
use input::Input;
use protocol::{Failure, Reply, request};

/// Serves SFTP on `channel` until the client has no more requests, then ends the session with status 0. The place is its thread's.
pub(crate) async fn serve(channel: Channel, sandbox: Sandbox, place: OwnedSemaphorePermit) {
    let server = Server { sandbox, handles: Handles::default(), names: attributes::Owners::default() };
    let (runtime, served) = (Runtime::current(), channel.clone());
    let run = move || {
        server.run(&runtime, &served);
        drop(place);
    };
    let ended = tokio::task::spawn_blocking(run).await;
    if let Err(error) = ended {
        tracing::error!(%error, "an SFTP session broke down");
    }
    exit::exited(&channel, Exit::Code(0)).await;
}

/// The answers to a session's requests, one after another, without a channel: for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn answers(sandbox: Sandbox, requests: impl Iterator<Item = bytes::Bytes>) {
    let mut server = Server { sandbox, handles: Handles::default(), names: attributes::Owners::default() };
    for request in requests {
        let Some(answer) = server.answer(Reader::new(request)) else { return };
        assert!(answer.len() <= protocol::MAX_PACKET as usize + 4, "an answer of {} bytes", answer.len());
    }
}

/// One session's state.
struct Server {
    sandbox: Sandbox,
    handles: Handles,
    names: attributes::Owners,
}

impl Server {
    fn run(mut self, runtime: &Runtime, channel: &Channel) {
        let mut input = Input::new(channel, runtime);
        loop {
            let packet = match input.packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "an SFTP client does not speak SFTP");
                    return;
                }
            };
            let Some(answer) = self.answer(Reader::new(packet)) else { return };
            if runtime.block_on(channel.write(&answer)).is_err() {
                return;
            }
        }
    }

    /// The answer to one request; `None` if it has not even a number to answer to.
    fn answer(&mut self, mut packet: Reader) -> Option<Vec<u8>> {
        let (kind, id) = (packet.u8().ok()?, packet.u32().ok()?);
        if kind == request::INIT {
            // What would be the number is the client's version.
            return Some(protocol::version(extensions::ADVERTISED));
        }
        let reply = self.perform(kind, id, packet).unwrap_or_else(|failure| protocol::status(id, &failure));
        Some(reply.finish())
    }

    fn perform(&mut self, kind: u8, id: u32, packet: Reader) -> Result<Reply, Failure> {
        match kind {
            request::OPEN => self.open(id, packet),
            request::CLOSE => self.close(id, packet),
            request::READ => self.read(id, packet),
            request::WRITE => self.write(id, packet),
            request::LSTAT => self.stat(id, packet, false),
            request::STAT => self.stat(id, packet, true),
            request::FSTAT => self.fstat(id, packet),
            request::SETSTAT => self.setstat(id, packet),
            request::FSETSTAT => self.fsetstat(id, packet),
            request::OPENDIR => self.opendir(id, packet),
            request::READDIR => self.readdir(id, packet),
            request::REMOVE => self.remove(id, packet),
            request::MKDIR => self.mkdir(id, packet),
            request::RMDIR => self.rmdir(id, packet),
            request::REALPATH => self.realpath(id, packet),
            request::RENAME => self.rename(id, packet),
            request::READLINK => self.readlink(id, packet),
            request::SYMLINK => self.symlink(id, packet),
            request::EXTENDED => self.extended(id, packet),
            _ => Err(Failure::Unsupported),
        }
    }
}
