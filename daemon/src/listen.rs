//! Binding the four fixed ports (toolbox contract 1.3).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::config::Listen;

/// The bound servers.
#[derive(Debug)]
pub struct Listeners {
    /// Toolbox HTTP.
    pub toolbox: TcpListener,
    /// SSH.
    pub ssh: TcpListener,
    /// Web terminal.
    pub terminal: TcpListener,
    /// Recording dashboard.
    pub recordings: TcpListener,
}

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on port {port} for {server}: {source}")]
pub struct BindError {
    port: u16,
    server: &'static str,
    source: io::Error,
}

impl Listeners {
    /// Binds all four, or none.
    pub async fn bind(listen: &Listen) -> Result<Self, BindError> {
        let bind = |server, address, port| async move {
            bind(address, port).await.map_err(|source| BindError { port, server, source })
        };
        let any = listen.address;
        // Strangers beside the sandbox have no business with these two (weakness G3).
        let own = any.or(Some(Ipv4Addr::LOCALHOST.into()));
        Ok(Self {
            toolbox: bind("the toolbox", any, listen.toolbox).await?,
            ssh: bind("SSH", any, listen.ssh).await?,
            terminal: bind("the web terminal", own, listen.terminal).await?,
            recordings: bind("the recording dashboard", own, listen.recordings).await?,
        })
    }

    /// Prints where each server listens. The first line names the toolbox's port, as the contract has it.
    pub(crate) fn print(&self) {
        let all = [
            ("toolbox", &self.toolbox),
            ("ssh", &self.ssh),
            ("web terminal", &self.terminal),
            ("recording dashboard", &self.recordings),
        ];
        for (server, listener) in all {
            match listener.local_addr() {
                Ok(address) => tracing::info!(%address, port = address.port(), "{server} is listening"),
                Err(error) => tracing::warn!(%error, "{server} has no address"),
            }
        }
    }
}

/// All addresses means IPv6 and IPv4 on one socket; where there is no IPv6, IPv4 alone.
async fn bind(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    if let Some(address) = address {
        return TcpListener::bind(SocketAddr::new(address, port)).await;
    }
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        bound => bound,
    }
}
