//! The resolver behind domain allow lists.
//!
//! The rules redirect every DNS query of a sandbox with a domain list to this resolver, whichever server the query was meant for. It answers only for names that the list
//! allows, and before it answers it lets the sandbox reach the addresses it is about to name, for as long as the record lives. So there is no way to an address that was not
//! looked up, and when this process is gone names stop resolving and nothing opens. A name that leads to a machine of the operator's own network is refused, since its owner
//! could name any (DNS rebinding).
//!
//! Where the host's own name servers are out of its sandboxes' reach ([`crate::Bridge::names_for_all`]), sandboxes without limits ask it too, for any name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::{Firewall, Policy};

/// Longest wait for an upstream server's answer.
const UPSTREAM_DEADLINE: Duration = Duration::from_secs(3);
/// Most queries in flight, and most of one sandbox, so that it cannot take the others' share; more are dropped, and clients ask again. A TCP connection is one for
/// as long as it lasts.
const MAX_IN_FLIGHT: usize = 256;
const MAX_OF_ONE: usize = 32;
/// An address stays reachable at least this long, in seconds: clients connect some time after they looked it up.
const MIN_LIFETIME: u32 = 60;
/// … and at most this long, however long the record says it lives.
const MAX_LIFETIME: u32 = 3600;
/// The largest UDP answer we read from upstream.
const MAX_DATAGRAM: usize = 4096;

/// Why the resolver could not start.
#[derive(Debug, thiserror::Error)]
#[error("the resolver for domain allow lists could not listen on {address}: {source}")]
pub struct ResolverError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Answers for sandboxes with a domain list.
#[derive(Debug)]
pub struct Resolver {
    firewall: Arc<Firewall>,
    upstreams: Vec<SocketAddr>,
    in_flight: Mutex<HashMap<IpAddr, usize>>,
}

/// One query in flight, until it is dropped.
#[derive(Debug)]
struct InFlight(Arc<Resolver>, IpAddr);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut all = self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
        }
        all.retain(|_, count| *count > 0);
    }
}

/// What a query deserves.
enum Verdict {
    /// Answer this without asking anybody.
    Answer(Vec<u8>),
    /// Ask upstream on behalf of this sandbox.
    Forward { sandbox: String, policy: Policy },
}

