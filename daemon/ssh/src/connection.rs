//! One authenticated connection: its channels, and where each message goes.
//!
//! Owned by russh's session task, so nothing here waits: work that takes time has a task, which reaches the table of channels through [`Shared`]. A message
//! has at most one answer, which goes out before anything those tasks send afterwards. When the connection is dropped its channels are hung up, its
//! sessions' processes get SIGHUP, and everybody who holds a [`Lost`] is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pinfold_spawn::Sandbox;
use russh::server::Handle;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::Config;
use crate::channel::{Channel, MAX_PACKET, WINDOW, WindowExceeded};
use crate::forward::Forwards;
use crate::message::{
    self, CHANNEL_FAILURE, CHANNEL_OPEN, CHANNEL_OPEN_CONFIRMATION, CHANNEL_SUCCESS, Message, Open,
    REQUEST_FAILURE, REQUEST_SUCCESS, Refusal,
};
use crate::session::Session;
use crate::wire::{Truncated, Writer};

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Transport(#[from] russh::Error),
    #[error(transparent)]
    Truncated(#[from] Truncated),
    #[error(transparent)]
    WindowExceeded(#[from] WindowExceeded),
    #[error("not authenticated within {0:?}")]
    LoginGrace(std::time::Duration),
}

/// Resolves when the connection is gone.
#[derive(Debug, Clone)]
pub(crate) struct Lost(watch::Receiver<()>);

impl Lost {
    pub(crate) async fn wait(&mut self) {
        // Nothing is ever sent: only the sender's end is news.
        while self.0.changed().await.is_ok() {}
    }
}

/// What every connection is served from. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) sandbox: Sandbox,
    pub(crate) config: Arc<Config>,
    /// Places for SFTP sessions.
    pub(crate) sftp: Arc<Semaphore>,
}

/// What the tasks of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) handle: Handle,
    pub(crate) served: Served,
    /// The client's address and ours.
    pub(crate) ends: (SocketAddr, SocketAddr),
    table: Mutex<Table>,
    lost: watch::Receiver<()>,
}

#[derive(Debug, Default)]
struct Table {
    next: u32,
    entries: HashMap<u32, Entry>,
}

#[derive(Debug)]
enum Entry {
    /// We asked for it; the answer goes here.
    Asked(oneshot::Sender<Channel>),
    /// The client asked for it; a task is finding out whether it can be had.
    Pending,
    Open(Channel),
}

/// The client did not open the channel that we asked for.
#[derive(Debug, thiserror::Error)]
#[error("the client did not open the channel")]
pub(crate) struct NotOpened;

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut Table) -> T) -> T {
        work(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn lost(&self) -> Lost {
        Lost(self.lost.clone())
    }

    fn add(&self, entry: Entry) -> Option<u32> {
        self.with(|table| {
            if table.entries.len() >= self.served.config.max_channels {
                return None;
            }
            while table.entries.contains_key(&table.next) {
                table.next = table.next.wrapping_add(1);
            }
            let id = table.next;
            table.next = table.next.wrapping_add(1);
            table.entries.insert(id, entry);
            Some(id)
        })
    }

    /// Asks the client to open a channel of this kind.
    pub(crate) async fn open(&self, kind: &str, extra: Bytes) -> Result<Channel, NotOpened> {
        let (answer, answered) = oneshot::channel();
        let id = self.add(Entry::Asked(answer)).ok_or(NotOpened)?;
        let packet = Writer::message(CHANNEL_OPEN)
            .string(kind)
            .u32(id)
            .u32(WINDOW)
            .u32(MAX_PACKET)
            .raw(extra)
            .finish();
        self.handle.packet(packet).await.map_err(|_| NotOpened)?;
        answered.await.map_err(|_| NotOpened)
    }

    /// Opens the channel that the client asked for as `id`.
    pub(crate) async fn confirm(&self, id: u32, open: &Open) -> Result<Channel, NotOpened> {
        let permit = self.handle.reserve_packet().await.map_err(|_| NotOpened)?;
        let channel = Channel::new(self.handle.clone(), open.peer, open.window, open.max_packet);
        self.with(|table| table.entries.insert(id, Entry::Open(channel.clone())));
        permit.send(confirmation(id, open));
        Ok(channel)
    }

    /// Refuses the channel that the client asked for as `id`.
    pub(crate) async fn refuse(&self, id: u32, open: &Open, reason: Refusal, description: &str) {
        self.with(|table| table.entries.remove(&id));
        let _ = self.handle.packet(message::refused(open.peer, reason, description)).await;
    }
}

fn confirmation(id: u32, open: &Open) -> Bytes {
    Writer::message(CHANNEL_OPEN_CONFIRMATION).u32(open.peer).u32(id).u32(WINDOW).u32(MAX_PACKET).finish()
}

/// One authenticated connection.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    sessions: HashMap<u32, Session>,
    forwards: Forwards,
    /// Dropped with the connection, which is how its tasks learn of the end.
    _alive: watch::Sender<()>,
}

impl Connection {
    pub(crate) fn new(handle: Handle, served: Served, ends: (SocketAddr, SocketAddr)) -> Self {
        let (alive, lost) = watch::channel(());
        let shared = Arc::new(Shared { handle, served, ends, table: Mutex::default(), lost });
        Self { forwards: Forwards::new(Arc::clone(&shared)), shared, sessions: HashMap::new(), _alive: alive }
    }