impl Resolver {
    /// Listens on `address` (UDP and TCP) and serves until the returned future is dropped.
    pub async fn bind(
        firewall: Arc<Firewall>,
        address: SocketAddr,
        upstreams: Vec<SocketAddr>,
    ) -> Result<impl Future<Output = ()> + Send, ResolverError> {
        let failed = |source| ResolverError { address, source };
        let udp = Arc::new(UdpSocket::bind(address).await.map_err(failed)?);
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let resolver = Arc::new(Self { firewall, upstreams, in_flight: Mutex::default() });
        Ok(async move {
            tokio::join!(Arc::clone(&resolver).serve_udp(udp), resolver.serve_tcp(tcp));
        })
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
            let Some(counted) = self.begin(peer.ip()) else { continue };
            let query = buffer[..length].to_vec();
            let (resolver, socket) = (Arc::clone(&self), Arc::clone(&socket));
            tokio::spawn(async move {
                let _counted = counted;
                if let Some(answer) = resolver.answer(&query, peer.ip(), Transport::Udp).await {
                    let _ = socket.send_to(&answer, peer).await;
                }
            });
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((mut stream, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let Some(counted) = self.begin(peer.ip()) else { continue };
            let resolver = Arc::clone(&self);
            tokio::spawn(async move {
                let _counted = counted;
                while let Ok(Ok(query)) =
                    tokio::time::timeout(UPSTREAM_DEADLINE, read_framed(&mut stream)).await
                {
                    let Some(answer) = resolver.answer(&query, peer.ip(), Transport::Tcp).await else {
                        return;
                    };
                    if write_framed(&mut stream, &answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// Counts a query of `from`; `None` when there are too many already.
    fn begin(self: &Arc<Self>, from: IpAddr) -> Option<InFlight> {
        let mut all = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= MAX_IN_FLIGHT {
            return None;
        }
        let count = all.entry(from).or_default();
        (*count < MAX_OF_ONE).then(|| {
            *count += 1;
            InFlight(Arc::clone(self), from)
        })
    }

    async fn answer(&self, query: &[u8], from: IpAddr, transport: Transport) -> Option<Vec<u8>> {
        let request = Message::from_vec(query).ok()?;
        match self.judge(&request, from).await? {
            Verdict::Answer(answer) => Some(answer),
            Verdict::Forward { sandbox, policy } => {
                for upstream in &self.upstreams {
                    let asked =
                        tokio::time::timeout(UPSTREAM_DEADLINE, ask(*upstream, query, transport)).await;
                    let Ok(Ok(answer)) = asked else { continue };
                    let Ok(response) = Message::from_vec(&answer) else { continue };
                    if response.metadata.id != request.metadata.id || response.queries != request.queries {
                        continue;
                    }
                    if policy.is_open() {
                        return Some(answer);
                    }
                    let (addresses, lifetime) = addresses_of(&response);
                    if let Some(own) = addresses.iter().find(|a| !policy.may_resolve_to(**a)) {
                        tracing::warn!(sandbox, address = %own, "a listed name leads to an address that is not of the internet; refused");
                        return reply(&request, ResponseCode::Refused);
                    }
                    match self.firewall.allow_resolved(&sandbox, &policy, &addresses, lifetime).await {
                        Ok(true) => return Some(answer),
                        Ok(false) => tracing::debug!(sandbox, "the list of names changed during a lookup"),
                        Err(error) => {
                            tracing::warn!(sandbox, %error, "a resolved address could not be allowed");
                        }
                    }
                    return reply(&request, ResponseCode::ServFail);
                }
                reply(&request, ResponseCode::ServFail)
            }
        }
    }

    async fn judge(&self, request: &Message, from: IpAddr) -> Option<Verdict> {
        let IpAddr::V4(from) = from else { return None };
        let (sandbox, policy) = self.firewall.owner_of(from).await?;
        let [question] = request.queries.as_slice() else {
            return reply(request, ResponseCode::FormErr).map(Verdict::Answer);
        };
        let name = question.name().to_ascii();
        if !policy.is_open() && !policy.domains.iter().any(|domain| domain.allows(&name)) {
            tracing::debug!(sandbox, name, "name is not on the domain allow list");
            return reply(request, ResponseCode::Refused).map(Verdict::Answer);
        }
        // Sandboxes have no IPv6: an empty answer makes clients turn to IPv4 at once.
        if question.query_type() == RecordType::AAAA {
            return reply(request, ResponseCode::NoError).map(Verdict::Answer);
        }
        Some(Verdict::Forward { sandbox, policy })
    }
}

/// The IPv4 addresses in an answer, and how long they may be used, in seconds.
fn addresses_of(response: &Message) -> (Vec<Ipv4Addr>, u32) {
    let mut lifetime = MAX_LIFETIME;
    let mut addresses = Vec::new();
    for record in &response.answers {
        if let RData::A(address) = &record.data {
            addresses.push(address.0);
            lifetime = lifetime.min(record.ttl);
        }
    }
    (addresses, lifetime.max(MIN_LIFETIME))
}

fn reply(request: &Message, code: ResponseCode) -> Option<Vec<u8>> {
    let mut response = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.queries.clone_from(&request.queries);
    response.to_vec().ok()
}

#[derive(Debug, Clone, Copy)]
enum Transport {
    Udp,
    Tcp,
}

async fn ask(upstream: SocketAddr, query: &[u8], transport: Transport) -> std::io::Result<Vec<u8>> {
    match transport {
        Transport::Udp => {
            let local: SocketAddr = if upstream.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                "[::]:0".parse().map_err(std::io::Error::other)?
            };
            let socket = UdpSocket::bind(local).await?;
            socket.connect(upstream).await?;
            socket.send(query).await?;
            let mut buffer = vec![0; MAX_DATAGRAM];
            let length = socket.recv(&mut buffer).await?;
            buffer.truncate(length);
            Ok(buffer)
        }
        Transport::Tcp => {
            let mut stream = TcpStream::connect(upstream).await?;
            write_framed(&mut stream, query).await?;
            read_framed(&mut stream).await
        }
    }
}

/// A message on a stream is preceded by its length in two bytes (RFC 1035, section 4.2.2).
async fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// In one write: clients exist that want length and message in one segment (RFC 7766, section 8).
async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// The name servers that `/etc/resolv.conf` names, loopback ones included: this process asks them itself.
pub fn upstreams_of(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_hosts_name_servers() {
        let text = "# a comment\nnameserver 10.0.0.2\nsearch x\n nameserver ::1 \nnameserver nonsense\n";
        assert_eq!(upstreams_of(text), ["10.0.0.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }
}