    /// Takes one message in, and gives back the answer to send at once, if it has one.
    pub(crate) fn receive(&mut self, packet: Bytes) -> Result<Option<Bytes>, Violation> {
        match Message::parse(packet)? {
            Message::Data { channel, data } => {
                if let Some(channel) = self.channel(channel) {
                    return Ok(channel.receive(data)?);
                }
            }
            // No request of ours makes a client send any; it counts against the window all the same.
            Message::ExtendedData { channel, data } => {
                if let Some(channel) = self.channel(channel) {
                    channel.receive(data)?;
                }
            }
            Message::WindowAdjust { channel, bytes } => {
                if let Some(channel) = self.channel(channel) {
                    channel.receive_window(bytes);
                }
            }
            Message::Eof { channel } => {
                if let Some(channel) = self.channel(channel) {
                    channel.receive_eof();
                }
            }
            Message::Close { channel } => self.close(channel),
            Message::Request { channel, request } => {
                let Some(open) = self.channel(channel) else { return Ok(None) };
                let accepted = match self.sessions.get_mut(&channel) {
                    Some(session) => session.request(&request.name, request.extra)?,
                    None => false,
                };
                let kind = if accepted { CHANNEL_SUCCESS } else { CHANNEL_FAILURE };
                return Ok(request.want_reply.then(|| message::bare(kind, open.peer())));
            }
            Message::Open(open) => return self.open(open),
            Message::Confirmed { channel, peer, window, max_packet } => {
                self.confirmed(channel, peer, window, max_packet)
            }
            Message::Refused { channel, description } => {
                let entry = self.shared.with(|table| match table.entries.get(&channel) {
                    Some(Entry::Asked(_)) => table.entries.remove(&channel),
                    _ => None,
                });
                if entry.is_some() {
                    tracing::debug!(description, "the client refused a channel");
                }
            }
            Message::Global(request) => {
                let reply = self.forwards.request(&request.name, request.extra)?;
                let answer = match reply {
                    Some(extra) => Writer::message(REQUEST_SUCCESS).raw(extra).finish(),
                    None => Bytes::from_static(&[REQUEST_FAILURE]),
                };
                return Ok(request.want_reply.then_some(answer));
            }
            Message::Reply => {}
            Message::Unknown(kind) => tracing::debug!(kind, "ignored an unknown SSH message"),
        }
        Ok(None)
    }

    fn channel(&self, id: u32) -> Option<Channel> {
        self.shared.with(|table| match table.entries.get(&id) {
            Some(Entry::Open(channel)) => Some(channel.clone()),
            _ => None,
        })
    }

    fn open(&mut self, mut open: Open) -> Result<Option<Bytes>, Violation> {
        let Some(id) = self.shared.add(Entry::Pending) else {
            return Ok(Some(message::refused(
                open.peer,
                Refusal::ResourceShortage,
                "too many channels on this connection",
            )));
        };
        match open.kind.as_str() {
            "session" => {
                let channel =
                    Channel::new(self.shared.handle.clone(), open.peer, open.window, open.max_packet);
                self.shared.with(|table| table.entries.insert(id, Entry::Open(channel.clone())));
                self.sessions.insert(id, Session::new(Arc::clone(&self.shared), channel));
                Ok(Some(confirmation(id, &open)))
            }
            "direct-tcpip" => {
                let (host, port) = (open.extra.text()?, open.extra.u32()?);
                tokio::spawn(crate::forward::direct_tcp(Arc::clone(&self.shared), id, open, host, port));
                Ok(None)
            }
            "direct-streamlocal@openssh.com" => {
                let path = open.extra.string()?;
                tokio::spawn(crate::forward::direct_socket(Arc::clone(&self.shared), id, open, path));
                Ok(None)
            }
            other => {
                tracing::debug!(kind = other, "refused a channel of unknown type");
                self.shared.with(|table| table.entries.remove(&id));
                Ok(Some(message::refused(open.peer, Refusal::UnknownType, "unknown channel type")))
            }
        }
    }

    fn confirmed(&mut self, id: u32, peer: u32, window: u32, max_packet: u32) {
        let handle = self.shared.handle.clone();
        self.shared.with(|table| {
            if !matches!(table.entries.get(&id), Some(Entry::Asked(_))) {
                return;
            }
            let channel = Channel::new(handle, peer, window, max_packet);
            if let Some(Entry::Asked(answer)) = table.entries.insert(id, Entry::Open(channel.clone()))
                && let Err(channel) = answer.send(channel)
            {
                // Whoever asked is gone.
                tokio::spawn(async move { channel.close().await });
            }
        });
    }

    fn close(&mut self, id: u32) {
        let entry = self.shared.with(|table| match table.entries.get(&id) {
            Some(Entry::Open(_)) => table.entries.remove(&id),
            _ => None,
        });
        let Some(Entry::Open(channel)) = entry else { return };
        if channel.hang_up() {
            tokio::spawn(async move { channel.answer_close().await });
        }
        self.sessions.remove(&id);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let entries = self.shared.with(|table| std::mem::take(&mut table.entries));
        for entry in entries.into_values() {
            if let Entry::Open(channel) = entry {
                channel.cut_off();
            }
        }
    }
}
